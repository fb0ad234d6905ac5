"""The compiled loops against torch's operations, in float64 where only a mistake makes a difference."""

import copy
import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterator

import numba
import pytest
import torch
from torch import Tensor, nn

import last_e.model
from last_e import set_up
from last_e.config import TrainConfig
from last_e.graph import hop_adjacency
from last_e.layers import resolve
from last_e.model import LastE, build_model, fused, loops
from last_e.model.blocks import STREAMS
from last_e.model.functions import Pool, ScaleAndAdd, batch_norm, mix_joints, norm_and_depthwise
from last_e.skeletons import LAYOUTS, NTU25, Skeleton
from last_e.state import State
from tests.rounding import compare, is_clear_of_bends

LARGE = fused.LARGE


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "LARGE", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def activations(n: int, c: int, t: int, v: int = 25, seed: int = 0) -> Tensor:
    return random(n, c, t, v, seed=seed).to(memory_format=torch.channels_last)


def norm_of(channels: int, seed: int = 0) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight += 0.5 * random(channels, seed=seed)
        norm.bias += random(channels, seed=seed + 1)
    return norm


def results(
    operation: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: list[Tensor],
    norms: list[nn.BatchNorm2d],
    dtype: torch.dtype,
    enter: Callable[[Tensor], Tensor] = torch.clone,
) -> dict[str, Tensor]:
    """What comes out, the gradients of everything that goes in for a random one behind, and the running statistics."""
    inputs = [enter(each.detach().to(dtype)).requires_grad_() for each in inputs]
    copies = []
    for norm in norms:
        copies.append(nn.BatchNorm2d(norm.num_features).to(dtype))
        copies[-1].load_state_dict(
            {name: enter(value.to(dtype) if value.is_floating_point() else value) for name, value in norm.state_dict().items()}
        )
    outputs = operation(*inputs, *copies)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((out * random(*out.shape, seed=9).to(dtype)).sum() for out in outputs).backward()
    found = {f"output {i}": out.detach() for i, out in enumerate(outputs)}
    found |= {f"gradient of input {i}": each.grad for i, each in enumerate(inputs)}
    for i, norm in enumerate(copies):
        found |= {f"gradient of norm {i}'s {name}": parameter.grad for name, parameter in norm.named_parameters()}
        found |= {f"norm {i}'s {name}": buffer for name, buffer in norm.named_buffers()}
    return found


def depthwise_conv(channels: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, (5, 1), stride=(stride, 1), padding=(2, 0), groups=channels, bias=False)
    nn.init.normal_(conv.weight, std=0.5)
    return conv


def check(operation: Callable[..., Tensor | tuple[Tensor, ...]], inputs: list[Tensor], norms: list[nn.BatchNorm2d]) -> None:
    assert fused.loops_for(inputs[0]) is not None, "numba is not installed, or these activations are not taken"
    mine = results(operation, inputs, norms, torch.float32)
    double = functools.partial(results, operation, inputs, norms, torch.float64)  # which the loops do not take
    assert is_clear_of_bends(double), "take another seed"
    shares = compare(double, mine)
    assert max(shares.values()) <= 1, shares


@pytest.mark.parametrize("channels", [3, 32, 37])
def test_a_norm_alone_and_with_hardswish_and_with_a_sum(channels):
    x, norm = activations(9, channels, 14), norm_of(channels)  # 3,150 rows: three whole blocks and one that is not
    check(lambda x, norm: batch_norm(x, norm), [x], [norm])
    check(lambda x, norm: batch_norm(x, norm, hardswish=True), [x], [norm])
    check(lambda x, other, norm: batch_norm(x, norm, add=other), [x, activations(9, channels, 14, seed=5)], [norm])


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("frames", [4, 13])
def test_norms_around_a_depthwise_convolution(stride, frames):
    torch.manual_seed(1)
    conv = depthwise_conv(24, stride)

    def operation(x: Tensor, weight: Tensor, first: nn.BatchNorm2d, last: nn.BatchNorm2d) -> Tensor:
        own = depthwise_conv(24, stride).to(x.dtype)
        del own.weight
        own.weight = weight  # as an input, so that its gradient is compared too
        return norm_and_depthwise(x, first, own, last)

    check(operation, [activations(5, 24, frames), conv.weight], [norm_of(24), norm_of(24, seed=3)])


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("hops", [1, 3])
def test_joints_mix_as_the_adjacency_says(hops, attention):
    adjacency = hop_adjacency(hops)
    x, edge, share = activations(4, 10, 6), 1 + 0.3 * random(*adjacency.shape), random(4, hops + 1).softmax(dim=1)

    def operation(x: Tensor, edge: Tensor, share: Tensor) -> Tensor:
        return mix_joints(x, adjacency.to(x.dtype), edge, share if attention else None) + 0 * share.sum()

    check(operation, [x, edge, share], [])


