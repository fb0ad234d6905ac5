"""The network against the reference: sizes, stored weights and logits, reach over the skeleton, gates, noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from last_e.bench.plain import PlainLastE
from last_e.config import ALIASES, VARIANTS
from last_e.graph import BONES, PARENTS, hop_adjacency, hop_distance
from last_e.model import LastE, Noise, build_model, receptive_field
from last_e.model.blocks import Block, ChannelGate, SpatialGraphConv
from last_e.model.functions import EveryNthFrame, Pool, ScaleAndAdd
from last_e.problems import ConfigError

REFERENCE = Path(__file__).parents[1] / "data"
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def seeded_model(variant: str, num_classes: int = 60, **overrides: object) -> LastE:
    torch.manual_seed(3)
    return build_model(variant, num_classes, **overrides)


def streams(rows: int, frames: int = 16, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, 3, frames, 25, generator=generator) for name in ("joint", "velocity", "bone")}


def bones_apart() -> np.ndarray:
    """Distance between joints by breadth-first search over a list typed in anew from design/data.md."""
    text = (
        "1-0 20-1 2-20 3-2 4-20 5-4 6-5 7-6 21-7 22-6 8-20 9-8 10-9 11-10 23-11 24-10 "
        "12-0 13-12 14-13 15-14 16-0 17-16 18-17 19-18"
    )
    near: dict[int, set[int]] = {joint: set() for joint in range(25)}
    for bone in text.split():
        child, parent = map(int, bone.split("-"))
        near[child].add(parent)
        near[parent].add(child)
    distance = np.full((25, 25), -1)
    for start in range(25):
        frontier, steps = {start}, 0
        while frontier:
            for joint in frontier:
                distance[start, joint] = steps
            steps += 1
            frontier = {n for joint in frontier for n in near[joint] if distance[start, n] < 0}
    return distance


# --- sizes and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "at_60", "at_120"),
    [
        ("nano_e_v3", 75_596, 79_496),
        ("small_e_v3", 284_461, 290_281),
        ("base_e_v3", 600_912, 608_652),
        ("large_e_v3", 911_376, 921_036),
    ],
)
def test_parameter_counts_are_those_of_the_reference(variant, at_60, at_120):
    for classes, expected in ((60, at_60), (120, at_120)):
        assert sum(p.numel() for p in build_model(variant, classes).parameters()) == expected


@pytest.mark.parametrize("alias", ["nano", "small", "base", "large"])
def test_an_alias_builds_the_same_network_as_the_full_name(alias):
    assert ALIASES[alias] == f"{alias}_e_v3"
    short, full = build_model(alias), build_model(f"{alias}_e_v3")
    assert short.config == full.config
    assert [(k, v.shape) for k, v in short.state_dict().items()] == [(k, v.shape) for k, v in full.state_dict().items()]


def test_an_unknown_override_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"droput.*did you mean model\.dropout\?"):
        build_model("nano", droput=0.4)


def test_all_wrong_overrides_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        build_model("nano", dropout=1.5, max_hops=3, num_blocks=[1, 0, 1])
    assert len(caught.value.problems) == 3


def test_an_unknown_variant_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        build_model("bsae")
    assert all(name in str(caught.value) for name in VARIANTS)


def test_overrides_reach_the_network():
    assert build_model("nano", dropout=0.4).config.dropout == 0.4
    assert len(build_model("nano", num_blocks=[1, 2, 1]).stages[1]) == 2


# --- the reference's weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["nano", "base"])
def test_reference_weights_load_under_their_keys_and_give_the_stored_logits(variant):
    with np.load(REFERENCE / f"{variant}.npz") as stored:
        state = {key.removeprefix("state/"): torch.from_numpy(stored[key]) for key in stored if key.startswith("state/")}
        inputs = {name: torch.from_numpy(stored[f"input/{name}"]) for name in ("joint", "velocity", "bone")}
        expected = stored["logits"]
    assert "A" in state, "the fixture holds the top-level graph of the original code"
    model = seeded_model(variant, expected.shape[1])
    assert set(state) - {"A"} == set(model.state_dict())
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        logits = model.eval()(inputs).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_graph_stored_in_a_block_wins_over_the_built_one():
    model = seeded_model("nano")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    name = next(key for key in state if key.endswith("gcn.A"))
    state[name] = state[name] * 2
    model.load_state_dict(state)
    assert torch.equal(model.state_dict()[name], state[name])


def test_other_unexpected_or_missing_keys_are_refused():
    model = seeded_model("nano")
    state = model.state_dict()
    with pytest.raises(RuntimeError, match="foreign"):
        model.load_state_dict({**state, "foreign": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"fc\.weight"):
        model.load_state_dict({key: value for key, value in state.items() if key != "fc.weight"})


# --- graph and reach ---------------------------------------------------------------------------------------------------


def test_hop_distance_is_the_shortest_way_along_bones():
    assert (hop_distance().numpy() == bones_apart()).all()
    assert PARENTS[0] == 0
    assert all((child, PARENTS[child]) in BONES for child in range(1, 25))


def test_each_subset_is_normalised_on_its_own():
    distance = bones_apart()
    subsets = hop_adjacency(14).numpy()
    for hop, subset in enumerate(subsets):
        joined = (distance == hop).astype(float)
        degree = joined.sum(1)
        scale = np.array([1 / np.sqrt(d) if d else 0.0 for d in degree])
        np.testing.assert_allclose(subset, np.diag(scale) @ joined @ np.diag(scale), atol=1e-6)
    assert (subsets[13:] == 0).all()  # nothing is that far apart: joints stay 0, not NaN


@pytest.mark.parametrize(("variant", "hops", "layers"), [("nano", 3, 3), ("small", 10, 5), ("base", 12, 6), ("large", 12, 6)])
def test_receptive_field_is_that_of_the_reference(variant, hops, layers):
    model = build_model(variant)
    assert receptive_field(model) == hops
    assert sum(isinstance(module, SpatialGraphConv) for module in model.modules()) == layers


@pytest.mark.parametrize(
    ("overrides", "hops"), [({}, 3), ({"max_hop": 2}, 6), ({"max_hop": 0}, 0), ({"num_blocks": [1, 2, 2]}, 5)]
)
def test_a_joint_moves_exactly_the_features_of_joints_within_the_receptive_field(overrides, hops):
    """Through gradients of the features after the stages, gates closed as they are at the start."""
    model = seeded_model("nano", **overrides).eval()
    inputs = streams(1)
    inputs["joint"].requires_grad_()
    x = model.fusion(inputs)
    for stage in model.stages:
        for block in stage:
            x = block(x)
    mixing = torch.randn(x.shape[:3], generator=torch.Generator().manual_seed(1))  # so that channels do not cancel
    reached = np.zeros((25, 25), dtype=bool)
    for out in range(25):
        (gradient,) = torch.autograd.grad((x[..., out] * mixing).sum(), inputs["joint"], retain_graph=True)
        reached[out] = (gradient.abs().sum(dim=(0, 1, 2)) > 0).numpy()
    assert (reached == (bones_apart() <= hops)).all()
    assert receptive_field(model) == hops


# --- parts against other arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [4, 16, 17, 64])
def test_hybrid_gate_sees_motion_and_the_power_of_three_bands(frames):
    torch.manual_seed(0)
    gate = ChannelGate(6, hybrid=True)
    x = torch.randn(2, 6, frames, 25)
    seen = []
    gate.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().numpy()))
    gate(x, Pool.apply(x)[1])
    values = x.numpy().astype(np.float64)
    power = np.abs(np.fft.rfft(values, axis=2)) ** 2
    third = (frames // 2 + 1) // 3
    bands = [power[:, :, a:b].mean(axis=(2, 3)) for a, b in ((0, third), (third, 2 * third), (2 * third, None))]
    motion = np.abs(np.diff(values, axis=2)).mean(axis=(2, 3))
    np.testing.assert_allclose(seen[0], np.concatenate([motion, *bands], axis=1), rtol=1e-4)


def test_channel_gate_is_the_documented_formula():
    torch.manual_seed(0)
    gate = ChannelGate(20, hybrid=False)
    nn.init.normal_(gate.gate_alpha)
    nn.init.normal_(gate.mlp[0].weight)
    nn.init.normal_(gate.mlp[2].weight)
    x = torch.randn(3, 20, 9, 25)
    first, second = (layer.weight.detach().numpy() for layer in (gate.mlp[0], gate.mlp[2]))
    values = x.numpy()
    energy = np.abs(np.diff(values, axis=2)).mean(axis=(2, 3))
    g = (1 / (1 + np.exp(-np.maximum(energy @ first.T, 0) @ second.T)))[:, :, None, None]
    assert first.shape == (5, 20)
    scaled = values * gate(x, Pool.apply(x)[1]).detach().numpy()[:, :, None, None]
    np.testing.assert_allclose(scaled, values + gate.gate_alpha.detach().numpy() * (values * g - values), rtol=1e-4, atol=1e-5)


def test_only_the_last_stage_of_large_has_the_hybrid_gate():
    hybrid = {v: [[b.gate.hybrid for b in stage] for stage in build_model(v).stages] for v in ("base", "large")}
    assert hybrid["large"] == [[False, False], [False, False], [True, True]]
    assert not any(gate for stage in hybrid["base"] for gate in stage)


def test_subset_attention_weighs_the_subsets_by_a_softmax():
    torch.manual_seed(0)
    layer = SpatialGraphConv(4, 6, hop_adjacency(2), subset_attention=True).eval()
    nn.init.uniform_(layer.edge, 0.5, 1.5)
    nn.init.normal_(layer.subset_att[2].weight)
    x = torch.randn(2, 4, 5, 25)
    weight = layer.gcn.weight.detach()[:, :, 0, 0].view(3, 6, 4)
    y = torch.einsum("kci,nitv,kvw->nkctw", weight, x, (layer.A * layer.edge).detach())
    attention = (y.mean(dim=(3, 4)).flatten(1) @ layer.subset_att[2].weight.detach().T).softmax(dim=1)
    summed = torch.einsum("nk,nkctw->nctw", attention, y) / (1 + layer.bn.eps) ** 0.5
    torch.testing.assert_close(layer(x), summed * (summed + 3).clamp(0, 6) / 6, rtol=1e-4, atol=1e-5)


class Convolutions(TorchDispatchMode):
    """Notes the kernel and the stride of every convolution, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.seen.append((tuple(args[1].shape[2:]), tuple(args[3])))
        elif func is torch.ops.aten.convolution_backward.default:
            self.seen.append((tuple(args[2].shape[2:]), tuple(args[4])))
        return func(*args, **(kwargs or {}))


