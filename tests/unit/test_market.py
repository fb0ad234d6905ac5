"""Which machines can be had, where no server is asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runner.errors import EngineError, Exit, LastrunError
from runner.launch import market
from runner.launch.docker import engine as docker_engine
from runner.launch.hf import hub
from runner.launch.kaggle import account
from runner.launch.local import LocalLauncher
from runner.launch.protocol import Cloud, Market, Offer
from runner.launch.settle import launcher_class
from runner.launch.sky.engine import sky
from runner.launchers import LAUNCHERS
from tests.conftest import TINY, Cli


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    (tmp_path / "config" / "lastrun").mkdir(parents=True)
    return tmp_path


def test_hosts_with_a_name_are_offered_and_none_is_asked(own_home: Path) -> None:
    (own_home / "config" / "lastrun" / "config.toml").write_text('[hosts.box]\nssh = "me@192.0.2.7"\n[hosts.other]\n')
    found = market.offers()["ssh"]
    assert found == [
        Offer("box", "lastrun host check box tells", None, "--on box"),
        Offer("other", "lastrun host check other tells", None, "--on other"),
    ]


def test_gpus_of_this_machine_are_counted_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.launch.local.gpu_names", lambda: ["Tesla T4", "NVIDIA L4", "Tesla T4"])
    monkeypatch.setattr("runner.launch.local.usable_cores", lambda: 1)
    assert LocalLauncher.offers() == [Offer("this machine, 1 core", "2 x Tesla T4, 1 x NVIDIA L4", None, "--launcher local")]


def test_who_cannot_tell_costs_the_others_nothing() -> None:
    told = market.offers()
    assert isinstance(told["slurm"], EngineError)
    assert "no sinfo here" in str(told["slurm"])
    assert isinstance(told["local"], list)


def test_all_that_cost_money_say_what_runs() -> None:
    classes = {name: launcher_class(name) for name in LAUNCHERS}
    assert {name for name, one in classes.items() if isinstance(one, Cloud)} == {"hf", "sky"}
    assert {name for name, one in classes.items() if isinstance(one, Market)} == {
        "local",
        "slurm",
        "ssh",
        "hf",
        "sky",
        "kaggle",
    }
    assert "hf auth login" in str(market.rented()["hf"])
    assert "pip install '.[sky]'; or, beside the extra hf, in an environment of its own" in str(market.rented()["sky"])


def test_each_launcher_that_lacks_a_library_or_a_program_ends_with_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("docker", "huggingface_hub", "httpx2", "kagglesdk"):
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr("runner.launch.sky.launcher.python", lambda: None)
    monkeypatch.setattr("runner.launch.sky.engine.python", lambda: None)
    for asked in (docker_engine._connected, hub._api, hub._own_name, account.account, account._own, sky):
        asked.cache_clear()
    for name in set(LAUNCHERS) - {"local"}:
        with pytest.raises(LastrunError, match=r"here: |\bneeds ") as missing:
            launcher_class(name).ready()
        assert missing.value.exit_code == Exit.NO_ENGINE, name
    with pytest.raises(LastrunError, match="needs SkyPilot") as missing:
        sky()
    assert missing.value.exit_code == Exit.NO_ENGINE
    docker_engine._connected.cache_clear()


def test_a_library_that_is_not_installed_is_named_with_what_installs_it(cli: Cli, tmp_path: Path) -> None:
    for name in ("huggingface_hub", "httpx2", "kagglesdk", "requests"):
        (tmp_path / "without" / name).mkdir(parents=True)
        (tmp_path / "without" / name / "__init__.py").write_text(f"raise ImportError('no {name}')\n")
    path = os.pathsep.join([str(tmp_path / "without"), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = cli("gpus", PYTHONPATH=path, COLUMNS="200", HF_TOKEN="x", KAGGLE_USERNAME="me", KAGGLE_KEY="x")
    assert told.returncode == 0, told.stderr
    assert "not hf: launcher hf needs Hugging Face's library; from a clone of lastrun: pip install '.[hf]'" in told.stdout
    assert "not kaggle: launcher kaggle needs Kaggle's library; from a clone of lastrun: pip install '.[kaggle]'" in told.stdout
    for launcher, code in (("hf", Exit.USAGE), ("kaggle", Exit.NO_ENGINE)):  # of hf the store, a folder, is told first
        (tmp_path / "job.yaml").write_text(TINY)
        refused = cli("submit", tmp_path / "job.yaml", "--launcher", launcher, PYTHONPATH=path)
        assert refused.returncode == code
        assert f"pip install '.[{launcher}]'" in refused.stderr