def test_a_subset_without_any_neighbour_gives_zeros():
    adjacency = torch.zeros(2, 25, 25)
    adjacency[0, 3, 4] = 2.0
    x = activations(2, 5, 4)
    expected = torch.zeros(2, 10, 4, 25)
    expected[:, :5, :, 4] = 2 * x[:, :, :, 3]
    assert torch.equal(mix_joints(x, adjacency, torch.ones(2, 25, 25), None), expected)


def test_what_the_gates_see_and_what_they_do():
    x = activations(3, 11, 7)
    check(lambda x: Pool.apply(x), [x], [])
    check(
        lambda *each: ScaleAndAdd.apply(*each),
        [x, activations(3, 11, 7, seed=2), random(3, 11), random(3, 7, 11), random(3, 25, 11)],
        [],
    )


def test_gradients_in_another_order_of_memory_are_taken():
    x, norm = activations(3, 8, 6).requires_grad_(), norm_of(8)
    gradient = random(3, 8, 6, 25)
    assert not gradient.is_contiguous(memory_format=torch.channels_last)
    given = [
        torch.autograd.grad(batch_norm(x, norm, hardswish=True), x, each)[0]
        for each in (gradient, gradient.to(memory_format=torch.channels_last))
    ]
    assert torch.equal(*given)


@pytest.mark.parametrize("far", ["all", "the first of each clip"])
def test_numbers_far_from_zero_leave_the_variance_its_digits(far):
    x = activations(4, 6, 60)  # six blocks
    if far == "all":
        x += 1000
    else:
        x[:, :, 0, 0] += 100
    assert fused.loops_for(x) is not None
    with torch.no_grad():
        y, exact = batch_norm(x, nn.BatchNorm2d(6)), batch_norm(x.double(), nn.BatchNorm2d(6).double())
        assert float((y - exact).norm() / exact.norm()) < 1e-4  # the spacing of float32 at 1000 is 6e-5
        conv = depthwise_conv(6, 1)
        conv.weight[:] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).view(5, 1)  # so that the second norm has what the first had
        norms = [nn.BatchNorm2d(6) for _ in range(2)]
        norms[0].bias += 1000 if far == "all" else 0
        y = norm_and_depthwise(x, norms[0], conv, norms[1])
        exact = norm_and_depthwise(x.double(), norms[0].double(), conv.double(), norms[1].double())
        assert float((y - exact).norm() / exact.norm()) < 1e-3


def test_what_is_not_finite_stays_so():
    x, norm = activations(3, 4, 6), nn.BatchNorm2d(4)
    x[1, 2, 3, 4] = float("nan")
    bad = batch_norm(x, norm, hardswish=True).isnan().flatten(2).any(dim=2)
    assert bad.tolist() == [[False, False, True, False]] * 3
    assert norm.running_mean is not None
    assert norm.running_mean.isnan().tolist() == [False, False, True, False]


def test_the_number_of_threads_changes_no_bit():
    found = []
    adjacency = hop_adjacency(1)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        x, norms, conv = activations(7, 16, 12), (norm_of(16), norm_of(16, seed=4)), depthwise_conv(16, 2)
        each = [results(lambda x, a, b, conv=conv: norm_and_depthwise(x, a, conv, b), [x], list(norms), torch.float32)]
        share = random(7, 2).softmax(dim=1)
        each.append(results(lambda x, edge, share: mix_joints(x, adjacency, edge, share), [x, adjacency, share], [], x.dtype))
        each.append(results(lambda x: Pool.apply(x), [x], [], x.dtype))
        gates = [random(7, 16), random(7, 12, 16), random(7, 25, 16)]
        each.append(results(lambda *given: ScaleAndAdd.apply(*given), [x, x, *gates], [], x.dtype))
        found.append({(number, name): value for number, one in enumerate(each) for name, value in one.items()})
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


def outcome(model: LastE, mode: str, seed: int, enter: Callable[[Tensor], Tensor] = torch.clone) -> dict[str, Tensor]:
    """Logits, gradients and running statistics of a copy, in its own kind of number."""
    model = copy.deepcopy(model)
    dtype = model.fc.weight.dtype
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(enter(tensor))
    model.train(mode != "eval")
    for module in model.modules():
        if mode == "frozen norms" and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    joints = len(model.skeleton.joints)
    streams = {name: enter(random(5, 3, 16, joints, seed=seed + i).to(dtype)) for i, name in enumerate(STREAMS)}
    out = model(streams)
    logits, ib = out if isinstance(out, tuple) else (out, torch.zeros((), dtype=dtype))
    (logits.sin().sum() + ib).backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients, **dict(model.named_buffers())}


ALL = list(itertools.product(["nano", "small", "base", "large"], ["train", "frozen norms", "eval"]))
TELLING = [("nano", "train"), ("large", "train"), ("base", "frozen norms"), ("nano", "eval")]
"""Every mode, and a network of every kind of part."""


@pytest.mark.parametrize(
    ("variant", "mode"),
    [pytest.param(*case, marks=[] if case in TELLING else [pytest.mark.slow, pytest.mark.full]) for case in ALL],
)
def test_a_network_gives_with_them_what_it_gives_in_float64(variant, mode):
    see_that_it_gives_what_it_gives_in_float64(variant, mode)


