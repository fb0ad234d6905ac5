"""By what the best epoch is chosen: the clips that validate, where a run has some, else those that test. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T", bound=Mapping[str, Any])

CHOSEN_ON_TEST = "best chosen on test clips, as the field does"
"""Said of a result without ``data.validation``: the best of many epochs on the clips that test looks better than it is."""


def chosen_by(epoch: Mapping[str, Any]) -> float:
    """Top-1 of an epoch, a line of the metrics, by which the best is chosen."""
    top1 = heard_of(epoch)
    return 0.0 if top1 is None else top1


def of_one_kind(epochs: Sequence[T]) -> list[T]:
    """Those epochs that were scored on clips of the same kind as the last one that was: a run that goes on with
    ``data.validation`` begins to choose anew, and what was seen of test clips before is no match for what validates."""
    validates = [epoch.get("validation_top1") is not None for epoch in epochs]
    return [epoch for epoch, one in zip(epochs, validates) if one == validates[-1]]


def heard_of(epoch: Mapping[str, Any]) -> float | None:
    """The same of what a heart tells of the last epoch; None before the first."""
    top1 = epoch.get("validation_top1")
    top1 = epoch.get("test_top1") if top1 is None else top1
    return None if top1 is None else float(top1)
