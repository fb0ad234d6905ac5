"""What torch.compile would make of the parts that have kernels of our own: kernels and bytes, counted without a GPU.

    python -m venv cuda && cuda/bin/pip install torch==2.13.0 .
    cuda/bin/python benchmarks/compiled.py [WORDS OF PARTS ...]

It needs torch built for CUDA (PyPI's wheel for Linux, some 6 GB with what it brings) and g++, and no GPU: inductor is told of
an H100, writes its code for tensors that have no memory, and is stopped before it loads that. Prints a table: of each part of
base_e_v3 in fp16 (38 bodies of 32 clips, a block of the first stage) launches and MB, forward and backward, by our kernels and
by what inductor writes for the trainer's own operations, or for others that come to the same; whether that adds up by atomic
additions; and the seconds of CPU time until the code is written, without what Triton and the assembler need for it.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

CHIP = SimpleNamespace(
    **{"name": "H100", "major": 9, "minor": 0, "multi_processor_count": 132, "max_threads_per_multi_processor": 2048},
    **{"regs_per_multiprocessor": 65536, "max_threads_per_block": 1024, "warp_size": 32, "total_memory": 80 << 30},
)
ROWS, FRAMES, JOINTS = 38, 64, 25


class Count(NamedTuple):
    """Of a graph."""

    launches: int
    moved: int
    """Bytes read and written, if no cache held anything."""
    atomic: int
    """Atomic additions."""


class Counted(Exception):
    """Inductor has written its code."""


class Part(nn.Module):
    """What one or the other is to make, of parameters that are ``of`` a module."""

    def __init__(self, of: nn.Module, does: Callable[..., Any]) -> None:
        super().__init__()
        self.of = of
        self.does = does if not isinstance(does, nn.Module) else does.forward  # a module would be there twice

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """What comes out, as a training step has it."""
        with torch.autocast("cuda", torch.float16):
            made = self.does(*given)
        return made if isinstance(made, tuple) else (made,)


def with_device() -> None:
    """Begin anew with the device that is not there."""
    folder, torch_folder = tempfile.mkdtemp(), Path(torch.__file__).parent
    library = f"{folder}/device.so"
    search = [f"-I{torch_folder}/include", f"-L{torch_folder}/lib", f"-Wl,-rpath,{torch_folder}/lib", "-lc10", "-ltorch_cpu"]
    source = ROOT / "tests" / "fake_cuda" / "device.cpp"
    command = ["g++", "-std=c++20", "-O0", "-shared", "-fPIC", "-DBUILT_FOR_CUDA", source, "-o", library, *search]
    subprocess.run(command, check=True)
    os.execve(sys.executable, [sys.executable, "-W", "ignore", *sys.argv], {**os.environ, "LD_PRELOAD": library})  # noqa: S606 -- itself


def told(answer: object, *_: object, **__: object) -> object:
    """The ``answer``, whatever is asked."""
    return answer


def stand_in() -> None:
    """Tell torch, inductor and Triton of a chip, where they would ask one; and do without what inductor tries out on it."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._functorch import config as functorch
    from torch._inductor import config
    from torch._inductor.fx_passes import joint_graph
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    ctypes.CDLL(None).take_the_guard()
    torch.autograd.set_multithreading_enabled(False)  # else a thread for each device
    capability, target = (CHIP.major, CHIP.minor), GPUTarget("cuda", 10 * CHIP.major + CHIP.minor, 32)
    answers: dict[Any, dict[str, Any]] = {
        torch.cuda: {
            **{"get_device_properties": CHIP, "get_device_capability": capability, "is_available": True, "device_count": 1},
            **{"current_device": 0, "_lazy_init": None, "_exchange_device": 0, "_maybe_exchange_device": 0},
            **{"get_rng_state": torch.zeros(16, dtype=torch.uint8), "set_rng_state": None},
        },
        torch._C: {"_cuda_getDevice": 0, "_cuda_setDevice": None, "_cuda_getCurrentRawStream": 0},
        CudaInterface: {
            **{"get_device_properties": CHIP, "get_compute_capability": target.arch, "is_available": True, "current_device": 0},
            **{"get_raw_stream": 0, "is_triton_capable": True, "raise_if_triton_unavailable": None},
        },
        CudaInterface.Worker: {"get_device_properties": CHIP},
        joint_graph: {"lazy_init": None},  # patterns of attention, traced with numbers
    }
    for place, names in answers.items():
        for name, answer in names.items():
            says = partial(told, answer)
            setattr(place, name, staticmethod(says) if isinstance(place, type) else says)
    driver.set_active(SimpleNamespace(get_current_target=lambda: target, get_current_device=lambda: 0))
    config.compile_threads, config.shape_padding, config.joint_graph_constant_folding = 1, False, False
    functorch.force_non_lazy_backward_lowering = True
    nn.Module.get_parameter = lambda self, name: attrgetter(name)(self)  # also of what stands for a parameter as it is traced