def test_no_strided_1x1_convolution_reaches_torch():
    """Where the channels are no multiple of 16, its gradient wrote beyond its memory, and took the process with it."""
    model = seeded_model("base", 4, stem_channels=7, channels=[12, 11, 12]).train()
    with Convolutions() as convolutions:
        logits, _ = model(streams(5, 17))
        logits.sum().backward()
    seen = set(convolutions.seen)
    assert ((5, 1), (2, 1)) in seen, "the depthwise convolution keeps its stride"
    assert ((1, 1), (1, 1)) in seen
    assert ((1, 1), (2, 1)) not in seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_strides_shorten_the_clip_and_odd_lengths_work(variant):
    model = seeded_model(variant, 7).eval()
    with torch.no_grad():
        for frames in (16, 19):
            assert model(streams(2, frames)).shape == (2, 7)


def test_rows_do_not_influence_each_other_when_testing():
    model = seeded_model("small").eval()
    inputs = streams(4)
    with torch.no_grad():
        together = model(inputs)
        alone = torch.cat([model({k: v[i : i + 1] for k, v in inputs.items()}) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


# --- against the same network written straight down --------------------------------------------------------------------


def perturbed(variant: str) -> LastE:
    """Every value moved, so that no gate that starts closed hides a mistake."""
    model = seeded_model(variant, 7, dropout=0.0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor += 0.1 * torch.randn_like(tensor)
    return model


@pytest.mark.parametrize(
    "variant",
    ["nano_e_v3", "large_e_v3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("small_e_v3", "base_e_v3"))],
)
@pytest.mark.parametrize("mode", ["train", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("frozen norms", "eval"))])
def test_the_network_and_its_gradients_are_those_of_the_plain_one(variant, mode):
    """In float64, where only a mistake makes a difference."""
    model = perturbed(variant)
    plain = PlainLastE(model.config, 7)
    plain.load_state_dict(model.state_dict())
    inputs = {name: value.double() for name, value in streams(4, 20).items()}
    generator = torch.Generator().manual_seed(2)
    width, blocks = model.noise_shape
    noise = Noise(torch.rand(4, width, generator=generator), torch.rand(4, blocks, generator=generator))
    results = []
    for net in (model, plain):
        net.double().train(mode != "eval")
        for module in net.modules():
            if mode == "frozen norms" and isinstance(module, NORMS):
                module.eval()
        x = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        out = net(x, noise)
        logits, ib = out if isinstance(out, tuple) else (out, torch.zeros(()))
        (logits.sin().sum() + ib).backward()
        gradients = {name: tensor.grad for name, tensor in net.named_parameters() if tensor.grad is not None}
        results.append({"logits": logits.detach(), **x, **gradients, **dict(net.named_buffers())})
    own, other = results
    assert own.keys() == other.keys()
    pairs = {name: [v.grad if v.requires_grad else v for v in (own[name], other[name])] for name in other}
    largest = max(float(theirs.abs().max()) for _, theirs in pairs.values())  # what cancels to zero leaves its rounding
    for name, (mine, theirs) in pairs.items():
        assert float((mine - theirs).abs().max()) <= 1e-8 * float(theirs.abs().max()) + 1e-11 * largest, name


def test_operations_with_a_backward_of_their_own_have_the_right_one():
    """Against finite differences."""
    generator = torch.Generator().manual_seed(4)

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, base = (make(2, 5, 4, 3).permute(0, 3, 1, 2) for _ in range(2))  # (N, C, T, V) in channels_last
    assert torch.autograd.gradcheck(Pool.apply, x)
    assert torch.autograd.gradcheck(lambda x: EveryNthFrame.apply(x, 2), x)
    assert torch.equal(EveryNthFrame.apply(x, 2), x[:, :, ::2])
    assert torch.autograd.gradcheck(ScaleAndAdd.apply, (base, x, make(2, 3), make(2, 5, 3), make(2, 4, 3)))


# --- information bottleneck --------------------------------------------------------------------------------------------


def test_ib_loss_is_the_divergence_from_a_standard_normal():
    model = seeded_model("base", 10, stem_channels=8, channels=[8, 12, 16], num_blocks=[1, 1, 1])
    for layer in (model.fc_mu, model.fc_logvar):
        nn.init.normal_(layer.weight, std=0.5)
        nn.init.normal_(layer.bias)
    assert model.fc_mu.out_features == 16  # min(128, C)
    pooled = []
    model.head_bn.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0].detach().double().numpy()))
    _, loss = model.train()(streams(5))
    p = pooled[0]
    mu, logvar = (
        p @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        for layer in (model.fc_mu, model.fc_logvar)
    )
    sigma = np.exp(logvar / 2)
    divergence = (np.log(1 / sigma) + (sigma**2 + mu**2) / 2 - 0.5).sum(axis=1)  # the textbook's KL(N(mu, sigma) || N(0, 1))
    assert float(loss.detach()) == pytest.approx(divergence.mean(), rel=1e-4)
    assert loss.dtype == torch.float32


