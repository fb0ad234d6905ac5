"""The name of a store, or of something in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode

from last_e.redact import redact, secret_in
from last_e.text import UnsetVariable, absolute, has_port, misspelt, unknown_user, unquoted, with_variables
from runner.errors import UsageError

OPTIONS = ("endpoint_url", "region", "addressing", "ca_bundle", "sse", "sse_kms_key_id", "requester_pays")
"""What the query of a bucket's URI may say: ``s3://bucket/prefix?endpoint_url=https://...``."""
_USER_IN_IT = re.compile(r"(?i)(?:s3|gs|gcs|s3a|s3n|file):?/{0,3}[^/?#]*:[^?#]*@")
"""A user's name with a password, in what is meant as a URI though it may have a slash too few."""
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_KINDS = "a folder, file:///folder, s3://bucket/prefix or gs://bucket/prefix"
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")


@dataclass(frozen=True)
class StoreUri:
    """``s3://bucket/prefix?endpoint_url=...``, ``gs://bucket/prefix``, ``file:///folder`` or a plain path, taken apart."""

    scheme: str
    bucket: str
    prefix: str
    options: dict[str, str]

    @classmethod
    def parse(cls, uri: str) -> StoreUri:
        """Take a URI apart.

        Raises:
            UsageError: it is of no kind known here, or holds credentials.
        """
        if secret_in("", uri):
            raise UsageError(f"store {redact(uri)!r}: credentials do not stand in a URI; boto3 finds them by itself")
        if _USER_IN_IT.match(uri):  # whatever stands before it, and however it is misspelt
            raise UsageError("store ...@...: credentials do not stand in a URI; boto3 finds them by itself")
        if wrong := misspelt(uri):
            raise UsageError(f"store {uri!r}: {wrong}")
        scheme, separator, rest = uri.partition("://")
        if not separator and (wrong := unknown_user(uri)):
            raise UsageError(f"store {uri!r}: {wrong}")
        if not separator:
            return cls("file", "", str(absolute(uri)), {})
        if "\0" in unquote(uri):
            raise UsageError(f"store {uri!r}: a name cannot hold a null character")
        if scheme == "file" and rest.startswith("/"):
            return cls("file", "", str(absolute(unquoted(rest))), {})
        place, _, query = rest.partition("?")
        bucket, _, prefix = place.partition("/")
        if scheme not in ("s3", "gs") or not bucket:
            raise UsageError(f"store {scheme}://...; allowed: {_KINDS}")
        if not _BUCKET.fullmatch(bucket):
            raise UsageError(f"store {scheme}://...: a bucket's name has letters, digits, dots, dashes and underscores only")
        if {".", ".."} & set(prefix.split("/")):  # libraries take them away on the way, each in its own manner
            raise UsageError(f"store {scheme}://{bucket}/...: a name in a bucket has no parts . and ..")
        pairs = parse_qsl(query, keep_blank_values=True)
        options = dict(pairs)
        if len(options) < len(pairs):
            names = [name for name, _ in pairs]
            raise UsageError(f"store {scheme}://{place}: {next(n for n in names if names.count(n) > 1)} is given twice")
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown:
            raise UsageError(f"store {scheme}://{place}: unknown option {unknown[0]}; allowed: {', '.join(OPTIONS)}")
        choices = {"sse": ENCRYPTIONS, "requester_pays": ("true", "false"), "addressing": ("path", "virtual", "auto")}
        for name, allowed in choices.items():
            if options.get(name, allowed[0]) not in allowed:
                raise UsageError(f"store {scheme}://{place}: {name} is {options[name]!r}; allowed: {', '.join(allowed)}")
        region = options.get("region", "us-east-1")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,63}", region):
            told = f"region is {redact(region)!r}; allowed: letters, digits, dashes, dots and underscores"
            raise UsageError(f"store {scheme}://{place}: {told}")
        endpoint = options.get("endpoint_url")
        if endpoint is not None and (not re.fullmatch(r"https?://[^@\s?#]+", endpoint) or not has_port(endpoint)):
            shown = "..." if re.search("[@?#]", endpoint) else endpoint
            raise UsageError(f"store {scheme}://{place}: endpoint_url is {shown!r}; allowed: http://HOST or https://HOST")
        return cls(scheme, bucket, prefix.strip("/"), options)

    @classmethod
    def typed(cls, uri: str) -> StoreUri:
        """The same of what somebody has typed, here or in a file: ``$NAME`` and ``${NAME}`` are replaced.

        Raises:
            UsageError: as above, a variable is not set, or nothing is left but what nobody sees.
        """
        try:
            name = with_variables(uri)
        except UnsetVariable as error:
            raise UsageError(f"store {redact(uri)!r}: {error}") from None
        if not name.strip():  # what a shell makes of a variable that is not set
            raise UsageError(f"store {name!r}: found nothing; allowed: {_KINDS}")
        if name != name.strip() or re.search(r"[\x00-\x1f\x7f]", name):  # the end of a line that a file from Windows leaves
            raise UsageError(
                f"store {redact(name)!r}: found white space around it, or a control character in it; allowed: the name alone"
            )
        return cls.parse(name)

    def with_options(self, options: Mapping[str, str | bool | None]) -> StoreUri:
        """The same place with more options; those in the URI itself win, a folder has none."""
        given = {name: _text(value) for name, value in options.items() if value not in (None, False)}
        return self if self.scheme == "file" else replace(self, options={**given, **self.options})

    @property
    def place(self) -> str:
        """What it names, however it is reached: the same text for the same place."""
        if self.scheme == "file":
            return Path(self.prefix).resolve().as_uri()
        endpoint = self.options.get("endpoint_url") or next(filter(None, map(os.environ.get, _ENDPOINTS)), "")
        return f"{self.scheme}://{self.bucket}/{self.prefix.rstrip('/')} {endpoint.rstrip('/')}".strip()

    def child(self, name: str) -> StoreUri:
        """The URI of something in it."""
        return replace(self, prefix=f"{self.prefix.rstrip('/')}/{name}" if self.prefix else name)

    def parent(self) -> tuple[StoreUri, str]:
        """The inverse of :meth:`child`."""
        folder, _, name = self.prefix.rpartition("/")
        return replace(self, prefix=folder or ("/" if self.scheme == "file" else "")), name

    def __str__(self) -> str:
        if self.scheme == "file":
            return Path(self.prefix).as_uri()
        query = f"?{urlencode(self.options, safe=':/')}" if self.options else ""
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/") + query


def _text(value: str | bool | None) -> str:
    return "true" if value is True else str(value)
