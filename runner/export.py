"""A trained network in a form that other programs run, by a child (``last_e.export``)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from runner.child import result_of
from runner.errors import EngineError, UsageError, unwritable
from runner.models import Choice, Model, bring

NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "onnx": {"export": ("onnx", "onnxruntime", "onnxscript")},
    "pt2": {},
    "safetensors": {},
    "executorch": {"executorch": ("executorch",)},
}
"""What each format needs beside torch, by the extra that brings it."""
ABOUT, FORMAT = "lastrun.json", "lastrun-model-1"
"""As :mod:`last_e.export.about` has them: what lies in that folder is the child's alone."""
MODEL = "model.onnx"
MOST_ABOUT_BYTES = 64 << 20

Progress = Callable[[int, int, str], None]


def export(
    name: str,
    out: Path,
    kind: str,
    choice: Choice,
    *,
    licence: str,
    clips: int,
    int8: bool,
    force: bool,
    say: Callable[[str], None],
    progress: Progress,
) -> dict[str, Any]:
    """Write a folder with the model; what it says of itself. The folder appears whole, or not at all.

    Args:
        name: a job, or the folder of a checkpoint.
        out: the folder.
        kind: a key of :data:`NEEDS`.
        choice: which checkpoint of a job.
        licence: the model's.
        clips: most clips of test that it is compared on.
        int8: beside it one of eight bits.
        force: replace an earlier export.
        say: told which checkpoint is taken.
        progress: told clips done, of how many, and what comes next.

    Raises:
        LastrunError: there is no such model, it says something else when it is exported, or what is missing.
    """
    if kind not in NEEDS:
        raise UsageError(f"--format: found {kind}; allowed: {', '.join(NEEDS)}")
    if int8 and kind != "onnx":
        raise UsageError(f"--int8 is of --format onnx: onnxruntime's quantizer makes it, and {kind} is asked for")
    see_that_it_may_be_written(out, force)
    see_that_all_is_here(f"--format {kind}", NEEDS[kind])
    with ExitStack() as held:
        asked = bring(Model(name), choice, held, say)
        into = held.enter_context(_new_folder(out, force))
        more = {"kind": kind, "into": str(into), "name": _called(name), "licence": licence, "clips": clips, "int8": int8}
        of_model = {key: asked[key] for key in ("folder", "config")}
        return result_of("last_e.export", {**of_model, **more}, progress, "the export")


def _called(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] or name


def see_that_all_is_here(what: str, needs: dict[str, tuple[str, ...]]) -> None:
    """See that packages are installed.

    Raises:
        EngineError: some are not, with the command that installs them.
    """
    for extra, packages in needs.items():
        if missing := [one for one in packages if importlib.util.find_spec(one) is None]:
            raise EngineError(
                f"{what} needs {', '.join(missing)}, which is not installed here; "
                f"from a clone of lastrun: pip install '.[{extra}]'"
            )


def see_that_it_may_be_written(out: Path, force: bool) -> None:
    """See it before anything is computed.

    Raises:
        UsageError: it is there already, or nothing can be made there.
    """
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        if about_export(out) is None:
            raise UsageError(f"{out} is there already, and is no export: name a new folder")
        if not force:
            raise UsageError(f"{out} is there already: name a new folder, or say --force to replace that export")
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise unwritable(out, error) from None


def about_export(folder: Path) -> dict[str, Any] | None:
    """What an export says of itself; None of another folder."""
    try:
        if (folder / ABOUT).stat().st_size > MOST_ABOUT_BYTES:
            return None
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) and about.get("format") == FORMAT else None


@contextmanager
def _new_folder(out: Path, force: bool) -> Iterator[Path]:
    """An empty folder beside ``out`` that takes its place when the block ends well."""
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        umask = os.umask(0)
        os.umask(umask)
        yield part
        part.chmod(0o777 & ~umask)
        for file in part.iterdir():
            file.chmod(0o666 & ~umask)  # some libraries put files there that only their owner may read
        see_that_it_may_be_written(out, force)  # somebody else may have been faster
        old = None
        if os.path.lexists(out):
            old = part.with_name(f"{part.name}-old")
            os.rename(out, old)
        os.rename(part, out)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise unwritable(out, error) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
