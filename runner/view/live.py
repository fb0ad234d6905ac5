"""The view of a job that runs elsewhere, from what its store holds: on a terminal, in a notebook, or as lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from html import escape
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any

from last_e.choosing import heard_of
from last_e.events import EpochDone, Progress, describe, epoch_words
from last_e.progress import Standing, lines_of, one_line, view, wrapped
from last_e.terminal import SECONDS_BETWEEN_LINES, Screen, can_redraw, is_quiet
from last_e.text import percent
from runner.job.job import Job
from runner.view.console import make_console, show
from runner.view.jobs import print_status, status_lines, status_text
from runner.view.status import FOLLOW_SECONDS, follow_log, is_at_work, job_status

if TYPE_CHECKING:
    from rich.console import Console

_NOTEBOOK_COLUMNS = 100
_PAGE = "<pre style=\"line-height: 1.3; font-family: Menlo, 'DejaVu Sans Mono', Consolas, monospace\">{code}</pre>"


def standing(status: dict[str, Any]) -> Standing:
    """Where a job is, from :func:`~runner.view.status.job_status`; what a view shows."""
    facts, attempt = status["progress"], status["attempt"]
    where = f", attempt {attempt['number']} on {attempt['place']}" if attempt else ""
    last = status["metrics"] or {}
    synced = max(status["synced_step"], facts.get("synced_step") or 0)
    known = {name: last.get(name) for name in ("test_top1", "validation_top1")}
    known |= {"best_top1": status["best_top1"], "synced_step": synced or None}
    if not facts:
        done = {"step": status["step"], "total_steps": status["total_steps"] or 0, "epochs": status["epochs"]}
        known |= {**done, "epoch": max(0, min(status["epoch"], status["epochs"] - 1))}
    return Standing.of({**facts, **known}, name=status["id"], note=f"{status['state']}{where}")


class Drawn:
    """A view that stands still: how a job was when its status was read. In a notebook
    ``display(Drawn(status), display_id=True)`` gives a handle, whose ``update(Drawn(later))`` redraws the cell's output."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def __str__(self) -> str:
        lines = lines_of(standing(self._status), _console(), _NOTEBOOK_COLUMNS)
        return "\n".join(line.plain.rstrip() for line in lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """As IPython asks for it: text, and the same in colour."""
        from rich.text import Text

        console = _console()
        console.print(Text("\n").join(lines_of(standing(self._status), console, _NOTEBOOK_COLUMNS)))
        return {"text/plain": str(self), "text/html": console.export_html(code_format=_PAGE, inline_styles=True)}


def _console() -> Console:
    """One that knows no terminal, and colours all the same."""
    from rich.console import Console

    return Console(
        file=StringIO(),
        record=True,
        force_terminal=True,
        force_jupyter=False,  # else it would display all by itself
        color_system="truecolor",
        width=_NOTEBOOK_COLUMNS + 1,
        _environ={},
    )


class Watch:
    """Shows a job as its status comes: a view on a terminal, with a line for each epoch that ends meanwhile; else those lines,
    and now and then one that says how far it is."""

    def __init__(self, stderr: bool = False) -> None:
        self._console = make_console(stderr=stderr)
        self.screen = Screen(self._console.file)  # type: ignore[arg-type]
        self.last: dict[str, Any] | None = None
        """What was seen last."""
        self._epoch: int | None = None
        self._last = time.monotonic()

    @property
    def redraws(self) -> bool:
        """Whether there is a view."""
        return self.screen.redraws

    def close(self) -> None:
        """Take the view off."""
        self.screen.close()

    def see(self, status: dict[str, Any], epochs: bool = True) -> None:
        """How the job is now; ``epochs``: tell those that have ended since the last time."""
        self.last = status
        if is_quiet():
            return
        if epochs:
            self._tell_epochs(status)
        at = standing(status)
        if self.redraws:
            self.screen.view(lambda columns, rows: view(at, self._console, columns, rows))
        elif time.monotonic() - self._last >= SECONDS_BETWEEN_LINES and at.total_steps:
            figures = at.loss, at.lr or 0.0, at.clips_per_second or 0.0, at.seconds_left, at.phase, at.ranks, at.smooth_loss
            self._line(describe(Progress(at.step, at.total_steps, at.epoch, at.epochs, *figures)) or "")

    def show(self, text: str) -> None:
        """A text above the view, as it is but for words that would not fit a terminal's line."""
        if self.redraws:
            self.screen.line(lambda columns: wrapped(text, self._console, columns))
        else:
            show(text)

    def _tell_epochs(self, status: dict[str, Any]) -> None:
        told = status["history"] if self._epoch is not None else []
        for metrics in told:
            if metrics["epoch"] > (self._epoch or 0):
                self._tell(EpochDone.of_metrics(metrics, status["epochs"], metrics["epoch"] == status["best_epoch"]))
        self._epoch = max([self._epoch or 0, *(metrics["epoch"] for metrics in status["history"])])

    def _tell(self, done: EpochDone) -> None:
        text = describe(done) or ""
        if self.redraws:
            self.screen.line(lambda columns: one_line(text, epoch_words(done), columns - 1))
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        show(text)


@contextmanager
def shown(wanted: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """While the block lasts, what shows a job's status, again and again in the same place: one output of a notebook's cell that
    is renewed, a view on a terminal, or lines in a log, on standard error."""
    if not wanted or is_quiet():
        yield lambda status: None
    elif in_ipython():
        yield _Cell().update
    elif can_redraw(sys.stderr):
        with closing(Watch(stderr=True)) as watch:
            yield partial(watch.see, epochs=False)
        if watch.last is not None:
            make_console(stderr=True).print(status_text(watch.last))
    else:
        yield _Log().update


def in_ipython() -> bool:
    """Whether a cell shows what is displayed: an IPython that was started for that, not one that is merely installed."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class _Cell:
    """One output of a cell: the view while the job runs, then all that is known of it."""

    def __init__(self) -> None:
        self._handle: Any = None

    def update(self, status: dict[str, Any]) -> None:
        """Show how it fares now, in place of before."""
        lines = status_lines(status)
        data = {"text/plain": lines, "text/html": f"<pre>{escape(lines)}</pre>"}
        if is_at_work(status):
            data = Drawn(status)._repr_mimebundle_()
        if self._handle is None:
            self._handle = import_module("IPython.display").display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class _Log:
    """A line whenever an epoch is done, or the state is another."""

    def __init__(self) -> None:
        self._before: tuple[Any, ...] = ()

    def update(self, status: dict[str, Any]) -> None:
        """Tell what is new."""
        now = status["state"], status["epoch"]
        if now != self._before:
            self._before = now
            top1 = "" if not status["metrics"] else f", {_scored(status['metrics'])}"
            told = f"{status['id']}: {status['state']}, epoch {status['epoch']} of {status['epochs']}{top1}"
            show(told, error=True)


def _scored(epoch: dict[str, Any]) -> str:
    part = "test" if epoch.get("validation_top1") is None else "validation"
    return f"{part} top-1 {percent(heard_of(epoch))}"


def watch_status(facts: Iterator[dict[str, Any]]) -> None:
    """A job while it runs, and in the end all that is known of it. ``facts``: as :func:`~runner.view.status.follow_status`
    yields them."""
    last = None
    with closing(Watch()) as watch:
        for status in facts:
            if last is None and not (watch.redraws or is_quiet()) and is_at_work(status):
                print_status(status)
            last = status
            if is_at_work(status):
                watch.see(status)
    if last is not None:
        print_status(last)


def watch_log(job: Job) -> None:
    """A job's log, with what comes, until it no longer runs; on a terminal with the view below."""
    with closing(Watch()) as watch:
        if not watch.redraws:
            for piece in follow_log(job):
                show(piece, end="")
            return
        seen: set[str] = set()
        while True:
            status = job_status(job)  # first: what is written until then is shown below
            for piece in job.log(seen):
                watch.show(piece.removesuffix("\n"))
            if not is_at_work(status):
                return
            watch.see(status, epochs=False)  # the log tells of them
            time.sleep(FOLLOW_SECONDS)