def test_ib_loss_comes_only_in_training_and_only_where_asked_for():
    small = {"stem_channels": 4, "channels": [4, 4, 4], "num_blocks": [1, 1, 1]}
    with_ib, without = seeded_model("base", 5, **small), seeded_model("base", 5, use_ib_loss=False, **small)
    assert isinstance(with_ib.train()(streams(2)), tuple)
    assert isinstance(with_ib.eval()(streams(2)), torch.Tensor)
    assert isinstance(without.train()(streams(2)), torch.Tensor)
    assert not hasattr(without, "fc_mu")


def test_the_bottleneck_is_at_most_128_wide():
    assert build_model("base").fc_mu.out_features == 128
    assert build_model("large").fc_logvar.out_features == 128


# --- noise -------------------------------------------------------------------------------------------------------------


def test_given_noise_makes_a_training_pass_a_function_of_it_alone():
    model = seeded_model("nano", 6, drop_path_rate=0.5).train()
    width, blocks = model.noise_shape
    assert (width, blocks) == (64, 3)
    generator = torch.Generator().manual_seed(9)
    noise = Noise(torch.rand(4, width, generator=generator), torch.rand(4, blocks, generator=generator))
    inputs = streams(4)
    torch.manual_seed(1)
    first = model(inputs, noise)
    torch.manual_seed(2)
    assert torch.equal(model(inputs, noise), first)
    assert not torch.equal(model(inputs, noise._replace(dropout=noise.dropout.flip(0))), first)
    assert not torch.equal(model(inputs, noise._replace(path=noise.path.flip(0))), first)