def compiled(part: Part, given: list[Tensor]) -> tuple[float, list[Count]]:
    """CPU seconds until inductor has written its code, and what that has, forward and backward."""
    from torch._inductor import ir, scheduler
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.graph import GraphLowering

    found: list[Count] = []

    def seen(graph: Any) -> Any:
        text = graph.codegen()[0].value
        calls = re.findall(
            r"^ .*(?:triton_\w+\.run|extern_kernels\.\w+|torch\.ops\.[\w.]+)\(.*", text[text.index("def call(") :], re.M
        )
        # As the recorder has it, a convolution's way back is as many kernels as gradients.
        launches = sum(line.count("True") if "aten.convolution_backward" in line else 1 for line in calls)
        moved = sum(of_kernel(graph, text, line) for line in calls)
        for node in graph.scheduler.nodes:
            if isinstance(node, scheduler.ExternKernelSchedulerNode):
                moved += int(node.get_read_write_buffers_sizes())
                if isinstance(node.node, ir.MultiOutput):  # which inductor leaves out
                    moved += int(node.node.get_numel()) * node.node.get_dtype().itemsize
        found.append(Count(launches, moved, text.count("tl.atomic_add")))

        def ended(*_: Any) -> None:
            raise Counted

        return SimpleNamespace(call=ended)

    began = time.process_time()
    with mock.patch.object(GraphLowering, "compile_to_module", seen), suppress(Counted):
        compile_fx(part, given)(*given)
    return time.process_time() - began, found


def of_kernel(graph: Any, text: str, line: str) -> int:
    """Bytes of what a call of a Triton kernel is given, each once for being read and once for being written; 0 of other calls.
    (What inductor itself says of them counts some that its code does not touch.)"""
    call = re.search(r"(triton_\w+)\.run\((.*)stream=", line)
    if call is None:
        return 0
    kernel = re.search(rf"def {call[1]}\(([^)]*)\)(.*?)\'\'\'", text, re.S)
    assert kernel is not None
    moved = 0
    for name, given in zip(kernel[1].split(", "), call[2].split(", ")):
        tensor = graph.graph_inputs.get(given) or graph.name_to_buffer.get(given)
        passes = sum(f"tl.{does}({name} " in kernel[2] for does in ("load", "store"))
        moved += 0 if tensor is None else passes * int(tensor.get_numel()) * tensor.get_dtype().itemsize
    return moved


def own(part: Part, given: list[Tensor]) -> list[Count]:
    """The same by our kernels."""
    from last_e.model import fused_cuda
    from tests.fake_cuda.recorder import Recorder
    from tests.fake_cuda.step import DEVICE

    fused_cuda.AGREED.take(DEVICE)
    recorder = Recorder()
    with recorder, recorder.during("forward"):
        made = [one for one in part(*given) if one.requires_grad]
        learned = [one for one in (*given, *part.parameters()) if one.requires_grad]
        torch.autograd.grad(made, learned, [torch.empty_like(one) for one in made], allow_unused=True)
    fused_cuda.AGREED.leave(DEVICE)
    return [Count(recorder.kernels[phase], recorder.bytes[phase], 0) for phase in ("forward", "forward, back")]


Ways = dict[str, tuple[Part, list[Tensor]]]


