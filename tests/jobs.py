"""Jobs as the tests run them: in the background, watched through the store, compared to the last bit."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from runner.job.find import list_jobs
from runner.job.job import Job
from runner.job.steps import Steps
from runner.launch.settle import state_of
from runner.store.open import open_store
from runner.store.protocol import Store

if TYPE_CHECKING:
    from tests.ceph import Ceph
    from tests.docker_engine import Engine

PATIENCE = 300.0
"""Seconds that anything may take on a busy machine: what takes longer hangs."""
LONGER = ("--set", "training.batch_size=10")  # 3 epochs of 24 steps: time enough to be hit


def python_without_lastrun(folder: Path) -> tuple[str, Path]:
    """A Python that has torch and all that is needed, as it would find it at an index, but no lastrun; and its packages."""
    venv.create(folder, with_pip=True, symlinks=True)
    python = str(folder / "bin" / "python")
    asked = [python, "-c", "import site; print(site.getsitepackages()[0])"]
    packages = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    own = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    for path in own.iterdir():
        if not (packages / path.name).exists() and "lastrun" not in path.name and path.name not in ("last_e", "runner"):
            (packages / path.name).symlink_to(path)
    return python, packages


def slow_python(folder: Path) -> tuple[str, Callable[[], None]]:
    """This Python on a machine that takes long to be set up, and what ends that."""
    folder.mkdir()
    python, gate = folder / "python", folder / "gate"
    python.write_text(f'#!/bin/sh\nwhile [ ! -e {gate} ]; do sleep 0.1; done\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python), gate.touch


def jobs_in(store: Store) -> list[Job]:
    """Every job of a store, the newest first; one that is just being made does not count."""
    return [job for job in list_jobs(store) if list(store.scan(job.paths.record))]


class Run:
    """``lastrun`` in the background, in a process group of its own as a terminal would have it."""

    def __init__(self, env: dict[str, str], *words: str | Path) -> None:
        command = [sys.executable, "-m", "runner", *map(str, words)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            cwd=env["HOME"],
            start_new_session=True,
        )
        self.store: Store = open_store(env["LASTRUN_STORE"])

    @property
    def job(self) -> Job:
        return jobs_in(self.store)[0]

    def wait_for(self, what: Any, seconds: float = PATIENCE, rest: float = 0.3) -> None:
        for _ in looks(seconds, rest):
            if jobs_in(self.store) and what(self.job):
                return
            assert self.process.poll() is None, self.process.communicate()[0]

    @contextmanager
    def held(self, what: Any) -> Iterator[int]:
        """The trainer stands still from when something has come to pass until the block ends: however slow the block is, it
        strikes in the middle. What the trainer is sent meanwhile it takes when it goes on."""
        self.wait_for(what, rest=0.02)  # who looks seldom comes when it is over
        with at_rest(self.job) as trainer:
            yield trainer

    def settles_as(self, state: str) -> None:
        """A killed process takes a moment to be gone."""
        wait_until(lambda: state_of(self.job)[0].value == state)

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def interrupt(self, what: Any = None) -> tuple[int, str]:
        """Ctrl-C in the middle of training, when something (that a step is stored) has come to pass; returns how it ends."""
        with self.held(what or some_step_is_stored) as trainer:
            self.press_ctrl_c()
            wait_until(lambda: has_pending(trainer, signal.SIGTERM))
        return self.end()

    def end(self) -> tuple[int, str]:
        out, _ = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out


def wait_until(what: Callable[[], object], seconds: float = PATIENCE, rest: float = 0.3) -> None:
    for _ in looks(seconds, rest):
        if what():
            return


def looks(seconds: float, rest: float = 0.3) -> Iterator[None]:
    """One after the other, until something has come to pass; they take a third of a core, whatever one of them takes, but for
    those that take more than half of the longest ``rest`` between two."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        yield
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(min(max(0.02, 2 * (time.monotonic() - began)), rest))


def some_step_is_stored(job: Job) -> bool:
    return any(stored.manifest.step % 24 for stored in job.checkpoints.all())


def has_saved(job: Job) -> bool:
    """Whether the attempt that runs has stored a checkpoint of its own in the middle of an epoch."""
    last = job.attempts.all()[-1]
    return any(stored.attempt == last.id and stored.manifest.step % 24 for stored in job.checkpoints.all())


Result = tuple[dict[str, torch.Tensor], list[dict[str, Any]], list[dict[str, Any]]]
"""Final weights, figures of epochs, and figures of steps."""


def result(job: Job) -> Result:
    """As the store has them."""
    last = job.checkpoints.all()[-1]
    state = io.BytesIO(job.store.get(job.paths.checkpoint(last.name, "state.pt")))
    return torch.load(state, weights_only=True)["model"], job.metrics(), Steps(job).read()


def assert_same(job: Job, reference: Result) -> None:
    weights, *figures = result(job)
    assert figures == [*reference[1:]]
    assert weights.keys() == reference[0].keys()
    assert all(torch.equal(weights[key], reference[0][key]) for key in weights)


def assert_whole(job: Job) -> None:
    """Every file of every checkpoint that is listed is there and is what was written."""
    for stored in job.checkpoints.all():
        for name, expected in stored.manifest.files.items():
            data = job.store.get(job.paths.checkpoint(stored.name, name))
            assert (len(data), hashlib.sha256(data).hexdigest()) == (expected.size, expected.sha256), stored.name


def processes_of(submit: int) -> tuple[int, int]:
    """The agent below a submit, and its trainer."""

    def child(pid: int) -> int:
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    agent = child(submit)
    return agent, child(agent)


def trainer_of(job: Job) -> int:
    """The process that trains for a job on this machine, in a container or outside."""
    [found] = trainers_of(job)
    return found


@contextmanager
def at_rest(job: Job) -> Iterator[int]:
    """A job whose trainer, once there is one, stands still until the block ends: if it went on, it would take a core from all
    other tests."""
    wait_until(lambda: trainers_of(job))
    trainer = trainer_of(job)
    stand_still(trainer)
    try:
        yield trainer
    finally:
        with suppress(ProcessLookupError):
            os.kill(trainer, signal.SIGCONT)


def trainers_of(job: Job) -> list[int]:
    named = f"/lastrun-{job.id}-".encode()
    return [pid for pid, line in command_lines().items() if b"last_e" in line.split(b"\0") and named in line]


def command_lines() -> dict[int, bytes]:
    """Those of all processes of this machine, their words ended by zero bytes; processes come and go meanwhile."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes()
    return found


def stand_still(pid: int) -> None:
    """Stop a process. On a busy machine that takes a moment, in which its threads still answer, and still take signals."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(_state(task) == "T" for task in Path(f"/proc/{pid}/task").iterdir()))


def _state(task: Path) -> str:
    """What a thread does, as /proc has it: ``T`` when it is stopped."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has ended meanwhile
        return "T"


def has_pending(pid: int, signum: signal.Signals) -> bool:
    """Whether a signal waits for a process that stands still."""
    fields = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return bool(int(fields["ShdPnd"], 16) >> (signum - 1) & 1)


def stopped_without_its_store(current: Run, engine: Engine, ceph: Ceph) -> str:
    """Stop the container of a run that has stored something while its store is away; returns what the run said."""
    with current.held(some_step_is_stored) as trainer:
        ceph.kill_gateway()
        threading.Thread(target=engine.container().stop, daemon=True).start()
        wait_until(lambda: has_pending(trainer, signal.SIGTERM))
    code, out = current.end()
    ceph.start_gateway()
    assert code == 4, out
    return out