def test_noise_has_no_effect_when_testing():
    model = seeded_model("nano", 6, drop_path_rate=0.5).eval()
    noise = Noise(torch.zeros(2, 64), torch.zeros(2, 3))
    assert torch.equal(model(streams(2), noise), model(streams(2)))


def test_dropout_keeps_what_is_at_or_above_the_rate_and_scales_it():
    model = seeded_model("nano", 6, dropout=0.25).train()
    nn.init.normal_(model.fc.bias)
    seen = []
    model.head_bn.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    noise = torch.full((3, 64), 0.25)
    noise[1] = 0.2499
    noise[2, ::2] = 0.0
    logits = model(streams(3), Noise(noise, torch.ones(3, 3)))
    kept = seen[0].clone()
    kept[1] = 0
    kept[2, ::2] = 0
    torch.testing.assert_close(logits, model.fc(kept / 0.75))
    torch.testing.assert_close(logits[1], model.fc.bias)


def test_drop_path_leaves_a_clip_its_shortcut_and_scales_the_others():
    torch.manual_seed(0)
    shape = {"stride": 2, "depth": 1, "expand_ratio": 2, "adjacency": hop_adjacency(1), "subset_attention": False}
    block = Block(4, 6, **shape, hybrid_gate=False, drop_path_rate=0.4).train()
    x = torch.randn(3, 4, 8, 25)
    dropped = block(x, torch.tensor([0.0, 0.3999, 0.4]))
    shortcut = block.residual(x)
    block.drop_path_rate = 0.0
    branch = block(x) - shortcut
    torch.testing.assert_close(dropped[:2], shortcut[:2])
    torch.testing.assert_close(dropped[2], shortcut[2] + branch[2] / 0.6, rtol=1e-4, atol=1e-4)


