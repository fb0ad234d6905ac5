"""``python -m last_e.init``: what to begin with comes as JSON on standard input; the weights are kept, and what is told of them
goes out as JSON."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

from last_e.config import TrainConfig
from last_e.datafile import DataError, data_path
from last_e.described import is_own
from last_e.known import description_of
from last_e.own_set import read_own
from last_e.refusal import refusal
from last_e.skeletons import NTU25, Skeleton


def main() -> int:
    """Read, see that it fits, keep and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = json.load(sys.stdin)
    config = TrainConfig.model_validate(asked["config"])
    try:
        from last_e.init.fit import begin_with, freeze
        from last_e.init.read import read_weights, write_weights
        from last_e.model.network import LastE

        weights = read_weights(Path(asked["source"]))
        skeleton, classes = _known(config)
        model = LastE(config.model, config.data.num_classes, skeleton)
        told = [*begin_with(model, weights, config, classes), *freeze(model, config.model.freeze or ())]
        write_weights(weights, Path(asked["out"]))
    except (DataError, RuntimeError, MemoryError, OSError) as error:
        print(json.dumps(refusal(error)), flush=True)
        return 1
    print(json.dumps({"result": {"told": told}}), flush=True)
    return 0


def _known(config: TrainConfig) -> tuple[Skeleton, tuple[str, ...] | None]:
    """Skeleton and classes: an own set's where its file is at hand; else a skeleton of as many joints, for shapes depend on no
    more."""
    if not is_own(config.dataset):
        return NTU25, description_of(config.dataset, config.data.num_classes).classes
    with suppress(DataError, OSError):
        path = data_path(config)
        assert path is not None
        with path.open("rb") as file:
            description = read_own(file, path.stat().st_size, path).description
        return description.skeleton, description.classes
    joints = config.data.joints or len(NTU25.joints)
    bones = tuple((joint, joint - 1) for joint in range(1, joints))
    return Skeleton(joints=tuple(f"joint {joint}" for joint in range(joints)), bones=bones, centre=0), None


if __name__ == "__main__":
    sys.exit(main())
