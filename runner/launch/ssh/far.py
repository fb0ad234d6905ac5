"""The other side: what is called there by this very version, over ssh. ``python -m runner.launch.ssh.far VERB ...``.

A run is a folder of this user's alone, with the attempt's output (``log``), who watches over it (``pids``) and, once it has
ended, its exit code (``exit``). What it is given in secret goes from pipe to pipe and is in no file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from last_e.process import run_module
from runner import machine
from runner.errors import LastrunError, UsageError
from runner.folders import cache_folder

GONE = 254
"""Exit code of ``follow`` for an attempt of which nobody knows how it ended."""
_LOOK_SECONDS, _OLD_SECONDS = 0.1, 7 * 86400.0


def main() -> None:
    """Call what the first word names; errors of ours are one line."""
    verbs: dict[str, Callable[..., None]] = {
        "check": check, "start": start, "watch": watch, "follow": follow, "state": state, "signal": send, "remove": remove
    }  # fmt: skip
    try:
        verbs[sys.argv[1]](*sys.argv[2:])
    except LastrunError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None


def check() -> None:
    """Whether the store and the data can be reached from here, with what an attempt will be given."""
    from runner.attempt.data_check import check_data
    from runner.spec import JobSpec
    from runner.store.open import open_store

    asked = json.loads(sys.stdin.readline())
    os.environ.update(asked["variables"])
    problems = []
    if "marker" in asked and not Path(asked["marker"]).is_dir():
        problems.append(f"store {asked['store']}: it is a folder of your machine, and not the same one there: take a bucket")
    else:
        problems += _problem(open_store(asked["store"]).check)
    problems += _problem(lambda: check_data(JobSpec.model_validate(asked["config"])))
    free = shutil.disk_usage(cache_folder().parent if cache_folder().parent.exists() else Path.home()).free
    if free < asked["free"]:
        problems.append(f"its disk has {free >> 20} MiB left in {cache_folder()}: {asked['free'] >> 20} MiB are needed")
    sys.stdout.write(json.dumps({"problems": problems}))


def start() -> None:
    """Start an attempt that lives on when the connection ends."""
    line = sys.stdin.buffer.readline()
    asked = json.loads(line)
    _sweep()
    run = _run(asked["token"])
    run.mkdir(parents=True, mode=0o700)
    with (run / "log").open("wb") as log:
        command = [*run_module("runner.launch.ssh.far"), "watch", asked["token"]]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, cwd="/")
        assert process.stdin is not None
        process.stdin.write(line)
        process.stdin.close()
    while not (run / "pids").exists() and process.poll() is None:
        time.sleep(0.02)
    if not (run / "pids").exists():
        raise UsageError(f"it could not be started: {_tail(run)}")


def watch(token: str) -> None:
    """Start the attempt, wait for its end, write its code. Hears no signal: those are for the attempt."""
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    asked, run = json.loads(sys.stdin.buffer.readline()), _run(token)
    scratch = asked["scratch"] or str(cache_folder() / "scratch")
    Path(scratch).mkdir(parents=True, exist_ok=True, mode=0o700)
    variables = asked["given"]
    if "ca" in asked:
        (run / "ca.pem").write_text(asked["ca"])
        variables["AWS_CA_BUNDLE"] = str(run / "ca.pem")
    about = {**asked["about"], "token": token, "scratch": scratch}
    process = subprocess.Popen(
        [*run_module("runner"), "attempt", asked["uri"], "--read-env", *asked["arguments"]],
        stdin=subprocess.PIPE,
        env={**os.environ, **asked["plain"], machine.CONTAINER_VARIABLE: json.dumps(about)},
    )
    assert process.stdin is not None
    pids = {str(pid): machine.process_identity(pid) for pid in (os.getpid(), process.pid)}
    _write(run / "pids", json.dumps(pids))
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps({"variables": variables, "files": {}}).encode() + b"\n")
        process.stdin.close()
    _write(run / "exit", str(process.wait()))


def follow(token: str, offset: str) -> None:
    """Print what it says, from a byte on, until it ends; then end with its code."""
    run = _run(token)
    with (run / "log").open("rb") as log:
        log.seek(int(offset))
        while True:
            ended = _code(run)
            alive = ended is None and _alive(run)
            if piece := log.read():
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            elif not alive and ended is None and _code(run) is None:
                raise SystemExit(GONE)
            elif ended is not None:
                raise SystemExit(ended if ended >= 0 else 128 - ended)
            else:
                time.sleep(_LOOK_SECONDS)


def state(token: str) -> None:
    """Whether it is at work, else its code, and its last words."""
    run = _run(token)
    alive = _alive(run)
    sys.stdout.write(json.dumps({"alive": alive, "code": _code(run), "known": run.exists(), "tail": _tail(run)}))


def send(token: str, signum: str) -> None:
    """A signal for the attempt; SIGKILL also for who watches over it, and all of it is removed."""
    pids = list(_pids(_run(token)).items())[::-1]  # the attempt first
    for pid, identity in pids[:1]:
        with suppress(ProcessLookupError):
            if machine.process_identity(int(pid)) == identity:
                os.kill(int(pid), int(signum))


def remove(token: str) -> None:
    """What it has left in its folder, once it has ended."""
    shutil.rmtree(_run(token), ignore_errors=True)


def _run(token: str) -> Path:
    if not re.fullmatch("[0-9a-f]{8}", token):
        raise UsageError("a token is eight hexadecimal digits")
    return cache_folder() / "ssh" / "runs" / token


def _pids(run: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((run / "pids").read_text())
        return found
    return {}


def _alive(run: Path) -> bool:
    """Whether somebody watches over it, or the attempt itself lives."""
    return any(machine.process_identity(int(pid)) == identity for pid, identity in _pids(run).items())


def _code(run: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int((run / "exit").read_text())
    return None


def _tail(run: Path) -> str:
    with suppress(OSError), (run / "log").open("rb") as log:
        log.seek(max(0, (run / "log").stat().st_size - 4096))
        lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""


def _sweep() -> None:
    """Runs that have ended long ago: whoever wanted to know has asked."""
    with suppress(OSError):
        for run in (cache_folder() / "ssh" / "runs").iterdir():
            if (run / "exit").exists() and time.time() - (run / "exit").stat().st_mtime > _OLD_SECONDS:
                shutil.rmtree(run, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def _problem(look: Callable[[], object]) -> list[str]:
    try:
        look()
    except LastrunError as error:
        return [str(error)]
    return []


if __name__ == "__main__":
    main()
