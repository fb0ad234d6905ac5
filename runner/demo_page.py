"""A page that recognises: of a job, of a checkpoint, or of an export that is there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from last_e.text import expand
from last_e.whole import read_bounded, whole_file
from runner.errors import UNREADABLE, UsageError, unwritable
from runner.export import MODEL, NEEDS, Progress, about_export, export, see_that_all_is_here
from runner.models import Choice, see_that_it_is_there
from runner.page.build import page
from runner.page.runtime import runtime

MOST_MODEL_BYTES = 256 << 20


class Written(NamedTuple):
    """A page."""

    about: dict[str, Any]
    """What its model says of itself."""
    size: int


def demo_page(
    name: str,
    out: Path,
    choice: Choice,
    *,
    licence: str,
    clips: int,
    runtime_file: Path | None,
    force: bool,
    say: Callable[[str], None],
    progress: Progress,
) -> Written:
    """Write the page, whole or not at all.

    Args:
        name: a job, the folder of a checkpoint, or that of an export to ONNX.
        out: the page.
        choice, licence, clips: as :func:`runner.export.export` has them; not for an export.
        runtime_file: npm's package of what runs the model in a browser; default: this user's copy, else npm fetches it.
        force: replace a file.
        say: told which checkpoint is taken, and what is fetched.
        progress: told clips done, of how many, and what comes next.

    Raises:
        LastrunError: as :func:`runner.export.export`; there is no runtime; the page is there.
    """
    _see_that_it_may_be_written(out, force)
    folder = expand(name)
    about = about_export(folder)
    if about is None:
        see_that_all_is_here("a page", NEEDS["onnx"])  # before the runtime is fetched
        see_that_it_is_there(name, choice)
        with tempfile.TemporaryDirectory(prefix="lastrun-page-") as into:
            made = Path(into) / "model"
            ready = runtime(runtime_file, say)
            about = export(
                name, made, "onnx", choice, licence=licence, clips=clips, int8=False, force=False, say=say, progress=progress
            )
            text = page(about, (made / MODEL).read_bytes(), ready)
    else:
        text = _of_export(folder, about, runtime_file, say)
    try:
        with whole_file(out) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
            size = part.stat().st_size
    except OSError as error:
        raise unwritable(out, error) from None
    return Written(about, size)


def _of_export(folder: Path, about: dict[str, Any], runtime_file: Path | None, say: Callable[[str], None]) -> str:
    kind = about.get("file", {}).get("format") if isinstance(about.get("file"), dict) else None
    if kind != "onnx":
        raise UsageError(f"{folder}: an export to {kind}; a page needs one to onnx: lastrun export JOB OUT --format onnx")
    try:
        model = read_bounded(folder / MODEL, MOST_MODEL_BYTES)
    except OSError as error:
        raise UsageError(f"{folder / MODEL}: cannot be read: {error.strerror}; export it again") from None
    ready = runtime(runtime_file, say)
    try:
        return page(about, model, ready)
    except UNREADABLE as error:
        raise UsageError(f"{folder}: its lastrun.json is damaged ({type(error).__name__}: {error}); export it again") from None


def _see_that_it_may_be_written(out: Path, force: bool) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out}: a page is called NAME.html: browsers go by that")
    if os.path.lexists(out) and not (force and out.is_file()):
        hint = "or say --force to replace it" if out.is_file() else "this is no file"
        raise UsageError(f"{out} is there already: name another file, {hint}")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.absolute().parent):
            pass
    except OSError as error:
        raise unwritable(out, error) from None
