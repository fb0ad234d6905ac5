"""Debian's Chromium driven as its own developer tools do (the Chrome DevTools Protocol, over a pipe): a page is opened as it
is, files are chosen and dropped, and all that it says and asks for is heard."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser import PROGRAM
from tests.jobs import PATIENCE


class Page:
    """An open page."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out, self._left, self._number = into, out, b"", 0
        self.said: list[str] = []
        """Errors and warnings of its scripts and of the browser about it."""
        self.requests: list[str] = []
        """What it asked for, but itself, and what lies in its own memory."""
        targets = self._ask("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self._ask(f"{domain}.enable")

    def open(self, page: Path) -> None:
        """Go there; returns when it has loaded."""
        self._loaded, self._address = False, page.absolute().as_uri()
        self._ask("Page.navigate", url=self._address)
        self._until(lambda: self._loaded, "it does not load")

    def value(self, expression: str) -> Any:
        """What an expression is, or what the promise gives that it is."""
        told = self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """What an expression is as soon as it is true."""
        end = time.monotonic() + PATIENCE
        while not (found := self.value(expression)):
            assert time.monotonic() < end, (expression, self.said)
            time.sleep(0.05)
        return found

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file input."""
        root = self._ask("DOM.getDocument")["root"]["nodeId"]
        node = self._ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._ask("DOM.setFileInputFiles", files=[str(file.absolute())], nodeId=node)

    def drop(self, file: Path) -> None:
        """Drop a file in the middle of the page's top."""
        data = {"items": [], "files": [str(file.absolute())], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._ask("Input.dispatchDragEvent", type=kind, x=300, y=100, data=data)

    def _ask(self, method: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": values}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._into, json.dumps(message).encode() + b"\0")
        answer: list[dict[str, Any]] = []
        self._until(
            lambda: bool(answer), f"no answer to {method}", lambda told: told["id"] == self._number and answer.append(told)
        )
        assert "error" not in answer[0], (method, answer[0]["error"])
        return dict(answer[0]["result"])

    def _until(self, done: Any, otherwise: str, heard: Any = None) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            *messages, self._left = self._left.split(b"\0")
            for message in messages:
                told = json.loads(message)
                if "id" in told:
                    if heard is not None:
                        heard(told)
                else:
                    self._hear(told["method"], told["params"])
            if not done():
                ready, _, _ = select.select([self._out], [], [], max(0.0, end - time.monotonic()))
                assert ready, otherwise
                piece = os.read(self._out, 1 << 20)
                assert piece, "the browser has ended"
                self._left += piece

    def _hear(self, method: str, values: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.said.append(json.dumps(values["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.said.append(json.dumps(values["args"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.said.append(values["entry"]["text"])
        elif method == "Network.requestWillBeSent" and values["request"]["url"] != self._address:
            self.requests.append(values["request"]["url"])


@contextmanager
def a_page(profile: Path) -> Iterator[Page]:
    """A browser with one page; no name is found, so that whatever it asks for of the network fails and is heard."""
    to_browser, into = os.pipe()
    out, from_browser = os.pipe()
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--remote-debugging-pipe",
    ]
    nowhere = ["--host-resolver-rules=MAP * ~NOTFOUND", "--no-proxy-server", "about:blank"]
    command = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", PROGRAM, *options, *nowhere]
    with subprocess.Popen(
        command, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as browser:
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Page(into, out)
        finally:
            os.close(into)  # which ends it
            try:
                browser.wait(20)
            except subprocess.TimeoutExpired:
                browser.kill()
            os.close(out)
