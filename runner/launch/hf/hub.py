"""What Hugging Face answers about its jobs, through its own library. Everything here is a call of that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from last_e.text import plain
from runner.errors import EngineError, UsageError
from runner.launch.again import ASKED_TOO_OFTEN, AWAY, BUSY, REFUSED, UnsureError, again, refusal
from runner.launch.notes import Notes

if TYPE_CHECKING:
    from httpx2 import Client
    from huggingface_hub import HfApi

T = TypeVar("T")

WAITING, RUNNING = "SCHEDULING", "RUNNING"
CANCELLED = "CANCELED"
ENDED = ("COMPLETED", CANCELLED, "ERROR", "DELETED")
_SECONDS = {"minute": 60, "hour": 3600, "second": 1}
NOTES = Notes("hf", "job", "id", "namespace")
"""Of each attempt; ``id`` is empty until it is known."""
_WORDS = {
    401: "it does not take your token: hf auth login, or HF_TOKEN",
    402: "your account has no credit for jobs: huggingface.co/settings/billing has more, lastrun gpus shows other machines",
    403: "your token may not start jobs in that namespace: it needs the permission to write jobs there, and the account credit",
    404: "it knows of no such job, namespace or machine",
    429: ASKED_TOO_OFTEN,
}
_NO_LIBRARY = "launcher hf needs Hugging Face's library; from a clone of lastrun: pip install '.[hf]'"
_NO_ROOM = "it has no room now, or is down: in some minutes it may have, or another machine has: lastrun gpus"


@dataclass(frozen=True)
class Flavor:
    """A kind of machine."""

    name: str
    gpu: str | None
    """Its GPUs, in words."""
    number: int
    """Of them."""
    model: str
    """Theirs."""
    words: str
    dollars: float
    """For an hour."""

    def __str__(self) -> str:
        return f"{self.name} ({self.words}), {self.dollars:.2f} USD an hour"


@dataclass(frozen=True)
class Seen:
    """A job as Hugging Face has it now."""

    id: str
    stage: str
    message: str
    """Why it is in that stage; often empty."""
    labels: dict[str, str]
    flavor: str
    since: float | None
    """When it began to run; before that, when it was asked for."""

    def __str__(self) -> str:
        if self.stage == WAITING:
            return f"Hugging Face job {self.id} waits for a machine"
        return f"Hugging Face job {self.id}" + ("" if self.stage == RUNNING else f" ({self.stage.lower()})")


@dataclass(frozen=True)
class Namespace:
    """Whose jobs they are, and who pays for them: a user or an organization."""

    name: str

    def run(self, **asked: Any) -> str:
        """Begin a job; returns its ID.

        Raises:
            UnsureError: it may have begun all the same.
            EngineError: it is not taken.
        """
        with explained(busy=_NO_ROOM):
            return str(_again(lambda: _api().run_job(**asked, namespace=self.name), REFUSED).id)

    def look(self, id: str, *, at_once: bool = False) -> Seen | None:
        """One of them; None: there is none of that ID. ``at_once``: Hugging Face is not asked again where it is busy.

        Raises:
            EngineError: nobody answers.
        """
        with explained():
            from huggingface_hub.errors import HfHubHTTPError

            try:
                codes = () if at_once else BUSY
                return _seen(_again(lambda: _api().inspect_job(job_id=id, namespace=self.name), codes))
            except HfHubHTTPError as error:
                if error.response is not None and error.response.status_code == 404:
                    return None
                raise

    def find(self, labels: dict[str, str], *stages: str, at_once: bool = False) -> list[Seen]:
        """Those of these labels, and stages; ``at_once`` as of :meth:`look`.

        Raises:
            EngineError: nobody answers.
        """
        with explained():
            asked: dict[str, Any] = {"labels": labels, "status": list(stages) or None, "namespace": self.name, "timeout": 30}
            token = _LISTING.set(True)
            try:
                found = _again(lambda: list(_api().list_jobs(**asked)), () if at_once else BUSY)
            finally:
                _LISTING.reset(token)
            return [_seen(one) for one in found]

    def cancel(self, id: str, *, at_once: bool = False) -> None:
        """End one without saving; ``at_once`` as of :meth:`look`.

        Raises:
            EngineError: it is not done.
        """
        with explained():
            _again(lambda: _api().cancel_job(job_id=id, namespace=self.name), () if at_once else BUSY)

    def log(self, id: str, *, follow: bool) -> Iterator[str]:
        """What it says, line by line; with ``follow`` until it ends, over broken connections.

        Raises:
            EngineError: nobody answers.
        """
        with explained():
            yield from _api().fetch_job_logs(job_id=id, namespace=self.name, follow=follow)


def namespace(wanted: str | None) -> Namespace:
    """The one that is wanted, or that of whom the token is.

    Raises:
        EngineError, UsageError: it is not known.
    """
    return Namespace(wanted or _own_name())


def flavors() -> list[Flavor]:
    """What can be had now, the cheapest first.

    Raises:
        EngineError: nobody answers.
    """
    with explained():
        found = _again(lambda: _api().list_jobs_hardware())
    known = [one for one in found if one.unit_label in _SECONDS]
    known = [one for one in known if one.accelerator is None or one.accelerator.type == "gpu"]  # others torch does not know
    return sorted((_flavor(one) for one in known), key=lambda one: (one.dollars, one.name))


_LISTING: ContextVar[bool] = ContextVar("_LISTING", default=False)
_SILENT = "Hugging Face does not answer ({}): is this machine online?"


def _without_its_patience() -> Callable[[], Client]:
    """What makes its library's connections. Lists it asks for again by itself, for half a minute and without a word, also where
    somebody is in a hurry: here that is :func:`_again`'s alone."""
    from httpx2 import Client, TransportError
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # it says so of itself

    class Once(Client):
        def send(self, *words: Any, **more: Any) -> Any:
            if not _LISTING.get():
                return super().send(*words, **more)
            try:
                response = super().send(*words, **more)
            except TransportError as error:
                raise UnsureError(_SILENT.format(type(error).__name__)) from None
            if response.status_code in BUSY:
                hf_raise_for_status(response)
            return response

    hooks = get_session().event_hooks
    return lambda: Once(event_hooks=hooks, follow_redirects=True, timeout=None)


