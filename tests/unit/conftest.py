"""What all unit tests share."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: several threads, and several test processes at once, would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Some raw recordings by their names."""
    from tests.ntu_prepare import recordings

    return recordings()


@pytest.fixture(scope="module")
def tree(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in folders; who changes it takes a copy."""
    from tests.ntu_files import write_tree

    return write_tree(tmp_path_factory.mktemp("raw"), files.items())


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A preparation keeps what is done after every fifth recording."""
    from last_e.prepare import ntu

    monkeypatch.setattr(ntu, "PART_SIZE", 5)


@pytest.fixture
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home and a store of the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LASTRUN_STORE", str(tmp_path / "store"))


@pytest.fixture
def nobody_special() -> Iterator[Path]:
    """A folder of a user to whom permissions apply (to root they do not)."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)
