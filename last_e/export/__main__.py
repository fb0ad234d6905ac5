"""``python -m last_e.export``: what to export comes as JSON on standard input; progress and the result go out as JSON lines."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from last_e.config import TrainConfig
from last_e.datafile import DataError
from last_e.gpu import NoGpu
from last_e.manifest import DamagedCheckpoint
from last_e.refusal import refusal


def main() -> int:
    """Export and print."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = json.load(sys.stdin)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that export print what they like

    def tell(values: dict[str, object]) -> None:
        print(json.dumps(values), file=out, flush=True)

    try:
        from last_e.export.export import Asked, export

        paths = {key: Path(asked[key]) for key in ("folder", "into")}
        one = Asked(**{**asked, **paths, "config": TrainConfig.model_validate(asked["config"])})
        result = export(one, lambda done, total, what: tell({"done": done, "total": total, "what": what}))
    except (DataError, NoGpu, DamagedCheckpoint, RuntimeError, MemoryError, OSError) as error:
        tell(refusal(error))
        return 1
    tell({"result": result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
