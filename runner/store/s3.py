"""A store in a bucket: AWS, Google Cloud Storage, Ceph, MinIO, anything that speaks S3.

What servers really do decides the details (measured, see docs/stores.md): checksums that boto3 adds on its own accord make
every put over TLS fail on older Ceph and Swift, so they are asked for only where AWS itself answers; conditional puts are
refused or ignored by several servers, so nothing depends on them; a bit flipped on the way down is noticed by no client, so
every object carries its own sha256 and is checked against it; a machine whose clock is off is refused, and boto3 does not
correct its signatures.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import hashlib
import os
import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import boto3
import botocore.auth
import botocore.exceptions
import urllib3.exceptions
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from last_e.text import expand
from runner.errors import DamagedObjectError, MissingKeyError, StoreError
from runner.store import Entry, StoreUri
from runner.waits import WAITS

GOOGLE_ENDPOINT = "https://storage.googleapis.com"
MULTIPART_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
DOWNLOAD_TRIES = 3
READ_TIMEOUT_SECONDS = WAITS.read
PATIENCE_SECONDS = WAITS.patience
"""A call is tried again at least once, and no more after this time: a dead server is told within half a minute."""
_DIGEST = "sha256"
_MISSING = ("NoSuchKey", "NoSuchUpload", "404", "NotFound")
_BROKEN = (urllib3.exceptions.HTTPError, ssl.SSLError, ConnectionError, TimeoutError)
"""What comes through boto3 as it is when a connection breaks while an object's bytes are read."""
_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
_SKEWED = ("RequestTimeTooSkewed", "403")
"""The second, without a word of why, is the answer to a HEAD."""
_SKEW_THAT_MATTERS = datetime.timedelta(minutes=5)
_HOPELESS = (botocore.exceptions.ParamValidationError, botocore.exceptions.InvalidRegionError)
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
_OBJECTS_PAGING = {"ContinuationToken": "NextContinuationToken"}
_UPLOADS_PAGING = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
_NO_STORE = "what answers there is no object store: see endpoint_url, and any proxy between"
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
                read_timeout=READ_TIMEOUT_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 1},  # _do tries again, by the clock
                max_pool_connections=32,
                request_checksum_calculation=checksums,
                response_checksum_validation=checksums,
                s3={"addressing_style": options.get("addressing", "auto" if at_aws else "path")},
            )
            region = options.get("region") or session.region_name or "us-east-1"
            verify = str(expand(options["ca_bundle"])) if "ca_bundle" in options else None
            for name, file in {"ca_bundle": verify, **{name: os.environ.get(name) for name in _BUNDLES}}.items():
                if file and not Path(file).exists():
                    raise ValueError(f"{name}: no file {file}")
            arguments: dict[str, Any] = {"endpoint_url": endpoint, "region_name": region, "verify": verify}
            self._client = session.client("s3", config=config, **arguments)
            # The parts of a large file are each tried again, not the whole.
            by_part = config.merge(Config(retries={"mode": "standard", "total_max_attempts": 5}))
            self._client_for_parts: Callable[[], Any] = lambda: session.client("s3", config=by_part, **arguments)
        except (botocore.exceptions.BotoCoreError, Boto3Error, ValueError) as error:
            raise StoreError(f"{self.uri}: {error}") from None

    def put(self, key: str, data: bytes) -> None:
        """See :class:`~runner.store.Store`."""
        metadata = {_DIGEST: hashlib.sha256(data).hexdigest()}
        self._put(key, lambda: self._client.put_object(**self._at(key), Body=data, Metadata=metadata))

    def put_file(self, key: str, path: Path) -> None:
        """See :class:`~runner.store.Store`. A large file goes in parts; boto3 gives them up again when one of them fails."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        metadata = {_DIGEST: digest.hexdigest()}

        def whole() -> dict[str, Any]:
            with path.open("rb") as file:
                answer: dict[str, Any] = self._client.put_object(**self._at(key), Body=file, Metadata=metadata)
                return answer

        def in_parts() -> None:
            transfer = TransferConfig(MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, use_threads=False)
            extra = {"Metadata": metadata}
            self._client_for_parts().upload_file(str(path), **self._at(key), ExtraArgs=extra, Config=transfer)

        if path.stat().st_size >= MULTIPART_BYTES:
            self._do("write", key, in_parts)
        else:
            self._put(key, whole)

    def _put(self, key: str, call: Callable[[], dict[str, Any]]) -> None:
        if not self._do("write", key, call).get("ETag"):  # a proxy's page says 200, too
            raise StoreError(f"{self.uri}: cannot write {key}: {_NO_STORE}")

    def get(self, key: str) -> bytes:
        """See :class:`~runner.store.Store`."""

        def once() -> bytes:
            answer = self._client.get_object(**self._at(key))
            data: bytes = answer["Body"].read()
            _check(key, answer, hashlib.sha256(data).hexdigest())
            return data

        return self._undamaged(lambda: self._do("read", key, once))

    def get_file(self, key: str, path: Path) -> None:
        """See :class:`~runner.store.Store`."""
        part = path.with_name(f".part-{path.name}")

        def once() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                self._download(key, file)
            os.replace(part, path)

        try:
            self._undamaged(once)
        finally:
            part.unlink(missing_ok=True)

    def _download(self, key: str, file: BinaryIO) -> None:
        """A connection that breaks is taken up again where it broke, for as long as each brings something."""
        digest = hashlib.sha256()
        first: dict[str, Any] = {}

        def go_on() -> None:
            done = file.tell()
            if first and done == first["ContentLength"]:
                return
            more = {"Range": f"bytes={done}-", "IfMatch": first["ETag"]} if first else {}
            answer = self._client.get_object(**self._at(key), **more)
            first.update({} if first else answer)
            while chunk := answer["Body"].read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)

        while True:
            done = file.tell()
            try:
                self._do("read", key, go_on)
                break
            except StoreError as error:
                if error.lasting or file.tell() == done:
                    raise
        _check(key, first, digest.hexdigest())

    def head(self, key: str) -> dict[str, Any]:
        """What the server says of an object: ``ContentLength``, ``ETag`` (another one when the content changes),
        ``LastModified``, ``Metadata``."""
        return self._do("read", key, lambda: self._client.head_object(**self._at(key)))

    def get_from(self, key: str, begin: int, tag: str) -> dict[str, Any]:
        """An object from a byte on, as ``Body`` to be read (``ContentLength`` bytes), if it still has this tag."""
        request = {**self._at(key), "Range": f"bytes={begin}-", "IfMatch": tag}
        return self._do("read", key, lambda: self._client.get_object(**request))

    def age(self, key: str) -> float:
        """See :class:`~runner.store.Store`."""
        answer = self.head(key)
        written: datetime.datetime | None = answer.get("LastModified")
        if written is None:
            raise StoreError(f"{self.uri}: {_NO_STORE}")
        return (_date(answer) - written).total_seconds()

    def scan(self, prefix: str) -> Iterator[Entry]:
        """See :class:`~runner.store.Store`."""
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self._prefix)
                if _usable(key):  # markers of folders, such as browsers of buckets make, are none of ours
                    yield Entry(key, item["Size"])

    def folders(self, prefix: str) -> list[str]:
        """See :class:`~runner.store.Store`."""
        start = len(self._prefix) + len(prefix)
        pages = self._pages(prefix, Delimiter="/")
        return sorted(item["Prefix"][start:-1] for page in pages for item in page.get("CommonPrefixes", []))

    def delete(self, keys: Iterable[str]) -> None:
        """See :class:`~runner.store.Store`. One request each: deleting many at once wants a Content-MD5 of some servers."""
        for key in keys:
            self._do("delete", key, lambda key=key: self._client.delete_object(**self._at(key)))  # type: ignore[misc]

    def clear(self, prefix: str) -> None:
        """See :class:`~runner.store.Store`."""
        self.sweep(prefix, keep=lambda key: False)
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                self._do("delete", prefix, partial(self._client.delete_object, Bucket=self.bucket, Key=item["Key"]))

    def sweep(self, prefix: str, keep: Callable[[str], bool]) -> None:
        """See :class:`~runner.store.Store`: uploads in parts that nobody finished (no listing shows them)."""
        try:
            pages = list(self._pages(prefix, self._client.list_multipart_uploads, _UPLOADS_PAGING))
        except StoreError as error:
            if error.lasting:  # not every server has this call, and not every user may make it
                return
            raise
        for page in pages:
            for upload in page.get("Uploads", []):
                key = upload["Key"].removeprefix(self._prefix)
                if _usable(key) and not keep(key):
                    with contextlib.suppress(MissingKeyError):  # finished or given up meanwhile
                        self._do(
                            "sweep",
                            key,
                            partial(self._client.abort_multipart_upload, **self._at(key), UploadId=upload["UploadId"]),
                        )

    def _pages(
        self,
        prefix: str,
        call: Callable[..., dict[str, Any]] | None = None,
        paging: Mapping[str, str] = _OBJECTS_PAGING,
        **more: str,
    ) -> Iterator[dict[str, Any]]:
        call = call or self._client.list_objects_v2
        token: dict[str, str] = {}
        while True:
            page = self._do("list", prefix, partial(call, Bucket=self.bucket, Prefix=self._prefix + prefix, **more, **token))
            if not (page.get("Name") or page.get("Bucket")):
                raise StoreError(f"{self.uri}: {_NO_STORE}")
            yield page
            if not page.get("IsTruncated"):
                return
            last, token = token, {ours: str(page.get(theirs)) for ours, theirs in paging.items()}
            if token == last:
                raise StoreError(f"{self.uri}: {_NO_STORE}")

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key)}

    def _key(self, key: str) -> str:
        if not _usable(key):
            refused = StoreError(f"{self.uri}: refused key {key!r}")
            refused.lasting = True
            raise refused
        return self._prefix + key

    def _undamaged(self, once: Callable[[], T]) -> T:
        """Read again what was damaged on the way."""
        for last in [False] * (DOWNLOAD_TRIES - 1) + [True]:
            try:
                return once()
            except DamagedObjectError:
                if last:
                    raise
        raise AssertionError

    def _do(self, what: str, key: str, call: Callable[[], T]) -> T:
        """Call boto3, again for a while when the network or the server fails."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause = 0.1
        for number in count():
            try:
                return self._once(f"{self.uri}: cannot {what} {key or 'the store'}", key, call)
            except (MissingKeyError, DamagedObjectError):
                raise
            except StoreError as error:
                if error.lasting or (number and time.monotonic() + pause > deadline):
                    raise
            time.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311
            pause = min(2 * pause, 3.0)
        raise AssertionError

    def _once(self, where: str, key: str, call: Callable[[], T]) -> T:
        """Call boto3; its many errors become ours, in one line, without anything that is secret."""
        try:
            try:
                return call()
            except botocore.exceptions.ClientError as error:
                if not (_code(error) in _SKEWED and _correct_clock(error)):
                    raise
                return call()
        except botocore.exceptions.ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise MissingKeyError(f"{self.uri}: nothing under {key}") from None
            if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
                raise DamagedObjectError(f"{self.uri}: {key} was replaced while it was read") from None
            failed = StoreError(f"{where}: {_HINTS.get(code) or code or 'the server refuses'}")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            passing = status in (408, 429) or code == "RequestTimeout"
            failed.lasting = code in _HINTS or (400 <= status < 500 and not passing) or status == 501
        except _CREDENTIALS:
            hint = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws/credentials"
            failed = StoreError(f"{where}: {hint}")
            failed.lasting = True
        except botocore.exceptions.SSLError as error:
            hint = ": this port may speak http, not https" if "WRONG_VERSION_NUMBER" in str(error) else ""
            failed = StoreError(f"{where}: the connection broke in its TLS layer{hint}")
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                old = "not yet valid" in str(error) or "expired" in str(error)
                hint = "this machine's clock may be wrong" if old else "set AWS_CA_BUNDLE or ca_bundle"
                failed = StoreError(f"{where}: its TLS certificate cannot be verified: {hint}")
                failed.lasting = True
        except (botocore.exceptions.BotoCoreError, Boto3Error, *_BROKEN) as error:
            failed = StoreError(f"{where}: {_words(error)}")
            failed.lasting = isinstance(error, _HOPELESS)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # from boto3's depths, on odd answers
            failed = StoreError(f"{where}: {_NO_STORE}")
        raise failed


