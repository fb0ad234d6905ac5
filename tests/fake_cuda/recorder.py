"""What a step asks of a device, one operation after the other: formats, kernels, bytes, and what a CUDA graph cannot hold."""

from __future__ import annotations

import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[2]
SHORT = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.complex64: "c64",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "bool",
}

ASKS = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
"""The host asks the device for a value, and waits for all that was given to it before."""
DEPENDS = {
    *("nonzero", "nonzero_numpy", "argwhere", "masked_select", "unique_dim", "unique_consecutive", "_unique", "_unique2"),
    *("bincount", "repeat_interleave", "histc", "combinations"),
}
"""What comes out has a shape that depends on values: the host asks for it."""
RANDOM = {
    *(
        "rand",
        "rand_like",
        "randn",
        "randn_like",
        "randint",
        "randint_like",
        "randperm",
        "bernoulli",
        "bernoulli_",
        "multinomial",
    ),
    *("native_dropout", "uniform_", "normal_", "exponential_", "random_", "rrelu_with_noise"),
}
"""A generator of torch's is used, whose state is the host's: a graph that is played again would draw the same."""
OF_HOST = {"pin_memory", "_pin_memory", "is_pinned", "record_stream", "set_", "resize_"}
"""Memory of the host, or memory that a graph's pool does not have."""
CHECKS = {"_linalg_check_errors", "linalg_inv", "linalg_solve_ex", "linalg_cholesky_ex", "linalg_eigh", "_linalg_svd"}
"""They look at an error code on the host."""
UNORDERED = {
    *(
        "index_add",
        "index_add_",
        "index_put",
        "index_put_",
        "_index_put_impl_",
        "scatter_add",
        "scatter_add_",
        "scatter_reduce",
    ),
    *("cumsum", "cumsum_", "bincount", "histc", "embedding_dense_backward", "_adaptive_avg_pool2d_backward", "put_"),
}
"""On a GPU they add in an order that is another one each time (atomic additions)."""
PUTS = ("index_put", "index_put_", "_index_put_impl_")
NEVER = {
    "asks for a value": ASKS,
    "has a shape that depends on values": DEPENDS,
    "draws of a generator": RANDOM,
    "is of the host": OF_HOST,
    "looks for errors": CHECKS,
    "adds in no order": UNORDERED,
}

VIEWS = {
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "expand",
        "permute",
        "transpose",
        "t",
        "slice",
        "select",
        "unsqueeze",
    ),
    *("squeeze", "alias", "detach", "as_strided", "unbind", "split", "split_with_sizes", "view_as_real", "narrow", "unfold"),
    *("view_as_complex", "lift_fresh", "chunk", "tensor_split", "flatten", "unflatten", "mT", "T"),
}
EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
FREE = VIEWS | EMPTY
"""Nothing is done on the device."""
_A_LAUNCH = 60
"""About how many tensors one kernel of torch's foreach and fused operations takes."""


class Recorder(TorchDispatchMode):
    """Everything that is asked of torch below autograd and autocast, in phases (:meth:`during`)."""

    def __init__(self) -> None:
        super().__init__()
        self.formats: dict[str, set[str]] = defaultdict(set)
        """Of each phase ``operation: formats -> formats``."""
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        """What a step on a GPU must not have, with the place in our code that asks for it."""
        self.phase = ""

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """What comes now is of this ``phase``; what autograd asks for within it, of the same with ``, back``."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation.namespace in ("prim", "profiler"):  # which device it has, and the like
            return operation(*args, **kwargs)
        name = operation._schema.name.split("::")[1]
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        phase = self.phase + (", back" if torch._C._current_graph_task_id() != -1 else "")
        for kind, names in NEVER.items():
            if name in names and not (name in PUTS and not (args[3:] and args[3])):  # what is put in has no order, added it has
                self._told(kind, name)
        if name in (*PUTS, "index") and any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]):
            self._told("has a shape that depends on values", name)
        out = operation(*args, **kwargs)
        made = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
        devices = {one.device.type for one in (*given, *made)}
        if "cpu" in devices:
            self._told("copies between host and device" if len(devices) > 1 else "is done by the host", name)
        if operation.namespace == "aten" and name in FREE:
            return out
        self.formats[phase].add(f"{name}: {_formats(given)} -> {_formats(made)}")
        self.kernels[phase] += kernels(name, given, made)
        if name == "convolution" and args[2] is not None:  # a bias is added in a pass of its own
            self.kernels[phase] += 1
            self.bytes[phase] += 2 * _nbytes(out)
        self.bytes[phase] += sum(map(_nbytes, given)) + sum(_nbytes(one) for one in made if not any(one is it for it in given))
        return out

    def _told(self, kind: str, name: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(ROOT / "last_e")]
        place = f"{Path(frames[-1].filename).relative_to(ROOT)}: {frames[-1].line}" if frames else "on the way back"
        self.wrong[f"{name} {kind} ({place})"] += 1


def kernels(name: str, given: list[Tensor], made: list[Tensor]) -> int:
    """About how many kernels an operation of torch is on a GPU: as its sources have it, for the operations of this network."""
    if name.startswith(("_foreach", "_fused", "_amp_foreach")):
        return max(1, -(-len(given) // _A_LAUNCH))
    if name == "convolution_backward":
        return len(made)
    if name in ("native_batch_norm", "native_batch_norm_backward"):
        return 2  # sums, then what follows from them; cuDNN's are one
    return 1


def _nbytes(tensor: Tensor) -> int:
    """Bytes of memory that a kernel goes over: what is expanded is there once."""
    numbers = 1
    for size, stride in zip(tensor.shape, tensor.stride()):
        numbers *= size if stride else 1
    return numbers * tensor.element_size()


def _formats(tensors: list[Tensor]) -> str:
    """The formats of tensors, each once, in their order."""
    return " ".join(dict.fromkeys(SHORT.get(one.dtype, str(one.dtype)) for one in tensors)) or "nothing"
