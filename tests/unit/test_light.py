"""Torch is imported without what only its compiler needs, and nobody who asks for that misses it."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from last_e.process import importing

BEGIN = """\
import sys
from last_e.light import LATER, import_torch_lightly
import_torch_lightly()
import torch, inspect
inspect.getmodule(inspect.currentframe())  # looks at every module
assert "torch._refs" not in sys.modules
assert (torch.ones(2, 3, device="meta") @ torch.ones(3, 2, device="meta")).shape == (2, 2)
"""


@pytest.mark.parametrize(
    "asked",
    [
        "assert callable(torch._meta_registrations.register_meta)",
        "import torch._dynamo",
        pytest.param("import torch._refs", marks=pytest.mark.full),
        "from torch._subclasses import FakeTensorMode\nwith FakeTensorMode():\n    assert torch.ones(3).cumsum(0).ndim == 1",
    ],
    ids=["by name", "compiler", "references", "fake tensors"],
)
def test_who_asks_for_it_has_it(asked: str) -> None:
    loaded = "" if "Fake" in asked else 'assert "torch._refs" in sys.modules'
    command = [sys.executable, "-c", f"{BEGIN}{asked}\n{loaded}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_where_torch_is_there_already_nothing_changes() -> None:
    code = "import sys, torch, last_e.light as light; light.import_torch_lightly(); assert 'torch._refs' in sys.modules; " + (
        "assert not any(isinstance(one, light._Finder) for one in sys.meta_path)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_left_out_of_an_import_is_there_afterwards() -> None:
    code = (
        "import sys\n"
        "from last_e.light import without\n"
        "with without('botocore'):\n"
        "    from torch.utils.tensorboard import SummaryWriter\n"
        "assert 'botocore' not in sys.modules\n"
        "import botocore\n"
        "with without('botocore'):\n"
        "    assert sys.modules['botocore'] is botocore\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_looked_through_while_modules_are_imported_and_they_are_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    kept: list[list[int]] = []

    def look(phase: str, _: dict[str, int]) -> None:
        looks.append(phase)

    gc.callbacks.append(look)
    before = gc.get_freeze_count()
    with importing():
        import gc as _there_already  # noqa: F401
    assert gc.get_freeze_count() == before

    def fail() -> None:
        with importing():
            monkeypatch.setitem(sys.modules, "made_up", gc)
            kept.extend([number] for number in range(10_000))
            raise ImportError

    try:
        with pytest.raises(ImportError):
            fail()
        assert looks == []
        assert gc.isenabled()
        assert gc.get_freeze_count() - before > len(kept)
    finally:
        gc.callbacks.remove(look)
        gc.unfreeze()
