"""A server that takes notifications, and answers as it is told to."""

from __future__ import annotations

import json
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HANG, ENDLESS = -1, -2


@dataclass(frozen=True)
class Message:
    """One that came."""

    path: str
    headers: dict[str, str]
    """Their names in lower case."""
    body: bytes
    at: float

    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """On this machine; ``answers`` are the statuses of its next answers, each perhaps with headers; then 200."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.messages: list[Message] = []
        self.answers: list[int | tuple[int, dict[str, str]]] = []
        self._over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.messages.append(Message(self.path, headers, body, time.monotonic()))
                answer = receiver.answers.pop(0) if receiver.answers else 200
                status, more = answer if isinstance(answer, tuple) else (answer, {})
                if status == HANG:
                    receiver._over.wait(120)
                    return
                self.send_response(200 if status == ENDLESS else status)
                for name, value in more.items():
                    self.send_header(name, value)
                if status != ENDLESS:
                    self.send_header("Content-Length", "0")
                self.end_headers()
                with suppress(OSError):
                    while status == ENDLESS and not receiver._over.is_set():
                        self.wfile.write(b"x" * 65536)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who speaks no TLS goes away
        self._server.daemon_threads = True
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def address(self, path: str = "/hooks/secret-part-of-it") -> str:
        return f"{self.scheme}://{self.place}{path}"

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
