"""Weights that a run begins with: read from any file, fitted, frozen in part, and changed more slowly than the head."""

from __future__ import annotations

import copy
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from last_e import checkpoint
from last_e.config import TrainConfig
from last_e.datafile import DataError
from last_e.init.fit import begin_with, freeze
from last_e.init.read import Weights, read_weights, write_weights
from last_e.manifest import Manifest
from last_e.model import LastE, build_model
from last_e.skeletons import COCO17, LAYOUTS
from tests.unit.test_trainer_step import CPU, config, everything, fresh, step, steps

REFERENCE = Path(__file__).parents[1] / "data"
SMALL = config()


def network(classes: int = 6, seed: int = 0, settings: TrainConfig = SMALL, **more: Any) -> LastE:
    torch.manual_seed(seed)
    return LastE(settings.model, classes, **more)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- files -------------------------------------------------------------------------------------------------------------


def test_weights_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    own = tensors(network())
    stored = {f"module.{name}": tensor for name, tensor in own.items()}
    torch.save(
        {"epoch": 3, "args": {"lr": 0.1}, "state_dict": {**stored, "module.A": torch.zeros(2, 25, 25)}}, tmp_path / "a.pt"
    )
    torch.save(own, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    save_file(own, tmp_path / "c.safetensors")
    np.savez_compressed(tmp_path / "d.npz", **{f"state/{name}": tensor.numpy() for name, tensor in own.items()}, logits=[1.0])
    for name in ("a.pt", "b.pth", "c.safetensors", "d.npz"):
        found = read_weights(tmp_path / name)
        assert same(found.tensors, own), name
        assert (found.dataset, found.model) == (None, None)
    write_weights(Weights(own, "irds", "nano_e_v3", ("a", "b")), tmp_path / "e.safetensors")
    again = read_weights(tmp_path / "e.safetensors")
    assert same(again.tensors, own)
    assert again[1:] == ("irds", "nano_e_v3", ("a", "b"))
    write_weights(again, tmp_path / "f.safetensors")
    assert (tmp_path / "e.safetensors").read_bytes() == (tmp_path / "f.safetensors").read_bytes()


def test_weights_are_read_from_a_checkpoint_and_of_a_run_from_its_best(tmp_path: Path) -> None:
    kept = []
    for number, top1 in ((1, 0.5), (2, 0.75), (3, 0.75)):
        state = fresh(SMALL, seed=number)
        kept.append(tensors(state.model))
        about = Manifest(step=number, epoch=number, evaluated=True, test_top1=top1)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        checkpoint.save(tmp_path / "checkpoints", state.to_dict(""), SMALL.model_dump_json(), about)
    found = read_weights(tmp_path)
    assert same(found.tensors, kept[1])
    assert found[1:] == ("synthetic", "nano_e_v3", tuple(f"class {number}" for number in range(6)))
    folder = tmp_path / "checkpoints/step-00000003"
    assert same(read_weights(folder).tensors, kept[2])
    assert same(read_weights(folder / "state.pt").tensors, kept[2])
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"state.pt has \d+ bytes, not"):
        read_weights(folder)


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def test_what_is_no_file_of_weights_is_refused_and_nothing_of_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = tensors(network())
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps({"fusion.proj.0.weight": _Runs()}))
    torch.save({"state_dict": own, "config": _Runs()}, tmp_path / "object.pt")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "program.pt")
    np.savez(tmp_path / "object.npz", **{"fusion.proj.0.weight": np.array([_Runs()], dtype=object)})
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save({**own, "pool_gate": torch.full((1, 16, 1, 1), torch.nan)}, tmp_path / "nan.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"fusion.proj.0.weight": torch.zeros(1).expand(1 << 20)}, tmp_path / "wide.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("fusion.proj.0.weight.npy", b"\x93NUMPY")
    (tmp_path / "it.ckpt").touch()
    (tmp_path / "empty").mkdir()
    for name, told in {
        "pickle.pt": "damaged, or more than weights, which are not run here",
        "object.pt": "damaged, or more than weights, which are not run here",
        "program.pt": "more than weights, which are not run here (it is packed)",
        "object.npz": "damaged, or not only numbers",
        "other.pt": "no weights of LAST-E v3 (no fusion.proj.0.weight); it has conv1.weight",
        "nan.pt": "not finite: pool_gate",
        "list.pt": "no tensors by name",
        "wide.pt": "its tensors are larger than itself",
        "cut.safetensors": "damaged, or no safetensors file",
        "cut.npz": "damaged, or not only numbers",
        "it.ckpt": "allowed: .safetensors, .npz, .pt, .pth, or the folder of a checkpoint",
        "empty": "a folder without a checkpoint that was tested",
        "none.pt": "No such file or directory",
    }.items():
        with pytest.raises(DataError) as error:
            read_weights(tmp_path / name)
        assert told in str(error.value), name
        assert "\n" not in str(error.value)
    assert not (tmp_path / "it-ran").exists()


# --- fitted ------------------------------------------------------------------------------------------------------------


def test_the_same_network_takes_all_over_and_other_classes_begin_with_a_head_of_their_own() -> None:
    there = tensors(network(seed=1))
    model = network()
    told = begin_with(model, Weights(there, "synthetic"), SMALL, None)
    assert same(tensors(model), there)
    total = sum(p.numel() for p in model.parameters())
    assert told == [f"init: {total:,} of {total:,} parameters taken over"]
    for classes, dataset, why in (
        (4, None, "6 x 16 there, 4 x 16 here (other classes)"),
        (6, "irds", "of other classes (irds)"),
    ):
        model, before = network(classes), tensors(network(classes))
        told = begin_with(model, Weights(there, dataset), SMALL, None)
        after = tensors(model)
        assert all(torch.equal(after[name], (before if name.startswith("fc.") else there)[name]) for name in after)
        assert any("fc.weight" in line and why in line for line in told), told


def test_classes_are_compared_by_their_names_where_they_are_known() -> None:
    there, names = tensors(network(seed=1)), tuple("abcdef")
    for dataset, mine, taken in (
        ("other.safetensors", names, True),
        ("synthetic", tuple("abcdeg"), False),
        ("synthetic", None, True),
        ("other.safetensors", None, False),
    ):
        model = network()
        told = begin_with(model, Weights(there, dataset, None, names), SMALL, mine)
        assert torch.equal(model.fc.weight, there["fc.weight"]) is taken, (dataset, mine)
        assert any("of other classes" in line for line in told) is not taken


def test_the_originals_weights_keep_their_graph_on_ntus_joints_and_leave_it_on_others() -> None:
    weights = read_weights(REFERENCE / "nano.npz")
    settings = config("data.num_classes=60").model_copy(update={"dataset": "ntu60"})
    model = build_model("nano", 60)
    told = begin_with(model, weights, settings, None)
    assert "init: the graph is that of the weights, as the original code draws NTU's" in told
    with np.load(REFERENCE / "nano.npz") as stored, torch.no_grad():
        streams = {name: torch.from_numpy(stored[f"input/{name}"]) for name in ("joint", "velocity", "bone")}
        assert np.allclose(model.eval()(streams).numpy(), stored["logits"], atol=1e-4)
    for skeleton, why in (
        (LAYOUTS["openpose25"], "there and here, of another skeleton"),
        (COCO17, "17 x 17 here (another skel"),
    ):
        model = build_model("nano", 5, skeleton)
        graph = model.stages[0][0].gcn.A.clone()
        told = begin_with(model, weights, settings, None)
        assert torch.equal(model.stages[0][0].gcn.A, graph)
        assert torch.equal(model.stages[0][0].gcn.edge, torch.ones_like(graph))
        assert any(".edge" in line and why in line for line in told), told
        assert torch.equal(model.fusion.proj[0].weight, weights.tensors["fusion.proj.0.weight"])


def test_weights_of_another_network_are_refused_with_what_they_are_of() -> None:
    with pytest.raises(DataError) as error:
        begin_with(build_model("base"), read_weights(REFERENCE / "nano.npz"), SMALL, None)
    assert "these weights are of another network than base_e_v3" in str(error.value)
    assert "fusion.proj.0.weight 24 x 9 x 1 x 1 there, 48 x 9 x 1 x 1 here" in str(error.value)
    assert str(error.value).endswith("they are of nano_e_v3: set model to that")


# --- frozen, and slower ------------------------------------------------------------------------------------------------


def frozen_state(*patterns: str, words: tuple[str, ...] = ()) -> Any:
    settings = config("training.batch_size=8", *words)
    state = fresh(settings)
    freeze(state.model, patterns)
    torch.manual_seed(0)
    again = type(state)(state.model, _optimizer(state.model, settings), torch.amp.GradScaler("cpu", enabled=False))
    return again, settings


def _optimizer(model: LastE, settings: TrainConfig) -> torch.optim.Optimizer:
    from last_e.optim import build_optimizer

    return build_optimizer(model, settings.training)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("micro", [None, 3])
def test_what_is_frozen_stays_to_the_bit_with_its_statistics(micro: int | None, optimizer: str) -> None:
    state, settings = frozen_state("fusion.*", "stages.0.*", words=(f"training.optimizer={optimizer}",))
    before = tensors(state.model)
    for batches in steps(settings, micro)[:3]:
        assert step(state, batches, settings)[1]
    after = tensors(state.model)
    still = [name for name in after if name.startswith(("fusion.", "stages.0."))]
    assert len(still) > 40
    assert all(torch.equal(after[name], before[name]) for name in still)
    moved = [name for name in after if name not in still and not torch.equal(after[name], before[name])]
    assert any(name.endswith("running_mean") for name in moved)
    assert any(name.startswith("fc.") for name in moved)
    trained = sum(p.requires_grad for p in state.model.parameters())
    assert sum(len(group["params"]) for group in state.optimizer.param_groups) == trained == len(state.optimizer.state)
    # Put back, it goes on to the same bits.
    other, _ = frozen_state("fusion.*", "stages.0.*", words=(f"training.optimizer={optimizer}",))
    assert other.restore(copy.deepcopy(state.to_dict(""))) is None
    for one in (state, other):
        step(one, steps(settings, micro)[3], settings)
    assert same(everything(state), everything(other))
    assert not state.model.fusion.proj[1].training
    assert state.model.stages[2][0].gcn.bn.training


def test_one_norm_of_the_streams_is_as_all_of_them() -> None:
    state, settings = frozen_state("fusion.stream_bn.1.*")
    before = tensors(state.model)
    step(state, steps(settings)[0], settings)
    after = tensors(state.model)
    for stream in range(3):
        assert torch.equal(after[f"fusion.stream_bn.{stream}.running_mean"], before[f"fusion.stream_bn.{stream}.running_mean"])
        assert torch.equal(after[f"fusion.stream_bn.{stream}.weight"], before[f"fusion.stream_bn.{stream}.weight"]) is (
            stream == 1
        )


def test_patterns_that_match_nothing_or_everything_are_told() -> None:
    with pytest.raises(DataError, match=r"model.freeze: stage.\* matches no parameter; did you mean stages\.\*\?"):
        freeze(network(), ["fusion.*", "stage.*"])
    with pytest.raises(DataError, match="nothing is left to train"):
        freeze(network(), ["*"])


def test_the_body_learns_more_slowly_by_its_factor() -> None:
    plain = ("training.momentum=0", "training.nesterov=false", "training.weight_decay=0", "training.gradient_clip=0")
    moved = []
    for words in ((), ("model.init=x.pt", "training.body_lr_factor=0.25")):
        settings = config(*plain, *words)
        state = fresh(settings)
        before = {name: p.detach().double().clone() for name, p in state.model.named_parameters()}
        step(state, steps(settings)[0], settings)
        moved.append({name: p.detach().double() - before[name] for name, p in state.model.named_parameters()})
    for name, full in moved[0].items():
        factor = 1.0 if name.startswith("fc.") else 0.25
        assert torch.allclose(moved[1][name], factor * full, atol=2e-7), name
    assert {group["lr"] for group in state.optimizer.param_groups} == {0.1, 0.025}
    assert torch.device("cpu") == CPU