@contextmanager
def explained(busy: str = AWAY) -> Iterator[None]:
    """Errors of its library in words that tell what to do; ``busy``: what it means for the call that it has no time."""
    try:
        from httpx2 import HTTPError
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise EngineError(_NO_LIBRARY) from None
    try:
        yield
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        said = plain(str(error.server_message or "").strip().splitlines()[0]) if error.server_message else ""
        known = busy if code in (502, 503, 504) else _WORDS.get(code, f"it answers with error {code}")
        raise refusal(code)(f"Hugging Face: {known}{said and f' ({said})'}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"Hugging Face answers what its library does not understand ({type(error).__name__})"
        raise UnsureError(f"{what}: try again, or with a newer one (pip install -U huggingface_hub)") from None
    except (HTTPError, OSError) as error:
        raise UnsureError(_SILENT.format(type(error).__name__)) from None


def _again(call: Callable[[], T], codes: Collection[int] = BUSY) -> T:
    from huggingface_hub.errors import HfHubHTTPError

    return again(call, "Hugging Face", HfHubHTTPError, codes)


@cache
def _api() -> HfApi:
    """With the token of this user, which stays here."""
    try:
        from huggingface_hub import HfApi, get_token, set_client_factory
        from huggingface_hub.utils import logging
    except ImportError:
        raise EngineError(_NO_LIBRARY) from None
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    if get_token() is None:
        raise UsageError("launcher hf: there is no token of yours here: hf auth login, or HF_TOKEN")
    set_client_factory(_without_its_patience())
    return HfApi(library_name="lastrun")


@cache
def _own_name() -> str:
    with explained():
        return str(_again(lambda: _api().whoami())["name"])


def _seen(found: Any) -> Seen:
    stage = getattr(found.status.stage, "value", found.status.stage)
    labels = {str(name): str(value) for name, value in (found.labels or {}).items()}
    message, flavor = plain(str(found.status.message or "")), plain(str(getattr(found.flavor, "value", found.flavor)))
    since = (found.started_at or found.created_at).timestamp() if found.started_at or found.created_at else None
    return Seen(plain(str(found.id)), plain(str(stage)), message, labels, flavor, since)


def _flavor(found: Any) -> Flavor:
    gpu, number, model = None, 0, ""
    if found.accelerator is not None:
        number, model = int(found.accelerator.quantity), plain(str(found.accelerator.model))
        gpu = plain(f"{number} x {model}, {_of_each(str(found.accelerator.vram), number)}")
    words = plain(", ".join([*([gpu] if gpu else []), str(found.cpu), str(found.ram)]))
    dollars = float(found.unit_cost_usd) * 3600 / _SECONDS[found.unit_label]
    return Flavor(plain(str(found.name)), gpu, number, model, words, dollars)


def _of_each(memory: str, number: int) -> str:
    """Of so many GPUs, where that of all is told."""
    size, _, unit = memory.partition(" ")
    return f"{float(size) / number:g} {unit}" if size.isdecimal() else memory
