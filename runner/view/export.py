"""What ``lastrun export`` has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from last_e.text import counted, percent
from runner.view.console import show


def print_export(out: Path, about: dict[str, Any]) -> None:
    """The files, and how they compare with the network that was trained."""
    file, checked = about["file"], about["checked"]
    show(f"{out / file['name']}: {_size(file['bytes'])}, {checked['milliseconds']:.1f} ms a clip here")
    show(
        f"the same as the trainer's on {counted(checked['clips'], 'clip')} of test: logits off by {checked['off']:.1e} "
        f"({checked['allowed']:.0e} is allowed), top-1 {percent(checked['top1'])}"
    )
    if int8 := about.get("int8"):
        show(
            f"{out / int8['name']}: {_size(int8['bytes'])}, {int8['milliseconds']:.1f} ms a clip here; top-1 "
            f"{percent(int8['top1'])} on the same clips: {100 * int8['lost']:.2f} points lost, "
            f"the same said of {percent(int8['says_the_same'])}"
        )
    show(f"{out / 'README.md'} tells how it is run, {out / 'lastrun.json'} the same to programs")


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
