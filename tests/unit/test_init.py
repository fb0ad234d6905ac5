"""``lastrun init``: a job file that is valid as it is, says what it means, and costs nothing that was there."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import Cli


def test_a_file_is_written_that_is_valid_and_is_not_written_over(cli: Cli, tmp_path: Path) -> None:
    done = cli("init")
    assert done.returncode == 0, done.stderr
    assert "nano_e_v3 on irds, 120 epochs" in done.stdout
    assert "on this machine about " in done.stdout
    text = (tmp_path / "job.yaml").read_text()
    assert "# passes over the training clips\n  epochs: 120\n" in text
    assert cli("validate", "job.yaml").returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("tmp", ".cache", ".local")] == ["job.yaml"]

    (tmp_path / "job.yaml").write_text("mine")
    again = cli("init", "--model", "base")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "job.yaml is there already" in again.stderr
    assert (tmp_path / "job.yaml").read_text() == "mine"
    forced = cli("init", "--force", "--epochs", "3", "--name", "first", "--json")
    assert forced.returncode == 0, forced.stderr
    told = json.loads(forced.stdout)
    assert (told["path"], told["epochs"], told["total_seconds"]["value"] > 0) == ("job.yaml", 3, True)
    found = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert (found["name"], found["training"]["epochs"], found["training"]["warmup_epochs"]) == ("first", 3, 1)


def test_each_offer_counts_without_its_sign(cli: Cli, tmp_path: Path) -> None:
    assert cli("init").returncode == 0
    lines = (tmp_path / "job.yaml").read_text().splitlines()[5:]  # behind what the file is for
    offered = [
        re.sub(r"^(# |#(?=   ))?(  (?:# )?)?(?=[a-z_]+:( |$))", lambda found: "  " if found[2] else "", line) for line in lines
    ]
    (tmp_path / "job.yaml").write_text("\n".join(offered))
    found = yaml.safe_load("\n".join(offered))
    assert (found["data"]["validation"], found["training"]["patience"], found["run"]["launcher"]) == (0.2, 10, "local")
    done = cli("validate", "job.yaml")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--data", "nothing.safetensors"),
            "--data: found nothing.safetensors, and no such file is there; allowed: irds, ",
        ),
        (("--data", "nonsense"), "error: --data: found 'nonsense'; allowed: "),
        (("--model", "huge"), "error: --model: found 'huge'; allowed: "),
        (("/proc/no/job.yaml", "--force"), "error: /proc/no/job.yaml: cannot be written there: No such file"),
        ((".", "--force"), "error: . is a folder: name a file, such as job.yaml"),
        (("--name", "My Job"), "error: --name: found 'My Job'; allowed: at most 48"),
        (("--epochs", "0"), "error: --epochs: found 0; allowed: a whole number at least 1, at most 100000\n"),
        (("--epochs", "1e3"), "error: --epochs: found '1e3'; allowed: a whole number at least 1, at most 100000\n"),
        (
            ("--epochs", "x", "--model", "huge"),
            "error: --epochs: found 'x'; allowed: a whole number at least 1, at most 100000\n"
            "error: --model: found 'huge'; allowed: ",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_told_of_what_was_given(cli: Cli, tmp_path: Path, words: tuple[str, str], says: str) -> None:
    done = cli("init", *words)
    assert done.returncode == 2
    assert says.format(here=tmp_path) in done.stderr
    assert "lastrun-init" not in done.stderr, "where it tries what was given is gone by then"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "job.yaml").exists()


def test_it_asks_on_a_terminal(clean_env: dict[str, str], tmp_path: Path) -> None:
    """And asks again at once where an answer cannot be, with what could; also where a bucket refuses."""
    ours, theirs = pty.openpty()
    env = {name: text for name, text in clean_env.items() if not name.startswith("AWS_")}
    env["AWS_EC2_METADATA_DISABLED"] = "true"  # where this is tried on a machine of Amazon's
    command = [sys.executable, "-m", "runner", "init", "own.yaml"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=tmp_path, start_new_session=True
    )
    os.close(theirs)
    seen = ""
    for question, answer in (
        ("data [irds]:", "s3://bucket/mine.safetensors\n"),
        ("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", ""),
        ("data [irds]:", "mine.safetensors\n"),
        ("--data: found mine.safetensors, and no such file is there; allowed: irds, ", ""),
        ("data [irds]:", "\n"),
        ("model [nano]:", "huge\n"),
        ("--model: found 'huge'; allowed: one of nano", ""),
        ("model [nano]:", "small\n"),
        ("epochs [30]:", "0\n"),
        ("--epochs: found 0; allowed: a whole number at least 1, at most 100000", ""),
        ("epochs [30]:", "2\n"),
        ("next: ", ""),
    ):
        deadline = time.monotonic() + 60
        while question not in seen:
            assert select.select([ours], [], [], max(0, deadline - time.monotonic()))[0], seen
            seen += os.read(ours, 4096).decode()
        seen = seen.partition(question)[2]
        os.write(ours, answer.encode())
    assert process.wait(60) == 0
    os.close(ours)
    found = yaml.safe_load((tmp_path / "own.yaml").read_text())
    assert (found["model"], found["training"]["epochs"]) == ("small", 2)


def test_what_was_given_amiss_is_told_before_anything_is_asked(clean_env: dict[str, str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "runner", "init", "own.yaml", "--model", "huge", "--name", "My Job"]
    done = subprocess.run(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=clean_env, cwd=tmp_path, timeout=60, check=False
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    said = done.stderr.decode()
    assert "--model: found 'huge'" in said
    assert "--name: found 'My Job'" in said


def test_who_submits_nothing_is_told_how_to_get_a_file(cli: Cli) -> None:
    done = cli("submit")
    assert (done.returncode, done.stderr) == (
        2,
        "error: JOB.YAML: found nothing; allowed: the job's file; lastrun init writes one\n",
    )
