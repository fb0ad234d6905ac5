"""What is approved can run: the same checks, whichever command makes them, before there is a job."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from last_e.data.clips import Clips
from last_e.data.files import write_clips
from runner.store.open import open_store
from tests.conftest import Cli
from tests.jobs import PATIENCE, jobs_in


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve clips of three classes, by the people, cameras and setups of NTU60."""
    ones = torch.ones(12, dtype=torch.int64)
    numbers = torch.arange(12)
    clips = Clips(
        joints=torch.from_numpy(np.zeros((120, 25, 3), np.int16)),
        length=10 * ones,
        bodies=ones,
        label=numbers % 3,
        performer=numbers % 4 + 1,
        camera=numbers % 3 + 1,
        setup=ones,
    )
    write_clips(clips, tmp_path / "data.safetensors", {"dataset": "ntu60"})
    return tmp_path / "data.safetensors"


def job(folder: Path, **values: object) -> Path:
    given = {
        "model": "nano_e_v3",
        "dataset": "ntu60",
        "data": {"uri": "data.safetensors"},
        "training": {"batch_size": 4},
        **values,
    }
    (folder / "job.yaml").write_text(json.dumps(given))
    return folder / "job.yaml"


@pytest.mark.parametrize(
    ("damage", "values", "told"),
    [
        (lambda b: b, {"dataset": "irds", "split_type": "xsub"}, "it holds ntu60, and the job says irds: set dataset to ntu60"),
        (
            lambda b: b,
            {"data": {"uri": "data.safetensors", "num_classes": 2}},
            "its labels go from 0 to 2, and data.num_classes is 2",
        ),
        (
            lambda b: b,
            {"training": {"batch_size": 10}},
            "training.batch_size: found 10; allowed: at most 9 clips a step, all there are to train with",
        ),
        (
            lambda b: b,
            {"dataset": "irds", "data": {}, "training": {"batch_size": 500, "gradient_accumulation_steps": 2}},
            "found 500 times training.gradient_accumulation_steps (2); allowed: at most 858 clips a step",
        ),
        (lambda b: b, {"data": {"uri": "https://host/d.safetensors"}}, "data.uri: found 'https://host/d.safetensors'; allowed"),
        (lambda b: b[:-1], {}, "cut short"),
        (lambda b: b"PK" + b[2:], {}, "not a prepared data file"),
        (lambda b: b[:20], {}, "not a prepared data file"),
        (lambda b: b"", {}, "not a prepared data file"),
    ],
)
def test_data_that_do_not_fit_are_refused_by_every_command_before_anything_is_written(
    cli: Cli, tmp_path: Path, data: Path, damage: object, values: dict[str, object], told: str
) -> None:
    data.write_bytes(damage(data.read_bytes()))  # type: ignore[operator]
    spec = job(tmp_path, **values)
    for words in (("validate",), ("submit", "--dry-run"), ("submit",)):
        done = cli(*words, spec)
        assert done.returncode == 2, (words, done.stdout)
        assert told in done.stdout + done.stderr, words
    assert not (tmp_path / "store").exists()


def test_data_that_fit_are_approved_by_all(cli: Cli, tmp_path: Path, data: Path) -> None:
    spec = job(tmp_path)
    assert cli("validate", spec).returncode == 0
    done = cli("submit", "--dry-run", spec)
    assert done.returncode == 0, done.stdout
    assert "would submit" in done.stdout
    data.unlink()
    valid = cli("validate", spec)
    assert valid.returncode == 0
    assert "note: on this machine it could not start: ntu60: no file" in valid.stdout


def test_a_split_that_leaves_nothing_to_test_is_told(cli: Cli, tmp_path: Path, data: Path) -> None:
    done = cli("validate", job(tmp_path, split_type="xview"))
    assert done.returncode == 0, done.stderr
    data.write_bytes(data.read_bytes().replace(b'"ntu60"', b'"other"'))  # it does not say what it is
    done = cli("validate", job(tmp_path, dataset="irds", split_type="xsub"))
    assert done.returncode == 2
    assert "by its split xsub no clip of it is left to test: is this irds?" in done.stderr


def test_a_dry_run_with_a_dead_store_says_so_by_its_code(cli: Cli, tmp_path: Path, data: Path) -> None:
    dead = "s3://b/x?endpoint_url=http://127.0.0.1:9"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    done = cli("submit", "--dry-run", job(tmp_path), "--store", dead, **keys)
    assert done.returncode == 4, done.stdout
    assert "it could not start here: s3://b/x" in done.stdout
    facts = json.loads(cli("submit", "--dry-run", "--json", job(tmp_path), "--store", dead, **keys).stdout)
    assert "no connection" in facts["obstacle"]