def test_drop_path_without_given_noise_drops_about_its_rate_of_clips():
    torch.manual_seed(0)
    shape = {"stride": 1, "depth": 1, "expand_ratio": 1, "adjacency": hop_adjacency(0), "subset_attention": False}
    block = Block(2, 2, **shape, hybrid_gate=False, drop_path_rate=0.3).train()
    x = torch.randn(2000, 2, 4, 25)
    with torch.no_grad():
        share = (block(x) == x).all(dim=(1, 2, 3)).float().mean()
    assert abs(float(share) - 0.3) < 0.05


@pytest.mark.parametrize(("variant", "rate"), [("base", 0.05), ("large", 0.1), ("nano", 0.0)])
def test_drop_path_grows_linearly_over_the_blocks(variant, rate):
    rates = [block.drop_path_rate for stage in build_model(variant).stages for block in stage]
    assert rates == pytest.approx([rate * b / (len(rates) - 1) for b in range(len(rates))])


# --- initial values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["nano", "large"])
def test_initial_values_are_the_documented_ones(variant):
    model = seeded_model(variant)
    for name, parameter in model.named_parameters():
        if name.endswith(("alpha", "pool_gate")):
            assert not parameter.any(), name
        elif name.endswith("edge"):
            assert (parameter == 1).all(), name
    for module in model.modules():
        if isinstance(module, NORMS):
            assert (module.weight == 1).all()
            assert not module.bias.any()
            assert not module.running_mean.any()
            assert (module.running_var == 1).all()
        elif isinstance(module, nn.Linear):
            assert module.bias is None or not module.bias.any()
            if module.weight.numel() > 2000:
                assert float(module.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
        elif isinstance(module, nn.Conv2d):
            assert module.bias is None
            if module.weight.numel() > 2000:
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_gates_start_closed_so_that_attention_changes_nothing():
    torch.manual_seed(0)
    model = seeded_model("nano")
    block = model.stages[0][0]
    seen = []
    block.gate.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    x = torch.randn(2, 24, 8, 25)
    torch.testing.assert_close(block(x), seen[0] + block.residual(x))


def test_gates_laid_out_in_another_order_do_not_give_it_to_activations_or_their_gradients():
    x = torch.randn(2, 4, 6, 5).to(memory_format=torch.channels_last).requires_grad_()

    def turned(*shape: int) -> torch.Tensor:
        return torch.randn(*shape).transpose(1, 2).contiguous().transpose(1, 2)

    (pooled,) = torch.autograd.grad(Pool.apply(x)[1:], x, [torch.randn(2, 4), turned(2, 6, 4), turned(2, 5, 4)])
    out = ScaleAndAdd.apply(x.detach(), x, torch.randn(2, 4), turned(2, 6, 4), turned(2, 5, 4))
    (scaled,) = torch.autograd.grad(out, x, torch.randn_like(out))
    assert [each.is_contiguous(memory_format=torch.channels_last) for each in (pooled, out, scaled)] == [True] * 3
