"""Calls to a bucket's server: tried again for a while, and their many errors told as ours, in one line.

A machine whose clock is off is refused by servers, and boto3 does not correct its signatures: that is done here, too.
"""

from __future__ import annotations

import datetime
import email.utils
import math
import random
import re
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, TypeVar

import botocore.auth
import botocore.exceptions
import urllib3.exceptions
from boto3.exceptions import Boto3Error

from last_e.redact import redact
from last_e.text import plain
from runner.errors import DamagedObjectError, MissingKeyError, StoreError
from runner.waits import WAITS

DOWNLOAD_TRIES = 3
READ_TIMEOUT_SECONDS = WAITS.read
PATIENCE_SECONDS = WAITS.patience
"""A call is tried again at least once, and no more after this time: a dead server is told within half a minute."""
_MISSING = ("NoSuchKey", "NoSuchUpload", "404", "NotFound")
_BROKEN = (urllib3.exceptions.HTTPError, ssl.SSLError, ConnectionError, TimeoutError)
"""What comes through boto3 as it is when a connection breaks while an object's bytes are read."""
_SKEWED = ("RequestTimeTooSkewed", "403")
"""The second, without a word of why, is the answer to a HEAD."""
_SKEW_THAT_MATTERS = datetime.timedelta(minutes=5)
ODD = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What comes from boto3's depths, on odd answers and odd files."""
_HOPELESS = (botocore.exceptions.ParamValidationError, botocore.exceptions.InvalidRegionError)
_LONGEST_WORDS = 300
_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
)
_OLD_CREDENTIALS = (
    *("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", "InvalidToken"),
    *("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch"),
)
"""What servers say of keys that were rotated, or are over: newer ones may be where these were found."""
_HINTS = {
    "ExpiredToken": "these credentials have expired",
    "InvalidToken": "the server does not know this session token",
    "NoSuchBucket": "there is no such bucket: make it first",
    "AccessDenied": "these credentials may not do that",
    "InvalidAccessKeyId": "the server does not know this access key",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "403": "these credentials may not do that",
    "PermanentRedirect": "the bucket is in another region: set region",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
}
_RIGHTS = {"read": "s3:GetObject", "write": "s3:PutObject", "list": "s3:ListBucket", "delete": "s3:DeleteObject"}
"""What a call takes, by what it does."""
NO_STORE = "what answers there is no object store: see endpoint_url, and any proxy between"
T = TypeVar("T")


_SSO = (
    botocore.exceptions.SSOTokenLoadError,
    botocore.exceptions.UnauthorizedSSOTokenError,
    botocore.exceptions.TokenRetrievalError,
)


class _Refused(StoreError):
    """The store does not take the credentials, or there are none."""

    lasting = True
    renew_seconds = 2.0


class _Denied(StoreError):
    """They may not do that; some servers say so of a key that is being rotated, too."""

    lasting = True
    renew_seconds = 60.0


