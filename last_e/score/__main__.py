"""``python -m last_e.score``: what to score comes as JSON on standard input; progress and the result go out as JSON lines."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from last_e.config import TrainConfig
from last_e.datafile import DataError
from last_e.gpu import NoGpu
from last_e.light import import_torch_lightly
from last_e.manifest import DamagedCheckpoint
from last_e.process import importing
from last_e.refusal import refusal


def main() -> int:
    """Score and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = json.load(sys.stdin)

    def tell(done: int, total: int, what: str) -> None:
        print(json.dumps({"done": done, "total": total, "what": what}), flush=True)

    import_torch_lightly()
    try:
        with importing():
            from last_e.data.shown import Spoil
            from last_e.score.models import Asked, score

        models = [
            Asked(Path(one["folder"]), TrainConfig.model_validate(one["config"]), one["weight"], one["ema"])
            for one in asked["models"]
        ]
        spoil = Spoil(**asked["spoil"]) if asked["spoil"] else None
        result, said = score(models, asked["part"], asked["crops"], tell, asked["weigh_on"], asked["mirror"], spoil)
    except (DataError, NoGpu, DamagedCheckpoint, RuntimeError, MemoryError, OSError) as error:
        print(json.dumps(refusal(error)), flush=True)
        return 1
    print(json.dumps({"result": {**result, "said": said}}), flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # all is said: taking torch apart would take another half second
