"""What commands import before they do anything: nothing that they do not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEVER = {
    *("torch", "numpy", "numba", "safetensors", "tensorboard", "boto3", "botocore", "docker", "rich"),
    *("urllib3", "wandb", "mlflow", "trackio", "starlette", "uvicorn", "runner.notify", "runner.ui"),
    *("asyncio", "concurrent.futures", "http.client", "multiprocessing", "ssl", "logging", "platformdirs"),
    *(
        "last_e.events",
        "last_e.metrics",
        "last_e.resume",
        "last_e.datafile",
        "runner.attempt",
        "runner.plan",
        "runner.launch.docker",
    ),
}
CODE = """\
import atexit, gc, json, sys, typer
atexit.register(lambda: print(len(gc.get_objects()), file=sys.stderr))  # comes after what is registered later
of_typer = set(sys.modules)  # rich, to some versions
sys.argv = ["lastrun", *sys.argv[1:]]
from runner.__main__ import main
try:
    main()
except SystemExit as end:
    stays = gc.get_freeze_count() > 10_000 and gc.isenabled()  # no look for garbage goes through what was imported
    print(json.dumps([end.code or 0, stays, sorted(set(sys.modules) - of_typer)]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("words", "too"),
    [
        (["--help"], {"yaml", "pydantic", "runner.store", "runner.job"}),
        (["validate", "jobs/quickstart.yaml"], {"runner.store", "runner.job", "last_e.manifest"}),
        (["list", "--store", "EMPTY"], {"yaml", "last_e.layers", "last_e.reading"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_nothing_is_imported_that_is_not_needed(words: list[str], too: set[str], tmp_path: Path) -> None:
    words = [str(tmp_path) if word == "EMPTY" else word for word in words]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYDANTIC_"))}
    command = [sys.executable, "-c", CODE, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=True)
    told, looked_through = done.stderr.splitlines()[-2:]
    code, stays, modules = json.loads(told)
    assert code == 0
    assert stays
    assert int(looked_through) < 1000, "at its end Python goes through all there is for garbage"
    assert done.stdout
    assert (NEVER | too) & set(modules) == set()


@pytest.mark.parametrize(
    "words", [["state", "0123abcd"], ["end", "0123abcd"], ["have", "0" * 64, "data"]], ids=lambda words: words[0]
)
def test_what_ssh_calls_on_a_host_does_not_wait_for_what_it_does_not_need(words: list[str], tmp_path: Path) -> None:
    """Each call starts a Python there: of those that a submit waits for, only the check reads a job's configuration."""
    command = [sys.executable, "-X", "importtime", "-m", "runner.launch.ssh.far", *words]
    env = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "runner.launch.ssh.install" in imported
    assert imported & (NEVER | {"pydantic", "yaml", "runner.spec", "runner.job.job", "runner.store.open"}) == set()


STARTS_NOTHING = """\
import sys
def forbid(event, args):
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"):
        raise RuntimeError(args)
sys.addaudithook(forbid)
from last_e.environment import cpu_name
from runner import machine
print(machine.describe()["system"], machine.versions()["python"], cpu_name())
"""


def test_an_attempt_describes_its_machine_without_starting_anything() -> None:
    """Its only child is the trainer: whoever sends that a notice hits nothing else."""
    done = subprocess.run([sys.executable, "-c", STARTS_NOTHING], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{os.uname().sysname}-{os.uname().release}-{os.uname().machine} ")
