"""A session on Kaggle: what of it stays, and its secrets.

``/kaggle/working`` is kept by "Save Version" alone, ``/kaggle/input`` can only be read, all else is gone when it ends. Secrets
are no variables there: a module of Kaggle's asks its service for one by name, if the user has attached it to the notebook.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from last_e.environment import kaggle_sign
from last_e.redact import NAMED

WORKING, INPUT = Path("/kaggle/working"), Path("/kaggle/input")
STORE_VARIABLE = "LASTRUN_STORE"
BUCKET_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
)
"""What boto3 looks for, of what one would keep as a secret."""
_SHOWN = (STORE_VARIABLE, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Secrets to Kaggle only: they say where something is."""
_MODULE = "kaggle_secrets"
_ABSENT = "BackendError"
"""What its client raises for a name that is not attached; a class of its own, so known by its name."""
_asked: set[str] = set()
_trouble: list[str] = []


def in_a_session() -> bool:
    """Whether this is one, with its folder for outputs."""
    return kaggle_sign() is not None and WORKING.is_dir()


def default_store() -> Path | None:
    """Where jobs live there if nobody says otherwise; None elsewhere."""
    return WORKING / "lastrun" if in_a_session() else None


def take_secrets(names: Iterable[str]) -> None:
    """Take those of these variables that are not set from the secrets of the session, for this process and its children; those
    that are not attached stay unset. Each name is asked for once. Elsewhere this does nothing.

    No value is written or shown: what is not the name of a place is named in ``LASTRUN_SECRETS``, and blacked out by that.
    """
    wanted = [name for name in names if name not in os.environ and name not in _asked]
    if not wanted or kaggle_sign() is None or _trouble or find_spec(_MODULE) is None:
        return
    for name in wanted:
        _asked.add(name)
        try:
            value = str(import_module(_MODULE).UserSecretsClient().get_secret(name)).strip()
        except Exception as error:  # it names no common base, and its words may hold an answer of the service
            if type(error).__name__ == _ABSENT:
                continue
            _trouble.append(_why_not(error))
            return
        if not value or "\0" in value:
            continue
        if name not in _SHOWN:  # first: from then on nothing shows it
            os.environ[NAMED] = f"{os.environ.get(NAMED, '')} {name}".strip()
        os.environ[name] = value


def ask_no_more() -> None:
    """For a process that gets its variables from who starts it: that one has asked."""
    _trouble.append("")


def trouble() -> str | None:
    """Why secrets cannot be read, if that is so and has not been told yet."""
    if not _trouble or not _trouble[0]:
        return None
    words, _trouble[0] = _trouble[0], ""
    return words


def notes(store_uri: str) -> list[str]:
    """What to know, during a session, before a job is trained that this store keeps."""
    return [words for words in (trouble(), _keeping(store_uri)) if words]


def _keeping(store_uri: str) -> str | None:
    if not in_a_session() or not store_uri.startswith("file://"):
        return None
    folder = Path(unquote(store_uri.removeprefix("file://")))
    if folder.is_relative_to(INPUT):  # nothing comes to lie there
        return None
    kept = f"is kept only if you save this notebook with its output (Save Version), and {WORKING} holds 20 GB"
    if not folder.resolve().is_relative_to(WORKING.resolve()):
        kept = "is gone when this session ends"
    return (
        f"note: {folder} {kept}; a bucket has every checkpoint as soon as it is made: attach the secrets {STORE_VARIABLE}, "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (docs/kaggle.md)"
    )


def where_earlier_jobs_are() -> str:
    """What to do in a session for a job that is not there, where no earlier session's output is; else empty."""
    places = ("*/lastrun/*/job.json", "notebooks/*/*/lastrun/*/job.json")
    if not in_a_session() or any(any(INPUT.glob(place)) for place in places):
        return ""
    return (
        "; what an earlier session has left is there once its output is attached (Add Input, Notebook Output): then add "
        f"--store {INPUT}"
    )


def room_in(folder: Path) -> str | None:
    """How to have room again in a folder of a session that is full; None elsewhere."""
    if not in_a_session() or not folder.resolve().is_relative_to(WORKING.resolve()):
        return None
    return (
        f"{WORKING} holds 20 GB: delete what you do not need there (jobs with rm), keep fewer checkpoints "
        "(checkpoint.keep_last), or take a bucket as the store (docs/kaggle.md)"
    )


def _why_not(error: Exception) -> str:
    kind = "their service cannot be reached" if isinstance(error, OSError) else f"their service said {type(error).__name__}"
    return (
        f"note: Kaggle's secrets cannot be read, {kind}: turn Internet on in the notebook's settings, attach them again, or "
        "set the variables yourself"
    )
