"""What ``lastrun predict`` found, as it is found: nothing of it is kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from last_e.redact import redact
from last_e.text import counted, percent
from last_e.whole import whole_file
from runner.errors import LastrunError, unwritable
from runner.view.console import JSON_VERSION, note, put, show

Event = dict[str, Any]
FOUND = ("clip", "window", "segment")


def passed_on(events: Iterable[Event], *, quiet: bool) -> Iterator[tuple[str, Event]]:
    """Each of what was found, by its kind; what is odd or cannot be read, and how fast it was, is told on standard error."""
    for event in events:
        ((kind, values),) = event.items()
        if kind == "problem":
            show(f"error: {values['error']}", error=True)
        elif kind == "doubt":
            show(f"note: {values['text']}", error=True)
        elif kind == "result" and not quiet:
            note(speed(values))
        yield kind, values


def speed(result: Event) -> str:
    """How many and how fast."""
    many, recordings = result["windows"] or result["clips"], counted(result["clips"], "recording")
    what = f"{counted(many, 'window')} of {recordings}" if result["windows"] else counted(many, "clip")
    whole, network = (1000 * result[name] / max(1, many) for name in ("seconds", "network_seconds"))
    bad = f"; {counted(result['problems'], 'recording')} could not be read" if result["problems"] else ""
    each = f", {whole:.1f} ms each (the network {network:.1f})" if many else ""
    return f"{what} in {result['seconds']:.1f} s{each}; ready after {result['ready_seconds']:.1f} s{bad}"


def print_found(found: Iterable[tuple[str, Event]]) -> Event:
    """A line for each; returns the result."""
    result: Event = {}
    last = ""
    for kind, values in found:
        if kind == "clip":
            show(f"{_named(values)}: {', '.join(_words(one) for one in values['top'])}")
        elif kind == "segment":
            if _named(values) != last:
                last = _named(values)
                show(f"{last}:")
            show(f"  {values['begin_seconds']:8.2f} s to {values['end_seconds']:8.2f} s  {_words(values)}")
        elif kind == "result":
            result = values
    return result


def print_as_json(found: Iterable[tuple[str, Event]], *, by_line: bool) -> Event:
    """One JSON object, written as it comes; or ``by_line`` one for each that is found. Returns the result."""
    result: Event = {}
    if by_line:
        for kind, values in found:
            if kind in (*FOUND, "problem"):
                put(json.dumps({"kind": kind, **values}) + "\n")
            elif kind == "result":
                result = values
        return result
    problems, segments = [], []
    before = json.dumps({"lastrun": "predict", "version": JSON_VERSION})[:-1] + ', "predictions": ['
    written = False  # nothing of it where nothing could be begun: then the error is the one object
    try:
        for kind, values in found:
            if not written:
                put(before)
                before, written = "", True
            if kind in ("clip", "window"):
                put(f"{before}\n {json.dumps(values)}")
                before = ","
            elif kind == "segment":
                segments.append(values)
            elif kind == "problem":
                problems.append(values)
            elif kind == "result":
                result = values
    except LastrunError as error:
        if not written:
            raise
        show(f"error: {redact(str(error))}", error=True)
        result = {"error": redact(str(error)), "exit_code": int(error.exit_code)}
    rest = {"timeline": segments, "problems": problems}
    put("],\n" + json.dumps({**rest, **(result if "error" in result else {"speed": result})})[1:] + "\n")
    return result


class Csv:
    """A table of what is found: a line for each clip, or each window, whole or not at all."""

    def __init__(self, path: Path, *, is_timed: bool, top: int) -> None:
        self._path, self._is_timed, self._top = path, is_timed, top

    def kept(self, found: Iterable[tuple[str, Event]]) -> Iterator[tuple[str, Event]]:
        """The same, each written down before it is passed on.

        Raises:
            UsageError: it cannot be written there.
        """
        span = ["begin", "end", "begin_seconds", "end_seconds"] if self._is_timed else ["frames"]
        ranks = [f"{name}_{number}" for number in range(1, self._top + 1) for name in ("class", "probability")]
        try:
            with ExitStack() as held:
                file = held.enter_context(held.enter_context(whole_file(self._path)).open("w", newline="", encoding="utf-8"))
                writer = csv.DictWriter(file, ["source", "clip", *span, *ranks])
                writer.writeheader()
                for kind, values in found:
                    if kind in ("clip", "window"):
                        best = {
                            f"{name}_{number}": one[name]
                            for number, one in enumerate(values["top"], 1)
                            for name in ("class", "probability")
                        }
                        writer.writerow({**{key: values[key] for key in ("source", "clip", *span)}, **best})
                    yield kind, values
        except OSError as error:
            raise unwritable(self._path, error) from None


def _named(values: Event) -> str:
    source, clip = values["source"], values["clip"]
    return source if Path(source).name.startswith(f"{clip}.") or Path(source).name == clip else f"{source}: {clip}"


def _words(one: Event) -> str:
    return f"{one['class']} {percent(one['probability'])}"
