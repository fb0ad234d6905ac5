"""How a bucket's server is spoken to: the client, made anew when keys change, and what the bucket demands of a write.

Checksums that boto3 adds on its own accord make every put over TLS fail on older Ceph and Swift, so they are asked for only
where AWS itself answers, or a bucket demands them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import botocore.exceptions
from boto3.exceptions import Boto3Error
from botocore.config import Config

from last_e.text import expand
from runner.errors import StoreError
from runner.store import keys, parallel
from runner.store.s3_calls import ODD, READ_TIMEOUT_SECONDS, Calls, keys_are_away
from runner.store.uri import StoreUri

GOOGLE_ENDPOINT = "https://storage.googleapis.com"
_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")
"""boto3's settings; what its own variables say of them holds."""
T = TypeVar("T")


class Client(Calls):
    """boto3's client for one bucket, as :attr:`now`, with the credentials that :mod:`runner.store.keys` finds."""

    def __init__(self, uri: StoreUri) -> None:
        super().__init__(str(uri), self._connect)
        self._where, self._making, self._looking = uri, threading.Lock(), threading.Lock()
        told = {"sse": "ServerSideEncryption", "sse_kms_key_id": "SSEKMSKeyId"}
        self.encryption = {name: uri.options[option] for option, name in told.items() if option in uri.options}
        """Arguments of every write."""
        self.payer = {"RequestPayer": "requester"} if uri.options.get("requester_pays") == "true" else {}
        """Arguments of every request."""
        self._checksums = self._demands_are_known = False
        self._connect()

    def for_parts(self) -> Any:
        """A client that tries each part of a large file again, not the whole."""
        with self._making:  # boto3's sessions are not for several threads at once
            return self._make_client_for_parts()

    def write(self, key: str, call: Callable[[], T]) -> T:
        """Write as the bucket demands: what that is, the first write finds out, and the later ones do at once."""
        write = partial(self.do, "write", key, call)
        before = self._checksums, self.encryption
        try:
            result: T = write()
        except StoreError as error:
            if error.demands is None:
                raise
            with self._looking:
                if before != (self._checksums, self.encryption):  # another thread has found it out
                    return write()
                if self._demands_are_known:
                    raise
                result = self._write_as_demanded(write, error)
        self._demands_are_known = True
        return result

    def _write_as_demanded(self, write: Callable[[], T], refused: StoreError) -> T:
        """A bucket with Object Lock takes nothing without a checksum, and a policy may refuse what is not to be encrypted; the
        second is told as any other refusal, so it is tried."""
        if refused.demands == "checksum" and not self._checksums:
            self._checksums = True
            self._connect()
            return write()
        for kind in ("AES256", "aws:kms") if refused.demands == "encryption" and not self.encryption else ():
            self.encryption = {"ServerSideEncryption": kind}
            try:
                return write()
            except StoreError as error:
                self.encryption = {}
                if not error.lasting:
                    raise
                if error.demands is None:  # it would be taken, but for a key
                    refused = StoreError(f"{error}; the bucket takes what is encrypted: set store.sse and store.sse_kms_key_id")
                    refused.lasting = True
        self._demands_are_known = True
        raise refused

    def _connect(self) -> None:
        """With the credentials that are there now.

        Raises:
            StoreError: what says where and how to connect is wrong.
        """
        uri = self._where
        options = uri.options
        endpoint = options.get("endpoint_url") or (GOOGLE_ENDPOINT if uri.scheme == "gs" else None)
        try:
            session = keys.session()
            # Virtual addressing needs a name per bucket, which private servers seldom have.
            own_endpoint = endpoint or session.client("s3", region_name="us-east-1").meta.endpoint_url
            at_aws = own_endpoint.rstrip("/").endswith("amazonaws.com")
            when: Any = "when_supported" if at_aws or self._checksums else "when_required"
            checksums = {name: when for name in _CHECKSUMS if f"AWS_{name.upper()}" not in os.environ}
            config = Config(
                connect_timeout=5,
                read_timeout=READ_TIMEOUT_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 1},  # Calls tries again, by the clock
                max_pool_connections=2 * parallel.MOST_AT_ONCE,
                s3={"addressing_style": options.get("addressing", "auto" if at_aws else "path")},
                **checksums,
            )
            region = options.get("region") or session.region_name or "us-east-1"
            verify = str(expand(options["ca_bundle"])) if "ca_bundle" in options else None
            for name, file in {"ca_bundle": verify, **{name: os.environ.get(name) for name in _BUNDLES}}.items():
                if file and not Path(file).exists():
                    raise ValueError(f"{name}: no file {file}")
            arguments: dict[str, Any] = {"endpoint_url": endpoint, "region_name": region, "verify": verify}
            self.now: Any = session.client("s3", config=config, **arguments)
            by_part = config.merge(Config(retries={"mode": "standard", "total_max_attempts": 5}))
            self._make_client_for_parts: Callable[[], Any] = lambda: session.client("s3", config=by_part, **arguments)
        except (botocore.exceptions.BotoCoreError, Boto3Error) as error:
            broken = isinstance(error, botocore.exceptions.ConfigParseError)
            hint = "; allowed: a line [default] and lines of NAME = VALUE, in UTF-8 without a byte order mark" if broken else ""
            raise StoreError(f"{uri}: {error}{hint}") from None
        except ODD as error:
            raise StoreError(f"{uri}: {keys_are_away(error) or error}") from None
