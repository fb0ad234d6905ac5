"""The user's configuration file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.errors import UsageError
from runner.settings import HostSettings, read_settings, settings_path
from runner.store.open import default_store


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("LASTRUN_STORE", raising=False)
    path = settings_path()
    path.parent.mkdir()
    return path


def test_a_store_in_the_file_is_the_default_and_the_variable_comes_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_store().endswith("/lastrun/jobs")
    file.write_text('store = "s3://bucket/jobs?endpoint_url=https://s3.example.org"\n')
    assert default_store() == "s3://bucket/jobs?endpoint_url=https://s3.example.org"
    monkeypatch.setenv("LASTRUN_STORE", "/elsewhere")
    assert default_store() == "/elsewhere"


def test_a_home_that_is_no_folder_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """System's own users have /dev/null for one."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null")
    assert read_settings().store is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("store = [1", ["not TOML"]),
        ("\udcff", ["bytes that are not UTF-8; allowed: TOML text in UTF-8"]),
        ('store = "jobs"', ["store is 'jobs'", "absolute"]),
        ("store = 1", ["store has to be text"]),
        ('stor = "x"\nlaunch = 2', ["stor is unknown", "did you mean store? launch is unknown"]),
        ("hosts = 3", ["hosts has to be tables such as [hosts.gpubox]"]),
        (
            '[hosts.a]\nsh = "x"\n[hosts.b]\nssh = "-oProxyCommand=x"',
            ["hosts.a.sh is unknown", "'-oProxyCommand=x' is not a host"],
        ),
        ('store = "s3://AKIAIOSFODNN7EXAMPLE:hunter2hunter2@bucket"', ["store holds credentials"]),
    ],
)
def test_what_is_wrong_with_the_file_is_told_at_once(file: Path, text: str, words: list[str]) -> None:
    file.write_bytes(os.fsencode(text))
    with pytest.raises(UsageError) as caught:
        read_settings()
    assert all(word in str(caught.value) for word in [str(file), *words])
    assert "hunter2" not in str(caught.value)


def test_hosts_have_names_of_ones_own(file: Path) -> None:
    file.write_text('[hosts.gpubox]\nssh = "me@192.0.2.7"\nenv = "lambda"\n[hosts.other]\n')
    settings = read_settings()
    assert settings.host("gpubox") == HostSettings("me@192.0.2.7", "lambda")
    assert settings.host("other") == HostSettings("other")
    assert settings.host("of-ssh-config") == HostSettings("of-ssh-config")
