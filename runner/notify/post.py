"""A message over HTTP: whole or refused, within a time, to the address alone and to nobody that it names. What an address is,
nobody learns from what goes wrong."""

from __future__ import annotations

import random
import ssl
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from os import environ
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions

from runner.version import lastrun_version

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 4.0
_LATER = (408, 425, 429, 500, 502, 503, 504)
"""What a server answers that may take it the next time."""


class UnsentError(Exception):
    """Somebody was not told; says why, without the address."""


def post(address: str, body: bytes, headers: dict[str, str], until: float) -> None:
    """Have a server take a message; tried again, with pauses that grow, until then (of :func:`time.monotonic`).

    Raises:
        UnsentError: it was not taken.
    """
    try:
        parts = urlsplit(address.strip())
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UnsentError("its variable holds no address that begins with http:// or https://")
    headers = {"User-Agent": f"lastrun/{lastrun_version()}", **headers}
    if parts.username or parts.password:
        named = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        headers |= urllib3.make_headers(basic_auth=named)
    place = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme, place, parts.path, parts.query, ""))
    pause = _FIRST_PAUSE_SECONDS
    with _pool(parts) as pool:
        while True:
            why, wait = _try(pool, url, body, headers, until)
            if why is None:
                return
            if wait is None or time.monotonic() + max(wait, pause) >= until:
                raise UnsentError(why)
            time.sleep(max(wait, pause * (0.5 + random.random() / 2)))  # noqa: S311
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _try(
    pool: urllib3.PoolManager, url: str, body: bytes, headers: dict[str, str], until: float
) -> tuple[str | None, float | None]:
    """Why it was not taken, None if it was; and the seconds to wait before the next time, None: there is no use in one."""
    left = max(0.1, until - time.monotonic())
    timeout = urllib3.Timeout(connect=left, read=left)
    try:
        # An answer is not read: its status says all, and it may be endless.
        answer = pool.request(
            "POST", url, body=body, headers=headers, timeout=timeout, retries=False, redirect=False, preload_content=False
        )
    except exceptions.SSLError:
        return "its certificate is not to be trusted, or it speaks no TLS", None
    except (exceptions.NewConnectionError, exceptions.ProxyError) as error:
        which = "the proxy" if isinstance(error, exceptions.ProxyError) else "the server"
        return f"{which} cannot be reached", 0.0
    except exceptions.TimeoutError:
        return "the server did not answer in time", 0.0
    except (exceptions.ProtocolError, OSError):
        return "the server broke the connection off", 0.0
    except (exceptions.HTTPError, ValueError):  # their words hold the address
        return "its variable holds an address that is none", None
    status, after = answer.status, answer.headers.get("Retry-After")
    answer.close()
    if 200 <= status < 300:
        return None, None
    if 300 <= status < 400:
        return f"the server answered {status}: it wants to send it elsewhere, which is not followed", None
    return f"the server answered {status}", _seconds(after) if status in _LATER else None


def _seconds(after: str | None) -> float:
    """What a server asks to wait: seconds, or until a date."""
    with suppress(ValueError, TypeError, OverflowError):
        if after is not None and after.strip().isdigit():
            return float(after)
        if after is not None:
            return max(0.0, parsedate_to_datetime(after).timestamp() - time.time())
    return 0.0


def _pool(parts: SplitResult) -> urllib3.PoolManager:
    """Through the proxy of this environment, if it has one for that server; believing whom the system believes, and
    ``REQUESTS_CA_BUNDLE``."""
    context = ssl.create_default_context()
    bundle = environ.get("REQUESTS_CA_BUNDLE", "")
    if bundle and Path(bundle).is_file():
        with suppress(OSError, ssl.SSLError):
            context.load_verify_locations(bundle)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager(ssl_context=context)
    named = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = None
    if named.username:
        headers = urllib3.make_headers(proxy_basic_auth=f"{unquote(named.username)}:{unquote(named.password or '')}")
    try:
        return urllib3.ProxyManager(
            f"{named.scheme}://{named.netloc.rpartition('@')[2]}", proxy_headers=headers, ssl_context=context
        )
    except (exceptions.HTTPError, ValueError):
        raise UnsentError("the proxy that a variable names is none") from None
