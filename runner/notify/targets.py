"""Those who are told: each gets the same news in the form that it takes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from email.message import EmailMessage
from email.utils import formatdate
from functools import partial

from runner.notify.event import Event
from runner.notify.post import UnsentError, post
from runner.spec import NotifyConfig

Target = Callable[[Event, float], None]
"""Tells somebody some news, until then (of :func:`time.monotonic`), or raises :class:`~runner.notify.post.UnsentError`."""
_JSON = {"Content-Type": "application/json"}
_MOST_OF_DISCORD = 2000
"""Characters of a message there."""
_PROGRAMS = ("/usr/sbin", "/usr/lib", "/usr/local/sbin")
"""Where sendmail usually lies beside the PATH."""


def targets(config: NotifyConfig) -> dict[str, Target]:
    """Those that a job names, by the key that names them."""
    ways: dict[str, Callable[[NotifyConfig, Event, float], None]] = {
        "slack": _slack,
        "discord": _discord,
        "ntfy": _ntfy,
        "webhook": _webhook,
        "command": _command,
        "mail": _mail,
    }
    return {key: partial(ways[key], config) for key in config.targets()}


def _slack(config: NotifyConfig, event: Event, until: float) -> None:
    text = event.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    post(_held(config.slack), json.dumps({"text": text}).encode(), _JSON, until)


def _discord(config: NotifyConfig, event: Event, until: float) -> None:
    said = {"content": event.text[:_MOST_OF_DISCORD], "allowed_mentions": {"parse": []}}
    post(_held(config.discord), json.dumps(said).encode(), _JSON, until)


def _ntfy(config: NotifyConfig, event: Event, until: float) -> None:
    headers = {
        "Title": f"lastrun: {event.title}",
        "Tags": "warning" if event.is_bad else "white_check_mark" if event.facts["state"] == "succeeded" else "hourglass",
        "Priority": "high" if event.is_bad else "default",
    }
    post(_held(config.ntfy), event.text.encode(), headers, until)


def _webhook(config: NotifyConfig, event: Event, until: float) -> None:
    body, now = event.to_json(), int(time.time())
    headers = {**_JSON, "webhook-id": event.id, "webhook-timestamp": str(now)}
    if config.signed_with is not None:
        headers["webhook-signature"] = signature(_held(config.signed_with), event.id, now, body)
    post(_held(config.webhook), body, headers, until)


def signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """As Standard Webhooks has it (https://www.standardwebhooks.com): HMAC-SHA256 over ID, seconds since the epoch and body.

    ``secret``: ``whsec_`` and base64 of the key, or any other text as it is.

    Raises:
        UnsentError: it begins with ``whsec_``, and is no base64.
    """
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            text = secret.removeprefix("whsec_").rstrip("=")
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise UnsentError("what signs its messages begins with whsec_ and is no base64") from None
    signed = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(signed).decode()}"


def _command(config: NotifyConfig, event: Event, until: float) -> None:
    fills = {"{text}": event.text, "{job}": event.facts["job"], "{news}": event.news}
    words = [_filled(word, fills) for word in config.command or ()]
    _run(words, event.to_json(), until, words[0])


def _filled(word: str, fills: dict[str, str]) -> str:
    """At once: what is filled in is not looked at again."""
    first, *rest = word.split("{")
    for part in rest:
        name, brace, after = part.partition("}")
        first += fills.get(f"{{{name}}}", f"{{{name}}}") + after if brace else f"{{{part}"
    return first


def _mail(config: NotifyConfig, event: Event, until: float) -> None:
    program = shutil.which("sendmail", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_PROGRAMS]))
    if program is None:
        raise UnsentError("there is no sendmail here")
    mail = EmailMessage()
    mail["To"], mail["Subject"], mail["Date"] = config.mail, f"lastrun: {event.title}", formatdate(event.at)
    mail["Message-ID"], mail["Auto-Submitted"] = f"<{event.id}@lastrun.invalid>", "auto-generated"
    mail.set_content(f"{event.text}\n")
    _run([program, "-i", str(config.mail)], mail.as_bytes(), until, "sendmail")


def _run(words: list[str], told: bytes, until: float, name: str) -> None:
    """Have a program take something on its standard input, and end well. It gets a group of its own, and goes with that."""
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise UnsentError(f"{name} cannot be run ({getattr(error, 'strerror', None) or 'no command'})") from None
    try:
        process.communicate(told, timeout=max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise UnsentError(f"{name} did not end in time, and was ended") from None
    except OSError:  # it has ended without reading
        process.wait()
    if process.returncode:
        raise UnsentError(f"{name} ended with code {process.returncode}")


def _held(name: str | None) -> str:
    """What a variable holds.

    Raises:
        UnsentError: it is not set.
    """
    if value := os.environ.get(str(name), "").strip():
        return value
    raise UnsentError(f"{name} is not set here")
