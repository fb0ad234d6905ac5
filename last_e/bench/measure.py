"""Measuring: two processes that work in turns, several rounds of every part, the median of the rounds."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from last_e.bench.contenders import Own, Plain, bench_clips, synchronize, write_joints
from last_e.bench.ranks import measure_ranks
from last_e.config import TrainConfig
from last_e.environment import cpu_name, share_cores, usable_cores
from last_e.precision import choose_device, choose_precision, cpu_threads
from last_e.process import elsewhere

Tell = Callable[[int, int, str], None]
"""Told how many of how many measurements are done, and what is measured next."""

STALLS = 9
FORMATS = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def measure(
    config: TrainConfig,
    data: Path | None,
    parts: list[str],
    kinds: list[str],
    rounds: int,
    seconds: float,
    tell: Tell,
    edge: int | None = None,
    ranks: Sequence[int] = (),
) -> dict[str, Any]:
    """Measure ``parts`` for each of ``kinds``, ``rounds`` times for so many ``seconds`` each.

    Args:
        data: a prepared file; without one, clips are made up.
        edge: see :func:`machine_rates`.
        ranks: numbers of ranks that training steps are measured with as well, the first of them one.

    Returns:
        What ``lastrun bench --json`` prints, but for the date and the versions.

    Raises:
        DataError, NoGpu: before anything is measured.
    """
    device, _ = choose_device(config.hardware)
    precision = choose_precision(config, device)
    load = os.getloadavg()[0]
    rates: dict[str, dict[str, list[float]]] = {part: {kind: [] for kind in kinds} for part in parts}
    total, done = 2 + rounds * len(parts) * len(kinds) + (1 + rounds) * len(ranks), 0
    memory: dict[str, int] = {}
    with TemporaryDirectory() as folder:
        clips = bench_clips(config, data)
        write_joints(clips, Path(folder))
        tell(done, total, "ceilings")
        ceilings = _in_process(machine_rates, device.type, FORMATS[precision.dtype], edge)
        done += 1
        with _contenders(config, data, Path(folder), device.type, kinds) as asks:
            # Once to warm up: first batches, algorithms, compilation.
            for kind in kinds:
                tell(done, total, f"{kind}: warm-up")
                for part in parts:
                    asks[kind](part, min(seconds, 1.0))
            done += 1
            for round_ in range(rounds):
                for part in parts:
                    # Now the one first, now the other: what comes second finds a warmer machine.
                    for kind in kinds if round_ % 2 == 0 else kinds[::-1]:
                        tell(done, total, f"{part}, {kind}, round {round_ + 1} of {rounds}")
                        rate, memory[kind] = asks[kind](part, seconds)
                        rates[part][kind].append(rate)
                        done += 1
            stalls = asks["lastrun"]("stalls", STALLS)[0] if "lastrun" in kinds else []
    told = count(done)
    by_ranks = (
        measure_ranks(config, data, ranks, rounds, seconds, lambda what: tell(next(told), total, what)) if ranks else None
    )
    tell(total, total, "done")
    training = config.training
    return {
        "format": "lastrun-bench-1",
        "machine": {
            "device": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "cores": usable_cores(),
            "threads": cpu_threads(config.hardware),
            "load": round(load, 2),  # before: what others do on it, as far as it can be seen from here
        },
        "model": config.model.variant,
        "shape": config.model.model_dump(mode="json"),
        "frames": training.input_frames,
        "batch_size": training.batch_size,
        "micro_batch": config.hardware.micro_batch or training.batch_size,
        "precision": FORMATS[precision.dtype],
        "rows_per_clip": float(clips.bodies.double().mean()),
        "clips": {"number": len(clips), "mean_length": float(clips.length.double().mean()), "file": data and data.name},
        "rounds": rounds,
        "seconds": seconds,
        **{part: _summary(rates[part]) for part in parts},
        "memory_bytes": memory.get("lastrun"),
        "memory": memory,
        "checkpoint_stall_ms": [round(1000 * stall, 3) for stall in sorted(stalls)],
        "ceilings": ceilings,
        "ranks": by_ranks,
    }


def _summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, the spread, and the ratio of the two in each round, of which the median counts."""
    summary: dict[str, Any] = {
        "clips_per_second": {kind: statistics.median(found) for kind, found in rates.items()},
        "rounds": rates,
    }
    if len(rates) == 2:
        summary["ratio"] = statistics.median(own / other for own, other in zip(rates["lastrun"], rates["plain"]))
    return summary


# --- the processes -----------------------------------------------------------------------------------------------------

Ask = Callable[[str, float], tuple[Any, int]]


