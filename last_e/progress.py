"""How a view of a run looks: bars of the epoch and of the job, and the figures that people watch.

A view is made from facts alone, so that it is the same where training is, elsewhere from what a store holds, and in a notebook.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TextIO

from last_e.environment import in_a_notebook
from last_e.text import by_ranks, number, percent, plain, seconds_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_BARS = ((100, 36), (80, 24), (60, 16), (44, 10))
"""From so many columns on a bar is so wide; on fewer there is none."""
_LATE_SECONDS = 1.0
"""An upload that has waited for less is no news."""


@dataclass(frozen=True)
class Standing:
    """Where a run is. What is None is not known, and not shown. Times are as of ``as_of``, and go on from there."""

    name: str = ""
    note: str = ""
    """What is said beside the name: where it runs, that it is being stopped."""
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    """Counted from 0."""
    epochs: int = 0
    phase: str = "train"
    """``train`` or ``test``."""
    tested: float | None = None
    """Of the test that is at work, the share that is done."""
    loss: float | None = None
    smooth_loss: float | None = None
    top1: float | None = None
    """Of the epoch's training clips so far."""
    test_top1: float | None = None
    """Of the last test,"""
    validation_top1: float | None = None
    """or of the clips that validate, where a run has some,"""
    best_top1: float | None = None
    """and of the best of the job, by the same."""
    lr: float | None = None
    clips_per_second: float | None = None
    ranks: list[float] | None = None
    of_one: float | None = None
    seconds: float | None = None
    """Since this stretch of training began."""
    epoch_seconds_left: float | None = None
    seconds_left: float | None = None
    session_seconds_left: float | None = None
    gpus: list[dict[str, Any]] | None = None
    """As :func:`last_e.gpu.figures` has them."""
    synced_step: int | None = None
    lag_seconds: float | None = None
    as_of: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, facts: Mapping[str, Any], **more: Any) -> Standing:
        """From a heartbeat, or the like: what it says of its last epoch is taken, too, and what is unknown here left out."""
        known = {one.name for one in fields(cls)}
        epoch = facts.get("last_epoch") or {}
        last = {name: epoch.get(name) for name in ("test_top1", "validation_top1")}
        return cls(**{name: value for name, value in {**last, **facts, **more}.items() if name in known})

    @property
    def in_epoch(self) -> tuple[int, int]:
        """Steps of this epoch that are done, and those that it has."""
        steps = self.total_steps // max(1, self.epochs)
        return max(0, min(steps, self.step - self.epoch * steps)), steps


def make_console(stream: TextIO) -> Console:
    """What draws for a stream: it reads no markup, and folds no lines."""
    from rich.console import Console

    no_terminal = False if in_a_notebook() else None
    return Console(file=stream, highlight=False, soft_wrap=True, markup=False, emoji=False, force_terminal=no_terminal)


def view(standing: Standing, console: Console, columns: int, rows: int) -> list[str]:
    """The lines of a view for a console, none of them wider than its columns less one; at most so many rows, of which the
    last ones are left out where there are not enough."""
    lines = lines_of(standing, console, columns - 1)
    return [as_ansi(line, console) for line in lines[:rows]]


def lines_of(standing: Standing, console: Console, columns: int) -> list[Text]:
    """The lines of a view as rich's texts, none of them wider than the columns."""
    gone = time.monotonic() - standing.as_of
    left = [_less(seconds, gone) for seconds in (standing.epoch_seconds_left, standing.seconds_left)]
    lines = _title(standing, columns)
    if standing.total_steps:
        step, steps = standing.in_epoch
        share = _share(step, steps) if standing.tested is None else standing.tested
        where = f"step {step:,}/{steps:,}" if standing.phase == "train" else "testing"
        words = [(0, f"{standing.epoch + 1}/{standing.epochs}"), (2, where), (1, f"{seconds_text(left[0])} left")]
        lines.append(bar_line(console, "epoch", share, words, columns))
        done = _share(standing.step, standing.total_steps)
        words = [
            (0, f"{done:.0%}"),
            (2, f"step {standing.step:,}/{standing.total_steps:,}"),
            (1, f"{seconds_text(left[1])} left"),
        ]
        lines.append(bar_line(console, "job  ", done, words, columns))
    for some in (_learning(standing), _machine(standing, gone)):
        lines += _flow(some, columns)
    return lines


def as_ansi(text: Text, console: Console) -> str:
    """A line with the codes for its colours, where the console has any."""
    with console.capture() as caught:
        console.print(text, end="", no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)
    return caught.get()


def wrapped(text: str, console: Console, columns: int, style: str = "") -> str:
    """A text folded between words. A word that is longer than a line is left whole: a terminal folds it, and what is copied
    from there is the word."""
    from rich.text import Text

    return "\n".join(as_ansi(Text(line, style), console) for one in plain(text).split("\n") for line in _folded(one, columns))


def _folded(line: str, columns: int) -> list[str]:
    from rich.cells import cell_len

    lines = [""]
    for word in re.findall(r"\s*\S+", line):
        if lines[-1] and cell_len(lines[-1] + word) > columns:
            lines.append(word.lstrip())
        else:
            lines[-1] += word
    return lines


