"""``python -m last_e.bench``: what to measure comes as JSON on standard input; events and the result go out as JSON lines."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

from last_e.config import TrainConfig
from last_e.datafile import DataError
from last_e.gpu import NoGpu
from last_e.refusal import refusal


def main() -> int:
    """Measure and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes and files that were made for it go
    asked = json.load(sys.stdin)
    config = TrainConfig.model_validate(asked["config"])
    data = None if asked["data"] is None else Path(asked["data"])

    def tell(done: int, total: int, what: str) -> None:
        print(json.dumps({"done": done, "total": total, "what": what}), flush=True)

    try:
        from last_e.bench.measure import measure

        how_long = asked["rounds"], asked["seconds"]
        result = measure(config, data, asked["parts"], asked["kinds"], *how_long, tell, ranks=asked["ranks"])
    except (DataError, NoGpu, RuntimeError, OSError) as error:
        print(json.dumps(refusal(error)), flush=True)
        return 1
    print(json.dumps({"result": result}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
