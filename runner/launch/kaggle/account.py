"""What Kaggle answers, through its own library. Everything here is a call of that."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import IO, Any, TypeVar

from last_e.text import expand, plain
from runner.errors import EngineError, UsageError
from runner.launch.again import ASKED_TOO_OFTEN, AWAY, BUSY, REFUSED, UnsureError, again, refusal
from runner.waits import WAITS

T = TypeVar("T")

WAITING, RUNNING = ("QUEUED", "NEW_SCRIPT"), ("RUNNING", "CANCEL_REQUESTED")
CANCELLED = "CANCEL_ACKNOWLEDGED"
_MADE = ("READY", "")
"""States of a data set of which nothing is to be waited for."""
SHAPE = "NvidiaTeslaT4"
"""Always two of them; there is no single one."""
_PATIENCE_SECONDS = 60.0
_UPLOAD_SECONDS, _READY_SECONDS = 3600.0, 900.0
_TRIES = 3
_END_OF_LOG = "END_OF_LOG"
_UNKNOWN = "Kaggle answers what its library does not understand ({}): try again, or with a newer one (pip install -U kaggle)"
_WORDS = {
    401: "it does not take your key: make another one at kaggle.com/settings, and put it where the old one is",
    403: "your account may not do that",
    404: "it knows of no such thing",
    413: "that is too large for it",
    **dict.fromkeys((502, 503, 504), AWAY),
    429: ASKED_TOO_OFTEN,
}
_REFUSALS = (
    ("phone|verif", "your account has no verified phone, and so neither GPU nor Internet: kaggle.com/settings"),
    ("session count|concurrent", "as many sessions of yours run as may: end one, or wait for it"),
    ("quota", "your quota of this week is used up: lastrun gpus tells until when, --set run.gpus=0 trains without a GPU"),
    ("title|slug|already", "that name is taken: something of another kind has it in your account; remove or rename that"),
)
_LOGIN_IS_OVER = "Kaggle: your login there is over: kaggle auth login"
_NO_KEY = (
    "launcher kaggle: there is no key of yours here: kaggle auth login, or kaggle.com/settings, Create New Token, into "
    "~/.kaggle/kaggle.json; or KAGGLE_USERNAME and KAGGLE_KEY"
)


@dataclass(frozen=True)
class Seen:
    """A session as Kaggle has it now."""

    name: str
    """Its address there, ``USER/SLUG``."""
    state: str
    message: str = ""

    @property
    def waits(self) -> bool:
        """Whether it has no machine yet."""
        return self.state in WAITING

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state in (*WAITING, *RUNNING)

    def __str__(self) -> str:
        if self.waits:
            return f"Kaggle session {self.name} waits for a machine"
        return f"Kaggle session {self.name}" + ("" if self.state == "RUNNING" else f" ({self.state.lower()})")


@dataclass(frozen=True)
class Quota:
    """Seconds of GPU in this week."""

    left: float
    until: str
    """When there are more, in words; may be empty."""


@dataclass(frozen=True)
class Account:
    """Somebody's sessions and data sets."""

    name: str

    def page(self, slug: str) -> str:
        """Where people see a session, and end it."""
        return f"https://www.kaggle.com/code/{self.name}/{slug}"

    def push(self, slug: str, text: str, *, gpu: bool, seconds: int, datasets: Sequence[str]) -> str:
        """Begin a session of a script; returns its version.

        Raises:
            UnsureError: it may have begun all the same.
            EngineError: it is not taken.
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest

        request = ApiSaveKernelRequest()
        request.slug, request.new_title, request.text = f"{self.name}/{slug}", slug, text
        request.language, request.kernel_type = "python", "script"
        request.is_private = request.enable_internet = True
        request.enable_gpu, request.session_timeout_seconds = gpu, seconds
        request.dataset_data_sources = list(datasets)
        if gpu:
            request.machine_shape = SHAPE
        with explained():
            answer = _again(lambda: _client().kernels.kernels_api_client.save_kernel(request), REFUSED)
            if answer.error:
                raise EngineError(_refusal(answer.error))
            version = str(answer.version_number or "")
        if bad := list(answer.invalid_dataset_sources or []):  # a session begins without them
            raise UnsureError(f"Kaggle: no such data set, or none that you may read: {plain(', '.join(map(str, bad)))}")
        return version

    def look(self, slug: str, version: str = "", *, at_once: bool = False) -> Seen | None:
        """A session, the last one or that of a version; None: there is none. ``at_once``: Kaggle is not asked again where it is
        busy.

        Raises:
            EngineError: nobody answers.
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        request = self._of(ApiGetKernelSessionStatusRequest(), slug, version)
        with explained(), _nothing_there() as found:
            codes = () if at_once else BUSY
            found.append(_again(lambda: _client().kernels.kernels_api_client.get_kernel_session_status(request), codes))
        if not found:
            return None
        return Seen(plain(f"{self.name}/{slug}"), plain(found[0].status.name), plain(found[0].failure_message or ""))

    def log(self, slug: str, version: str) -> Iterator[str]:
        """What it says, in pieces as they come, until it ends; of one that has ended all of it.

        Raises:
            EngineError: nobody answers, or the connection breaks.
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionLogsStreamRequest

        request = self._of(ApiGetKernelSessionLogsStreamRequest(), slug, version)
        with explained():
            answer = _client().kernels.kernels_api_client.get_kernel_session_logs_stream(request)
            with answer:
                if "event-stream" in answer.headers.get("Content-Type", ""):
                    for line in answer.iter_lines(decode_unicode=True):
                        if line and line.startswith("data:"):
                            said = line.removeprefix("data:").strip()
                            if said == _END_OF_LOG:
                                return
                            yield _said(json.loads(said))
                    raise EngineError("Kaggle: the connection with the log has ended before it")
                yield from map(_said, json.loads(answer.text or "[]"))

    def output(self, slug: str, version: str) -> dict[str, str]:
        """Files that a session has left, and the address of each.

        Raises:
            EngineError: nobody answers.
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        files: dict[str, str] = {}
        request = self._of(ApiListKernelSessionOutputRequest(), slug, version)
        request.page_size = 100
        with explained():
            while True:
                answer = _again(lambda: _client().kernels.kernels_api_client.list_kernel_session_output(request))
                files |= {str(one.file_name): str(one.url) for one in answer.files or []}
                if not answer.next_page_token or answer.next_page_token == request.page_token:
                    return files
                request.page_token = answer.next_page_token

    def fetch(self, address: str, out: IO[bytes]) -> None:
        """A file, from what of it is there already on.

        Raises:
            EngineError: it does not come.
        """
        import requests

        with explained():
            headers = {"Range": f"bytes={out.tell()}-"} if out.tell() else {}
            with requests.get(address, stream=True, timeout=_PATIENCE_SECONDS, headers=headers) as answer:
                if answer.status_code == 416:  # all of it is there
                    return
                answer.raise_for_status()
                if answer.status_code != 206:
                    out.seek(0)
                    out.truncate()
                for piece in answer.iter_content(1 << 20):
                    try:
                        out.write(piece)
                    except OSError as error:
                        then = "free some room, then look again"
                        raise EngineError(f"what a session has left cannot be kept here: {error.strerror}: {then}") from None

    def quota(self) -> Quota:
        """What is left of GPUs.

        Raises:
            EngineError: nobody answers.
        """
        with explained():
            answer = _again(lambda: _client().kernels.kernels_api_client.get_accelerator_quota_statistics())
            gpu = answer.gpu_quota
            if gpu is None or gpu.total_time_allowed is None:
                raise EngineError(f"Kaggle: {_REFUSALS[0][1]}")
            used = [one.total_seconds() for one in (gpu.time_used, gpu.time_reserved) if one is not None]
            until = answer.quota_refresh_time
            left = max(0.0, gpu.total_time_allowed.total_seconds() - sum(used))
            return Quota(left, until.strftime("%Y-%m-%d %H:%M UTC") if until is not None else "")

    def has_data(self, slug: str) -> bool:
        """Whether there is such a data set of theirs. One that is still being made there is waited for.

        Raises:
            EngineError: nobody answers, or it could not be made.
        """
        if (state := self._state_of_data(slug)) in _MADE:
            return bool(state)
        sys.stderr.write(plain(f"Kaggle: data set {self.name}/{slug} is still being made there; it is waited for\n"))
        self._await_data(slug)
        return True

    def _await_data(self, slug: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while self._state_of_data(slug) != "READY":
            if time.monotonic() > deadline:
                most = f"{_READY_SECONDS / 60:.0f} minutes"
                raise EngineError(
                    f"Kaggle has not made data set {self.name}/{slug} within {most}: the same command waits for it again; or "
                    "remove it at kaggle.com, and it is made anew"
                )
            time.sleep(WAITS.follow)

    def _state_of_data(self, slug: str) -> str:
        """As Kaggle calls it; empty: there is none."""
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest

        request = ApiGetDatasetStatusRequest()
        request.owner_slug, request.dataset_slug = self.name, slug
        with explained(), _nothing_there() as found:
            found.append(_again(lambda: _client().datasets.dataset_api_client.get_dataset_status(request)))
        state = found[0].status.name if found else ""
        if state == "FAILED":
            raise EngineError(f"Kaggle could not make data set {self.name}/{slug}; remove it at kaggle.com, and try again")
        return "" if state == "DELETED" else str(state)

    def put_data(self, slug: str, files: dict[str, bytes]) -> None:
        """Make a private data set, and wait until it can be read. Nothing of it comes to lie on this machine's disk.

        Raises:
            EngineError: it cannot be made.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest, ApiDatasetNewFile

        request = ApiCreateDatasetRequest()
        request.owner_slug, request.slug, request.title = self.name, slug, slug
        request.license_name, request.is_private = "other", True
        for name, data in files.items():
            one = ApiDatasetNewFile()
            one.token = _uploaded(name, data)
            request.files = [*request.files, one]
        with explained():
            answer = _again(lambda: _client().datasets.dataset_api_client.create_dataset(request), REFUSED)
        if (answer.error or (answer.status or "ok").lower() != "ok") and not self._state_of_data(slug):
            raise EngineError(_refusal(answer.error or answer.status))  # else somebody else has just begun to make the same
        self._await_data(slug)

    def drop_data(self, slug: str) -> bool:
        """Delete a data set, if it is there; returns whether it was.

        Raises:
            EngineError: it may still be there.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiDeleteDatasetRequest

        request = ApiDeleteDatasetRequest()
        request.owner_slug, request.dataset_slug = self.name, slug
        with explained(), _nothing_there() as found:
            found.append(_again(lambda: _client().datasets.dataset_api_client.delete_dataset(request)))
        if found and found[0] is not None and found[0].error:
            raise EngineError(_refusal(found[0].error))
        return bool(found)

    def _of(self, request: Any, slug: str, version: str) -> Any:
        request.user_name, request.kernel_slug = self.name, slug
        if version:
            request.version_label = f"v{version}"
        return request


@cache
def account() -> Account:
    """That of whom the key is.

    Raises:
        EngineError, UsageError: it is not known.
    """
    return Account(plain(_own()[1]))


def is_set_up() -> bool:
    """Whether its library is here, and a key, a token or a login of this user, which is not tried."""
    if find_spec("kagglesdk") is None:
        return False
    named = any(os.environ.get(name) for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY"))
    own = expand(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle")
    kept = [own / "kaggle.json", *(expand("~/.kaggle") / name for name in ("access_token", "credentials.json"))]
    return named or any(path.is_file() for path in kept)


def is_on_this_network() -> bool:
    """Whether the Kaggle that its library asks is a server of this network, as for tests of that."""
    try:
        from kagglesdk.kaggle_env import get_endpoint, get_env
    except ImportError:  # which is told by whom it is asked of
        return False
    return bool(re.match(r"https?://(localhost|127\.)", get_endpoint(get_env())))


@contextmanager
def explained() -> Iterator[None]:
    """Errors of its library in words that tell what to do."""
    from requests.exceptions import HTTPError, RequestException

    try:
        yield
    except HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        lines = plain(str(error)).strip().splitlines()
        said = "" if not lines or " for url: " in lines[0] else f" ({lines[0][:300]})"
        known = next((words for found, words in _REFUSALS[:3] if re.search(found, said, re.IGNORECASE)), None)
        raise refusal(code)(f"Kaggle: {known or _WORDS.get(code, f'it answers with error {code}')}{said}") from None
    except (RequestException, OSError) as error:
        if isinstance(error, ValueError):
            raise UnsureError(_UNKNOWN.format(type(error).__name__)) from None
        raise UnsureError(f"Kaggle does not answer ({type(error).__name__}): is this machine online?") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsureError(_UNKNOWN.format(type(error).__name__)) from None


def _again(call: Callable[[], T], codes: Collection[int] = BUSY) -> T:
    from requests.exceptions import HTTPError

    return again(call, "Kaggle", HTTPError, codes)


@contextmanager
def _nothing_there() -> Iterator[list[Any]]:
    """What is found comes into the list; that there is nothing is no error. Kaggle says the same of what is somebody else's."""
    from requests.exceptions import HTTPError

    try:
        yield []
    except HTTPError as error:
        if error.response is None or error.response.status_code not in (403, 404):
            raise


def _client() -> Any:
    return _own()[0]


@cache
def _own() -> tuple[Any, str]:
    """Its client with the key of this user, which stays here; and whose key that is."""
    try:
        from kagglesdk import KaggleClient
        from kagglesdk.kaggle_creds import KaggleCredentials
        from kagglesdk.kaggle_env import get_access_token_from_env
        from kagglesdk.security.types.oauth_service import IntrospectTokenRequest
    except ImportError:
        raise EngineError(
            "launcher kaggle needs Kaggle's library; from a clone of lastrun: pip install '.[kaggle]' (Python 3.11 or newer)"
        ) from None
    token, _ = get_access_token_from_env()
    name, key = _key_of_old()
    if token is None and (name is None or key is None):
        with explained():
            kept = KaggleCredentials.load(_patient(KaggleClient()))
            if kept is None:
                raise UsageError(_NO_KEY)
            return _patient(KaggleClient(api_token=_renewed(kept.get_access_token)), kept), str(kept.get_username())
    if token is None:
        return _patient(KaggleClient(username=name, password=key)), str(name)
    client, request = _patient(KaggleClient(api_token=token)), IntrospectTokenRequest()
    request.token = token
    with explained():
        answer = _again(lambda: client.security.oauth_client.introspect_token(request))
        if not answer.active or not answer.username:
            raise UsageError(f"Kaggle: {_WORDS[401]}")
        return client, str(answer.username)


def _key_of_old() -> tuple[str | None, str | None]:
    """Name and key, from variables or the file that one downloads."""
    name, key = os.environ.get("KAGGLE_USERNAME"), os.environ.get("KAGGLE_KEY")
    if name and key:
        return name, key
    path = expand(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle") / "kaggle.json"
    try:
        found = json.loads(path.read_text())
        return str(found["username"]), str(found["key"])
    except OSError:
        return None, None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"launcher kaggle: {path} is no key as kaggle.com/settings gives it") from None


def _patient(client: Any, login: Any = None) -> Any:
    """Its library would wait for ever, and knows of no end of what a ``login`` is good for, which is half a day."""
    from requests.adapters import HTTPAdapter

    class Patient(HTTPAdapter):
        def send(self, request: Any, *args: Any, **more: Any) -> Any:
            more["timeout"] = more.get("timeout") or _PATIENCE_SECONDS
            answer = super().send(request, *args, **more)
            if answer.status_code != 401 or login is None:
                return answer
            if request.headers.get("Authorization") == f"Bearer {_renewed(login.get_access_token)}":
                _renewed(login.refresh_access_token)
            if session is not None:
                session.auth.token = login.get_access_token()
            request.headers["Authorization"] = f"Bearer {login.get_access_token()}"
            answer = super().send(request, *args, **more)
            if answer.status_code == 401:
                raise EngineError(_LOGIN_IS_OVER)
            return answer

    client.__enter__()
    session = getattr(client.http_client(), "_session", None)
    if session is not None:
        session.mount("https://", Patient())
        session.mount("http://", Patient())
    return client


def _renewed(call: Callable[[], T]) -> T:
    """What a call of a login's returns, which may renew it.

    Raises:
        EngineError: it is over.
    """
    from requests.exceptions import HTTPError

    try:
        return _again(call)
    except HTTPError as error:
        if error.response is None or error.response.status_code not in (400, 401, 403):
            raise
        raise EngineError(_LOGIN_IS_OVER) from None


def _uploaded(name: str, data: bytes) -> str:
    """What stands for a file that was sent."""
    import requests
    from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest

    request = ApiStartBlobUploadRequest()
    request.type, request.name = ApiBlobType.DATASET, name
    request.content_length, request.last_modified_epoch_seconds = len(data), int(time.time())
    for left in reversed(range(_TRIES)):
        try:
            with explained():
                place = _again(lambda: _client().blobs.blob_api_client.start_blob_upload(request))
                requests.put(place.create_url, data=data, timeout=_UPLOAD_SECONDS).raise_for_status()
                return str(place.token)
        except EngineError:
            if not left:
                raise
            time.sleep(WAITS.follow)
    raise AssertionError


def _said(event: Any) -> str:
    return str(event.get("data", "")) if isinstance(event, dict) else ""


def _refusal(said: object) -> str:
    text = plain(str(said)).strip()
    known = next((words for found, words in _REFUSALS if re.search(found, text, re.IGNORECASE)), "it does not take it")
    return f"Kaggle: {known} ({text[:300]})"
