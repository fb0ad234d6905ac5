"""Batches of a GPU by kernels, without one: what Triton's interpreter computes, what compiling them for each kind of GPU tells,
and where they are used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from last_e.config import TrainConfig
from last_e.data import launches
from last_e.data.synthetic import synthetic_clips
from last_e.layers import resolve
from last_e.model import fused_cuda, tried
from last_e.reading import set_layer
from last_e.set_up import load_kernels
from tests.conftest import Figures
from tests.unit.test_kernels import told

pytestmark = pytest.mark.slow  # of other Pythons and the lowest versions there is no Triton

COORDINATES = {"joint", "velocity", "bone", "joints"}


def test_batches_by_kernels_are_those_of_torch(full: bool) -> None:
    """The hash to the bit, and with it dropout, labels and shares; coordinates within rounding."""
    found = told("batches", *["full"] * full, TRITON_INTERPRET="1")
    assert len(found["hash"]) == 6
    assert set(found["hash"].values()) == {0}, found["hash"]
    assert len(found["cases"]) == 4 + full
    for case in (*found["cases"].values(), found["tried out"]):
        bounds = {name: 2e-6 if name.partition(",")[0] in COORDINATES else 0 for name in case}
        assert {name: by for name, by in case.items() if not by <= bounds[name]} == {}, found


def test_kernels_of_batches_fit_each_kind_of_gpu_without_spilling(full: bool, figure: Figures, tmp_path: Path) -> None:
    """Of every kind with ``--full``, else of the oldest and the newest. They share no memory within a program."""
    asked = [75, 80, 86, 89, 90] if full else [75, 90]
    found = told("batch_resources", *["full"] * full, *map(str, asked), TRITON_CACHE_DIR=tmp_path)
    assert len(found) == (2 + full) * len(asked)
    for one in found:
        said = f"{one['kernel']} on sm_{one['sm']}: {one['registers']} registers, {one['shared']} bytes shared"
        assert (one["local"], one["stack"]) == (0, 0), f"{said}, spilt: {one}"
        assert one["shared"] <= 1024, said
        assert one["atomics"] == 0, f"{said}, with sums in any order"
        figure("kernel of batches", said)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"joint": 5e-7, "dropout": 0.0}, None),
        ({"joint": 5e-7, "dropout": 0.5}, "dropout differs from torch's by 5.0e-01"),
        ({"joint": float("nan")}, "joint differs from torch's by nan"),
        (RuntimeError("no"), "RuntimeError: no"),
    ],
)
def test_batches_are_made_by_kernels_where_those_came_out_as_torch(
    monkeypatch: pytest.MonkeyPatch, found: Any, why: str | None
) -> None:
    def differences(device: torch.device) -> dict[str, float]:
        if isinstance(found, Exception):
            raise found
        return dict(found)

    monkeypatch.setattr(launches.AGREED, "_gpus", set())
    monkeypatch.setattr(launches, "differences", differences)
    assert launches.try_out(torch.device("cuda", 1)) == why
    assert launches.used_on(torch.device("cuda", 1)) is (why is None)
    assert not launches.used_on(torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("words", "theirs"),
    [
        ((), True),
        (("training.augmentations.mixup=0.2", "training.augmentations.rotation=30.0"), True),
        (("recipe=robust",), True),
        (("training.augmentations.mask_frames=0.2",), False),
        (("training.augmentations.motion=0.5", "training.augmentations.motion_from=mean"), False),
        (("training.augment=false",), False),
    ],
)
def test_recipes_that_the_kernels_do_not_know_are_torchs(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], theirs: bool
) -> None:
    layer, problems = set_layer(["dataset=synthetic", *words])
    recipe = resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config.training
    monkeypatch.setattr(launches, "used_on", lambda device: True)
    assert launches.used_for(synthetic_clips(6, 6), recipe) is theirs


class Others:
    """Ranks of a run, of which one has this to say."""

    rank, size, here = 0, 2, 2

    def __init__(self, wish: int) -> None:
        self.wish = wish

    def agree(self, wish: int) -> int:
        return max(self.wish, wish)


@pytest.mark.parametrize(
    ("steps", "batches", "others", "used", "said"),
    [
        (None, None, 0, (True, True), []),
        ("no", None, 0, (False, False), ["kernels: torch's own alone (no)"]),
        (None, "off", 0, (True, False), ["kernels: batches are made by torch's own (off)"]),
        (None, None, 1, (True, False), ["kernels: batches are made by torch's own (another rank cannot use them)"]),
        (None, None, 2, (False, False), ["kernels: torch's own alone (another rank cannot use them)"]),
        (None, "off", 2, (False, False), ["kernels: torch's own alone (another rank cannot use them)"]),
    ],
)
def test_kernels_are_used_by_all_ranks_or_by_none(
    monkeypatch: pytest.MonkeyPatch,
    steps: str | None,
    batches: str | None,
    others: int,
    used: tuple[bool, bool],
    said: list[str],
) -> None:
    """Else their gradients would be of different roundings, and no run of one rank would be the same."""
    for module, trying, why in ((fused_cuda, tried, steps), (launches, launches, batches)):

        def try_out(*given: Any, of: Any = module, why: str | None = why) -> str | None:
            (of.AGREED.take if why is None else of.AGREED.leave)(torch.device("cuda", 0))
            return why

        monkeypatch.setattr(module.AGREED, "_gpus", set())
        monkeypatch.setattr(trying, "try_out", try_out)
    layer, problems = set_layer(["dataset=synthetic"])
    config = resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config
    told: list[str] = []
    sink: Any = SimpleNamespace(emit=lambda message: told.append(message.text))
    group: Any = Others(others)
    load_kernels(config, torch.device("cuda", 0), torch.float16, sink, group)
    assert told == said
    assert (fused_cuda.used_on(torch.device("cuda")), launches.used_on(torch.device("cuda"))) == used