@contextmanager
def _contenders(
    config: TrainConfig, data: Path | None, folder: Path, device: str, kinds: list[str]
) -> Iterator[dict[str, Ask]]:
    """A process for each kind; only the one that is asked works."""
    context = multiprocessing.get_context("spawn")
    processes, asks = [], {}
    try:
        for kind in kinds:
            here, there = context.Pipe()
            arguments = (kind, config.model_dump_json(), data, folder, device, there)
            process = context.Process(target=_work, args=arguments, daemon=False)  # Plain has children of its own
            with _environment_of(kind), elsewhere():
                process.start()
            there.close()
            processes.append((process, here))
            asks[kind] = _asker(here, kind)
        yield asks
    finally:
        for process, here in processes:
            here.close()
            process.join(3)
            if process.is_alive():
                process.terminate()
                process.join()


@contextmanager
def _environment_of(kind: str) -> Iterator[None]:
    """What the trainer sets for itself before it imports torch, it sets here; a plain one sets nothing."""
    before = dict(os.environ)
    if kind == "lastrun":
        share_cores()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _asker(connection: Connection, kind: str) -> Ask:
    def ask(part: str, amount: float) -> tuple[Any, int]:
        connection.send((part, amount))
        try:
            answer = connection.recv()
        except EOFError:
            raise RuntimeError(f"the process that measures {kind} has ended") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{kind}, {part}: {answer}")
        found: tuple[Any, int] = answer
        return found

    return ask


def _work(kind: str, config_json: str, data: Path | None, folder: Path, device_type: str, connection: Connection) -> None:
    """What such a process does: build one contender, then measure the parts that it is asked for."""
    config = TrainConfig.model_validate_json(config_json)
    device = torch.device(device_type, 0) if device_type == "cuda" else torch.device("cpu")
    contender: Own | Plain | None = None
    going: dict[str, Iterator[int]] = {}
    with connection:
        while True:
            try:
                part, amount = connection.recv()
            except EOFError:
                return
            try:
                if contender is None:
                    clips = bench_clips(config, data)
                    file = folder / "joints.npy"
                    contender = Own(config, clips, device) if kind == "lastrun" else Plain(config, clips, device, file)
                if part == "stalls":
                    assert isinstance(contender, Own)
                    connection.send((contender.stalls(int(amount)), 0))
                    continue
                going.setdefault(part, getattr(contender, part)())
                connection.send((_rate(going[part], amount, device), _memory(device)))
            except Exception as error:  # whatever it is, the process that asked has to hear of it
                connection.send(f"{type(error).__name__}: {error}")


def _rate(steps: Iterator[int], seconds: float, device: torch.device) -> float:
    """Clips per second of ``steps``, after one that does not count."""
    next(steps)
    synchronize(device)
    begin = time.perf_counter()
    clips = 0
    while True:
        clips += next(steps)
        if time.perf_counter() - begin >= seconds:
            break
    synchronize(device)
    return clips / (time.perf_counter() - begin)


def _memory(device: torch.device) -> int:
    """Most memory so far, in bytes: the GPU's, else this process's and that of its workers, each at its most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    workers = [_peak(child.pid) for child in multiprocessing.active_children()]
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + sum(workers))


def _peak(pid: int | None) -> int:
    """The most memory that a process has had, in KiB; 0 where the system does not tell."""
    try:
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) if found else 0


# --- what the machine could do -----------------------------------------------------------------------------------------


def _in_process(function: Callable[..., Any], *arguments: str | int | None) -> Any:
    context = multiprocessing.get_context("spawn")
    with elsewhere():
        pool = context.Pool(1)
    with pool:
        return pool.apply(function, arguments)


def machine_rates(device_type: str, precision: str, edge: int | None = None) -> dict[str, float]:
    """Measured: bytes per second of a copy (read and written), and operations per second of the fastest matrix products, in
    float32 and in the format that is trained in. ``edge``: of the matrices; by default large enough for the device."""
    device = torch.device(device_type, 0) if device_type == "cuda" else torch.device("cpu")
    torch.set_num_threads(usable_cores())
    big = torch.empty(2**28 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(big)
    copy = 2 * big.nbytes / _best(lambda: target.copy_(big), device)
    ceilings = {"copy_bytes_per_second": copy}
    size = edge or (8192 if device.type == "cuda" else 2048)
    for dtype, name in FORMATS.items():
        if name not in ("float32", precision):
            continue
        a = torch.randn(size, size, device=device, dtype=dtype or torch.float32)
        found = [_best(lambda a=a: a @ a, device)]  # type: ignore[misc]
        if device.type == "cpu":
            # As a convolution: on some CPUs torch's products are not the fastest that it has.
            image = a.view(1, size, size, 1).to(memory_format=torch.channels_last)
            kernel = a.view(size, size, 1, 1)
            found.append(_best(lambda i=image, k=kernel: torch.nn.functional.conv2d(i, k), device))  # type: ignore[misc]
        ceilings[f"matrix_{name}_flops_per_second"] = 2 * size**3 / min(found)
    return ceilings


def _best(work: Callable[[], object], device: torch.device, times: int = 7) -> float:
    """Seconds of the fastest of several."""
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - begin)
    return min(found)
