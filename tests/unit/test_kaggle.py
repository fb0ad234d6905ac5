"""What is known of a session on Kaggle: its secrets, and what is told of them; that a notebook's cell is no terminal."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from last_e.config import TrainConfig
from last_e.console import ConsoleSink
from last_e.datafile import DataError, data_path
from last_e.layers import resolve
from last_e.problems import ConfigError
from last_e.reading import set_layer
from last_e.redact import NAMED, redact
from runner import kaggle
from runner.commands.app import main
from runner.errors import StoreError
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.store.open import default_store, open_store
from runner.view.console import make_console

KEY = "a-key-of-nobody-0123456789"


class BackendError(Exception):
    """What Kaggle's client raises for a name that is not attached to the notebook."""


class Service:
    """The secrets that are attached, as Kaggle's module has them: one request each."""

    def __init__(self, **attached: str) -> None:
        self.attached, self.asked = attached, list[str]()
        self.error: Exception | None = None

    def get_secret(self, name: str) -> str:
        self.asked.append(name)
        if self.error:
            raise self.error
        if name not in self.attached:
            raise BackendError(f"No user secrets exist for kernel id 7 and label {name}.")
        return self.attached[name]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Service:
    """In a session with the module ``kaggle_secrets``."""
    one, module = Service(), ModuleType("kaggle_secrets")
    module.__spec__ = sys.__spec__  # it is there to whoever looks for it
    module.UserSecretsClient = lambda: one  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    monkeypatch.setattr(kaggle, "_asked", set())
    monkeypatch.setattr(kaggle, "_trouble", [])
    for name in ("LASTRUN_STORE", NAMED, *kaggle.BUCKET_VARIABLES):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    return one


def test_the_store_may_be_a_secret_and_a_variable_comes_first(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.attached["LASTRUN_STORE"] = "s3://mine/jobs\n"
    assert default_store() == "s3://mine/jobs"
    assert default_store() == "s3://mine/jobs"
    assert service.asked == ["LASTRUN_STORE"]
    monkeypatch.setenv("LASTRUN_STORE", "/elsewhere")
    assert default_store() == "/elsewhere"


def test_keys_are_asked_for_when_a_bucket_is_opened_and_blacked_out_from_then_on(service: Service) -> None:
    service.attached.update(AWS_ACCESS_KEY_ID="nobody-at-all", AWS_SECRET_ACCESS_KEY=KEY, AWS_DEFAULT_REGION="eu-north-1")
    open_store("/folder")
    assert service.asked == []
    open_store("s3://mine/jobs")
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == KEY
    assert redact(f"{KEY} nobody-at-all eu-north-1") == "*** *** eu-north-1"
    assert os.environ[NAMED].split() == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]


def test_what_a_job_wants_handed_on_may_be_a_secret_of_any_name(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("model: nano\ndataset: synthetic\nrun: {pass_env: [WHERE_TO, NOWHERE]}\n")
    service.attached["WHERE_TO"] = "somewhere-nice"
    with pytest.raises(ConfigError, match="NOWHERE, which is not set here") as error:
        resolve_spec(path, None, [])
    assert "WHERE_TO" not in str(error.value)
    assert redact("to somewhere-nice") == "to ***"


def test_elsewhere_and_in_an_attempt_nobody_is_asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle.ask_no_more()
    kaggle.take_secrets(["ANYTHING"])
    monkeypatch.setattr(kaggle, "_trouble", [])
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    kaggle.take_secrets(["ANYTHING"])
    assert service.asked == []
    assert kaggle.notes("file:///folder") == []


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionError("Connection error trying to communicate with service."), "their service cannot be reached"),
        (RuntimeError(f"Response: {{'secret': '{KEY}'}}"), "their service said RuntimeError"),
    ],
)
def test_a_service_that_fails_is_told_in_one_line_and_asked_once(
    service: Service,
    error: Exception,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    service.error = error
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["lastrun", "list"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 0  # there may be none that anybody needs
    assert said.out.startswith("no jobs in ")
    assert said.err.startswith(f"note: Kaggle's secrets cannot be read, {why}: turn Internet on in the notebook's settings")
    assert (said.err.count("\n"), service.asked) == (1, ["LASTRUN_STORE"])
    open_store("s3://mine/jobs")
    assert service.asked == ["LASTRUN_STORE"]


def test_data_that_are_not_there_are_to_be_attached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layer, problems = set_layer(["model=nano", "dataset=ntu60", f"hardware.data_root={tmp_path}"])
    config = resolve([layer], TrainConfig, problems).config
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    with pytest.raises(DataError, match=r"attach the data set that holds it to this notebook with Add Input") as error:
        data_path(config)
    assert "data prepare" not in str(error.value)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE")
    with pytest.raises(DataError, match=r"make it with lastrun data prepare ntu60"):
        data_path(config)


def test_a_full_folder_of_a_session_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "working").mkdir()
    monkeypatch.setattr(kaggle, "WORKING", tmp_path / "working")
    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    with pytest.raises(StoreError, match=r"No space left on device; .*working holds 20 GB: .* bucket .*docs/kaggle.md"):
        DirectoryStore(tmp_path / "working" / "lastrun").put("a", b"b")
    with pytest.raises(StoreError, match=r"No space left on device; free some space there"):
        DirectoryStore(tmp_path / "elsewhere").put("a", b"b")


def test_a_cell_of_a_notebook_is_no_terminal_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert make_console().is_terminal
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert not make_console().is_terminal
    assert not ConsoleSink().console.is_terminal
