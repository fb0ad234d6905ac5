"""Secrets: told apart from ordinary values, so that none gets into a job, and blacked out of what is shown or kept."""

from __future__ import annotations

import json
import os
import re
from typing import Any

MASK = "***"
SHORTEST = 8
"""A secret of fewer characters is not blacked out: as a word it could stand anywhere."""

_NAME = re.compile(
    r"(?i)secret|passw(or)?d|passphrase|credential|api_?key|access_?key|private_?key|(^|_)(key|tokens?)$|(^|_)token_"
)
_NO_SECRET = re.compile(r"(?i)_(file|path|uri|url|dir|type)$")
_WORD = re.compile(r"[a-z_-]{1,15}")
"""A plain word as the value of a secret variable is no reason to refuse that word in a job."""
_KINDS = {
    "an AWS or Google access key": r"\b(AKIA|ASIA|GOOG1?E?)[A-Z0-9]{16,}\b",
    # Of 40 random characters of 64 seldom more than two are slashes; a path has more, or begins with one.
    "an AWS secret key": (
        r"(?<![\w/+.-])(?!/)(?!(?:[^/\s]*/){3})(?=\S*[a-z])(?=\S*[A-Z])(?=\S*[0-9])[A-Za-z0-9/+]{40}(?![\w/+=.-])"
    ),
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{30,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a token": r"\b(gh[pousr]_|github_pat_|hf_|glpat-|xox[abp]-)[A-Za-z0-9_-]{20,}|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*",
    "a user name with a password": r"://[^/\s@]*:[^/\s@]+@",
}


def is_secret_name(name: str) -> bool:
    """Whether a key or an environment variable of this name usually holds a secret."""
    return bool(_NAME.search(name)) and not _NO_SECRET.search(name)


def secret_in(key: str, value: Any) -> str | None:
    """What kind of secret a value seems to be, going by its key or its form; None for an ordinary value."""
    if value not in (None, "", [], True, False) and any(map(is_secret_name, key.split("."))):
        return "a secret, by its name"
    if isinstance(value, (list, tuple)):
        return next((kind for item in value if (kind := secret_in("", item))), None)
    if not isinstance(value, str):
        return None
    name, equals, rest = value.partition("=")
    if equals and rest and re.fullmatch(r"\w+", name) and is_secret_name(name):
        return "the value of a secret variable"
    for name, secret in _own_secrets().items():
        if secret in value and not _WORD.fullmatch(secret):
            return f"the value of the environment variable {name}"
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, value)), None)


def redact(text: str) -> str:
    """The text without the values of this environment's secret variables, and without passwords in URLs."""
    for value in _own_secrets().values():
        # A log has it line by line, JSON and Python's repr have it with escapes.
        forms = {*value.splitlines(), json.dumps(value)[1:-1], repr(value)[1:-1], repr(value.encode())[2:-1]}
        for form in sorted(forms, key=len, reverse=True):
            if len(form) >= SHORTEST:
                text = text.replace(form, MASK)
    return re.sub(r"://[^/\s@]*:[^/\s@]+@", f"://{MASK}@", text)


def _own_secrets() -> dict[str, str]:
    """This environment's, by name; the longest first, in case one is part of another."""
    named = {name: value.strip() for name, value in os.environ.items() if is_secret_name(name)}
    values = {name: value for name, value in named.items() if len(value) >= SHORTEST and not value.startswith(("/", "~/"))}
    return dict(sorted(values.items(), key=lambda item: -len(item[1])))