def parts() -> dict[str, Ways]:
    """Each by the trainer's operations, which are our kernels where these are used, and by others that come to the same."""
    from last_e.bench.plain import PlainLastE
    from last_e.model.functions import batch_norm, norm_and_depthwise
    from last_e.model.network import Noise
    from tests.fake_cuda.step import DEVICE, network, settings

    def tensor(*shape: int) -> Tensor:
        return torch.empty(shape, device=DEVICE)

    def activation(channels: int, frames: int = FRAMES) -> Tensor:
        whole = torch.empty(ROWS, channels, frames, JOINTS, dtype=torch.float16, device=DEVICE)
        return whole.contiguous(memory_format=torch.channels_last).requires_grad_()

    config = settings("model.variant=base")
    model, plain = network(config).train(), network(config, PlainLastE).train()
    block, plain_block = model.stages[0][1], plain.stages[0][1]
    tcn, gcn = block.tcns[0], block.gcn
    norm, (conv, last, _) = tcn.expand_conv[1], tcn.depth_conv
    head = network(config).train()
    head.fusion, head.stages, head._pointwise = nn.Identity(), nn.ModuleList(), []
    x, y, wide, clips = activation(64), activation(64), activation(128), tensor(ROWS)
    noise = [tensor(ROWS, width) for width in model.noise_shape]
    streams = [tensor(ROWS, 3, FRAMES, JOINTS) for _ in range(3)]
    three, depthwise = nn.ModuleList([norm, conv, last]), lambda x: norm_and_depthwise(x, norm, conv, last)
    gates, plain_gates = ([one.gate, one.st_att] for one in (block, plain_block))

    def of(network: nn.Module) -> Part:
        def whole(dropout: Tensor, path: Tensor, weight: Tensor, *streams: Tensor) -> Any:
            return network(dict(zip(("joint", "velocity", "bone"), streams)), Noise(dropout, path), weight)

        return Part(network, whole)

    def plain_tail(x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        rate = plain_block.drop_path_rate
        return x + plain_block.st_att(plain_block.gate(y)) * ((noise >= rate).to(y.dtype) / (1 - rate))[:, None, None, None]

    def as_products(x: Tensor) -> Tensor:
        return F.hardswish(last(shifted(F.hardswish(norm(x)), conv)))

    return {
        "norm, Hardswish": {"": (Part(gcn.bn, lambda x: batch_norm(x, gcn.bn, hardswish=True)), [x])},
        "norm, Hardswish, depthwise convolution, norm, Hardswish": {
            "": (Part(three, depthwise), [wide]),
            "the convolution as five products": (Part(three, as_products), [wide]),
        },
        "attention of subsets, mixing of joints": {
            "": (Part(gcn, lambda x: mixed(gcn, x)), [x]),
            "mixing as products and a sum": (Part(gcn, lambda x: mixed(gcn, x, written_out)), [x]),
        },
        "pooling, gates, drop path, shortcut": {
            "": (Part(nn.ModuleList(gates), lambda x, y, noise: block.end(lambda: x, y, noise)), [x, y, clips]),
            "plain": (Part(nn.ModuleList(plain_gates), plain_tail), [x, y, clips]),
        },
        "behind the last block": {
            "": (Part(head, lambda x, weight, *noise: head(x, Noise(*noise), weight)), [activation(128, 16), clips, *noise])
        },
        "a block": {"": (Part(block, block), [x, clips]), "plain": (Part(plain_block, plain_block), [x, clips])},
        "the network": {way: (of(one), [*noise, clips, *streams]) for way, one in (("", model), ("plain", plain))},
    }


def shifted(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A depthwise convolution over five frames as products that can be fused with what is beside it."""
    padded, weight, frames = F.pad(x, (0, 0, 2, 2)), conv.weight.to(x.dtype), x.shape[2]
    return sum((padded[:, :, k : k + frames] * weight[:, 0, k].view(1, -1, 1, 1) for k in range(5)), torch.zeros_like(x))


def mixed(gcn: Any, x: Tensor, way: Callable[..., Tensor] | None = None) -> tuple[Tensor, ...]:
    """What a graph convolution does before its matrix product."""
    from last_e.model import spatial
    from last_e.model.functions import mix_joints

    k, cin, linear = gcn.num_subsets, x.shape[1], gcn.subset_att[2].get_parameter("weight")
    if spatial.fits(x, k):
        made: tuple[Tensor, ...] = spatial.Attended.apply(x, gcn.edge, gcn.gcn.weight, linear, gcn.A)
        return made
    weight = gcn.gcn.weight.view(k, -1, cin)
    share = gcn._attention(x, gcn.A * gcn.edge, weight)
    ready = weight.transpose(0, 1).reshape(-1, k * cin, 1, 1).to(x.dtype)
    return x, (way or mix_joints)(x, gcn.A, gcn.edge, share), ready


def written_out(x: Tensor, adjacency: Tensor, edge: Tensor, share: Tensor) -> Tensor:
    """:func:`last_e.model.functions.mix_joints` without a matrix product."""
    from last_e.model.fused import rows

    (n, c, t, v), k = x.shape, len(adjacency)
    mix = ((adjacency * edge).permute(2, 0, 1) * share[:, None, :, None]).reshape(n, 1, v * k, v, 1)
    return (mix * rows(x)[:, :, None].float()).sum(3).to(x.dtype).view(n, t, v, k * c).permute(0, 3, 1, 2)


def main() -> None:
    """Print the table."""
    if torch.version.cuda is None:
        raise SystemExit(
            f"torch {torch.__version__} is a build for CPUs, for which inductor writes no code of a GPU: "
            "the top of this file says what to install"
        )
    if "LD_PRELOAD" not in os.environ:
        with_device()
    from tests.fake_cuda.step import FAKE, pretend

    torch.set_num_threads(1)
    pretend()
    stand_in()
    print("| part | by | launches forward, backward | MB | atomic additions | CPU s |\n|---|---|---|---|---|---|")
    with FAKE:
        for name, ways in parts().items():
            if sys.argv[1:] and not any(word in name for word in sys.argv[1:]):
                continue
            show(name, "our kernels", own(*ways[""]), "")
            for way, (part, given) in ways.items():
                seconds, found = compiled(part, given)
                show(name, f"torch.compile{way and ', ' + way}", found, f"{seconds:.1f}")


def show(name: str, by: str, found: list[Count], seconds: str) -> None:
    """A line of the table."""
    launches, moved = (
        " + ".join(f"{value:.0f}" for value in values) for values in zip(*((c.launches, c.moved / 1e6) for c in found))
    )
    print(f"| {name} | {by} | {launches} | {moved} | {sum(one.atomic for one in found)} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
