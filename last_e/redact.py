"""Secrets: told apart from ordinary values, so that none gets into a job, and blacked out of what is shown or kept."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

MASK = "***"
_LONGEST = 10_000
"""Of a value that is looked at: no setting is longer. All patterns have bounds, too: what a file says must not keep us busy."""
NAMED = "LASTRUN_SECRETS"
"""This variable has names of others, with spaces between, whose values are secret whatever they are called."""
SHORTEST = 8
"""A secret of fewer characters is not blacked out: as a word it could stand anywhere."""

_NAME = re.compile(
    r"(?i)secret|passw(or)?d|passphrase|credential|api_?key|access_?key|account_?key|private_?key|connection_?string|conn_?str"
    r"|(^|_)(key|tokens?|pass|dsn|cookie|jwt|bearer)$|_(pwd|pat|auth|sas)$|(^|_)token_"
)
_NO_SECRET = re.compile(r"(?i)_(file|path|uri|url|dir|type)$")
_WORD = re.compile(r"[a-z_-]{1,15}")
"""A plain word as the value of a secret variable is no reason to refuse that word in a job."""
_USER = r"""://[^/\s@:]{0,100}:(?!\d{1,5}(?:[/?#&]|$))([^\s"']{1,300})@"""
"""A user's name with a password in an address; the password may hold slashes, but a port is none."""
_SIGNED = (
    r"(?i:[?&](?:x-amz-(?:signature|security-token|credential)|x-goog-signature|signature|sig"
    r"|(?:access_|auth_)?token|api_?key)=)"
)
_SHAPES = {
    "an AWS or Google access key": r"\b(?:AKIA|ASIA|GOOG1?E?)[A-Z0-9]{16,}\b",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{30,}|\bya29\.[0-9A-Za-z_-]{20,}|\bGOCSPX-[0-9A-Za-z_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAGE-SECRET-KEY-1[0-9A-Z]{50,}",
    "a token of GitHub or GitLab": r"\b(?:gh[pousr]_|github_pat_|gl[a-z]{2,6}-)[A-Za-z0-9_-]{20,}",
    "a token of Slack": r"\bxox[a-z]-[A-Za-z0-9-]{20,}|\bxapp-[A-Za-z0-9-]{20,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    "a webhook of Discord": r"\bdiscord(?:app)?\.com/api/webhooks/\d{10,}/[\w-]{20,}",
    "a token of Hugging Face, W&B or Kaggle": r"\b(?:hf_|wandb_v1_|KGAT_)[A-Za-z0-9_]{20,}",
    "a key of OpenAI or Anthropic": r"\bsk-(?:proj-|ant-[a-z0-9]+-|svcacct-)?[A-Za-z0-9_-]{20,}",
    "a key of Stripe": r"\b[srp]k_(?:live|test)_[A-Za-z0-9]{20,}",
    "a token of a package index": r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-Ag[A-Za-z0-9_-]{30,}|rubygems_[0-9a-f]{40,})",
    "a token of a cloud": r"\b(?:do[opr]_v1_[0-9a-f]{40,}|dapi[0-9a-f]{32}|hv[sb]\.[\w-]{20,}|dp\.[a-z]{2}\.[A-Za-z0-9]{30,})",
    "a key of Azure": r"(?i:\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=[^;\s]{16,})",
    "a key for mail or messages": r"\bSG\.[\w-]{16,}\.[\w-]{16,}|\bkey-[0-9a-f]{32}\b|\b\d{8,10}:AA[A-Za-z0-9_-]{32,}",
    "an AWS secret key by its name": r"(?i:secret_?(?:access_?)?key)[\"']?\s{0,3}[=:]\s{0,3}[\"']?[\w/+]{40}(?![\w/+])",
    "a web token": r"\beyJ[\w-]{8,1000}\.eyJ[\w-]{8,1000}\.[\w-]*",
}
"""Keys of the usual services, by a beginning that nothing else has."""
_WORDS = r"[A-Z]?[a-z]+(?![a-z])|[A-Z]{2,}(?![A-Z])|[A-Z](?![A-Za-z])|[0-9]+(?![0-9])|[/+]"
_FORTY = (
    r"(?!/)(?!(?:[^/\s]{0,40}/){3})(?=\S{0,40}[a-z])(?=\S{0,40}[A-Z])(?=\S{0,40}[0-9])"
    rf"(?!(?:{_WORDS}){{1,13}}(?![A-Za-z0-9/+]))[A-Za-z0-9/+]{{40}}"
)
"""Of 40 random characters of 64 seldom more than two are slashes, and they fall into 14 words and numbers or more (all but 7 in
10,000 do); a path begins with a slash, or has more of them, or fewer and longer words. In running text a full stop or a hyphen
may be next to it."""
_KINDS = {
    **_SHAPES,
    "an AWS secret key": rf"(?<![\w/+.-]){_FORTY}(?![\w/+=.-])",
    "a user name with a password": _USER,
    "a signed address": _SIGNED + r"[^&\s]{8,}",
}
_SHAPE = re.compile("|".join([*_SHAPES.values(), rf"(?<![\w/+]){_FORTY}(?![\w/+]|[=.-]\w)"]))