def _usable(key: str) -> bool:
    """Whether a key is of the kind that is written here: it cannot leave a folder that it is copied to."""
    return not any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in key.split("/"))


def _words(error: Exception) -> str:
    """What broke, in a line."""
    if isinstance(error, (botocore.exceptions.ReadTimeoutError, botocore.exceptions.ConnectTimeoutError, TimeoutError)):
        return f"no answer within {READ_TIMEOUT_SECONDS} s"
    if isinstance(error, botocore.exceptions.EndpointConnectionError):
        return "no connection to it"
    if isinstance(error, (botocore.exceptions.ConnectionClosedError, ConnectionError)):
        return "the connection was closed before an answer came"
    return (str(error) or type(error).__name__).splitlines()[0]


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


_clock_offset = datetime.timedelta(0)
_clock_of_botocore = botocore.auth.get_current_datetime


def _correct_clock(error: botocore.exceptions.ClientError) -> bool:
    """Sign by the server's clock from now on: servers refuse a signature that is more than 15 minutes off.

    boto3 has no setting for it (boto/boto3#1252), so the clock that its signer asks is replaced, in this process.
    """
    global _clock_offset
    offset = _date(error.response) - datetime.datetime.now(datetime.timezone.utc)
    if abs(offset - _clock_offset) < _SKEW_THAT_MATTERS:
        return False
    _clock_offset = offset
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: _clock_of_botocore(remove_tzinfo) + _clock_offset
    return True


def _date(answer: Mapping[str, Any]) -> datetime.datetime:
    """When the server answered, by its own clock; by this machine's where it does not say."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return email.utils.parsedate_to_datetime(text).astimezone(datetime.timezone.utc)
    except (TypeError, ValueError):
        return datetime.datetime.now(datetime.timezone.utc)


def _check(key: str, answer: dict[str, Any], digest: str) -> None:
    expected = answer.get("Metadata", {}).get(_DIGEST)
    if expected is not None and expected != digest:
        raise DamagedObjectError(f"{key}: damaged on the way, or in the store (sha256 differs)")
