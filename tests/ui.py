"""``lastrun ui`` as a user starts it, asked as a browser asks, or as somebody who means no good."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.jobs import PATIENCE


@dataclass
class Answer:
    """Of the server."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Ui:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.cookie = process, ""
        self.address = self.next_address()
        parts = urlsplit(self.address)
        self.port, self.root, self.token = parts.port or 0, parts.path.rstrip("/"), parts.query
        self.host = f"127.0.0.1:{self.port}"

    def next_address(self) -> str:
        """The next that it shows."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it has ended"
        return str(json.loads(line)["address"])

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str | None) -> Answer:
        """A request, with host and cookie unless others are given; ``sec_fetch_site`` is ``Sec-Fetch-Site``; None: without."""
        given: dict[str, str | None] = {"Host": self.host, "Cookie": self.cookie or None}
        given.update({name.replace("_", "-").title(): value for name, value in headers.items()})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        with connection.getresponse() as answer:
            found = Answer(answer.status, answer.headers, answer.read().decode())
        connection.close()
        return found

    def enter(self) -> Answer:
        """By the token of the last address."""
        answer = self.ask(f"{self.root}/?{self.token}", cookie=None)
        if "Set-Cookie" in answer.headers:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
        return answer

    def api(self, path: str) -> Any:
        """What a page's script gets."""
        answer = self.ask(f"{self.root}/api/{path}", sec_fetch_site="same-origin")
        assert answer.status == 200, answer.text
        return answer.json()

    def order(self, **order: Any) -> Answer:
        """Ask for a command to be run."""
        own = {"origin": f"http://{self.host}", "sec_fetch_site": "same-origin", "content_type": "application/json"}
        return self.ask(f"{self.root}/api/run", "POST", json.dumps(order).encode(), **own)


@contextmanager
def ui(env: Mapping[str, str], *words: str) -> Iterator[Ui]:
    """One of the default store of an environment."""
    command = [sys.executable, "-m", "runner", "ui", "--json", *words]
    with subprocess.Popen(command, env=dict(env), cwd=env["HOME"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Ui(process)
        finally:
            process.kill()
