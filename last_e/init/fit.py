"""Weights put into a network that may have other classes or another skeleton, and parts of it kept as they are."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from last_e.config import VARIANTS, TrainConfig
from last_e.datafile import DataError
from last_e.init.read import Weights
from last_e.model.build import build_model
from last_e.model.network import LastE
from last_e.optim import HEAD
from last_e.problems import nearest
from last_e.skeletons import NTU25
from last_e.text import counted, shown

LEAST = 0.5
"""Of the numbers of a network's body, so much has to come in."""
_MOST_TOLD, _MOST_LINES = 4, 8


class _Left(NamedTuple):
    """A tensor that is not taken over."""

    name: str
    why: str


def begin_with(model: LastE, weights: Weights, config: TrainConfig, classes: tuple[str, ...] | None) -> list[str]:
    """Take over all weights that fit; the rest begins as it was made. Returns what to tell of it.

    The head is taken over where its classes are the same: by their names (``classes`` are the network's), where these are known
    on both sides, else by their number, unless the weights are known to be of another data set. A graph is the
    network's own; where the weights are of another skeleton, what was learned of its edges is left, too. Weights of which
    nobody says where they come from are of the original code, which draws NTU's graph otherwise: on NTU's joints that is kept.

    Raises:
        DataError: they are of another network: less than half of its body would come in.
    """
    own = model.state_dict()
    other_set = weights.dataset is not None and weights.dataset != config.dataset
    other_classes = weights.classes != classes if weights.classes and classes else other_set
    other_graph = _has_other_graph(weights.tensors, own)
    originals = other_graph and weights.model is None and model.skeleton.bones == NTU25.bones
    taken: dict[str, Tensor] = {}
    left: list[_Left] = []
    for name, here in own.items():
        there = weights.tensors.get(name)
        if name.endswith(".A") and not originals:
            continue
        if there is None:
            if not name.endswith("num_batches_tracked"):  # the original's files may be without
                left.append(_Left(name, f"{_shape(here)} here, nothing there"))
        elif there.shape != here.shape:
            left.append(_Left(name, f"{_shape(there)} there, {_shape(here)} here{_because(name)}"))
        elif name.startswith(HEAD) and other_classes:
            whose = weights.dataset or ", ".join(map(shown, (weights.classes or ())[:2])) + ", ..."
            left.append(_Left(name, f"{_shape(there)} there and here, of other classes ({whose})"))
        elif other_graph and not originals and name.endswith(".edge"):
            left.append(_Left(name, f"{_shape(there)} there and here, of another skeleton"))
        else:
            taken[name] = there
    _see_that_it_is_the_same_network(model, weights, taken, left)
    with torch.no_grad():
        for name, there in taken.items():
            own[name].copy_(there)
    unknown = [name for name in weights.tensors if name not in own]
    parameters = dict(model.named_parameters())
    values = sum(parameters[name].numel() for name in taken if name in parameters)
    total = sum(parameter.numel() for parameter in parameters.values())
    where = "" if config.model.init is None else f" from {config.model.init}"
    told = [f"init: {values:,} of {total:,} parameters taken over{where}"]
    told += [f"init: begins anew: {one}" for one in _together(left)]
    if originals:
        told.append("init: the graph is that of the weights, as the original code draws NTU's")
    if unknown:
        some, more = unknown[:_MOST_TOLD], len(unknown) - _MOST_TOLD
        told.append(f"init: not in this network: {', '.join(some)}" + (f" and {more} more" if more > 0 else ""))
    return told


def freeze(model: LastE, patterns: Iterable[str]) -> list[str]:
    """Keep the parameters whose names match as they are, and with a batch norm's also its statistics. Returns what to tell.

    Raises:
        DataError: a pattern matches none, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    frozen: set[str] = set()
    for pattern in patterns:
        found = {name for name in parameters if fnmatchcase(name, pattern)}
        if not found:
            guess = nearest(pattern, [*parameters, *(f"{name}.*" for name, _ in model.named_children())])
            guess = guess.removeprefix("known keys only; ").removeprefix("known keys: ")
            raise DataError(f"model.freeze: {pattern} matches no parameter; {guess}", missing=True)
        frozen |= found
    if not frozen:
        return []
    if len(frozen) == len(parameters):
        raise DataError("model.freeze: nothing is left to train; name patterns that leave some", missing=True)
    for name in frozen:
        parameters[name].requires_grad_(False)
    model.keep_still(
        [
            module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(p.requires_grad for p in module.parameters())
        ]
    )
    values = sum(parameters[name].numel() for name in frozen)
    total = sum(parameter.numel() for parameter in parameters.values())
    return [f"freeze: {values:,} of {total:,} parameters stay as they are ({len(frozen)} of {len(parameters)} tensors)"]


def _has_other_graph(weights: dict[str, Tensor], own: dict[str, Tensor]) -> bool:
    for name, here in own.items():
        there = weights.get(name) if name.endswith(".A") else None
        if there is not None and (there.shape != here.shape or not torch.allclose(there, here.cpu(), atol=1e-5)):
            return True
    return False


def _see_that_it_is_the_same_network(model: LastE, weights: Weights, taken: dict[str, Tensor], left: list[_Left]) -> None:
    # What is learned of a graph's edges has the same shape in any network on as many joints.
    body = {name: p.numel() for name, p in model.named_parameters() if not name.startswith(HEAD) and not name.endswith(".edge")}
    come = sum(size for name, size in body.items() if name in taken)
    if come >= LEAST * sum(body.values()):
        return
    some = "; ".join(f"{one.name} {one.why}" for one in left[:_MOST_TOLD])
    kind = weights.model or _variant_of(weights)
    guess = f"; they are of {kind}: set model to that" if kind not in (None, model.config.variant) else ""
    raise DataError(
        f"model.init: these weights are of another network than {model.config.variant}: {come:,} of {sum(body.values()):,} "
        f"parameters of its body fit ({some}){guess}",
        missing=True,
    )


def _variant_of(weights: Weights) -> str | None:
    """The variant whose shapes they have most of, if that is nearly all."""
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items() if not name.startswith(HEAD)}
    for variant in VARIANTS:
        own = {name: p.shape for name, p in build_model(variant).named_parameters() if not name.startswith(HEAD)}
        if sum(shapes.get(name) == shape for name, shape in own.items()) > 0.9 * len(own):
            return variant
    return None


def _because(name: str) -> str:
    return " (other classes)" if name.startswith(HEAD) else " (another skeleton)" if name.endswith(".edge") else ""


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _together(left: list[_Left]) -> list[str]:
    """Those with the same reason in a line."""
    reasons: dict[str, list[str]] = {}
    for one in left:
        reasons.setdefault(one.why, []).append(one.name)
    told = []
    for why, names in reasons.items():
        more = f" and {counted(len(names) - _MOST_TOLD, 'more', 'more')}" if len(names) > _MOST_TOLD else ""
        told.append(f"{', '.join(names[:_MOST_TOLD])}{more}: {why}")
    rest = len(told) - _MOST_LINES
    return told if rest <= 0 else [*told[:_MOST_LINES], f"{rest} more shapes"]
