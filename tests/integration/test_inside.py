"""Attempts inside an image, as Apptainer is asked to run one; a program of its name stands in for it (tests/apptainer.py)."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from runner.launch import inside
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from tests.apptainer import Apptainer
from tests.conftest import Cli
from tests.integration.test_slurm import only_job, slurm_id
from tests.integration.test_ssh import environ_of_trainer
from tests.jobs import LONGER, PATIENCE, Run, assert_same, command_lines, jobs_in, some_step_is_stored, wait_until
from tests.slurm import Slurm
from tests.terminals import at_a_terminal


@pytest.fixture
def apptainer(tmp_path: Path, clean_env: dict[str, str]) -> Apptainer:
    one = Apptainer(tmp_path)
    clean_env["PATH"] = f"{one.bin}:{os.environ['PATH']}"
    return one


def image(one: Apptainer | str) -> tuple[str, ...]:
    return ("--set", "run.container=apptainer", f"run.image={one if isinstance(one, str) else one.image}")


def test_an_attempt_gets_what_is_named_and_shows_nothing_on_its_command_line(
    run: Any, apptainer: Apptainer, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    secret = "hf_" + "secret" * 5
    clean_env.update(HF_TOKEN=secret, SOMETHING_ELSE="1")
    current: Run = run("submit", tiny, *image(apptainer), "run.pass_env=[HF_TOKEN]", "training.epochs=5000")
    with current.held(some_step_is_stored):
        environment = environ_of_trainer(current.job).split(b"\0")
        assert f"HF_TOKEN={secret}".encode() in environment
        assert b"PYTHONNOUSERSITE=1" in environment
        assert f"APPTAINER_CONTAINER={apptainer.image}".encode() in environment
        assert b"SOMETHING_ELSE=1" not in environment
        assert not [line for line in command_lines().values() if secret.encode() in line]
        probed, started = map(json.loads, apptainer.calls())
    assert probed == ["exec", "--cleanenv", "--pwd", "/", str(apptainer.image), "python", "-m", "runner", "probe"]
    place = started.index(str(apptainer.image))
    assert started[place + 1 : place + 5] == ["python", "-m", "runner", "attempt"]
    assert started[:4] == ["exec", "--cleanenv", "--pwd", "/"]
    folders = [str(tmp_path / name) for name in (".cache/lastrun", "store", "tmp")]
    assert started[4:place] == [word for folder in folders for word in ("--bind", folder)]
    current.process.send_signal(signal.SIGTERM)
    code, out = current.end()
    assert code == 75, out
    [attempt] = current.job.attempts.all()
    assert (attempt.launcher, attempt.reason) == ("local", "preempted")


def test_ctrl_c_at_a_terminal_comes_once(apptainer: Apptainer, tiny: Path, clean_env: dict[str, str]) -> None:
    """The terminal sends it to all of its group, and Apptainer passes it on: asked twice, an attempt would not save."""
    store = DirectoryStore(Path(clean_env["LASTRUN_STORE"]))
    with at_a_terminal(clean_env, "submit", tiny, *image(apptainer), "training.epochs=5000") as (terminal, process):
        wait_until(lambda: [job for job in jobs_in(store) if some_step_is_stored(job)])
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 75, terminal.text
    [attempt] = only_job(clean_env).attempts.all()
    assert (attempt.phase, attempt.reason) == ("ended", "interrupted")


def test_what_is_missing_is_told_before_there_is_a_job(
    cli: Cli, apptainer: Apptainer, tiny: Path, clean_env: dict[str, str], tmp_path: Path
) -> None:
    for name in ("broken", "other"):
        (tmp_path / f"{name}.sif").touch()
    for words, code, told in (
        (image(f"{tmp_path}/none.sif"), 2, f"run.image: no file {tmp_path}/none.sif"),
        (image(f"{tmp_path}/broken.sif"), 6, "cannot start lastrun: could not open image"),
        (image(f"{tmp_path}/other.sif"), 6, "holds lastrun 0.0.1, this is "),
        (
            image("ghcr.io/me/unknown:1"),
            6,
            "image ghcr.io/me/unknown:1 cannot be fetched: While making image from oci registry",
        ),
        (("--set", "run.container=apptainer"), 2, "run.image is not set: with run.container=apptainer it names a .sif file"),
        ((*image(apptainer), "--launcher", "docker"), 2, "run.container: found apptainer; allowed with launcher docker: none"),
        ((*image(apptainer), "--on", "far"), 2, "run.container: found apptainer; allowed with launcher ssh: none"),
        (("--set", f"run.image={apptainer.image}", "--launcher", "docker"), 2, "is for run.container=apptainer"),
        ((*image(apptainer), "run.container=docker"), 2, "run.container"),
    ):
        refused = cli("submit", tiny, *words)
        assert refused.returncode == code, refused.stdout + refused.stderr
        assert told in refused.stderr
    nowhere = cli("submit", tiny, *image(apptainer), PATH="/usr/bin:/bin")
    assert nowhere.returncode == 6
    assert "neither apptainer nor singularity is in PATH here: load its module" in nowhere.stderr
    assert jobs_in(DirectoryStore(Path(clean_env["LASTRUN_STORE"]))) == []


def test_an_image_of_a_registry_is_fetched_once(cli: Cli, apptainer: Apptainer, tiny: Path, clean_env: dict[str, str]) -> None:
    for _ in range(2):
        assert cli("submit", tiny, *image("ghcr.io/me/lastrun:0.1.0"), "--dry-run").returncode == 0
    calls = list(map(json.loads, apptainer.calls()))
    assert [call[0] for call in calls] == ["pull", "exec", "exec"]
    assert calls[0][2] == "docker://ghcr.io/me/lastrun:0.1.0"
    [kept] = (Path(clean_env["HOME"]) / ".cache/lastrun/images").iterdir()
    assert kept.name.startswith("ghcr.io-me-lastrun-0.1.0-")
    assert calls[1][4] == str(kept)


def test_the_driver_is_handed_in_where_it_is_and_a_gpu_is_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    about = {"image": "x.sif", "binds": [str(tmp_path), "/nowhere/at/all"], "names": [], "gpu": True}
    monkeypatch.setattr(inside.machine, "driver_version", lambda: "580.65.06")
    start = ["apptainer", "exec", "--cleanenv", "--pwd", "/"]
    monkeypatch.setattr(inside, "FOLDER", tmp_path / "locks")
    given = [*start, "--nv", "--bind", str(tmp_path), "--bind", str(tmp_path / "locks")]
    assert inside.command("apptainer", about, ["attempt"])[:10] == given
    assert inside.command("apptainer", {**about, "gpu": False}, ["attempt"])[:7] == [*start, "--bind", str(tmp_path)]
    monkeypatch.setattr(inside.machine, "driver_version", lambda: None)
    assert "--nv" not in inside.command("apptainer", about, ["attempt"])


def test_the_file_of_keys_is_handed_in_wherever_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys.env").write_text("AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY=b\n")
    monkeypatch.setenv("LASTRUN_ENV_FILE", "keys.env")
    about: dict[str, object] = {"image": "x.sif", "binds": [], "names": [], "gpu": False}
    assert ["--bind", str(tmp_path / "keys.env")] == inside.command("apptainer", about, ["attempt"])[5:7]
    assert inside.given(["LASTRUN_ENV_FILE"])["APPTAINERENV_LASTRUN_ENV_FILE"] == str(tmp_path / "keys.env")


def test_a_folder_that_cannot_be_handed_in_is_told(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = ["run.container=apptainer", "run.image=/x.sif", f"hardware.scratch_root={tmp_path}/a:b"]
    config = resolve_spec(tiny, "local", settings).config
    with pytest.raises(Exception, match="a folder with : or , in its name cannot be handed into an image"):
        inside.attempt_command(config, f"file://{tmp_path}/store/x", [])


@pytest.mark.xdist_group("slurm")
def test_in_a_queue_it_hears_of_the_limit_and_goes_on_to_the_same_bits(
    run: Any, apptainer: Apptainer, slurm: Slurm, tiny: Path, clean_env: dict[str, str], uninterrupted: Any
) -> None:
    words = ("--launcher", "slurm", *image(apptainer), "run.gpus=0", *LONGER[1:], "run.time_limit=15m")
    current: Run = run("submit", tiny, *words)
    with current.held(some_step_is_stored):
        assert b"APPTAINER_CONTAINER" in environ_of_trainer(current.job)
        slurm.call("scancel", "--batch", "--signal=USR1", slurm_id(current.job))
    code, out = current.end()
    assert code == 0, out
    assert [one.reason for one in current.job.attempts.all()] == ["preempted", "completed"]
    assert {one.launcher for one in current.job.attempts.all()} == {"slurm"}
    assert_same(current.job, uninterrupted)
