"""Attempts on the other side, each detached from the connection that has started it.

A run is a folder of this user's alone, with the attempt's output (``log``), who watches over it (``pids``) and, once it has
ended, its exit code (``exit``). What it is given in secret goes from pipe to pipe and is in no file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from last_e.process import run_module
from runner import machine
from runner.errors import UsageError
from runner.launch.ssh.install import own_folder

GONE = 254
"""Exit code of ``follow`` for an attempt of which nobody knows how it ended."""
_LOOK_SECONDS, _OLD_SECONDS, _BEGIN_SECONDS = 0.1, 7 * 86400.0, 10.0
_KILLED = -int(signal.SIGKILL)


def start() -> None:
    """Start an attempt that lives on when the connection ends, and the login with it."""
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        raise UsageError("the connection broke before all was there that the attempt needs")
    asked = json.loads(line)
    _sweep()
    run = _run(asked["token"])
    run.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        run.mkdir(mode=0o700)
    except FileExistsError:
        raise UsageError("it was taken back before it began") from None
    with (run / "log").open("wb") as log:
        command = [*_outside_of_the_login(), *run_module("runner.launch.ssh.far"), "watch", asked["token"]]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, cwd="/")
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(line)
            process.stdin.close()
    while not (run / "pids").exists() and process.poll() is None:
        time.sleep(0.02)
    if not (run / "pids").exists():
        raise UsageError(f"it could not be started: {_tail(run)}")


def watch(token: str) -> None:
    """Start the attempt, wait for its end, write its code. Hears no signal: those are for the attempt."""
    for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)  # not ignored: that the attempt would inherit
    asked, run = json.loads(sys.stdin.buffer.readline()), _run(token)
    scratch = own_folder().parent / "scratch"
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    variables = asked["given"]
    take_authority(asked, variables)
    about = {**asked["about"], "token": token, "scratch": asked["scratch"] or str(scratch)}
    # Its temporary files go where this user may run code and has room: /tmp may be in memory, or noexec.
    own = {"TMPDIR": str(scratch), machine.CONTAINER_VARIABLE: json.dumps(about)}
    process = subprocess.Popen(
        [*run_module("runner"), "attempt", asked["uri"], "--read-env", *asked["arguments"]],
        stdin=subprocess.PIPE,
        env={**os.environ, **asked["plain"], **own},
    )
    assert process.stdin is not None
    pids = {str(pid): machine.process_identity(pid) for pid in (os.getpid(), process.pid)}
    write_whole(run / "pids", json.dumps(pids))
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps({"variables": variables, "files": {}}).encode() + b"\n")
        process.stdin.close()
    write_whole(run / "exit", str(process.wait()))


def follow(token: str, offset: str) -> None:
    """Print what it says, from a byte on, until it ends; then end with its code."""
    run = _run(token)
    try:
        log = (run / "log").open("rb")
    except OSError:
        raise SystemExit(GONE) from None
    with log:
        log.seek(int(offset))
        while True:
            code, alive = _code(run), _alive(run)
            if piece := log.read():
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
            elif code is not None:
                raise SystemExit(code if code >= 0 else 128 - code)
            elif not alive and _code(run) is None:
                raise SystemExit(GONE)
            else:
                time.sleep(_LOOK_SECONDS)


def state(token: str) -> None:
    """Whether it is at work, else its code, and its last words."""
    sys.stdout.write(json.dumps({**about(token), "tail": _tail(_run(token))}))


def about(token: str) -> dict[str, Any]:
    """Whether it is at work (``alive``), its code once it has ended, and whether there was such a one."""
    run = _run(token)
    alive, code = _alive(run), _code(run)
    return {"alive": alive, "code": code, "known": run.exists()}


def how_it_ended(code: int | None) -> str:
    """In words, of an attempt that could not tell itself; None: nobody knows its code."""
    return "is gone" if code is None else "was killed" if code in (_KILLED, 128 - _KILLED) else f"ended with code {code}"


def send(token: str, signum: str) -> None:
    """A signal for the attempt."""
    pids = list(_pids(_run(token)).items())
    for pid, identity in pids[1:]:  # the first is who watches over it
        with suppress(ProcessLookupError):
            if machine.process_identity(int(pid)) == identity:
                os.kill(int(pid), int(signum))


def end(token: str) -> None:
    """End it at once, or keep it from beginning; its trainer ends with it."""
    run = _run(token)
    run.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        run.mkdir(mode=0o700)
        write_whole(run / "exit", str(_KILLED))  # whoever is just about to start it finds its place taken
    except FileExistsError:
        deadline = time.monotonic() + _BEGIN_SECONDS
        while not _pids(run) and _code(run) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        send(token, str(int(signal.SIGKILL)))
        while _alive(run) and time.monotonic() < deadline:
            time.sleep(0.02)


def remove(token: str) -> None:
    """What it has left in its folder, once it has ended."""
    run = _run(token)
    if _code(run) is not None or not _alive(run):  # who watched over it may just be about to leave
        shutil.rmtree(run, ignore_errors=True)


def count() -> int:
    """How many are at work here."""
    with suppress(OSError):
        return sum(_alive(run) for run in (own_folder() / "runs").iterdir())
    return 0


def clean(force: str) -> None:
    """Remove all that lastrun has put here; with ``force`` also what attempts could not send.

    Raises:
        UsageError: something would be lost.
    """
    from runner.attempt.scratch import is_going

    root = own_folder()
    scratch = root.parent / "scratch"
    if running := count():
        them, run = ("them", f"{running} attempts run") if running > 1 else ("it", "an attempt runs")
        raise UsageError(f"{run} there: lastrun stop JOB has {them} save and end")
    if not force and (queued := _in_the_queue()):
        raise UsageError(f"{queued} of lastrun's is in its queue: lastrun stop JOB has it save and end, or takes it out")
    left = [path.name for path in scratch.glob("lastrun-*") if not is_going(path)] if scratch.exists() else []
    if left and not force:
        raise UsageError(
            f"an attempt has left there what it could not send ({left[0]}): lastrun resume JOB there sends it, --force drops it"
        )
    kept = [path.parent.name for path in (root / "relay").glob("*/*/job.json")]
    if kept and not force:
        raise UsageError(f"{kept[0]} was kept there, and not all of it fetched: lastrun sync JOB fetches it, --force drops it")
    for folder in (scratch, root):
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps({"removed": str(root), "left": [*left, *kept]}))


def _in_the_queue() -> str | None:
    """A Slurm job of this user's, where this is a login node."""
    from runner.launch.slurm import queue
    from runner.launch.slurm.batch import job_name

    there = queue.queued() if shutil.which("squeue") else []
    return next((f"Slurm job {one.id}" for one in there if one.name.startswith(job_name(""))), None)


