"""Training steps of several ranks against those of one: groups of processes that work in turns on the same micro-batches."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from last_e.bench.contenders import Own, bench_clips, synchronize
from last_e.config import TrainConfig, micro_batches, most_for
from last_e.environment import share_cores
from last_e.precision import choose_device
from last_e.process import elsewhere
from last_e.ranks.group import ALONE, Group, Joined, Seat
from last_e.text import counted

_LONGEST = 600.0
"""Seconds that an answer may take: where a rank has died, others wait for it."""


class _Found(NamedTuple):
    """What a rank has measured."""

    clips: int
    """Of all ranks."""
    seconds: float
    own_clips: int
    own_seconds: float
    """Without waiting for others."""


Ask = Callable[[float], list[_Found]]


def measure_ranks(
    config: TrainConfig, data: Path | None, numbers: Sequence[int], rounds: int, seconds: float, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Clips per second of training steps with each of these ``numbers`` of ranks, the first of which is one, in turns. A
    step has a micro-batch for each rank of the largest number, the same ones whoever does them."""
    config = with_shares(config, max(numbers))
    found: dict[int, list[list[_Found]]] = {number: [] for number in numbers}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        asks = {number: stack.enter_context(_ranks(config, data, number, Path(folder) / str(number))) for number in numbers}
        for round_ in range(rounds + 1):
            for number in numbers if round_ % 2 else reversed(numbers):
                tell(f"{counted(number, 'rank')}, " + (f"round {round_} of {rounds}" if round_ else "warm-up"))
                told = asks[number](seconds if round_ else min(seconds, 1.0))
                if round_:
                    found[number].append(told)
    rates = {number: [told[0].clips / told[0].seconds for told in rounds_] for number, rounds_ in found.items()}
    return {
        "micro_batch": config.hardware.micro_batch,
        "micro_batches": micro_batches(config),
        "by": {
            str(number): {
                "clips_per_second": statistics.median(rates[number]),
                "rounds": rates[number],
                "of_one": statistics.median(rate / one for rate, one in zip(rates[number], rates[numbers[0]])),
                "each": [
                    statistics.median(told[rank].own_clips / told[rank].own_seconds for told in found[number])
                    for rank in range(number)
                ],
                "waiting": statistics.median(
                    statistics.mean(1 - one.own_seconds / one.seconds for one in told) for told in found[number]
                ),
            }
            for number in numbers
        },
    }


def with_shares(config: TrainConfig, ranks: int) -> TrainConfig:
    """With batches cut so that each rank has something to do, unless they are cut already.

    Raises:
        ValueError: they cannot be.
    """
    most = config.hardware.micro_batch or most_for(config, ranks)
    config = config.model_copy(update={"hardware": config.hardware.model_copy(update={"micro_batch": most})})
    if micro_batches(config) < ranks:
        raise ValueError(f"{ranks} ranks: a step has {counted(micro_batches(config), 'micro-batch', 'micro-batches')}")
    return config


@contextmanager
def _ranks(config: TrainConfig, data: Path | None, number: int, meeting: Path) -> Iterator[Ask]:
    """So many processes that train together when they are asked to."""
    context = multiprocessing.get_context("spawn")
    started = []
    share_cores()
    try:
        for rank in range(number):
            here, there = context.Pipe()
            arguments = (config.model_dump_json(), data, Seat(rank, number, meeting, number), there)
            process = context.Process(target=_work, args=arguments, daemon=True)
            with elsewhere():
                process.start()
            there.close()
            started.append((process, here))

        def ask(seconds: float) -> list[_Found]:
            for _, here in started:
                here.send(seconds)
            return [_answer(here) for _, here in started]

        yield ask
    finally:
        for process, here in started:
            here.close()
            process.terminate()
            process.join()


def _answer(connection: Connection) -> _Found:
    try:
        answer = connection.recv() if connection.poll(_LONGEST) else f"no answer within {_LONGEST:.0f} s"
    except EOFError:
        answer = "a rank has ended"
    if isinstance(answer, str):
        raise RuntimeError(answer)
    found: _Found = answer
    return found


def _work(config_json: str, data: Path | None, seat: Seat, connection: Connection) -> None:
    """What a rank does: build the trainer, then take steps with the others whenever it is asked to."""
    group: Group = ALONE
    with connection:
        try:
            config = TrainConfig.model_validate_json(config_json)
            device, _ = choose_device(config.hardware, seat.rank)
            if device.type == "cuda":
                torch.cuda.set_device(device)
            if seat.size > 1:
                group = joined = Joined(seat)
                joined.meet(device)
            trainer = Own(config, bench_clips(config, data), device, group)
            steps = trainer.train()
            while True:
                connection.send(_steps(steps, connection.recv(), group, device))
        except EOFError:
            return
        except Exception as error:  # whatever it is, the process that asked has to hear of it
            connection.send(f"rank {seat.rank}: {type(error).__name__}: {error}")
        finally:
            if isinstance(group, Joined):
                group.leave()


def _steps(steps: Iterator[int], seconds: float, group: Group, device: torch.device) -> _Found:
    """Steps for so many seconds, after one that does not count. The first rank looks at its clock for all."""
    next(steps)
    synchronize(device)
    own_clips, own_seconds, _ = group.done
    begin, clips = time.perf_counter(), 0
    while True:
        clips += next(steps)
        if group.agree(int(group.rank == 0 and time.perf_counter() - begin >= seconds)):
            break
    synchronize(device)
    took = time.perf_counter() - begin
    if group.size == 1:
        return _Found(clips, took, clips, took)
    return _Found(clips, took, group.done[0] - own_clips, group.done[1] - own_seconds)
