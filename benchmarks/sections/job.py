"""Real jobs through the command line: one that is killed and goes on, one in a container."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.sections.common import ROOT, Task, compared

PATIENCE = 200.0
"""Seconds that one command may take."""


def killed_job(task: Task) -> dict[str, Any]:
    """A job whose agent and trainer are killed with SIGKILL in mid-run, and resumed, against the same one left alone.

    Weights and momentum have to be the same to the last bit. Raises with their largest difference, as a share of the largest
    number of their tensor, where they are not.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        spec = _job_file(task, folder)
        alone = _final_state(_submitted(spec, folder, "alone"), folder, "alone")
        step = _killed(spec, folder)
        job = _only_job(folder / "killed")
        _lastrun(folder, "killed", "resume", job)
        resumed = _final_state(job, folder, "killed")
    assert resumed["step"] == alone["step"], f"it ended at step {resumed['step']}, not {alone['step']}"
    different = compared(*({name: state[name] for name in ("model", "optimizer")} for state in (resumed, alone)))
    assert different["identical"], f"other tensors: {different}"
    return {
        **different,
        "steps": alone["step"],
        "killed_after_step": step,
        "test_loss": {"alone": alone["last"][0], "killed": resumed["last"][0]},
    }


def in_container(task: Task) -> dict[str, Any]:
    """A job in a container, where there is an engine with an image of lastrun; else why there is none."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        spec = _job_file(task, folder)
        words = ["--launcher", "docker", *(["--set", "run.gpus=0"] if task.device.type == "cpu" else [])]
        tried = _lastrun(folder, "store", "submit", spec, *words, "--dry-run", "--json", may_fail=True)
        if tried.returncode != 0:
            return {"not_there": tried.stderr.strip()}
        obstacle = json.loads(tried.stdout)["obstacle"]
        if obstacle is not None:
            return {"not_there": obstacle}
        begin = time.monotonic()
        job = _submitted(spec, folder, "store", *words)
        state = _final_state(job, folder, "store")
    return {"steps": state["step"], "seconds": time.monotonic() - begin, "test_loss": state["last"][0]}


def _job_file(task: Task, folder: Path) -> Path:
    """A job of some hundred steps that saves every second or so."""
    small = {"stem_channels": 8, "channels": [8, 8, 16]} if task.quick else {}
    training = {"epochs": 20, "batch_size": 16, "warmup_epochs": 1}
    if task.quick:
        training |= {"epochs": 2, "batch_size": 20, "input_frames": 16}
    spec = {
        "name": "gpu",
        "env": "local",
        "model": {"variant": "nano_e_v3", **small},
        "dataset": "synthetic",
        "training": training,
        "checkpoint": {"every_minutes": 0.005 if task.quick else 0.02},
        "hardware": {"device": task.device.type},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(spec))
    return path


def _submitted(spec: Path, folder: Path, store: str, *words: str) -> str:
    """Run a job to its end; its ID."""
    _lastrun(folder, store, "submit", spec, *words)
    return _only_job(folder / store)


def _only_job(store: Path) -> str:
    """The ID of the one job that is in a store."""
    (record,) = store.glob("*/job.json")
    return record.parent.name


def _killed(spec: Path, folder: Path) -> int:
    """Run a job until its first checkpoint is in the store, and kill what works for it. Returns the checkpoint's step."""
    command, environment = _command(folder, "killed", "submit", spec)
    with (folder / "killed.log").open("w+") as log:
        submit = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
        deadline = time.monotonic() + PATIENCE
        while not (stored := sorted((folder / "killed").glob("*/checkpoints/*/MANIFEST.json"))):
            assert submit.poll() is None, f"the job ended before it could be killed: {_last_line(folder / 'killed.log')}"
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.02)
        agent = _child(submit.pid)
        for pid in (_child(agent), agent):
            os.kill(pid, signal.SIGKILL)
        submit.wait(PATIENCE)
    step = json.loads(stored[-1].read_text())["step"]
    assert isinstance(step, int)
    return step


def _final_state(job: str, folder: Path, store: str) -> dict[str, Any]:
    """The newest checkpoint of a job."""
    target = folder / f"final-{store}"
    _lastrun(folder, store, "pull", job, target)
    state: dict[str, Any] = torch.load(target / "state.pt", map_location="cpu", weights_only=True)
    return state


def _lastrun(folder: Path, store: str, *words: str | Path, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    """``lastrun`` to its end, with a store of its own."""
    command, environment = _command(folder, store, *words)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    assert may_fail or done.returncode == 0, f"lastrun {words[0]} ended with {done.returncode}: {said[-1] if said else ''}"
    return done


def _command(folder: Path, store: str, *words: str | Path) -> tuple[list[str], dict[str, str]]:
    """Command line and environment: nothing that the user has set, but for Docker's engine, has a say."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LASTRUN_", "XDG_"))}
    settings = {"LASTRUN_STORE": str(folder / store), "XDG_CONFIG_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    return [sys.executable, "-m", "runner", *map(str, words)], {**environment, **settings}


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else "it said nothing"
