"""What may differ when a run goes on elsewhere, and what may not. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from last_e.config import is_pinned
from last_e.problems import ConfigError, Origin, Problem, nearest, show

_BATCH = ("training.batch_size", "training.gradient_accumulation_steps")


@dataclass(frozen=True)
class Change:
    """A key whose value differs from the one that the run began with."""

    key: str
    before: Any
    after: Any
    pinned: bool
    note: str = ""


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """All differences between two flat configurations. A batch cut otherwise, with the same product, is not pinned."""
    same_batch = _product(before) == _product(after)
    found = []
    for key in {**before, **after}:
        if before.get(key) == after.get(key):
            continue
        if key in _BATCH and same_batch:
            note = f"effective batch stays {_product(after)}; batch statistics differ"
            found.append(Change(key, before.get(key), after.get(key), False, note))
        else:
            note = "batch statistics differ" if key == "hardware.micro_batch" else ""
            found.append(Change(key, before.get(key), after.get(key), is_pinned(key), note))
    return found


def refuse_pinned(found: Iterable[Change], allowed: Iterable[str], origins: Mapping[str, Origin]) -> None:
    """Refuse changes to what decides learning, but for those named with ``--allow-change``.

    Raises:
        ConfigError: one problem for each.
    """
    allowed = {key for word in allowed for key in word.split(",")}
    problems = [
        Problem("--allow-change", key, "no key that decides learning", nearest(key, sorted(filter(is_pinned, origins))))
        for key in sorted(allowed)
        if key != "data" and not (key in origins and is_pinned(key))
    ]
    for change in found:
        before = f"{show(change.before)}, as the run began"
        if change.pinned and _is_shape(change.key):
            how = f"{before}: another network is another run, not this one going on"
        elif change.key == "recipe":
            how = f"{before}: a job keeps each of its keys; set those, such as training.augmentations.motion"
        elif change.pinned and change.key not in allowed:
            how = f"{before} (it decides learning); or add --allow-change {change.key}"
        else:
            continue
        problems.append(Problem(str(origins.get(change.key, "configuration")), change.key, show(change.after), how))
    if problems:
        raise ConfigError(problems)


def _is_shape(key: str) -> bool:
    """Whether weights, or the optimizer's averages, of one value do not fit another."""
    if key.startswith("model."):
        return key not in ("model.dropout", "model.drop_path_rate")
    return key in ("data.num_classes", "training.body_lr_factor")


def _product(flat: Mapping[str, Any]) -> int:
    size, steps = (flat.get(key) or 0 for key in _BATCH)
    return int(size) * int(steps)
