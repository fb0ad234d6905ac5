"""A child that measures or scores: what it is to do goes in as JSON, progress and its result come out as JSON lines."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import Any

from last_e.process import run_module
from runner.errors import EngineError, LastrunError
from runner.signals import handled, interrupt


def result_of(module: str, asked: dict[str, Any], progress: Callable[[int, int, str], None], what: str) -> dict[str, Any]:
    """What ``python -m MODULE`` says at the end.

    Args:
        module: its name.
        asked: what it is to do.
        progress: told what is done, of how much, and what comes next.
        what: it does, for a message: ``the measurement``.

    Raises:
        EngineError: no torch, or no GPU that was asked for.
        LastrunError: it could not, with the reason.
    """
    with (
        handled(interrupt),
        TemporaryFile("w+") as said,  # no pipe: nobody reads it before the end, and a full one would stop the child
        subprocess.Popen(run_module(module), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(asked))
            child.stdin.close()
            for line in child.stdout:
                told = json.loads(line)
                if "result" in told:
                    result: dict[str, Any] = told["result"]
                    return result
                if "error" in told:
                    raise (EngineError if told["no_gpu"] else LastrunError)(told["error"])
                progress(told["done"], told["total"], told["what"])
            child.wait()
            said.seek(0)
            errors = said.read().strip().splitlines()
        except BaseException:
            child.terminate()
            raise
    if any("No module named 'torch'" in line for line in errors):
        raise EngineError("torch is not installed here; from a clone of lastrun: pip install '.[train]'")
    raise LastrunError(f"{what} broke off: {errors[-1] if errors else f'exit code {child.wait()}'}")
