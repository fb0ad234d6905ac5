"""Where the keys to a bucket come from: boto3's own chain; before it an environment file, read anew with each client."""

from __future__ import annotations

import os

import boto3

from last_e.text import expand
from runner.errors import StoreError

VARIABLE = "LASTRUN_ENV_FILE"
"""Names the file. What it sets of keys counts before the variables of the process, which may have been made from it."""
NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def session() -> boto3.session.Session:
    """A session of boto3 with the keys that are there now.

    Raises:
        StoreError: the environment file has none.
    """
    return boto3.session.Session(**{name.lower(): value for name, value in _of_the_file().items()})


def _of_the_file() -> dict[str, str]:
    named = os.environ.get(VARIABLE)
    if not named:
        return {}
    try:
        text = expand(named).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{VARIABLE}: {named}: {getattr(error, 'strerror', None) or 'no text in UTF-8'}") from None
    lines = [line.strip().removeprefix("export ").partition("=") for line in text.splitlines()]
    found = {name.strip(): _unquoted(value.strip()) for name, _, value in lines}
    missing = [name for name in NAMES[:2] if not found.get(name)]
    if missing:
        raise StoreError(f"{VARIABLE}: {named} has no line {' and no line '.join(f'{name}=...' for name in missing)}")
    return {name: found[name] for name in NAMES if found.get(name)}


def _unquoted(value: str) -> str:
    """As a shell and systemd take it; what Docker takes has no quotes."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