@pytest.mark.parametrize("layout", ["coco17", pytest.param("mediapipe33", marks=[pytest.mark.slow, pytest.mark.full])])
def test_they_take_any_number_of_joints(layout):
    see_that_it_gives_what_it_gives_in_float64("nano", "train", LAYOUTS[layout])


def see_that_it_gives_what_it_gives_in_float64(variant: str, mode: str, skeleton: Skeleton = NTU25) -> None:
    """Of few channels, so that there are inputs for which rounding takes nothing to the other side of a bend."""
    torch.manual_seed(0)
    model = build_model(variant, 5, skeleton, dropout=0.0, drop_path_rate=0.0, stem_channels=4, channels=[4, 6, 8])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    exact = copy.deepcopy(model).double()
    seed = next(seed for seed in range(0, 300, 3) if is_clear_of_bends(functools.partial(outcome, exact, mode, seed)))
    shares = compare(functools.partial(outcome, exact, mode, seed), outcome(model, mode, seed))
    assert max(shares.values()) <= 1, {name: share for name, share in shares.items() if share > 1}


def test_norms_that_are_not_the_networks_kind_stay_with_torch():
    x = activations(3, 4, 6)
    for norm in (
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, momentum=None),
        nn.BatchNorm2d(4, track_running_stats=False),
    ):
        assert torch.equal(batch_norm(x, norm), norm(x))
    norm = nn.BatchNorm2d(4)
    torch.testing.assert_close(batch_norm(x, norm, add=torch.ones(1, 4, 1, 1)), norm(x) + 1)


def test_the_networks_of_the_reference_are_large_enough():
    """The narrowest activations of nano with 32 clips a batch, of which one in three has two bodies."""
    assert LARGE <= 42 * 64 * 25 * 24
    assert LARGE > 54 * 16 * 25 * 16, "the small jobs of these tests would each load numba"


@pytest.mark.slow
def test_torchs_own_norms_are_not_disturbed_where_all_running_statistics_are_one_tensor(monkeypatch):
    monkeypatch.setattr(fused, "LARGE", 20_000)  # so that some norms go through loops and others do not
    torch.manual_seed(0)
    model = build_model("nano", 5)
    state = State(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", enabled=False))
    out = state.model({name: random(3, 3, 16, 25, seed=i) for i, name in enumerate(("joint", "velocity", "bone"))})
    out.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_only_first_derivatives_are_promised():
    x = activations(2, 4, 5).requires_grad_()
    for out in (Pool.apply(x)[2], ScaleAndAdd.apply(x, x, random(2, 4), random(2, 5, 4), random(2, 25, 4))):
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.square().sum().backward()


# --- loading them ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["it is not there", "it does not fit another package", "it compiles nothing"])
def without_numba(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process whose numba is no use."""

    class DoesNotFit:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "numba":
                raise AttributeError("one that does not fit another package")

    for module in ("last_e.machine_code", "last_e.model.loops"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr(last_e.model, "loops")
    if request.param == "it compiles nothing":
        monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    elif request.param == "it is not there":
        monkeypatch.setitem(sys.modules, "numba", None)
    else:
        monkeypatch.delitem(sys.modules, "numba")
        monkeypatch.setattr(sys, "meta_path", [DoesNotFit(), *sys.meta_path])
    fused.loops.cache_clear()
    yield
    fused.loops.cache_clear()


@pytest.mark.usefixtures("without_numba")
def test_without_a_numba_that_works_the_network_is_torch_alone():
    x = random(2, 3, 8, 25).requires_grad_()
    out = build_model("nano", 5)({"joint": x, "velocity": x, "bone": x})
    out.sum().backward()
    assert fused.loops() is None
    assert out.shape == (2, 5)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_who_waits_for_loops_that_are_compiled_hears_of_it_now_and_then(monkeypatch):
    heard = threading.Semaphore(0)
    told = []

    class Sink:
        def emit(self, event):
            told.append(event.text)
            heard.release()

    def compiled():
        assert heard.acquire(timeout=60)
        assert heard.acquire(timeout=60)

    monkeypatch.setattr(set_up, "COMPILING", {0.001: "numba compiles", 0.3: "numba still compiles", 600.0: "never"})
    monkeypatch.setattr(fused, "loops", compiled)
    config = resolve([], TrainConfig, [], detect=lambda: ("local", "")).config
    set_up.load_loops(config, torch.device("cpu"), Sink())
    assert told[:2] == ["numba compiles", "numba still compiles"]
    assert "never" not in told


def test_a_share_of_work_that_fails_is_told():
    def loop(begin: int, end: int) -> None:
        if begin <= 7 < end:
            raise ArithmeticError(str(end - begin))

    with pytest.raises(ArithmeticError):
        loops.share(loop, 100)
    seen: list[int] = []
    loops.share(lambda begin, end: seen.extend(range(begin, end)), 101)
    assert sorted(seen) == list(range(101))
