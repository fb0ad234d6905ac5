"""A profile for another kind of machine, and what is said of renting one."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from runner.errors import EngineError, UsageError
from runner.job.job import Job
from runner.launch import rent
from runner.launch.kaggle import account
from runner.launch.sky import engine
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from tests.conftest import TINY, Cli


@pytest.fixture
def with_sky(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A SkyPilot that nobody starts, and its records."""
    program = tmp_path / "bin" / "sky"
    program.parent.mkdir()
    program.write_text("#!/nowhere/bin/python3\nraise SystemExit(1)\n")
    program.chmod(0o755)
    (tmp_path / ".sky").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.delenv("SKYPILOT_API_SERVER_ENDPOINT", raising=False)
    return tmp_path / ".sky" / "state.db"


def records(place: Path, *clouds: str) -> None:
    with closing(sqlite3.connect(place)) as db:
        db.execute("CREATE TABLE IF NOT EXISTS config (key TEXT PRIMARY KEY, value TEXT)")
        db.execute("REPLACE INTO config VALUES ('enabled_clouds_default_compute', ?)", (json.dumps(clouds),))
        db.commit()


def test_sky_is_set_up_when_its_records_name_a_cloud(with_sky: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.python() == "/nowhere/bin/python3"
    assert not engine.is_set_up()
    records(with_sky)
    assert not engine.is_set_up()
    with_sky.write_bytes(b"no database")
    assert not engine.is_set_up()
    with_sky.unlink()
    records(with_sky, "gcp")
    assert engine.is_set_up()
    with_sky.unlink()
    (with_sky.parent / "config.yaml").write_text("api_server:\n  endpoint: https://sky.example\n")
    assert engine.is_set_up()
    monkeypatch.setenv("PATH", "/nowhere")
    assert not engine.is_set_up()


def test_one_is_rented_only_for_a_profile_of_a_cloud_that_this_machine_is_not(
    with_sky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records(with_sky, "gcp")
    monkeypatch.setattr(rent, "fits", lambda env: (env == "lambda", "has no GPU"))
    path = tmp_path / "job.yaml"
    path.write_text(TINY)
    assert rent.instead(resolve_spec(path, "gcp", []), here=False) == ("sky", "has no GPU")
    assert rent.instead(resolve_spec(path, "gcp", []), here=True) is None
    assert rent.instead(resolve_spec(path, "lambda", []), here=False) is None
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    assert rent.instead(resolve_spec(path, "kaggle", []), here=False) is None
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text("{}")
    monkeypatch.setattr(account, "find_spec", lambda _: None)
    assert rent.instead(resolve_spec(path, "kaggle", []), here=False) is None
    monkeypatch.setattr(account, "find_spec", lambda _: "there")  # also for a Python that its library does not come to
    assert rent.instead(resolve_spec(path, "kaggle", []), here=False) == ("kaggle", "has no GPU")
    assert rent.instead(resolve_spec(path, "kaggle", []), here=True) is None
    assert rent.instead(resolve_spec(path, "gcp", [], "local"), here=False) is None
    with_sky.unlink()
    assert rent.instead(resolve_spec(path, "gcp", []), here=False) is None


def test_nothing_is_rented_without_a_yes(capsys: pytest.CaptureFixture[str]) -> None:
    no_gpu = rent.Instead("sky", "has no GPU")
    with pytest.raises(
        UsageError, match="this machine has no GPU; SkyPilot would rent that one: --yes rents it, --here trains"
    ):
        rent.agree("gcp", no_gpu, False, may_ask=False)
    rent.agree("gcp", no_gpu, True, may_ask=False)
    assert "SkyPilot would rent that one: --yes" in capsys.readouterr().err


def test_a_python_that_is_gone_is_named(with_sky: Path) -> None:
    """As of an environment of pipx, whose Python was replaced."""
    with pytest.raises(EngineError, match=r"has SkyPilot does not start .*/nowhere/bin/python3.*: pipx reinstall skypilot"):
        engine.Sky().offers()


def test_without_sky_one_message_names_the_ways_on(cli: Cli, tiny: Path) -> None:
    refused = cli("submit", tiny, "--env", "gcp", PATH="/usr/bin:/bin")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "--launcher sky for one of a cloud, once SkyPilot is set up: see docs/clouds.md" in refused.stderr
    assert "say --here to train" in refused.stderr


def test_a_stored_jobs_profile_begins_nothing_elsewhere(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """Only who names the profile with this very command: it costs quota, or money."""
    resolved = resolve_spec(tiny, "kaggle", [])
    origins = {key: str(origin) for key, origin in resolved.origins.items()}
    job = Job.create(DirectoryStore(tmp_path / "store"), "tiny", resolved.items(), origins, "0")
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_text("{}")
    refused = cli("resume", job.id)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "or say --here" in refused.stderr
    assert "session of Kaggle is begun" not in refused.stderr
