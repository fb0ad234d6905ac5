"""What a host and many jobs cost: seconds until an attempt has begun on a prepared host, from ``lastrun submit`` to the first
step there and here, and what following takes.

    python benchmarks/hosts.py                 # as root, with OpenSSH's server; some minutes
    python benchmarks/hosts.py --rounds 0      # without a host

The host is this machine by a real sshd, prepared before, with another home folder. First what its launcher does until an
attempt has begun there, by the clock and in calls of ssh: the preflight and the start, without what every command does. Then
all launchers begin the same small job in turns; the first step is the first checkpoint in the store, which is saved after it.
Then 100 jobs of a group, all of which seem to train elsewhere, are followed by ``lastrun status GROUP -w``.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from last_e.environment import cpu_name, usable_cores
from runner.job.attempts import Attempt
from runner.job.group import Group, PointRecord
from runner.resolve import resolve_spec
from runner.view.groups import group_status
from runner.waits import WAITS
from tests.counting.store import CountingStore
from tests.sshd import Sshd, why_not

_JOB = """\
name: tiny
model: {variant: nano_e_v3, stem_channels: 8, channels: [8, 8], num_blocks: [1, 1], depths: [1, 1], strides: [1, 2]}
dataset: synthetic
training: {epochs: 3, batch_size: 40, input_frames: 16, warmup_epochs: 1}
checkpoint: {every_minutes: 0.0001}
hardware: {cpu_threads: 1}
"""
_PATIENCE = 600.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of both launchers in turns")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which jobs are followed")
    parser.add_argument("--jobs", type=int, default=100, help="that are followed")
    asked = parser.parse_args()
    print(f"{cpu_name()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="hosts-", dir="/tmp") as folder:  # short: sockets lie there
        if asked.rounds and (why := why_not()) is not None:
            print(f"no host: {why}")
        elif asked.rounds:
            start(Path(folder), asked.rounds)
        follow(Path(folder), asked.seconds, asked.jobs)


def start(folder: Path, rounds: int) -> None:
    """Seconds to the first step."""
    home = folder / "home"
    home.mkdir()
    server = Sshd(folder, HOME=str(home), PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("LASTRUN_", "XDG_"))},
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
        "PATH": f"{server.bin}:{os.environ['PATH']}",
    }
    (folder / "job.yaml").write_text(_JOB)
    kinds = {"local": [], "--on HOST": ["--on", "far"], "--on HOST --relay": ["--on", "far", "--relay"]}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    try:
        subprocess.run([*_lastrun(), "host", "check", "far"], env=env, check=True, stdout=subprocess.DEVNULL)
        again(folder, env, rounds)
        for number in range(rounds):
            for name, words in kinds.items():
                seconds[name].append(_to_the_first_step(folder, f"{number}-{len(words)}", words, env))
    finally:
        for socket in (folder / "lastrun").glob("*"):
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "far"], capture_output=True, check=False)
        server.stop()
    print("\n| from submit to the first step | seconds, median | from - to | ratio to local, median of rounds |")
    print("|---|---|---|---|")
    for name, found in seconds.items():
        ratio = statistics.median(one / base for one, base in zip(found, seconds["local"]))
        print(f"| {name} | {statistics.median(found):.1f} | {min(found):.1f} - {max(found):.1f} | {ratio:.2f} |")


_AGAIN = """\
import sys, time
from pathlib import Path
from runner.job.job import Job
from runner.launch.start import make_launcher
from runner.resolve import resolve_spec
from runner.store.open import open_store
job = resolve_spec(Path(sys.argv[1]), None, ["run.launcher=ssh", "run.host=far"])
store = open_store(sys.argv[2])
made = Job.create(store, "again", job.items(), {key: str(origin) for key, origin in job.origins.items()}, "0")
launcher = make_launcher(job.config)
began = time.monotonic()
launcher.preflight(sys.argv[2])
looked = time.monotonic()
started = launcher.start(made, [], "0123abcd", output=None)
print(looked - began, time.monotonic() - looked)
started.kill()
"""


def again(folder: Path, env: dict[str, str], rounds: int) -> None:
    """Seconds and calls until an attempt has begun on a host that has been used before."""
    rc, calls = folder / "home" / ".bashrc", folder / "calls"
    rc.write_text(f"echo >>{calls}\n")
    found = []
    for number in range(rounds + 1):
        command = [sys.executable, "-c", _AGAIN, str(folder / "job.yaml"), f"file://{folder}/store-again-{number}"]
        done = subprocess.run(
            command, env={**env, "PYTHONPATH": str(Path(__file__).parents[1])}, check=True, capture_output=True, text=True
        )
        found.append([float(word) for word in done.stdout.split()])
    rc.unlink()
    count = len(calls.read_text()) / len(found) - 2  # less the two by which it was ended
    found = found[1:]  # the first one made the connection, which is kept
    print("\n| on a prepared host, over a kept connection | seconds, median | from - to |")
    print("|---|---|---|")
    for name, values in zip(("preflight", "start", "both"), (*zip(*found), [sum(one) for one in found])):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} - {max(values):.2f} |")
    print(f"calls of ssh until it has begun: {count:g}")


def _to_the_first_step(folder: Path, name: str, words: list[str], env: dict[str, str]) -> float:
    store = folder / f"store-{name}"
    command = [*_lastrun(), "submit", str(folder / "job.yaml"), "--store", str(store), *words]
    began, first = time.monotonic(), 0.0
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not first and process.poll() is None and time.monotonic() - began < _PATIENCE:
            if next(store.glob("*/checkpoints/*/MANIFEST.json"), None) is not None:  # with a relay: it has come here
                first = time.monotonic() - began
            time.sleep(0.02)
        code = process.wait(timeout=_PATIENCE)
    assert (code, first > 0) == (0, True), f"{command}: {code}"
    return first


def follow(folder: Path, seconds: float, count: int) -> None:
    """CPU time and calls of following a group."""
    (folder / "job.yaml").write_text(_JOB)
    job = resolve_spec(folder / "job.yaml", None, [])
    store = CountingStore(folder / "many")
    origins = {key: str(origin) for key, origin in job.origins.items()}
    points = [PointRecord(values={"training.seed": n}, config=job.items(), origins=origins) for n in range(count)]
    group = Group.create(store, "many", points, "0")
    group.complete()
    attempts = []
    for number, one in enumerate(group.jobs()):
        attempt = Attempt(f"0001-{number:08x}", "elsewhere", 1, "1", time.time(), phase="running", began=True, inherited=[])
        one.attempts.write(attempt)
        attempts.append((one, attempt))
    over = threading.Event()

    def beat() -> None:
        while not over.is_set():
            for one, attempt in attempts:
                one.attempts.write_heartbeat(attempt, {"step": 1, "total_steps": 9})
            over.wait(WAITS.heartbeat)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        while not all((store.root / one.paths.heartbeat(attempt.id)).exists() for one, attempt in attempts):
            time.sleep(0.1)
        store.calls.clear()
        watching = CountingStore(store.root)
        assert group_status(Group(watching, group.id))["states"] == {"running": count}
        calls = Counter(call.split(" ")[0] for call in watching.calls)
        command = [*_lastrun(), "status", group.id, "-w", "--store", str(store.root)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            looks = _looks(process, seconds)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    finally:
        over.set()
        beating.join()
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = ", ".join(f"{number} {call}" for call, number in calls.most_common())
    print(f"\nfollowing {count} jobs at work: {looks} looks in {seconds:.0f} s")
    print(f"a look is {sum(calls.values())} calls of the store ({said})")
    print(f"CPU time: {60 * used / seconds:.1f} s a minute")


def _looks(process: subprocess.Popen[str], seconds: float) -> int:
    """How often all was shown in this time, at the end of which it is ended."""
    timer = threading.Timer(seconds, process.terminate)
    timer.start()
    assert process.stdout is not None
    with suppress(ValueError):
        return sum(line.startswith("next ") for line in process.stdout)
    return 0


def _lastrun() -> list[str]:
    return [sys.executable, "-m", "runner"]


if __name__ == "__main__":
    main()
