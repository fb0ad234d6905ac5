"""A store in a bucket: AWS, Google Cloud Storage, Ceph, MinIO, anything that speaks S3.

What servers really do decides the details (measured, see docs/stores.md): checksums that boto3 adds on its own accord make
every put over TLS fail on older Ceph and Swift, so they are asked for only where AWS itself answers; conditional puts are
refused or ignored by several servers, so nothing depends on them; a bit flipped on the way down is noticed by no client, so
every object carries its own sha256 and is checked against it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.exceptions
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from last_e.text import expand
from runner.errors import DamagedObjectError, MissingKeyError, StoreError
from runner.store import Entry, StoreUri

GOOGLE_ENDPOINT = "https://storage.googleapis.com"
MULTIPART_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
DOWNLOAD_TRIES = 3
_DIGEST = "sha256"
_MISSING = ("NoSuchKey", "404", "NotFound")
_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
)
_HINTS = {
    "NoSuchBucket": "there is no such bucket: make it first",
    "AccessDenied": "these credentials may not do that",
    "InvalidAccessKeyId": "the server does not know this access key",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "403": "these credentials may not do that",
    "PermanentRedirect": "the bucket is in another region: set region",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}
T = TypeVar("T")


class S3Store:
    """A prefix of a bucket as a store. Credentials come from boto3's own chain alone."""

    def __init__(self, uri: StoreUri) -> None:
        self.uri = str(uri)
        self.bucket, self._prefix = uri.bucket, f"{uri.prefix}/" if uri.prefix else ""
        options = uri.options
        endpoint = options.get("endpoint_url") or (GOOGLE_ENDPOINT if uri.scheme == "gs" else None)
        try:
            session = boto3.session.Session()
            # Virtual addressing needs a name per bucket, which private servers seldom have.
            own_endpoint = endpoint or session.client("s3", region_name="us-east-1").meta.endpoint_url
            at_aws = own_endpoint.rstrip("/").endswith("amazonaws.com")
            checksums: Any = "when_supported" if at_aws else "when_required"
            config = Config(
                connect_timeout=5,
                read_timeout=20,
                retries={"mode": "standard", "total_max_attempts": 3},
                request_checksum_calculation=checksums,
                response_checksum_validation=checksums,
                s3={"addressing_style": options.get("addressing", "auto" if at_aws else "path")},
            )
            region = options.get("region") or session.region_name or "us-east-1"
            verify = str(expand(options["ca_bundle"])) if "ca_bundle" in options else None
            self._client = session.client("s3", endpoint_url=endpoint, region_name=region, verify=verify, config=config)
        except (botocore.exceptions.BotoCoreError, Boto3Error, ValueError) as error:
            raise StoreError(f"{self.uri}: {error}") from None

    def put(self, key: str, data: bytes) -> None:
        """See :class:`~runner.store.Store`."""
        metadata = {_DIGEST: hashlib.sha256(data).hexdigest()}
        self._do(
            "write", key, lambda: self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, Metadata=metadata)
        )

    def put_file(self, key: str, path: Path) -> None:
        """See :class:`~runner.store.Store`."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        extra = {"Metadata": {_DIGEST: digest.hexdigest()}}
        transfer = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, use_threads=False)
        self._do(
            "write",
            key,
            lambda: self._client.upload_file(str(path), self.bucket, self._key(key), ExtraArgs=extra, Config=transfer),
        )

    def get(self, key: str) -> bytes:
        """See :class:`~runner.store.Store`."""

        def once() -> bytes:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._key(key))
            data: bytes = answer["Body"].read()
            _check(key, answer, hashlib.sha256(data).hexdigest())
            return data

        return self._undamaged(key, once)

    def get_file(self, key: str, path: Path) -> None:
        """See :class:`~runner.store.Store`."""
        part = path.with_name(f".part-{path.name}")

        def once() -> None:
            answer = self._client.get_object(Bucket=self.bucket, Key=self._key(key))
            digest = hashlib.sha256()
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                while chunk := answer["Body"].read(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            _check(key, answer, digest.hexdigest())
            os.replace(part, path)

        try:
            self._undamaged(key, once)
        finally:
            part.unlink(missing_ok=True)

    def scan(self, prefix: str) -> Iterator[Entry]:
        """See :class:`~runner.store.Store`."""
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                yield Entry(item["Key"].removeprefix(self._prefix), item["Size"])

    def folders(self, prefix: str) -> list[str]:
        """See :class:`~runner.store.Store`."""
        start = len(self._prefix) + len(prefix)
        pages = self._pages(prefix, Delimiter="/")
        return sorted(item["Prefix"][start:-1] for page in pages for item in page.get("CommonPrefixes", []))

    def delete(self, keys: Iterable[str]) -> None:
        """See :class:`~runner.store.Store`. One request each: deleting many at once wants a Content-MD5 of some servers."""
        for key in keys:
            self._do("delete", key, lambda key=key: self._client.delete_object(Bucket=self.bucket, Key=self._key(key)))  # type: ignore[misc]

    def _pages(self, prefix: str, **more: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        start = self._prefix + prefix
        while True:
            page: dict[str, Any] = self._do(
                "list",
                prefix,
                lambda: self._client.list_objects_v2(Bucket=self.bucket, Prefix=start, **more, **token),  # noqa: B023
            )
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _key(self, key: str) -> str:
        if any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in key.split("/")):
            raise StoreError(f"{self.uri}: refused key {key!r}")
        return self._prefix + key

    def _undamaged(self, key: str, once: Callable[[], T]) -> T:
        """Read again what was damaged on the way."""
        for last in [False] * (DOWNLOAD_TRIES - 1) + [True]:
            try:
                return self._do("read", key, once)
            except DamagedObjectError:
                if last:
                    raise
        raise AssertionError

    def _do(self, what: str, key: str, call: Callable[[], T]) -> T:
        """Call boto3; its many errors become ours, in one line, without anything that is secret."""
        where = f"{self.uri}: cannot {what} {key or 'the store'}"
        try:
            return call()
        except botocore.exceptions.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise MissingKeyError(f"{self.uri}: nothing under {key}") from None
            failed = StoreError(f"{where}: {_HINTS.get(code) or code or 'the server refuses'}")
            failed.lasting = code in _HINTS
            raise failed from None
        except _CREDENTIALS:
            hint = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws/credentials"
            raise StoreError(f"{where}: {hint}") from None
        except botocore.exceptions.SSLError:
            hint = "its TLS certificate cannot be verified: set AWS_CA_BUNDLE or ca_bundle"
            raise StoreError(f"{where}: {hint}") from None
        except (botocore.exceptions.BotoCoreError, Boto3Error) as error:
            raise StoreError(f"{where}: {str(error).splitlines()[0]}") from None


def _check(key: str, answer: dict[str, Any], digest: str) -> None:
    expected = answer.get("Metadata", {}).get(_DIGEST)
    if expected is not None and expected != digest:
        raise DamagedObjectError(f"{key}: damaged on the way, or in the store (sha256 differs)")
