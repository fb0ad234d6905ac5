"""The variants as ONNX, and a small one as what else there is: on real clips each says what the trainer says.

The nano is exported by ``test_export_in_a_browser``, as a user does it.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from last_e.data.files import read_irds
from last_e.export import check, formats
from last_e.export.clips import given, pieces
from last_e.export.network import Recogniser
from last_e.known import description_of
from last_e.model import build_model
from tests.unit.test_export import SMALL, shaken, wanted

pytestmark = pytest.mark.slow

CLIPS = torch.tensor([5, 1300, 42, 777, 1000, 321])
FRAMES = 64


def written(kind: str, variant: str, path: Path, **other: Any) -> tuple[formats.Run, torch.Tensor, Recogniser]:
    """An exported network, run from its file; what the trainer says of the clips; and the network before it was exported."""
    description = description_of("irds", 9)
    model = shaken(build_model(variant, 9, **other))
    recogniser = Recogniser(model, description, FRAMES)
    told = {key: value for key, value in description.model_dump(mode="json").items() if key != "splits"}
    about = {**told, "network": model.config.model_dump(mode="json"), "input_frames": FRAMES}
    formats.write(kind, recogniser, model, about, path)
    return formats.open_to_run(kind, path), wanted(model, read_irds(), CLIPS, FRAMES), recogniser


@pytest.mark.parametrize("variant", [pytest.param("small", marks=pytest.mark.full), "base", "large"])
def test_every_variant_says_the_same_as_onnx(variant: str, tmp_path: Path) -> None:
    run, said, recogniser = written("onnx", variant, tmp_path / "model.onnx")
    clips, description = read_irds(), description_of("irds", 9)
    found = torch.cat([run(given(clips, description, piece)) for piece in pieces(CLIPS, 1, 3)])
    assert check.distance(found, said) < check.CLOSE
    people = given(clips, description, CLIPS)
    several = people._replace(keypoints=people.keypoints.expand(-1, -1, -1, -1, 3) * torch.tensor([1.0, 0.9, 1.1]))
    several = several._replace(people=torch.tensor([1, 2, 3, 1, 2, 3]))
    with torch.no_grad():
        assert check.distance(run(several), recogniser(*several)) < check.CLOSE
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    sides = [[side.dim_param or side.dim_value for side in one.type.tensor_type.shape.dim] for one in model.graph.input]
    assert sides == [["batch", 3, "frames", 25, "people"], ["batch"], ["batch"]]
    assert {"DFT", "BatchNormalization"}.isdisjoint(node.op_type for node in model.graph.node)
    assert {one.domain for one in model.opset_import} == {""}
    assert re.findall(rb"/(?:home|tmp|usr|root|opt)/", (tmp_path / "model.onnx").read_bytes()) == []


def test_a_network_says_the_same_as_pt2(tmp_path: Path) -> None:
    run, said, _ = written("pt2", "large", tmp_path / "model.pt2", **SMALL)
    assert check.distance(run(given(read_irds(), description_of("irds", 9), CLIPS)), said) < check.CLOSE


@pytest.mark.full
def test_nano_says_the_same_as_executorch(tmp_path: Path) -> None:
    if importlib.util.find_spec("executorch") is None:
        pytest.skip("executorch is not installed here: pip install '.[executorch]'")
    run, said, _ = written("executorch", "nano", tmp_path / "model.pte")
    clips, description = read_irds(), description_of("irds", 9)
    found = torch.cat([run(given(clips, description, piece)) for piece in pieces(CLIPS, 1, 3)])
    assert check.distance(found, said) < check.CLOSE
    assert (tmp_path / "model.pte").stat().st_size < 10**6
    assert np.isfinite(found.numpy()).all()
