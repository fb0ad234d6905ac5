"""What `lastrun` costs before it does anything, against a Typer application with one empty command, in the same run.

    python benchmarks/startup.py [--runs 21]

Each run starts every command once, one after the other, so that whoever else uses the machine slows all of them. Given are the
medians, and how many times the empty application's each is. Exit code 1: one of them takes more than 1.5 times as long.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 1.5
EMPTY = """\
import typer
app = typer.Typer(add_completion=False)
@app.command()
def empty() -> None: ...
app()
"""


def main() -> int:
    """Print the table; 1 where a command takes too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=21, help="how often each command is started (default: 21)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        store, job = Path(folder) / "store", ROOT / "jobs/quickstart.yaml"
        store.mkdir()
        commands = {
            "an empty Typer application": [sys.executable, "-c", EMPTY],
            "lastrun --help": [sys.executable, "-m", "runner", "--help"],
            f"lastrun validate {job.name}": [sys.executable, "-m", "runner", "validate", str(job)],
            "lastrun list (an empty folder)": [sys.executable, "-m", "runner", "list", "--store", str(store)],
        }
        # Byte code is kept, as it is for whoever has installed both, even where this shell forbids it.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode"), "HOME": folder}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for run in range(runs + 1):
            for name, command in commands.items():
                begin = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
                if run:  # the first writes the byte code
                    seconds[name].append(time.perf_counter() - begin)
    packages = ", ".join(f"{name} {version(name)}" for name in ("typer", "pydantic", "pyyaml"))
    print(f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}; {runs} runs each")
    empty = statistics.median(next(iter(seconds.values())))
    too_slow = False
    for name, found in seconds.items():
        median = statistics.median(found)
        too_slow = too_slow or median > MOST * empty
        span = f"{1000 * min(found):.0f} to {1000 * max(found):.0f}"
        print(f"{name:<34}{1000 * median:6.0f} ms  {median / empty:4.2f} times  ({span})")
    if too_slow:
        print(f"more than {MOST} times the empty application")
    return int(too_slow)


if __name__ == "__main__":
    sys.exit(main())
