"""Switches off the machine that an attempt ran on (``run.after: shutdown``), since an idle one costs money.

Only when whoever began the attempt has said so with a flag of its own, when all of it is in the store, and when no other
work of this user would end with it. Not when somebody has stopped it: he wants something of it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from runner.attempt.outbox import waiting
from runner.attempt.scratch import OUTBOX
from runner.errors import Reason, State, UsageError
from runner.folders import cache_folder
from runner.machine import HiddenProcessError, process_identity

VARIABLE = "LASTRUN_SHUTDOWN"
"""Names a program of the user's that switches this machine off, where the system's own way does not."""
MINUTES = 1
_LEAVING_SECONDS = 3.0
_AT_WORK = (b"\0runner\0attempt\0", b"\0runner\0points\0")
_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"
_ALSO = (Reason.TIME_LIMIT, Reason.GPU_LOST)


def problem() -> str | None:
    """Why this user cannot switch this machine off; None: it can be done."""
    if own := os.environ.get(VARIABLE):
        return None if shutil.which(own) else f"run.after: {VARIABLE} names {own}, which is no program there"
    if _way() is not None:
        return None
    if not any(_found(name) for name in ("shutdown", "systemctl")):
        return f"run.after: there is neither shutdown nor systemctl; {VARIABLE} may name a program that switches it off"
    return (
        "run.after: this user may not switch it off: sudo -n shutdown has to work without a password (sudoers: NOPASSWD), or "
        f"{VARIABLE} may name a program that does it; --set run.after=nothing leaves it on"
    )


def why_not(reason: Reason, scratch_root: Path) -> str | None:
    """Why the machine stays on after an attempt that has ended so, in words; None: nothing is against it."""
    others = others_at_work()  # first: from then on this one counts for none of the others
    if reason.ending.state not in (State.SUCCEEDED, State.FAILED) and reason not in _ALSO:
        return f"the attempt has ended as {reason.value}"
    if others:  # said before what waits, which may be theirs and on its way
        return f"process {others[0]} of lastrun's is at work here"
    left = [path for path in scratch_root.glob("lastrun-*") if waiting(path / OUTBOX)]
    if left:
        return f"{left[0]} holds what the store does not have"
    return None


def shut_down(say: Callable[[str], None]) -> None:
    """Have this machine switched off in a minute: who follows the attempt hears its end, and who is here can say no."""
    way = _way()
    if (wrong := problem()) is not None or way is None:
        say(f"this machine stays on: {wrong}")
        return
    null = subprocess.DEVNULL
    if way.waits:
        done = subprocess.run(way.command, stdin=null, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            told = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
            say(f"this machine stays on: {' '.join(way.command)} failed ({told})")
            return
        cancel = "sudo shutdown -c"
    else:
        later = ["/bin/sh", "-c", f'sleep {60 * MINUTES}; exec "$@"', "sh", *way.command]
        process = subprocess.Popen(later, stdin=null, stdout=null, stderr=null, start_new_session=True)
        cancel = f"kill {process.pid}"
    say(f"run.after: this machine is switched off in {MINUTES} minute; {cancel} keeps it on")


def others_at_work() -> list[int]:
    """Other processes of this user that keep the machine on, for one that has ended. Those that have ended, too, and have asked
    here before, do not: else none of several that end at once would switch it off. One that is about to leave is waited for."""
    with suppress(OSError, UsageError):
        path = cache_folder() / "ended"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            ended = {line for line in file.read().splitlines() if _is_there(line)}
            file.truncate(0)
            file.write("".join(f"{line}\n" for line in [*ended, _named(os.getpid())]))
            file.flush()
            deadline = time.monotonic() + _LEAVING_SECONDS
            while (found := [pid for pid in at_work() if _named(pid) not in ended]) and time.monotonic() < deadline:
                time.sleep(0.1)
            return found
    return at_work()


def _named(pid: int) -> str:
    """A process, told from a later one with its number."""
    with suppress(HiddenProcessError):
        return f"{pid} {process_identity(pid)}"
    return str(pid)


def _is_there(line: str) -> bool:
    pid = line.partition(" ")[0]
    return pid.isdigit() and _named(int(pid)) == line


def at_work() -> list[int]:
    """Other processes of this user that train, or begin what trains."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes()
            pid = int(path.parent.name)
            if pid != os.getpid() and path.stat().st_uid == os.getuid() and any(words in line for words in _AT_WORK):
                found.append(pid)
    return found


class _Way(NamedTuple):
    """How this machine is switched off."""

    command: list[str]
    waits: bool
    """Whether it waits the minute itself."""


def _way() -> _Way | None:
    if own := os.environ.get(VARIABLE):
        return _Way([own], waits=False)
    ways = []
    if (path := _found("shutdown")) is not None:
        ways.append(_Way([path, "-h", f"+{MINUTES}"], waits=True))
    if (path := _found("systemctl")) is not None:
        ways.append(_Way([path, "poweroff"], waits=False))
    if os.geteuid() == 0:
        return ways[0] if ways else None
    sudo = _found("sudo")
    for way in ways if sudo else []:
        with suppress(OSError, subprocess.SubprocessError):
            asked = subprocess.run([str(sudo), "-n", "-l", *way.command], capture_output=True, check=False, timeout=10)
            if asked.returncode == 0:
                return way._replace(command=[str(sudo), "-n", *way.command])
    return None


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}")