def in_columns(words: Iterable[tuple[int, str]], columns: int) -> str:
    """Words in their order, each with a number; of those that do not fit the one with the largest number is left out first."""
    from rich.cells import cell_len

    kept = list(words)
    while len(kept) > 1 and cell_len("  ".join(word for _, word in kept)) > columns:
        kept.remove(max(kept, key=lambda word: word[0]))
    return cut("  ".join(word for _, word in kept), columns)


def one_line(text: str, words: Iterable[tuple[int, str]], columns: int) -> str:
    """A text where it fits, else as many of some words as do."""
    from rich.cells import cell_len

    return text if cell_len(text) <= columns else in_columns(words, columns)


def cut(text: str, columns: int) -> str:
    """A text that is not wider than so many columns, of which some letters take two."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= columns else f"{set_cell_size(text, max(0, columns - 3)).rstrip()}..."[: max(0, columns)]


def bar(console: Console, share: float, width: int) -> Text:
    """How much of something is done, from 0 to 1."""
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    drawn = Text()
    for segment in console.render(ProgressBar(total=1.0, completed=share, width=width), console.options.update(width=width)):
        drawn.append(segment.text, segment.style)
    drawn.append(" " * (width - drawn.cell_len))
    return drawn


def bar_line(console: Console, label: str, share: float, words: Iterable[tuple[int, str]], columns: int) -> Text:
    """``label ━━━━━━━━  words``: as wide a bar as the columns leave room for, and as many words."""
    from rich.text import Text

    width = next((width for room, width in _BARS if columns + 1 >= room), 0)
    head = Text()
    if label:
        head.append(f"{label} ", "dim")
    if width:
        head.append_text(bar(console, share, width)).append("  ")
    head.append(in_columns(words, columns - head.cell_len))
    return head


def _title(standing: Standing, columns: int) -> list[Text]:
    """The name, and beside it, where there is room, what is said of it; else below."""
    from rich.text import Text

    name, note = cut(plain(standing.name), columns), cut(plain(standing.note), columns)
    title = Text(name, "bold")
    if not note:
        return [title] if name else []
    if title.cell_len + 2 + Text(note).cell_len <= columns:
        return [Text.assemble(title, "  ", (note, "dim"))]
    return [title, Text(note, "dim")]


def _learning(standing: Standing) -> list[tuple[str, str]]:
    loss = standing.loss if standing.smooth_loss is None else standing.smooth_loss
    part, top1 = "test", standing.test_top1
    if standing.validation_top1 is not None:
        part, top1 = "validation", standing.validation_top1
    best = "" if standing.best_top1 is None else f" (best {percent(standing.best_top1)})"
    return [
        ("loss", number(loss)) if loss is not None else ("", ""),
        ("train top-1", percent(standing.top1)) if standing.top1 is not None else ("", ""),
        (f"{part} top-1", f"{percent(top1)}{best}") if top1 is not None else ("", ""),
        ("lr", number(standing.lr, ".5f")) if standing.lr is not None else ("", ""),
    ]


def _machine(standing: Standing, gone: float) -> list[tuple[str, str]]:
    speed, synced = standing.clips_per_second, standing.synced_step
    late = f", the rest waits {seconds_text(standing.lag_seconds)}" if (standing.lag_seconds or 0.0) >= _LATE_SECONDS else ""
    return [
        ("", f"{speed:,.0f} clips/s{by_ranks(standing.ranks, standing.of_one)}") if speed is not None else ("", ""),
        ("elapsed", seconds_text(standing.seconds + gone)) if standing.seconds is not None else ("", ""),
        ("session", f"{seconds_text(_less(standing.session_seconds_left, gone))} left")
        if standing.session_seconds_left is not None
        else ("", ""),
        *(("GPU" if len(standing.gpus or ()) == 1 else f"GPU {n}", _gpu(one)) for n, one in enumerate(standing.gpus or ())),
        ("synced", f"step {synced:,}{late}") if synced is not None else ("", ""),
    ]


def _gpu(figures: Mapping[str, Any]) -> str:
    used, total, use = (figures.get(name) for name in ("used", "total", "use"))
    parts = [
        f"{used / 1e9:.1f} of {total / 1e9:.0f} GB" if used is not None and total else "",
        "" if use is None else f"{use:.0%}",
    ]
    return ", ".join(filter(None, parts)) or "-"


def _flow(words: Iterable[tuple[str, str]], columns: int) -> list[Text]:
    """Figures with their names, as many on a line as fit; none is broken unless it is wider than a line."""
    from rich.text import Text

    lines: list[Text] = []
    for name, value in words:
        if not value:
            continue
        one = Text.assemble((f"{name} " if name else "", "dim"), value)
        if one.cell_len > columns:
            one = Text(cut(one.plain, columns))
        if lines and lines[-1].cell_len + 2 + one.cell_len <= columns:
            lines[-1] = Text.assemble(lines[-1], "  ", one)
        else:
            lines.append(one)
    return lines


def _share(done: int, total: int) -> float:
    """Of numbers that may be anything: a store has them."""
    return done / total if 0 <= done < total else float(done >= total > 0)


def _less(seconds: float | None, gone: float) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else max(0.0, seconds - gone)
