"""A server on loopback that hands out keys as an instance's metadata, a container's agent, a token service and a portal do."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_STS = (
    '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>'
    "<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken/>"
    "<Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
)


class KeyServer:
    """Serves :attr:`key`, whose secret is the key twice, at :attr:`url`, with an hour to live and no session token: so a bucket
    takes it as a user's own."""

    def __init__(self, key: str) -> None:
        self.key, self.asked = key, 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, method: str, path: str) -> str:
        until = datetime.now(timezone.utc) + timedelta(hours=1)
        when = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        if method == "PUT" and path == "/latest/api/token":
            return "token"
        if path == "/latest/meta-data/iam/security-credentials/":
            return "trainer"
        self.asked += 1
        if path.startswith("/federation/credentials"):
            role = {"accessKeyId": self.key, "secretAccessKey": 2 * self.key, "sessionToken": ""}
            return json.dumps({"roleCredentials": {**role, "expiration": int(until.timestamp() * 1000)}})
        if method == "POST":
            return _STS.format(key=self.key, secret=2 * self.key, until=when)
        keys = {"AccessKeyId": self.key, "SecretAccessKey": 2 * self.key, "Token": "", "Expiration": when}
        return json.dumps({**keys, "Code": "Success"})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _do(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = server._answer(self.command, self.path).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = _do

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        return Handler
