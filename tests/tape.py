"""What a CUDA graph does, on a CPU: a step's operations written down, and played again on the same memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = {"_local_scalar_dense", "nonzero", "equal", "masked_select"}
"""What CUDA would refuse to record."""


class Tape(TorchDispatchMode):
    """Operations as they come, each with the very tensors that it was given and that it made.

    Played, an operation is given the same tensors and puts what it makes where it put it before. As with a graph, whatever
    Python did meanwhile is not done again: a number that was no tensor stays what it was, and a tensor that was made outside
    and is another one by now is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._own: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if operation._schema.name.split("::")[1] in HOST:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._keep_what_is_written(operation, args, kwargs)
        out = operation(*args, **kwargs)
        made = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
        given = {_memory(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        self._own |= {_memory(one) for one in made if _memory(one) not in given}
        self._calls.append((operation, args, kwargs, [one for one in made if _memory(one) not in given]))
        return out

    def _keep_what_is_written(self, operation: Any, args: Any, kwargs: Any) -> None:
        """What was there before, of memory that others have."""
        for position, argument in enumerate(operation._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            for one in tree_leaves(args[position] if position < len(args) else kwargs.get(argument.name)):
                if isinstance(one, Tensor) and _memory(one) not in self._own:
                    whole = torch.empty(0, dtype=one.dtype).set_(one.untyped_storage())
                    self._before.setdefault(_memory(one), (whole, whole.clone()))

    def undo(self) -> None:
        """What was written down counts as not done."""
        with torch.no_grad():
            for whole, before in self._before.values():
                whole.copy_(before)

    @torch.no_grad()
    def play(self) -> None:
        """Do it."""
        for operation, args, kwargs, made in self._calls:
            out = operation(*args, **kwargs)
            new = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
            places = iter(made)
            given = {_memory(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
            for one in new:
                if _memory(one) not in given:
                    next(places).copy_(one)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor.untyped_storage())


class TapeCapture:
    """Records steps on tapes, which have a pool of memory as CUDA's graphs have: once all that it had are gone, it takes no
    other (``use_count > 0`` of torch's allocator)."""

    def __init__(self) -> None:
        self._pool: list[weakref.ref[Tape]] = []

    def run(self, step: Callable[[], None]) -> None:
        step()

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        if self._pool and not any(one() for one in self._pool):
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        tape = Tape()
        try:
            with tape:
                step()
        finally:
            tape.undo()
        self._pool.append(weakref.ref(tape))
        return tape.play

    def forget(self) -> None:
        self._pool = []