class Calls:
    """What all calls for one store have in common."""

    def __init__(self, uri: str, renew: Callable[[], None]) -> None:
        self._uri, self._renew = uri, renew
        self._worked = False
        self._renewed, self._renewing = -math.inf, threading.Lock()

    def undamaged(self, once: Callable[[], T]) -> T:
        """Read again what was damaged on the way."""
        for last in [False] * (DOWNLOAD_TRIES - 1) + [True]:
            try:
                return once()
            except DamagedObjectError:
                if last:
                    raise
        raise AssertionError

    def do(self, what: str, key: str, call: Callable[[], T]) -> T:
        """Call boto3, again for a while when the network or the server fails."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause = 0.1
        for number in count():
            began = time.monotonic()
            try:
                result = self._once(what, key, call)
                self._worked = True
                return result
            except (MissingKeyError, DamagedObjectError):
                self._worked = True
                raise
            except (_Refused, _Denied) as error:
                # Keys that have worked were rotated: read them again, and wait for them as for a server that is away.
                error.lasting = isinstance(error, _Denied) or not self._worked
                error.renewable = self._worked
                if self._worked and self._renewed_since(began, error.renew_seconds) and not number:
                    continue
                if error.lasting or (number and time.monotonic() + pause > deadline):
                    raise
            except StoreError as error:
                if error.lasting or (number and time.monotonic() + pause > deadline):
                    raise
            time.sleep(pause * (0.5 + random.random() / 2))  # noqa: S311
            pause = min(2 * pause, 3.0)
        raise AssertionError

    def _renewed_since(self, began: float, seconds: float) -> bool:
        """Whether the keys have been read again since a call began: by another thread, whose call was refused as well, or now,
        if that was not so few seconds ago."""
        with self._renewing:
            if self._renewed > began:
                return True
            if time.monotonic() - self._renewed <= seconds:
                return False
            try:
                self._renew()
            finally:
                self._renewed = time.monotonic()
            return True

    def _once(self, what: str, key: str, call: Callable[[], T]) -> T:
        """Call boto3; its many errors become ours, in one line, without anything that is secret."""
        where = f"{self._uri}: cannot {what} {key or 'the store'}"
        try:
            signed_by = _clock_offset
            try:
                return call()
            except botocore.exceptions.ClientError as error:
                # Of several calls at once the first corrects the clock for all.
                if not (_code(error) in _SKEWED and (_correct_clock(error) or _clock_offset != signed_by)):
                    raise
                return call()
        except botocore.exceptions.ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise MissingKeyError(f"{self._uri}: nothing under {key}") from None
            if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
                raise DamagedObjectError(f"{self._uri}: {key} was replaced while it was read") from None
            kind = _Refused if code in _OLD_CREDENTIALS else _Denied if code in ("AccessDenied", "403") else StoreError
            message = str(error.response.get("Error", {}).get("Message") or "")
            told = _told(code, message)
            right = _RIGHTS.get(what, "") if kind is _Denied else ""
            if right and right not in told:  # servers name it seldom
                told += f"; it takes {right}, see docs/stores.md"
            failed = kind(f"{where}: {told}")
            failed.demands = _demanded(code, message)
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            passing = status in (408, 429) or code == "RequestTimeout"
            failed.lasting = code in _HINTS or (400 <= status < 500 and not passing) or status == 501
        except _SSO as error:
            failed = _Refused(f"{where}: {_words(error)}: aws sso login renews the session")
        except _CREDENTIALS:
            pair = "an HMAC key pair (Cloud Storage, Settings, Interoperability) as " if self._uri.startswith("gs://") else ""
            hint = f"no credentials: set {pair}AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws/credentials"
            failed = _Refused(f"{where}: {hint}")
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
        except ODD as error:
            if away := keys_are_away(error):
                failed = _Refused(f"{where}: {away}")
            elif isinstance(error, OSError):  # of a file of ours
                raise
            else:
                failed = StoreError(f"{where}: {NO_STORE}")
        raise failed


def keys_are_away(error: BaseException) -> str | None:
    """What to say of an error from boto3's search for keys: a file or a program that has them is not there just now, or says
    something else. None: it is about something else.

    It comes as it is, and an error of the system must not be taken for one of the file that is to be sent."""
    asking = (frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__))
    if not any(name in ("botocore.credentials", "botocore.tokens") for name in asking):
        return None
    if isinstance(error, OSError):
        return f"no credentials: {plain(str(error.filename or 'what has them'))}: {error.strerror or error}"
    return "no credentials: the program of credential_process, or what else has them, answers with something else"


def _demanded(code: str, message: str) -> str | None:
    if code != "AccessDenied" and re.search("content-md5|checksum", f"{code} {message}", re.IGNORECASE):
        return "checksum"  # a bucket with Object Lock, for one
    return "encryption" if code == "AccessDenied" else None  # by a policy, which nobody is told of


def _told(code: str, message: str) -> str:
    """What a server refuses, with its own words where it has any: which right is missing, which setting it demands."""
    hint = _HINTS.get(code) or code or "the server refuses"
    said = plain(redact(" ".join(message.split())))[:_LONGEST_WORDS]
    return f"{hint} (it says: {said})" if said and said.lower() not in ("unknown", "none", code.lower()) else hint


def _words(error: Exception) -> str:
    """What broke, in a line."""
    if isinstance(error, (botocore.exceptions.ReadTimeoutError, botocore.exceptions.ConnectTimeoutError, TimeoutError)):
        return f"no answer within {READ_TIMEOUT_SECONDS:g} s"
    if isinstance(error, botocore.exceptions.EndpointConnectionError):
        return "no connection to it"
    if isinstance(error, (botocore.exceptions.ConnectionClosedError, ConnectionError)):
        return "the connection was closed before an answer came"
    return " ".join(str(error).split())[:_LONGEST_WORDS] or type(error).__name__


def _code(error: botocore.exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


_clock_offset = datetime.timedelta(0)
_clock_of_botocore = botocore.auth.get_current_datetime


def _correct_clock(error: botocore.exceptions.ClientError) -> bool:
    """Sign by the server's clock from now on: servers refuse a signature that is more than 15 minutes off.

    boto3 has no setting for it (boto/boto3#1252), so the clock that its signer asks is replaced, in this process.
    """
    global _clock_offset
    offset = server_time(error.response) - datetime.datetime.now(datetime.timezone.utc)
    if abs(offset - _clock_offset) < _SKEW_THAT_MATTERS:
        return False
    _clock_offset = offset
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: _clock_of_botocore(remove_tzinfo) + _clock_offset
    return True


def server_time(answer: Mapping[str, Any]) -> datetime.datetime:
    """When the server answered, by its own clock; by this machine's where it does not say."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return email.utils.parsedate_to_datetime(text).astimezone(datetime.timezone.utc)
    except (TypeError, ValueError):
        return datetime.datetime.now(datetime.timezone.utc)
