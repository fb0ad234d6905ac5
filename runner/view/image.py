"""What is in an image."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any

from last_e.bar import Bar
from last_e.terminal import is_quiet
from runner.view.console import make_console, show, styled

_STEP = re.compile(r"Step (\d+)/(\d+) : ")


class Building:
    """Shows what a builder says: on a terminal its steps and its last line, else all of it."""

    def __init__(self, *, show: bool) -> None:
        self._shows, self._bar = show, Bar("steps")
        self._step = 0, 0

    def __enter__(self) -> Building:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.__exit__(kind, error, trace)

    def say(self, line: str) -> None:
        """Take a line."""
        if found := _STEP.match(line):
            self._step = int(found[1]) - 1, int(found[2])
        if self._shows and self._bar.screen.redraws and self._step[1]:
            self._bar.update(*self._step, line.strip())
        elif self._shows and not is_quiet():
            show(line)


def print_image(facts: dict[str, Any]) -> None:
    """What is in an image, and what of it does not fit."""
    code = f"{facts.get('version')}, code {str(facts.get('code'))[:12]}, revision {facts['revision'] or 'unknown'}"
    cuda = f"CUDA {facts['cuda']} for {' '.join(facts['architectures'])}" if facts.get("cuda") else "without CUDA"
    gpus = ", ".join(f"{g['name']} (sm_{g['capability'][0]}{g['capability'][1]})" for g in facts.get("gpus") or [])
    rows = {
        "image": f"{facts['image']} ({facts['size'] / 1e9:.2f} GB)",
        "digest": ", ".join(facts["digests"]) or facts["id"],
        "base": facts["base"] or "unknown",
        "lastrun": code,
        "torch": f"{facts.get('torch')} {cuda}, Python {facts.get('python')}",
        "GPUs": gpus or f"none ({facts.get('problem')})",
        "driver": facts["driver"] or "none on this machine",
        "fits": "no" if facts["problems"] else "yes",
    }
    console = make_console()
    for name, text in rows.items():
        console.print(styled(f"{name:<8}", "dim"), text, sep="  ")
    for problem in facts["problems"]:
        console.print(f"- {problem}")
