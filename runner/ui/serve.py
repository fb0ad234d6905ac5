"""The server of the pages: on this machine alone, until Ctrl-C."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable
from html import escape
from pathlib import Path

from runner.errors import EngineError, UsageError
from runner.signals import handled, interrupt
from runner.store.protocol import Store

Tell = Callable[[str], None]
NO_LIBRARY = "lastrun ui needs starlette and uvicorn; from a clone of lastrun: pip install '.[ui]'"
_HOST = "127.0.0.1"
_LEAVE_SECONDS = 3
"""How long answers that are under way may take when it ends."""


def serve(store: Store, *, port: int | None, limit: int, browser: bool, tell: Tell) -> None:
    """Show the newest ``limit`` jobs of a store until somebody presses Ctrl-C; whatever was begun from there goes on.

    Args:
        store: the store.
        port: where; None: any that is free.
        limit: how many.
        browser: open one.
        tell: told each address that lets one browser in.

    Raises:
        EngineError: what it needs is not installed.
        UsageError: the port is taken.
    """
    try:
        import uvicorn

        from runner.ui.app import Pages
        from runner.ui.guard import Guard, Keys
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise EngineError(NO_LIBRARY) from None
    from runner.ui.jobs import Jobs

    with _listening(port) as listener, tempfile.TemporaryDirectory(prefix="lastrun-ui-") as folder:
        own = listener.getsockname()[1]

        def address() -> str:
            return f"http://{_HOST}:{own}{keys.root}/?token={keys.token()}"

        keys = Keys(lambda: tell(address()))
        jobs = Jobs(store, limit)
        pages = Pages(jobs, keys.root, lambda: server.should_exit)
        config = uvicorn.Config(
            Guard(pages.app, keys, own),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # what a request holds is not for a terminal
            access_log=False,  # it would have the tokens
            proxy_headers=False,
            server_header=False,
            limit_concurrency=200,
            timeout_graceful_shutdown=_LEAVE_SECONDS,
        )
        server = uvicorn.Server(config)
        # A daemon, and so are the threads that it begins: one that waits for a store that does not answer keeps nobody here.
        # And a browser may hold this thread up until somebody closes it.
        thread = threading.Thread(target=server.run, args=([listener],), name="server", daemon=True)
        try:
            with handled(interrupt):
                thread.start()
                try:
                    tell(address())
                    if browser:
                        _open(Path(folder) / "open.html", address())
                    thread.join()
                finally:
                    server.should_exit = True
                    thread.join(_LEAVE_SECONDS + 1)
        except KeyboardInterrupt:  # as it is meant to end
            pass
        finally:
            jobs.close()


def _listening(port: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port or 0))
        listener.listen()  # who has the address may come at once
    except OSError as error:
        listener.close()
        why = error.strerror or error
        raise UsageError(f"--port {port}: {why}; name another one, or leave it out for any that is free") from None
    return listener


def _open(page: Path, address: str) -> None:
    """Open a browser at an address by a file that only this user can read: everybody on this machine sees command lines, and
    the address lets in."""
    from runner.view import browser

    if not browser.is_there():
        return
    page.write_text(f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={escape(address)}">')
    page.chmod(0o600)
    browser.open_page(page)
