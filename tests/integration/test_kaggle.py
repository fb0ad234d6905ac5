"""Kaggle as a session is: its file system with the very paths, the notebook as it is shipped, and the session after it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner.job.job import Job
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.store.open import open_store
from tests import kaggle
from tests.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from tests.conftest import TINY
from tests.jobs import PATIENCE, assert_same, jobs_in, some_step_is_stored, stand_still, trainer_of, wait_until
from tests.kaggle import SECRETS

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "jobs" / "kaggle.ipynb").read_text())
NAME = "base-ntu60-xsub"
JOB = TINY.replace("name: tiny", f"name: {NAME}").replace("batch_size: 40", "batch_size: 10")
"""What the uninterrupted job of the other tests is, too."""
EXECUTE = """\
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[1])
"""


@pytest.fixture(autouse=True)
def possible() -> None:
    if why := kaggle.why_not():
        pytest.skip(f"no mount namespace of one's own here: {why}")


@pytest.fixture
def env(clean_env: dict[str, str]) -> dict[str, str]:
    """Variables of a session; ``lastrun`` is found as it is after ``pip install``."""
    return {**kaggle.environment(clean_env), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean_env['PATH']}"}


def source(name: str) -> str:
    return "".join(next(cell for cell in NOTEBOOK["cells"] if cell["id"] == name)["source"])


@contextmanager
def run_notebook(session: kaggle.Session, env: dict[str, str], **cells: str) -> Iterator[subprocess.Popen[str]]:
    """The notebook in a session, with some of its cells as a user would change them."""
    path = session.working / "notebook.ipynb"
    changed = [{**cell, "source": cells.get(cell["id"], cell["source"])} for cell in NOTEBOOK["cells"]]
    path.write_text(json.dumps({**NOTEBOOK, "cells": changed}))
    command = session.command(sys.executable, "-c", EXECUTE, f"/kaggle/working/{path.name}")
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, out
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def shown(session: kaggle.Session) -> dict[str, str]:
    """What each cell has printed."""
    cells = json.loads((session.working / "notebook.ipynb").read_text())["cells"]
    return {cell["id"]: "".join(text for one in cell.get("outputs", []) for text in one.get("text", [])) for cell in cells}


def job_of(session: kaggle.Session) -> Job:
    return jobs_in(DirectoryStore(session.working / "lastrun"))[0]


def has_saved(session: kaggle.Session) -> bool:
    return bool(jobs_in(DirectoryStore(session.working / "lastrun"))) and some_step_is_stored(job_of(session))


@pytest.mark.slow
def test_the_notebook_trains_and_the_next_session_goes_on_to_the_same_bits(
    env: dict[str, str], tmp_path: Path, uninterrupted: Any
) -> None:
    first = kaggle.Session(tmp_path / "first")
    with run_notebook(first, env, job=f"%%writefile job.yaml\n{JOB}") as process:
        wait_until(lambda: has_saved(first) or process.poll() is not None)
        job = job_of(first)
        trainer = trainer_of(job)
        stand_still(trainer)
        job.requests.ask_to_stop(now=False)
        wait_until(lambda: job.attempts.heartbeat(job.attempts.all()[0]).get("stopping"))
        os.kill(trainer, signal.SIGCONT)
    said = shown(first)
    assert re.match(r"lastrun \d", said["install"])
    assert "note: /kaggle/working/lastrun is kept only if you save this notebook with its output" in said["train"]
    assert f"next: lastrun resume {job.id}" in said["train"]
    assert all(NAME in said[name] and "stopped" in said[name] for name in ("list", "status"))
    assert not re.search("\r(?!\n)|\x1b", "".join(said.values())), "a cell is no terminal"

    second = kaggle.Session(tmp_path / "second", {"notebooks/somebody/last-e": first.working})
    with run_notebook(second, env, what=f'JOB = "{NAME}"', job=""):
        pass
    said = shown(second)
    assert re.search(
        r"copying \S+ from file:///kaggle/input/notebooks/somebody/last-e/lastrun, which can only be", said["train"]
    )
    assert "completed at step 72 of 72" in said["train"]
    assert re.search(r"step 72 of 72", said["status"])
    assert "checkpoint 00000" in said["model"]
    assert (second.working / "model" / "state.pt").is_file()
    assert job_of(second).id == job.id
    assert len(job_of(second).attempts.all()) == 2
    assert_same(job_of(second), uninterrupted)
    assert_same_so_far(job, uninterrupted)


def assert_same_so_far(job: Job, reference: Any) -> None:
    """Nothing has been written where the input came from."""
    assert [attempt.reason for attempt in job.attempts.all()] == ["stop_requested"]
    assert job.metrics() == reference[1][: len(job.metrics())]


def test_the_notebook_has_the_job_of_the_reference(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(source("job").partition("\n")[2])
    reference = resolve_spec(ROOT / "jobs" / "base_ntu60_kaggle.yaml", None, [])
    assert resolve_spec(path, None, []).items() == reference.items()
    assert f'"{NAME}"' in source("what")


TALKATIVE = """\
import os, sys
if "last_e" in sys.orig_argv:
    print("going to " + os.environ["WHERE_TO"], file=sys.stderr, flush=True)
