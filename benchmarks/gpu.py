"""Everything that wants a GPU, in one command of less than eight minutes: first whether it is right, then how fast it is.

    python benchmarks/gpu.py --out gpu.json        # on two cores, as a Kaggle session has them

Each section has a process of its own, so that none can spoil the next: one that fails or hangs is written down, one for which
there is no time is left out. What is found is printed and kept as it is found. Exit code 1: a section failed.
``--quick --device cpu`` tries the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.sections import experiments, fast, job, kernels, ranks, right
from benchmarks.sections.common import NTU60_TRAIN, Task, settings
from last_e.environment import usable_cores
from last_e.text import one_line


@dataclass(frozen=True)
class Section:
    """One thing to be found out."""

    run: Callable[[Task], dict[str, Any]]
    """Raises where something is wrong."""
    seconds: float
    """About how long it takes, guessed for an H100: begun only if so much is left, cut off after :data:`PATIENCE` of it."""


SECTIONS = {
    "machine": Section(right.machine, 10),
    "batches": Section(right.same_batches, 10),
    "logits": Section(right.stored_logits, 10),
    "losses": Section(right.plain_losses, 25),
    "kernels": Section(kernels.kernels, 90),
    "graph": Section(experiments.graph, 20),
    "waiting": Section(right.no_waiting, 10),
    "checkpoint": Section(right.checkpoint, 10),
    "formats": Section(right.number_formats, 30),
    "job": Section(job.killed_job, 70),
    "epoch": Section(fast.own_epochs, 45),
    "plain epoch": Section(fast.plain_epoch, 80),
    "bench": Section(fast.bench, 90),
    "two ranks": Section(ranks.two_ranks, 30),
    "container": Section(job.in_container, 40),
    "compile": Section(partial(experiments.compiled, mode="default"), 50),
    "compile with graphs": Section(partial(experiments.compiled, mode="reduce-overhead"), 50),
    "ranks on one GPU": Section(ranks.shared_gpu, 30),
    "nccl on one GPU": Section(ranks.nccl_on_one, 20),
}
"""In the order in which they are worth having; ``kernels`` first of those that use some, since Triton makes them there."""

PATIENCE, MORE_PATIENCE = 2, 6
"""How many times as long as expected a section may take; the latter on a CPU, whose cores others may use."""
FORK = multiprocessing.get_context("fork")
"""Children begin with torch imported, which takes seconds; this process never touches the GPU, so each can have it anew."""


def main(arguments: list[str] | None = None) -> int:
    """Run the sections; what is found is kept as it is found."""
    options = parse(arguments)
    began = time.monotonic()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    found: dict[str, Any] = {
        "format": "lastrun-gpu-1",
        "began": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "arguments": {name: value for name, value in vars(options).items() if name != "out"},
        "sections": {},
    }
    task, patience = make_task(options), MORE_PATIENCE if options.device == "cpu" else PATIENCE
    for name in options.only or SECTIONS:
        section, left = SECTIONS[name], 60 * options.minutes - (time.monotonic() - began)
        if section.seconds > left:
            entry: dict[str, Any] = {"outcome": "left out", "reason": "no time"}
        else:
            results = {name: entry["result"] for name, entry in found["sections"].items() if "result" in entry}
            entry = run(section, replace(task, found=results), min(patience * section.seconds, left))
        found["sections"][name] = entry
        print(f"{name}: {entry['outcome']}{told(entry)}", flush=True)
        keep(options.out, found)
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)
    return int(any(entry["outcome"] == "failed" for entry in found["sections"].values()))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--model", default="base_e_v3")
    parser.add_argument("--clips", type=int, help=f"in a whole epoch (default: {NTU60_TRAIN}, as ntu60's; 96 if --quick)")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores to be used (default: 2)")
    parser.add_argument("--minutes", type=float, default=7.5, help="end by then (default: 7.5)")
    parser.add_argument("--quick", action="store_true", help="short measurements of a small network, to try the script")
    parser.add_argument("--only", action="append", metavar="SECTION", choices=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep everything as JSON here")
    return parser.parse_args(arguments)


def make_task(options: argparse.Namespace) -> Task:
    """What the command line asks of every section."""
    words = [f"model.variant={options.model}", f"hardware.device={options.device}"]
    if options.quick:
        words += ["model.stem_channels=8", "model.channels=[8,8,8]", "model.num_blocks=[1,1,1]"]
        words += ["training.input_frames=16", "training.batch_size=8"]
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    clips = options.clips or (96 if options.quick else NTU60_TRAIN)
    return Task(device, settings(*words), clips, 0.1 if options.quick else 1.5, options.quick, {})


def run(section: Section, task: Task, at_most: float) -> dict[str, Any]:
    """What came of a section in a process of its own, which ends with all its children after so many seconds at most."""
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=work, args=(section, task, there))
    began = time.monotonic()
    process.start()
    there.close()
    try:
        while not here.poll(0.1) and process.is_alive() and time.monotonic() - began < at_most:
            pass
        if here.poll() or not process.is_alive():
            entry: dict[str, Any] = here.recv()
        else:
            entry = {"outcome": "failed", "reason": f"cut off after {at_most:.0f} s"}
    except EOFError:
        process.join()
        entry = {"outcome": "failed", "reason": f"its process ended with exit code {process.exitcode}"}
    finally:
        end(process)
    return {"seconds": round(time.monotonic() - began, 1), **entry}


def work(section: Section, task: Task, connection: Connection) -> None:
    """The child: run the section, send what came of it."""
    os.setsid()
    torch.set_num_threads(usable_cores())  # torch was imported before there was a limit
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that processes and files that were made for it go
    try:
        entry: dict[str, Any] = {"outcome": "done", "result": section.run(task)}
    except Exception as error:  # whatever it is, the other sections go on
        reason = f"{type(error).__name__}: {one_line(error)}"
        entry = {"outcome": "failed", "reason": reason, "traceback": traceback.format_exc()}
    connection.send(entry)


def end(process: multiprocessing.process.BaseProcess) -> None:
    """End a child and whatever it has started: asked, then killed."""
    assert process.pid is not None
    process.join(3)
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        process.join(5)


def told(entry: dict[str, Any]) -> str:
    """An entry for people: its reason, or its figures without the details."""
    if "reason" in entry:
        return f" ({entry['reason']})"
    figures = {name: value for name, value in entry["result"].items() if name != "details"}
    return f" in {entry['seconds']:.0f} s: {words(figures)}"


def words(value: Any) -> str:
    """Figures with four digits, and their names without underscores."""
    if isinstance(value, dict):
        inner = (f"({words(item)})" if isinstance(item, dict) else words(item) for item in value.values())
        return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in zip(value, inner))
    if isinstance(value, list):
        return f"[{', '.join(map(words, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def keep(path: Path | None, found: dict[str, Any]) -> None:
    """Everything so far as a file: whole or not at all."""
    if path is not None:
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(finite(found), indent=1, allow_nan=False) + "\n")
        os.replace(part, path)


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
