"""Networks out of checkpoints, and what they were trained to tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from last_e import checkpoint
from last_e.config import TrainConfig
from last_e.datafile import DataError, find_file
from last_e.described import DESCRIPTION, Description, described, is_own
from last_e.known import description_of
from last_e.manifest import DamagedCheckpoint
from last_e.model.network import LastE
from last_e.own_set import read_own
from last_e.text import one_line


class Loaded(NamedTuple):
    """A network that is ready to be asked."""

    model: LastE
    """In evaluation mode, on the CPU."""
    description: Description
    """Its classes, skeleton and units: those of the set that it was trained on."""


def load_network(folder: Path, config: TrainConfig, ema: bool = False) -> Loaded:
    """The network of a checkpoint, whose bytes are compared with their hashes first; with ``ema`` that of its weights' average.

    An own set's classes and skeleton are in the checkpoint itself. One that was saved before they were has them from the set's
    file.

    Raises:
        DamagedCheckpoint: it is not whole, or holds no such network.
        DataError: nothing says what the network was trained on, or no average was kept.
    """
    state, _ = checkpoint.load(folder)
    description = _description(state, config)
    if len(description.classes) != config.data.num_classes and is_own(config.dataset):
        raise DamagedCheckpoint(
            f"it knows {config.data.num_classes} classes, and its data set {len(description.classes)}: {description.name}"
        )
    model = LastE(config.model, config.data.num_classes, description.skeleton)
    if ema and "ema_model" not in state:
        raise DataError(
            "the checkpoint has no average of its weights (it was trained without training.ema): leave --ema out", missing=True
        )
    try:
        model.load_state_dict(state["ema_model" if ema else "model"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"its weights do not fit {config.model.variant} ({one_line(error)})") from None
    return Loaded(model.eval(), description)


def _description(state: dict[str, Any], config: TrainConfig) -> Description:
    if not is_own(config.dataset):
        return description_of(config.dataset, config.data.num_classes)
    try:
        found = described(state) if isinstance(state.get(DESCRIPTION), str) else None
    except ValueError as error:
        raise DamagedCheckpoint(str(error)) from None
    if found is None:
        path = find_file(config.dataset, config.data.uri, config.hardware.data_root)
        with path.open("rb") as file:
            found = read_own(file, path.stat().st_size, path).description
    return found