"""


@pytest.mark.slow
@pytest.mark.xdist_group("clouds")
def test_a_job_in_a_bucket_needs_secrets_alone_and_shows_none(ceph: Ceph, env: dict[str, str], tmp_path: Path) -> None:
    prefix, site = "jobs/kaggle-secrets", tmp_path / "site"
    site.mkdir()
    (site / "kaggle_secrets.py").write_text(SECRETS)
    (site / "sitecustomize.py").write_text(TALKATIVE)
    secrets = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "WHERE_TO": "somewhere-nice-1"}
    (site / "attached.json").write_text(json.dumps({"LASTRUN_STORE": ceph.uri(prefix), **secrets}))
    (tmp_path / "job.yaml").write_text(TINY.replace("epochs: 3", "epochs: 1") + "run: {pass_env: [WHERE_TO]}\n")
    for name in secrets:
        env.pop(name, None)
    session = kaggle.Session(tmp_path / "session")
    command = session.command(sys.executable, "-m", "runner", "submit", tmp_path / "job.yaml")
    here = {**env, "PYTHONPATH": str(site), "AWS_CA_BUNDLE": str(ceph.ca_bundle)}
    done = subprocess.run(command, env=here, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going to ***" in done.stdout
    assert "is kept only" not in done.stderr
    assert not list(session.working.iterdir())
    store = open_store(ceph.uri(prefix))
    assert jobs_in(store)[0].state()[0].value == "succeeded"
    kept = [store.get(entry.key).decode("latin-1") for entry in store.scan("")]
    for secret in secrets.values():
        assert [text for text in [done.stdout, done.stderr, *kept] if secret in text] == []


ASK = """\
import json, os
from pathlib import Path
from runner.store.open import default_store
from runner.kaggle import notes
found = [default_store()]
settings = Path(os.environ["HOME"], ".config/lastrun/config.toml")
settings.parent.mkdir(parents=True)
settings.write_text('store = "s3://mine/jobs"')
found.append(default_store())
os.environ["LASTRUN_STORE"] = "/kaggle/tmp/jobs"
found.append(default_store())
places = ("s3://mine/jobs", "file:///kaggle/working/lastrun", "file:///kaggle/tmp/jobs", "file:///kaggle/input/x")
print(json.dumps([found, [[note.partition(";")[0] for note in notes(place)] for place in places]]))
"""


def test_jobs_live_beside_the_outputs_unless_somebody_says_otherwise(env: dict[str, str], tmp_path: Path) -> None:
    command = kaggle.Session(tmp_path / "session").command(sys.executable, "-c", ASK)
    done = subprocess.run(command, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stores, notes = json.loads(done.stdout)
    assert stores == ["/kaggle/working/lastrun", "s3://mine/jobs", "/kaggle/tmp/jobs"]
    assert [len(each) for each in notes] == [0, 1, 1, 0]
    assert notes[1][0].startswith("note: /kaggle/working/lastrun is kept only if you save this notebook with its output")
    assert notes[2] == ["note: /kaggle/tmp/jobs is gone when this session ends"]


def test_an_output_that_is_not_attached_is_asked_for(env: dict[str, str], tmp_path: Path) -> None:
    for where in ((), ("--store", "/kaggle/input")):
        session = kaggle.Session(tmp_path / f"session-{len(where)}")
        command = session.command(sys.executable, "-m", "runner", "resume", "x", *where)
        done = subprocess.run(command, env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
        assert done.returncode == 3, done.stderr
        assert "attached (Add Input, Notebook Output): then add --store /kaggle/input" in " ".join(done.stderr.split())
