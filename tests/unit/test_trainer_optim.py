"""Which parameters are decayed, and by what optimizer."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from last_e.config import TrainConfig, TrainingConfig
from last_e.layers import resolve
from last_e.model import build_model
from last_e.optim import build_optimizer, decayed
from last_e.problems import ConfigError
from last_e.reading import set_layer

LISTED = [
    "bias",
    "bn",
    "norm",
    "alpha",
    "A_learned",
    "node_proj",
    "refine_gate",
    "pool_gate",
    "freq_gate",
    "edge",
    "stream_weights",
]


def recipe(*assignments: str) -> TrainingConfig:
    layer, problems = set_layer(assignments)
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config.training


@pytest.mark.parametrize("variant", ["nano", "small", "base", "large"])
def test_exactly_the_weights_of_convolutions_and_linears_are_decayed(variant):
    """Judged by the layer a parameter belongs to, not by its name."""
    model = build_model(variant)
    expected = {
        f"{prefix}.weight" for prefix, module in model.named_modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
    }
    with_decay, without = decayed(model)
    assert set(with_decay) == expected
    assert sorted(with_decay + without) == sorted(name for name, _ in model.named_parameters())


def test_names_that_the_reference_lists_are_never_decayed():
    with_decay, without = decayed(build_model("base"))
    assert not [name for name in with_decay if any(pattern in name for pattern in LISTED)]
    assert {"pool_gate", "fc.bias", "stages.0.0.gcn.edge", "stages.0.0.st_att.alpha", "head_bn.weight"} <= set(without)
    assert {"fc_mu.weight", "fc_logvar.weight", "fc.weight", "fusion.proj.0.weight"} <= set(with_decay)


def test_norms_without_a_telling_name_are_not_decayed_either():
    model = build_model("base")
    hidden = [
        f"{prefix}.weight"
        for prefix, module in model.named_modules()
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and not any(p in f"{prefix}.weight" for p in LISTED)
    ]
    assert len(hidden) > 20, "most norms sit in a Sequential"
    assert not set(hidden) & set(decayed(model)[0])


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.InstanceNorm2d(4, affine=True)])
def test_every_kind_of_norm_is_left_out_of_decay(norm):
    with_decay, without = decayed(nn.Sequential(nn.Linear(4, 4), norm))
    assert with_decay == ["0.weight"]
    assert set(without) == {"0.bias", "1.weight", "1.bias"}


def test_sgd_has_the_recipes_numbers():
    optimizer = build_optimizer(build_model("nano"), recipe("training.weight_decay=0.002", "training.momentum=0.8"))
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.002, 0.0]
    assert all(group["momentum"] == 0.8 and group["nesterov"] and group["lr"] == 0.1 for group in optimizer.param_groups)


def test_plain_momentum_is_possible():
    optimizer = build_optimizer(build_model("nano"), recipe("training.nesterov=false"))
    assert not any(group["nesterov"] for group in optimizer.param_groups)


def test_adamw_has_the_recipes_numbers():
    optimizer = build_optimizer(build_model("nano"), recipe("training.optimizer=adamw", "training.betas=[0.8, 0.95]"))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0004, 0.0]
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)


def test_every_parameter_is_in_exactly_one_group():
    model = build_model("base")
    optimizer = build_optimizer(model, recipe())
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_decay_moves_weights_but_neither_norms_nor_gates():
    model = build_model("nano")
    with torch.no_grad():
        model.pool_gate.fill_(1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    build_optimizer(model, recipe("training.weight_decay=0.5", "training.momentum=0", "training.nesterov=false")).step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(decayed(model)[0])


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="one of sgd, adamw"):
        recipe("training.optimizer=rmsprop")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_it_steps_as_torchs_own_and_takes_its_state(kind):
    config = recipe(f"training.optimizer={kind}")
    finished = []
    for own in (True, False):
        torch.manual_seed(0)
        layer = nn.Linear(5, 3)
        optimizer = build_optimizer(layer, config)
        if not own:
            state = optimizer.state_dict()
            optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind](optimizer.param_groups, lr=config.lr)
            optimizer.load_state_dict(state)
        for _ in range(4):
            optimizer.zero_grad()
            layer(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
        finished.append([p.detach() for p in layer.parameters()])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*finished))


@pytest.mark.slow
def test_training_imports_nothing_of_torchs_compiler(tmp_path):
    """It takes as long as torch itself: seconds before the first step of every attempt."""
    words = [
        "--dataset",
        "synthetic",
        "--model",
        "nano",
        "--epochs",
        "1",
        "--batch_size",
        "120",
        "--out",
        str(tmp_path / "run"),
    ]
    words += [
        "--set",
        "model.channels=[4,4,4]",
        "model.stem_channels=4",
        "training.input_frames=16",
        "training.warmup_epochs=0",
    ]
    code = (
        f"import gc, sys; sys.argv[1:] = {words!r}\n"
        "import last_e.light, last_e.cli; last_e.light.import_torch_lightly(); code = last_e.cli.main()\n"
        "never = {'torch._dynamo', 'torch._inductor', 'torch._refs', 'sympy', 'numba'}\n"
        "print('end:', code, sorted(never & set(sys.modules)))\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 50_000)  # no look for garbage goes through torch's modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-2:] == ["end: 0 []", "True True"]
