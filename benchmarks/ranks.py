"""What several ranks cost and gain on this CPU: the ordered sum of a step's gradients against an all-reduce, and whole steps.

    python benchmarks/ranks.py [--model base] [--ranks 1,2,4] [--rounds 5] [--seconds 10]

The ranks meet through gloo. Training steps are taken as `lastrun bench --ranks` does; then both sums are made in turns, of
a flat tensor as large as the network's gradients and running statistics, from the moment when all are there. Given are
medians, and each sum as a share of a step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch import distributed as dist

from last_e.bench.ranks import measure_ranks, with_shares
from last_e.config import TrainConfig, micro_batches
from last_e.environment import cpu_name, share_cores, usable_cores
from last_e.layers import resolve
from last_e.model.network import LastE
from last_e.ranks.fold import Fold, shares
from last_e.ranks.group import Joined, Seat
from last_e.reading import set_layer
from last_e.state import pack_statistics

TIMES = 60


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="base", help="nano, small, base or large (default: base)")
    parser.add_argument("--ranks", default="1,2,4", help="how many there are (default: 1,2,4)")
    parser.add_argument("--rounds", type=int, default=5, help="how often steps are measured (default: 5)")
    parser.add_argument("--seconds", type=float, default=10, help="and how long (default: 10)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of the configuration")
    options = parser.parse_args()
    numbers = [int(number) for number in options.ranks.split(",")]
    share_cores()
    config = with_shares(settings(options.model, options.set), max(numbers))
    model = LastE(config.model, config.data.num_classes)
    size = sum(p.numel() for p in model.parameters()) + sum(s.numel() for s in pack_statistics(model) if s.is_floating_point())
    parts = micro_batches(config)
    print(f"{cpu_name()}, {usable_cores()} cores, load {os.getloadavg()[0]:.1f}; torch {torch.__version__}")
    print(
        f"{config.model.variant}: {size:,} numbers a sum, {parts} micro-batches of {config.hardware.micro_batch} clips a step"
    )
    found = measure_ranks(config, None, numbers, options.rounds, options.seconds, lambda what: None)["by"]
    print(f"{'ranks':<7}{'clips/s':>9}{'from - to':>16}{'of one':>8}{'step':>9}{'waiting':>9}{'ordered':>16}{'all-reduce':>16}")
    for number in numbers:
        steps = found[str(number)]
        rates, step = steps["rounds"], config.training.batch_size / steps["clips_per_second"]
        words = f"{number:<7}{steps['clips_per_second']:9.1f}{f'{min(rates):.1f} - {max(rates):.1f}':>16}{steps['of_one']:8.2f}"
        words += f"{1000 * step:6.0f} ms{steps['waiting']:9.0%}"
        if number > 1:
            words += "".join(f"{1000 * sum_:7.1f} ms {sum_ / step:5.1%}" for sum_ in sums(number, parts, size))
        print(words, flush=True)


def settings(model: str, more: list[str]) -> TrainConfig:
    """The recipe of ntu60, on made-up clips."""
    layer, problems = set_layer([f"model.variant={model}", "dataset=ntu60", "hardware.device=cpu", *more])
    return resolve([layer], TrainConfig, problems).config


def sums(number: int, parts: int, size: int) -> tuple[float, float]:
    """Seconds of the ordered sum, and of an all-reduce: medians of what the slowest rank took each time."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pairs, processes = [context.Pipe() for _ in range(number)], []
        for rank, (_, there) in enumerate(pairs):
            seat = Seat(rank, number, Path(folder) / "meeting", number)
            processes.append(context.Process(target=add_up, args=(seat, parts, size, there)))
            processes[-1].start()
        took: list[list[tuple[float, float]]] = [here.recv() for here, _ in pairs]
        for process in processes:
            process.join()
    slowest = [[max(one[kind] for one in at_once) for at_once in zip(*took)] for kind in (0, 1)]
    return statistics.median(slowest[0]), statistics.median(slowest[1])


def add_up(seat: Seat, parts: int, size: int, connection: Connection) -> None:
    """A rank: both sums in turns, of what it has added up of its own share before."""
    torch.set_num_threads(max(1, usable_cores() // seat.size))
    group = Joined(seat)
    group.meet(torch.device("cpu"))
    own = [torch.randn(size) for _ in shares(parts, seat.size)[seat.rank]]
    took = []
    for _ in range(TIMES):
        fold: Fold[Tensor] = Fold(parts, Tensor.add_)
        for part, value in zip(shares(parts, seat.size)[seat.rank], own):
            fold.add((0, part), value.clone())
        flat = own[0].clone()
        group.agree(0)
        began = time.perf_counter()
        group.complete(fold, parts)
        ordered = time.perf_counter() - began
        group.agree(0)
        began = time.perf_counter()
        dist.all_reduce(flat)
        took.append((ordered, time.perf_counter() - began))
    connection.send(took)
    group.leave()


if __name__ == "__main__":
    main()
