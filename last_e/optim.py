"""The optimizer, and which parameters it leaves out of weight decay."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from torch import nn

from last_e.config import TrainingConfig

HEAD = "fc."
"""How the names of the classifier's parameters begin; all else is the network's body."""
NO_DECAY = (
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
)
"""The reference's exclusion list: a parameter with one of these in its name is not decayed."""

# The public base of BatchNorm1d/2d/3d and SyncBatchNorm is private in torch, hence the list.
_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.RMSNorm,
)


def decayed(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the parameters with weight decay and of those without.

    Left out are the reference's patterns and, by type, every norm layer: many sit in a Sequential without a telling name.
    """
    in_norm = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    with_decay: list[str] = []
    without: list[str] = []
    for name, _ in model.named_parameters():
        excluded = name in in_norm or any(pattern in name for pattern in NO_DECAY)
        (without if excluded else with_decay).append(name)
    return with_decay, without


def parameter_groups(model: nn.Module, weight_decay: float, body_factor: float | None = None) -> list[dict[str, Any]]:
    """The parameters with weight decay and those without, as torch's optimizers take them; those that are frozen are in none.

    With a ``body_factor`` those of the head are apart: the others have ``lr_factor``, by which their rate is lower.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = []
    for names, decay in zip(decayed(model), (weight_decay, 0.0)):
        mine = [name for name in names if name in parameters]
        if body_factor is None:
            groups.append({"params": [parameters[name] for name in mine], "weight_decay": decay})
            continue
        for is_head, factor in ((False, body_factor), (True, 1.0)):
            some = [parameters[name] for name in mine if name.startswith(HEAD) is is_head]
            groups.append({"params": some, "weight_decay": decay, "lr_factor": factor})
    return [group for group in groups if group["params"]]


Kind = TypeVar("Kind", bound=torch.optim.Optimizer)


def _light(kind: type[Kind]) -> type[Kind]:
    """The same optimizer without the wrappers for torch's compiler: they import it, which takes as long as importing torch."""
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), {**bare, "step": torch.no_grad()(inspect.unwrap(kind.step))})


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over groups with and without weight decay. The learning rate is set anew at every step.

    Fused: one pass over memory, and a step can be left out on the device (``found_inf``) without asking the host.
    """
    groups = parameter_groups(model, config.weight_decay, config.body_lr_factor)
    if config.optimizer == "sgd":
        sgd = _light(torch.optim.SGD)(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)
        add_momentum(sgd)
        return sgd
    return _light(torch.optim.AdamW)(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), fused=True)


def add_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD with momentum the averages that it lacks.

    torch makes them in the first step, without a value: were that step left out, the second would use them.
    """
    for group in optimizer.param_groups:
        if isinstance(optimizer, torch.optim.SGD) and group["momentum"]:
            for parameter in group["params"]:
                if optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
