"""Who is let in to the pages of ``lastrun ui``, and what a browser may do with them.

Anybody on this machine can reach the port, and so can every page that somebody's browser opens. So each request has to name
this very server as its host (else a page whose name was bound anew to 127.0.0.1 would count as ours), must not have been begun
by another site, and needs a cookie, which a token in an address gives once. The cookie is for one path that nobody else knows:
a browser sends cookies of a host to all of its ports.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COOKIE = "lastrun-ui"
_ASKS_NOTHING = ("GET", "HEAD")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ENTERED = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>lastrun ui</title><meta http-equiv="refresh" content="0; url={0}"></head>
<body><p><a href="{0}">Go on</a></p></body></html>
"""


class Keys:
    """What lets somebody in: a path, a cookie for all that have come in, and tokens, each of which works once.

    ``entered`` is told when one was used.
    """

    def __init__(self, entered: Callable[[], None]) -> None:
        self.root = f"/{secrets.token_urlsafe(16)}"
        self._cookie, self._tokens, self._entered = secrets.token_urlsafe(32), set[str](), entered

    def token(self) -> str:
        """A new one."""
        made = secrets.token_urlsafe(32)
        self._tokens.add(made)
        return made

    def take(self, token: str) -> str | None:
        """The header that sets the cookie, for a token that has not been used before."""
        found = [one for one in self._tokens if secrets.compare_digest(one.encode(), token.encode())]
        if not found:
            return None
        self._tokens.difference_update(found)
        self._entered()
        return f"{_COOKIE}={self._cookie}; Path={self.root}/; HttpOnly; SameSite=Strict"

    def fits(self, cookies: str) -> bool:
        """Whether the cookie is among those of a request.

        Whatever is served on this machine sets others, in any form and of any name, this one's too. The parser of the standard
        library refuses all for one that is odd, and is busy for seconds with some.
        """
        own = f"{_COOKIE}={self._cookie}".encode()
        return any(secrets.compare_digest(one.strip().encode(), own) for one in cookies.split(";"))


class Guard:
    """Passes on to the application what may come in. Middleware of plain ASGI: answers that never end pass through it."""

    def __init__(self, app: ASGIApp, keys: Keys, port: int) -> None:
        self._app, self._keys = app, keys
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _POLICY)
                headers.setdefault("Cache-Control", "no-store")
                headers.update(_HEADERS)
            await send(message)

        refused = self._answer(scope)
        await (refused or self._app)(scope, receive, guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """What is said to who is not let in, or has just come in; None: the application answers."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return _refused(f"this is {self._hosts[0]}, and no other host")
        is_own = origins == [f"http://{hosts[0]}"]
        if not is_own and (origins or scope["method"] not in _ASKS_NOTHING):
            return _refused("asked for by another site")
        root, path = f"{self._keys.root}/", scope["path"]
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if token and scope["method"] == "GET" and path == root:  # a browser may have been sent here by a file, or a mail
            cookie = self._keys.take(token[0])
            if cookie is None:
                return _refused("this token was used, or is none; the terminal of lastrun ui shows another address")
            return HTMLResponse(_ENTERED.format(escape(root)), headers={"Set-Cookie": cookie})
        if not set(headers.get("sec-fetch-site", [])) <= {"same-origin", "none"}:
            return _refused("asked for by another site")
        if not self._keys.fits("; ".join(headers.get("cookie", []))):
            return _refused("open the address that lastrun ui shows in its terminal", 401)
        return None


def _refused(why: str, status: int = 403) -> Response:
    return PlainTextResponse(f"{why}\n", status)
