"""A store in a bucket: AWS, Google Cloud Storage, Ceph, MinIO, anything that speaks S3.

What servers really do decides the details (measured, see docs/stores.md): conditional puts are refused or ignored by several
servers, so nothing depends on them; a bit flipped on the way down is noticed by no client, so every object carries its own
sha256 and is checked against it; a machine whose clock is off is refused, and boto3 does not correct its signatures.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from runner.errors import DamagedObjectError, MissingKeyError, StoreError
from runner.store import parallel
from runner.store.protocol import MOST_BYTES, Entry, check_bound, check_size
from runner.store.s3_calls import NO_STORE, server_time
from runner.store.s3_client import Client
from runner.store.uri import StoreUri

MULTIPART_BYTES = 64 << 20
CHUNK_BYTES = 1 << 20
_DIGEST, _PROBE = "sha256", ".probe"
_OBJECTS_PAGING = {"ContinuationToken": "NextContinuationToken"}
_UPLOADS_PAGING = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}


class S3Store:
    """A prefix of a bucket as a store. Credentials are those that :mod:`runner.store.keys` finds."""

    has_a_clock = True

    def __init__(self, uri: StoreUri) -> None:
        self.uri = str(uri)
        self._client = Client(uri)
        self.bucket, self._prefix = uri.bucket, f"{uri.prefix}/" if uri.prefix else ""

    @staticmethod
    def is_read_only(prefix: str = "") -> bool:
        """See :class:`~runner.store.protocol.Store`. Nothing but a write tells."""
        return False

    def check(self) -> None:
        """See :class:`~runner.store.protocol.Store`. An empty object of one name is put, and deleted where that is allowed."""
        self.put(_PROBE, b"")
        with contextlib.suppress(StoreError):
            self.delete([_PROBE])

    def put(self, key: str, data: bytes) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        metadata = {_DIGEST: hashlib.sha256(data).hexdigest()}
        self._put(
            key, lambda: self._client.now.put_object(**self._at(key), **self._client.encryption, Body=data, Metadata=metadata)
        )

    def put_file(self, key: str, path: Path) -> None:
        """See :class:`~runner.store.protocol.Store`. A large file goes in parts; boto3 gives them up when one of them fails."""
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        metadata = {_DIGEST: digest.hexdigest()}

        def whole() -> dict[str, Any]:
            with path.open("rb") as file:
                answer: dict[str, Any] = self._client.now.put_object(
                    **self._at(key), **self._client.encryption, Body=file, Metadata=metadata
                )
                return answer

        def in_parts() -> None:
            transfer = TransferConfig(MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, use_threads=False)
            extra = {"Metadata": metadata, **self._client.encryption, **self._client.payer}
            self._client.for_parts().upload_file(str(path), self.bucket, self._key(key), ExtraArgs=extra, Config=transfer)

        if path.stat().st_size >= MULTIPART_BYTES:
            self._client.write(key, in_parts)
        else:
            self._put(key, whole)

    def _put(self, key: str, call: Callable[[], dict[str, Any]]) -> None:
        if not self._client.write(key, call).get("ETag"):  # a proxy's page says 200, too
            raise StoreError(f"{self.uri}: cannot write {key}: {NO_STORE}")

    def address(self, key: str) -> str:
        """Where anybody who has it can fetch an object, for a week or as long as our keys are good for: it is a secret."""
        found: str = self._client.now.generate_presigned_url("get_object", Params=self._at(key), ExpiresIn=7 * 86400)
        return found

    def get(self, key: str, most: int = MOST_BYTES) -> bytes:
        """See :class:`~runner.store.protocol.Store`."""

        def once() -> bytes:
            answer = self._client.now.get_object(**self._at(key))
            check_bound(key, answer["ContentLength"], most)
            data: bytes = answer["Body"].read()
            _check(key, answer, hashlib.sha256(data).hexdigest())
            return data

        return self._client.undamaged(lambda: self._client.do("read", key, once))

    def get_file(self, key: str, path: Path, size: int | None = None, most: int | None = None) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        part = path.with_name(f".part-{path.name}")

        def once() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                self._download(key, file, size, most)
            os.replace(part, path)

        try:
            self._client.undamaged(once)
        finally:
            part.unlink(missing_ok=True)

    def _download(self, key: str, file: BinaryIO, size: int | None, most: int | None) -> None:
        """A connection that breaks is taken up again where it broke, for as long as each brings something."""
        digest = hashlib.sha256()
        first: dict[str, Any] = {}

        def go_on() -> None:
            done = file.tell()
            if first and done == first["ContentLength"]:
                return
            more = {"Range": f"bytes={done}-", "IfMatch": first["ETag"]} if first else {}
            answer = self._client.now.get_object(**self._at(key), **more)
            first.update({} if first else answer)
            check_size(key, size, first["ContentLength"])
            if most is not None:
                check_bound(key, first["ContentLength"], most)
            while chunk := answer["Body"].read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)

        while True:
            done = file.tell()
            try:
                self._client.do("read", key, go_on)
                break
            except StoreError as error:
                if error.lasting or file.tell() == done:
                    raise
        _check(key, first, digest.hexdigest())

    def head(self, key: str) -> dict[str, Any]:
        """What the server says of an object: ``ContentLength``, ``ETag`` (another one when the content changes),
        ``LastModified``, ``Metadata``."""
        return self._client.do("read", key, lambda: self._client.now.head_object(**self._at(key)))

    def get_from(self, key: str, begin: int, tag: str) -> dict[str, Any]:
        """An object from a byte on, as ``Body`` to be read (``ContentLength`` bytes), if it still has this tag."""
        request = {**self._at(key), "Range": f"bytes={begin}-", "IfMatch": tag}
        return self._client.do("read", key, lambda: self._client.now.get_object(**request))

    def get_part(self, key: str, begin: int, count: int, tag: str) -> bytes:
        """So many bytes of an object from one on, if it still has this tag."""

        def once() -> bytes:
            request = {**self._at(key), "Range": f"bytes={begin}-{begin + count - 1}", "IfMatch": tag}
            answer = self._client.now.get_object(**request)
            if answer["ContentLength"] > count:  # a server that ignores ranges sends everything
                for left in range(begin, 0, -CHUNK_BYTES):
                    answer["Body"].read(min(left, CHUNK_BYTES))
            data: bytes = answer["Body"].read(count)
            answer["Body"].close()
            return data

        return self._client.do("read", key, once)

    def age(self, key: str) -> float:
        """See :class:`~runner.store.protocol.Store`."""
        answer = self.head(key)
        written: datetime.datetime | None = answer.get("LastModified")
        if written is None:
            raise StoreError(f"{self.uri}: {NO_STORE}")
        return (server_time(answer) - written).total_seconds()

    def ahead(self, key: str) -> float:
        """See :class:`~runner.store.protocol.Store`."""
        return (server_time(self.head(key)) - datetime.datetime.now(datetime.timezone.utc)).total_seconds()

    def notices_damage(self, key: str) -> bool:
        """Whether an object that does not come as it was sent is refused, tried with one; nothing depends on it."""
        other = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
        return self._refuses({**self._at(key), "Body": b"this", "ContentMD5": other})

    def refuses_a_second(self, key: str) -> bool:
        """Whether a conditional put is refused where something is, tried with two; nothing depends on it."""
        request = {**self._at(key), "Body": b"", "IfNoneMatch": "*"}
        return not self._refuses(request) and self._refuses(request, "PreconditionFailed")

    def _refuses(self, request: Mapping[str, Any], code: str | None = None) -> bool:
        """Whether the server does not take what another would, with a code; one that does not know what is asked, does."""
        try:
            self._client.now.put_object(**request, **self._client.encryption)
        except ClientError as error:
            return code is None or error.response.get("Error", {}).get("Code") == code
        except BotoCoreError:
            return False
        return False

    def scan(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """See :class:`~runner.store.protocol.Store`."""
        more: dict[str, Any] = {"StartAfter": self._prefix + after} if after else {}
        for page in self._pages(prefix, **more):
            for item in page.get("Contents", []):
                key = item["Key"].removeprefix(self._prefix)
                if _usable(key):  # markers of folders, such as browsers of buckets make, are none of ours
                    yield Entry(key, item["Size"])

    def folders(self, prefix: str) -> list[str]:
        """See :class:`~runner.store.protocol.Store`."""
        start = len(self._prefix) + len(prefix)
        pages = self._pages(prefix, Delimiter="/")
        return sorted(item["Prefix"][start:-1] for page in pages for item in page.get("CommonPrefixes", []))

    def delete(self, keys: Iterable[str]) -> None:
        """See :class:`~runner.store.protocol.Store`. One request each: many at once want a Content-MD5 on some servers."""
        for key in keys:
            self._client.do("delete", key, lambda key=key: self._client.now.delete_object(**self._at(key)))  # type: ignore[misc]

    def clear(self, prefix: str) -> None:
        """See :class:`~runner.store.protocol.Store`."""
        self.sweep(prefix, keep=lambda key: False)
        for page in self._pages(prefix):
            keys = [item["Key"] for item in page.get("Contents", [])]
            requests = [partial(self._call, "delete_object", Bucket=self.bucket, Key=key, **self._client.payer) for key in keys]
            self.in_parallel([partial(self._client.do, "delete", prefix, request) for request in requests])

    def sweep(self, prefix: str, keep: Callable[[str], bool]) -> None:
        """See :class:`~runner.store.protocol.Store`: uploads in parts that nobody finished (no listing shows them)."""
        try:
            pages = list(self._pages(prefix, "list_multipart_uploads", _UPLOADS_PAGING))
        except StoreError as error:
            if error.lasting:  # not every server has this call, and not every user may make it
                return
            raise
        for page in pages:
            for upload in page.get("Uploads", []):
                key = upload["Key"].removeprefix(self._prefix)
                if _usable(key) and not keep(key):
                    with contextlib.suppress(MissingKeyError):  # finished or given up meanwhile
                        self._client.do(
                            "sweep",
                            key,
                            partial(self._call, "abort_multipart_upload", **self._at(key), UploadId=upload["UploadId"]),
                        )

    def in_parallel(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """See :class:`~runner.store.protocol.Store`."""
        return parallel.in_parallel(calls)

    def _pages(
        self,
        prefix: str,
        call: str = "list_objects_v2",
        paging: Mapping[str, str] = _OBJECTS_PAGING,
        **more: str,
    ) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            where = {"Bucket": self.bucket, "Prefix": self._prefix + prefix, **self._client.payer}
            page = self._client.do(
                "list",
                prefix,
                partial(self._call, call, **where, **more, **token),
            )
            if not (page.get("Name") or page.get("Bucket")):
                raise StoreError(f"{self.uri}: {NO_STORE}")
            yield page
            if not page.get("IsTruncated"):
                return
            last, token = token, {ours: str(page.get(theirs)) for ours, theirs in paging.items()}
            if token == last:
                raise StoreError(f"{self.uri}: {NO_STORE}")

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """One of boto3's operations, by the client of this moment."""
        answer: dict[str, Any] = getattr(self._client.now, operation)(**arguments)
        return answer

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(key), **self._client.payer}

    def _key(self, key: str) -> str:
        if not _usable(key):
            refused = StoreError(f"{self.uri}: refused key {key!r}")
            refused.lasting = True
            raise refused
        return self._prefix + key


def _usable(key: str) -> bool:
    """Whether a key is of the kind that is written here: it cannot leave a folder that it is copied to."""
    return not any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in key.split("/"))


def _check(key: str, answer: dict[str, Any], digest: str) -> None:
    expected = answer.get("Metadata", {}).get(_DIGEST)
    if expected is not None and expected != digest:
        raise DamagedObjectError(f"{key}: damaged on the way, or in the store (sha256 differs)")
