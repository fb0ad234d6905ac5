"""A child that measures or scores: what it is to do goes in as JSON, progress and its result come out as JSON lines."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from tempfile import TemporaryFile
from typing import Any

from last_e.process import run_module
from last_e.refusal import FAILED, NO_GPU, USAGE
from runner.errors import EngineError, LastrunError, UsageError
from runner.signals import handled, interrupt

_KINDS = {USAGE: UsageError, NO_GPU: EngineError, FAILED: LastrunError}


def result_of(module: str, asked: dict[str, Any], progress: Callable[[int, int, str], None], what: str) -> dict[str, Any]:
    """What ``python -m MODULE`` says at the end.

    Args:
        module: its name.
        asked: what it is to do.
        progress: told what is done, of how much, and what comes next; 0 of 0 until there is something to count.
        what: it does, for a message: ``the measurement``.

    Raises:
        EngineError: no torch, or no GPU that was asked for.
        UsageError: what was asked cannot be.
        LastrunError: it could not, with the reason.
    """
    progress(0, 0, "loading torch")
    with closing(said_by(module, asked, what)) as lines:  # here, where a signal meanwhile is heard, not when it is thrown away
        for told in lines:
            if "result" in told:
                result: dict[str, Any] = told["result"]
                return result
            progress(told["done"], told["total"], told["what"])
    raise AssertionError(module)  # it says a result, or why there is none


def said_by(
    module: str, asked: dict[str, Any], what: str, *, reads_input: bool = False
) -> Generator[dict[str, Any], None, None]:
    """Each line that ``python -m MODULE`` says, as it is said; the last one has the ``result``.

    What is asked goes in by standard input; where the child ``reads_input`` itself, by a file under the number that it is
    given.

    Raises:
        EngineError, UsageError, LastrunError: as :func:`result_of`.
    """
    with ExitStack() as held:
        file = held.enter_context(TemporaryFile("w+"))
        file.write(json.dumps(asked))
        file.seek(0)
        # No pipe: nobody reads it before the end, and a full one would stop the child.
        said = held.enter_context(TemporaryFile("w+"))
        number = file.fileno()
        command = [*run_module(module), *([str(number)] if reads_input else [])]
        held.enter_context(handled(interrupt))
        stdin, pipe = None if reads_input else number, subprocess.PIPE
        child = held.enter_context(
            subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=said, text=True, pass_fds=[number])
        )
        assert child.stdout is not None
        is_done = False
        try:
            for line in child.stdout:
                told = json.loads(line)
                if "error" in told:
                    raise _KINDS[told["whose"]](told["error"])
                is_done = "result" in told
                yield told
                if is_done:
                    return
            child.wait()
            said.seek(0)
            errors = said.read().strip().splitlines()
        except BaseException:
            if not is_done:  # else it is ending, in a way of its own
                child.terminate()
            raise
    if any("No module named 'torch'" in line for line in errors):
        raise EngineError("torch is not installed here; from a clone of lastrun: pip install '.[train]'")
    raise LastrunError(f"{what} broke off: {errors[-1] if errors else f'exit code {child.wait()}'}")