def take_authority(asked: dict[str, Any], variables: MutableMapping[str, str]) -> None:
    """Put the certificates of a store's server into a file here, which boto3 wants; they are no secret."""
    if text := asked.get("authority"):
        path = own_folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.pem"
        if not path.exists():
            write_whole(path, text)
        variables["AWS_CA_BUNDLE"] = str(path)


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}-{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def _outside_of_the_login() -> list[str]:
    """Where systemd may end what a login has started, the beginning of a command that it does not end: in a scope of this
    user's own service manager, which lingers. Else a session of its own is enough."""
    if shutil.which("systemd-run") is None or shutil.which("loginctl") is None:
        return []
    asked = ["loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"]
    scope = ["systemd-run", "--user", "--scope", "--collect", "--quiet", "--"]
    with suppress(OSError, subprocess.SubprocessError):
        lingers = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=5)
        if lingers.stdout.strip() == "yes":
            runtime = {"XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"}
            os.environ.update(runtime)
            if subprocess.run([*scope, "true"], capture_output=True, check=False, timeout=5).returncode == 0:
                return scope
    return []


def _run(token: str) -> Path:
    if not re.fullmatch("[0-9a-f]{8}", token):
        raise UsageError("a token is eight hexadecimal digits")
    return own_folder() / "runs" / token


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
        for run in (own_folder() / "runs").iterdir():
            if not _alive(run) and time.time() - run.stat().st_mtime > _OLD_SECONDS:
                shutil.rmtree(run, ignore_errors=True)
