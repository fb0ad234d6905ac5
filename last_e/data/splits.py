"""Which clips of a data set in memory train and which test."""

from __future__ import annotations

import torch
from torch import Tensor

from last_e.config import TrainConfig
from last_e.data.clips import Clips
from last_e.datafile import DataError, with_validation
from last_e.splits import Parts, trains


def parts_of(clips: Clips, config: TrainConfig) -> Parts:
    """Which clips of a job train, which test, and on which the best is chosen (``data.validation``).

    Raises:
        DataError: the data set has no such split, or none that can be cut so.
    """
    train = train_mask(clips, config.dataset, config.split_type)
    parts = Parts(train.numpy(), held_out(clips, train, config.split_type).numpy())
    named = {split: mask.numpy() for split, mask in clips.validation.items()}
    try:
        return with_validation(config, parts, clips.label.numpy(), clips.performer.numpy(), named)
    except ValueError as error:
        raise DataError(f"{config.dataset}: {error}", missing=True) from None


def train_mask(clips: Clips, dataset: str, split_type: str) -> Tensor:
    """(N,) bool: True where a clip trains; everything else tests (see :func:`last_e.splits.trains`).

    A file that brings its own splits is followed: it is an own set, or does not know the people.

    Raises:
        DataError: it brings a split, but not this one.
    """
    if not clips.own_splits:
        return torch.from_numpy(trains(dataset, split_type, clips.performer.numpy(), clips.camera.numpy(), clips.setup.numpy()))
    if split_type not in clips.own_splits:
        known = ", ".join(sorted(clips.own_splits))
        if clips.description is not None:
            raise DataError(f"split_type {split_type}: {dataset} has {known}", missing=True)
        raise DataError(
            f"split_type {split_type}: this file was imported without the people's numbers and knows only {known}; "
            f"choose with --set split_type={known.split(',')[0]}, or prepare the data from NTU's own files",
            missing=True,
        )
    return clips.own_splits[split_type]


def held_out(clips: Clips, train: Tensor, split_type: str) -> Tensor:
    """(N,) bool: True where a clip tests, of those that do not ``train``: all but a split's validation part."""
    validation = clips.validation.get(split_type)
    return ~train if validation is None else ~(train | validation)
