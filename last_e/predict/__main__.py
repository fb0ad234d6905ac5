"""``python -m last_e.predict FD``: what to predict comes as JSON from a file that is open under that number, since standard
input may hold the recordings; what is found goes out as JSON lines as it is found."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from last_e.light import import_torch_lightly
from last_e.process import importing


def main(number: int) -> int:
    """Predict and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with os.fdopen(number) as file:
        asked = json.load(file)
    import_torch_lightly()

    def say(values: dict[str, Any]) -> None:
        print(json.dumps(values), flush=True)

    with importing():
        from last_e.config import TrainConfig
        from last_e.datafile import DataError
        from last_e.gpu import NoGpu
        from last_e.manifest import DamagedCheckpoint
        from last_e.predict.network import Asked, Network, predict
        from last_e.refusal import refusal

    try:
        network = Network(Path(asked["folder"]), TrainConfig.model_validate(asked["config"]), asked["ema"])
        ready = time.time()
        about = network.description
        say({"ready": {"data": about.name, "classes": list(about.classes), "device": network.device.type}})
        found = predict(network, Asked(**asked["what"]), say)
    except (DataError, NoGpu, DamagedCheckpoint, RuntimeError, MemoryError, OSError) as error:
        say(refusal(error))
        return 1
    seconds = {"ready_seconds": ready - asked["begun"], "seconds": time.time() - ready}
    say({"result": {**found, **seconds}})
    return 0


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # all is said: taking torch apart would take another half second
