"""Secrets: told apart from ordinary values, so that none gets into a job, and blacked out of what is shown or kept."""

from __future__ import annotations

import os
import re
from typing import Any

MASK = "***"
SHORTEST = 8
"""A secret of fewer characters is not blacked out: as a word it could stand anywhere."""

_NAME = re.compile(r"(?i)(secret|passw(or)?d|token|credential|api_?key|access_?key|private_?key|(^|_)key$)")
_NO_SECRET = re.compile(r"(?i)_(file|path|uri|url|dir|type)$")
_KINDS = {
    "an AWS or Google access key": r"\b(AKIA|ASIA|GOOG1?E?)[A-Z0-9]{16,}\b",
    "an AWS secret key": r"(?<![A-Za-z0-9/+])(?=[^\s]*[a-z])(?=[^\s]*[A-Z])(?=[^\s]*[0-9])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])",
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
    if isinstance(value, (list, tuple)):
        return next((kind for item in value if (kind := secret_in("", item))), None)
    if not isinstance(value, str):
        return None
    if value and is_secret_name(key.rsplit(".", 1)[-1]):
        return "a secret, by its name"
    name, equals, rest = value.partition("=")
    if equals and rest and re.fullmatch(r"\w+", name) and is_secret_name(name):
        return "the value of a secret variable"
    if any(secret in value for secret in _own_secrets()):
        return "the value of a secret variable of this environment"
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, value)), None)


def redact(text: str) -> str:
    """The text without the values of this environment's secret variables, and without passwords in URLs."""
    for secret in _own_secrets():
        text = text.replace(secret, MASK)
    return re.sub(r"://[^/\s@]*:[^/\s@]+@", f"://{MASK}@", text)


def _own_secrets() -> list[str]:
    """The longest first, in case one is part of another."""
    values = {value for name, value in os.environ.items() if is_secret_name(name) and len(value) >= SHORTEST}
    return sorted(values, key=len, reverse=True)