_TOLD = re.compile(r"notify\.|(^|\.)notify$")
"""Keys of whom to tell: they take names of variables, and what has the form of an address is one that should stand in such."""


def is_secret_name(name: str) -> bool:
    """Whether a key or an environment variable of this name usually holds a secret."""
    return name != NAMED and bool(_NAME.search(name)) and not _NO_SECRET.search(name)


def secret_in(key: str, value: Any) -> str | None:
    """What kind of secret a value seems to be, going by its key or its form; None for an ordinary value."""
    if value not in (None, "", [], True, False) and any(map(is_secret_name, key.split("."))):
        return "a secret, by its name"
    if isinstance(value, (list, tuple)):
        return next((kind for item in value if (kind := secret_in("", item))), None)
    if not isinstance(value, str):
        return None
    value = value[:_LONGEST]
    if "://" in value and _TOLD.search(key):
        return "an address whose holder can post there"
    name, equals, rest = value.partition("=")
    if equals and rest and re.fullmatch(r"\w+", name) and is_secret_name(name):
        return "the value of a secret variable"
    for name, secret in _own_secrets().items():
        if secret in value and not _WORD.fullmatch(secret):
            return f"the value of the environment variable {name}"
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, value)), None)


def keep_secret(names: Iterable[str]) -> None:
    """Have the values of these variables blacked out from now on, here and in children, whatever they are called."""
    known = os.environ.get(NAMED, "").split()
    if new := [name for name in dict.fromkeys(names) if name not in known and name in os.environ]:
        os.environ[NAMED] = " ".join([*known, *new])


def redact(text: str) -> str:
    """The text without the values of this environment's secret variables, without passwords and signatures in addresses, and
    without what looks like a key of one of the usual services."""
    for value in _own_secrets().values():
        # A log has it line by line, JSON and Python's repr have it with escapes.
        forms = {*value.splitlines(), json.dumps(value)[1:-1], repr(value)[1:-1], repr(value.encode())[2:-1]}
        for form in sorted(forms, key=len, reverse=True):
            if len(form) >= SHORTEST:
                text = text.replace(form, MASK)
    text = re.sub(_USER, f"://{MASK}@", text)
    text = re.sub(f"({_SIGNED})[^&\\s]+", rf"\1{MASK}", text)
    return _SHAPE.sub(MASK, text)


def _own_secrets() -> dict[str, str]:
    """This environment's, by name; the longest first, in case one is part of another."""
    return _secrets_among(tuple(os.environ.items()))


@lru_cache(maxsize=1)
def _secrets_among(variables: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Also the password in the address of a proxy or a database, as it stands there and as it is meant."""
    values = {}
    named = dict(variables).get(NAMED, "").split()
    for name, value in variables:
        if name in named:
            values[name] = value.strip()
        if is_secret_name(name) and not value.strip().startswith(("/", "~/")):
            values[name] = value.strip()
        if "://" in value and (found := re.search(_USER, value)):
            values |= {f"{name} (password)": found[1], f"{name} (its password)": unquote(found[1])}
    values = {name: value for name, value in values.items() if len(value) >= SHORTEST}
    return dict(sorted(values.items(), key=lambda item: -len(item[1])))
