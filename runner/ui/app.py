"""The pages, and what their scripts ask for. Every answer is made from facts that commands show as well; nothing of a store is
handed out as it stands, and only ``POST run`` does something."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from last_e.text import plain
from runner.errors import LastrunError, NoSuchJobError, StoreError
from runner.job.group import Group
from runner.job.job import Job
from runner.ui.facts import Ahead, Clouds, facts_of_jobs
from runner.ui.follow import Followers
from runner.ui.jobs import Jobs
from runner.ui.orders import Order, Orders, shown
from runner.view.console import json_text
from runner.view.report.page import HERE as REPORT
from runner.view.report.page import page_of

if TYPE_CHECKING:
    from starlette.requests import Request

HERE = Path(__file__).parent
MOST_COMPARED = 1000
_MOST_ASKED = 4096
"""Bytes of what a page sends."""
_KEPT = "private, max-age=86400, immutable"
"""By a browser: the path is another one at the next start."""
_TYPES = {".css": "text/css", ".js": "text/javascript"}
_OF_REPORT_POLICY = "sandbox allow-scripts; frame-ancestors 'none'"
"""A report brings its own policy. Here it is in an origin of its own, too, which no cookie goes with."""


class Pages:
    """The application.

    Args:
        jobs: those that are shown.
        root: the path below which all is.
        over: whether it is to end: what would go on for ever then ends.
    """

    def __init__(self, jobs: Jobs, root: str, over: Callable[[], bool]) -> None:
        self._jobs, self._root = jobs, root
        self._ahead, self._clouds = Ahead(), Clouds()
        self._orders, self._followers = Orders(jobs.again), Followers(over)
        routes = [
            Route("/", self._page("list.html", "Jobs")),
            Route("/job/{name}", self._job_page),
            Route("/job/{name}/report", self._report),
            Route("/compare", self._page("compare.html", "Compare")),
            Route("/clouds", self._page("clouds.html", "Clouds")),
            Route("/static/{name}", self._static),
            Route("/api/jobs", self._list),
            Route("/api/job/{name}", self._job),
            Route("/api/job/{name}/log", self._log),
            Route("/api/compare", self._compare),
            Route("/api/clouds", self._rented),
            Route("/api/run", self._run, methods=["POST"]),
            Route("/api/run/{number:int}", self._running),
        ]
        handlers = {LastrunError: _failed, HTTPException: _refused, Exception: _broken}
        self.app = Starlette(routes=[Mount(root, routes=routes)], exception_handlers=handlers)
        self.app.router.redirect_slashes = False

    # --- pages --------------------------------------------------------------------------------------------------------

    def _page(self, template: str, title: str) -> Callable[[Request], Response]:
        def page(request: Request) -> Response:
            return self._rendered(template, title=title)

        return page

    def _job_page(self, request: Request) -> Response:
        job = self._jobs.named(request.path_params["name"])
        self._ahead.begin(job)
        return self._rendered("job.html", title=job.id, job=job.id)

    def _rendered(self, template: str, **facts: str) -> Response:
        return HTMLResponse(_templates().get_template(template).render(root=self._root, store=self._jobs.store.uri, **facts))

    def _report(self, request: Request) -> Response:
        """Made now of what the store has. The one that an attempt has kept there may be of anybody's making."""
        job = self._jobs.named(request.path_params["name"])
        return HTMLResponse(page_of([job], job.id)[0], headers={"Content-Security-Policy": _OF_REPORT_POLICY})

    @staticmethod
    def _static(request: Request) -> Response:
        found = _files().get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return Response(found[0], media_type=found[1], headers={"Cache-Control": _KEPT})

    # --- what their scripts ask for --------------------------------------------------------------------------------------

    def _list(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")
        return _json(self._jobs.since(int(since) if since.isdecimal() and len(since) < 16 else 0))

    def _job(self, request: Request) -> Response:
        return _json(self._ahead.take(self._jobs.named(request.path_params["name"])))

    def _log(self, request: Request) -> Response:
        events: AsyncIterator[str] = self._followers.events(self._jobs.named(request.path_params["name"]))
        return StreamingResponse(events, media_type="text/event-stream")

    def _compare(self, request: Request) -> Response:
        jobs = self._named(request.query_params.getlist("job"), request.query_params.getlist("group"))
        return _json(facts_of_jobs(jobs, f"{len(jobs)} jobs"))

    def _named(self, jobs: Sequence[str], groups: Sequence[str]) -> list[Job]:
        """The jobs of these names, and those of these groups.

        Raises:
            NoSuchJobError: a group is not there, or a name is none; of jobs that are not there the facts tell.
            HTTPException: too many, or none.
        """
        found = {job.id: job for name in groups for job in self._jobs.group(name).jobs()}
        if len(jobs) > MOST_COMPARED or len(found) + len(jobs) > MOST_COMPARED:
            raise HTTPException(400, f"{len(found) + len(jobs):,} jobs: {MOST_COMPARED:,} at most are compared")
        found.update({name: self._jobs.called(name) for name in jobs})
        if not found:
            raise HTTPException(400, "no job is named: mark some in the list")
        return list(found.values())

    def _rented(self, request: Request) -> Response:
        return _json(self._clouds.facts())

    async def _run(self, request: Request) -> Response:
        """Run a command, or tell which it would be."""
        if request.headers.get("content-type") != "application/json":
            raise HTTPException(415, "application/json is taken alone")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_ASKED:
                raise HTTPException(413, f"more than {_MOST_ASKED:,} bytes")
        try:
            order = Order.model_validate_json(body)
        except ValidationError:
            raise HTTPException(400, "no command that is run here") from None
        return await run_in_threadpool(self._begun, order)

    def _begun(self, order: Order) -> Response:
        found: Job | Group
        try:
            found = self._jobs.named(order.name)
        except NoSuchJobError:
            found = self._jobs.group(order.name)
        words = order.words(found.reference)
        if order.only_show:
            return _json({"command": shown(words)})
        return _json(self._orders.told(self._orders.begin(order, words)) or {})

    def _running(self, request: Request) -> Response:
        told = self._orders.told(request.path_params["number"])
        if told is None:
            raise HTTPException(404, "that command was run too long ago")
        return _json(told)


def _json(values: dict[str, Any]) -> Response:
    return Response(json_text("ui", values, None), media_type="application/json")


def _failed(request: Request, error: Exception) -> Response:
    from last_e.redact import redact

    status = 404 if isinstance(error, NoSuchJobError) else 503 if isinstance(error, StoreError) else 400
    return _told(request, plain(redact(str(error))), status)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _told(request, error.detail, error.status_code)


def _broken(request: Request, error: Exception) -> Response:
    return _told(request, f"this is a mistake of lastrun ({type(error).__name__})", 500)


def _told(request: Request, why: str, status: int) -> Response:
    if "/api/" in request.url.path:
        return Response(json.dumps({"error": why}), status, media_type="application/json")
    return PlainTextResponse(f"{why}\n", status)


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    """All that pages may fetch beside themselves, by name, with its type."""
    vendor = [REPORT / "vendor" / name for name in ("uPlot.iife.min.js", "uPlot.min.css")]
    own = [path for path in (HERE / "static").iterdir() if path.suffix in _TYPES]
    paths = [*vendor, REPORT / "curves.js", REPORT / "report.css", *own]
    return {path.name: (path.read_bytes(), _TYPES[path.suffix]) for path in paths}


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(HERE / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