def test_a_store_that_cannot_be_written_is_told_with_all_else_that_is_missing(cli: Cli, tmp_path: Path, data: Path) -> None:
    (tmp_path / "file").write_text("")
    for words in (("validate", "--deep"), ("submit", "--dry-run")):
        done = cli(*words, job(tmp_path), "--store", tmp_path / "file" / "jobs")
        assert done.returncode == 4, done.stdout + done.stderr
        assert f"{tmp_path / 'file'} cannot be written (Not a directory): name another" in done.stdout + done.stderr
        data_too = cli(*words, job(tmp_path, env="kaggle", data={"uri": "none"}), "--store", tmp_path / "file" / "jobs")
        said = data_too.stdout + data_too.stderr
        assert data_too.returncode == 2, said
        assert all(text in said for text in ("env kaggle: this machine", "no file", "cannot be written")), said
    assert cli("validate", job(tmp_path), "--deep", "--store", tmp_path / "new").returncode == 0
    assert not (tmp_path / "new").exists()


def test_a_profile_of_another_machine_is_refused_in_the_attempt_too_and_makes_no_folder_of_its_own(
    cli: Cli, tiny: Path, clean_env: dict[str, str]
) -> None:
    there = Path("/kaggle").exists()
    done = cli("submit", tiny, "--env", "kaggle", "--here", "--set", "training.epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path("/kaggle").exists() is there
    (job,) = jobs_in(open_store(clean_env["LASTRUN_STORE"]))
    attempts = [one.id for one in job.attempts.all()]
    [listed] = json.loads(cli("list", "--json").stdout)["jobs"]
    assert listed["env"] == json.loads(cli("status", job.id, "--json").stdout)["env"] == "local"  # where it ran
    more = ("--set", "training.epochs=2", "--allow-change", "training.epochs")  # it is complete
    refused = cli("attempt", job.uri, "--env", "kaggle", *more)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "env kaggle: this machine is" in refused.stdout + refused.stderr
    assert [one.id for one in job.attempts.all()] == attempts


def test_validate_notes_that_the_profile_is_for_another_kind_of_machine(cli: Cli, tmp_path: Path, data: Path) -> None:
    spec = job(tmp_path)
    valid = cli("validate", spec, "--env", "kaggle")
    assert valid.returncode == 0, valid.stderr
    assert "note: on this machine it could not start: env kaggle: this machine" in valid.stdout
    assert "could not start" not in cli("validate", spec, "--env", "kaggle", "--here").stdout
    assert "could not start" not in cli("validate", spec, "--env", "local").stdout


def test_validate_reads_no_network_unless_it_is_asked_to(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = 0

        def refuse_all() -> None:
            nonlocal asked
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                asked += 1
                connection.close()

        threading.Thread(target=refuse_all, daemon=True).start()
        keys = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
        options = {"endpoint_url": f"http://127.0.0.1:{server.getsockname()[1]}"}
        spec = job(tmp_path, data={"uri": "s3://bucket/data.safetensors"}, store={"uri": "s3://bucket/jobs", **options})
        for words in ((), ("--json",), ("--env", "kaggle")):
            valid = cli("validate", spec, *words, **keys)
            assert (valid.returncode, asked) == (0, 0), valid.stdout + valid.stderr
        assert cli("explain", spec, **keys).returncode == 0
        assert asked == 0
        deep = cli("validate", spec, "--deep", **keys)
        assert (deep.returncode != 0, asked > 0) == (True, True), deep.stdout + deep.stderr
        server.shutdown(socket.SHUT_RDWR)


def test_a_machine_that_nearly_fits_is_a_warning(clean_env: dict[str, str], tiny: Path) -> None:
    """The kernel's folder that names the GPUs is another for this command alone."""
    given = "mount -t tmpfs none /proc/driver && mkdir -p /proc/driver/nvidia/gpus/0 && "
    given += "echo 'Model: NVIDIA H100 80GB HBM3' >/proc/driver/nvidia/gpus/0/information && exec \"$@\""
    words = [
        "submit",
        str(tiny),
        "--env",
        "a100",
        "--set",
        "training.epochs=1",
        "hardware.device=cpu",
        "hardware.precision=fp32",
    ]
    command = ["unshare", "-m", "sh", "-c", given, "sh", sys.executable, "-m", "runner", *words]
    if os.geteuid() != 0 or subprocess.run([*command[:3], "-c", "mount -t tmpfs none /proc/driver"], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=clean_env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: env a100 is used on a machine that has NVIDIA H100 80GB HBM3" in done.stdout + done.stderr
