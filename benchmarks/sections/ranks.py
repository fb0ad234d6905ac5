"""Two ranks of one run, each on a GPU of its own (through NCCL), or both on one GPU or CPU (through gloo)."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from benchmarks.sections.common import Task, some_clips
from last_e.bench.contenders import Own, synchronize
from last_e.bench.ranks import with_shares
from last_e.config import micro_batches
from last_e.graphs import WARM_UP
from last_e.precision import choose_device
from last_e.ranks.fold import Fold, shares
from last_e.ranks.group import ALONE, Group, Joined, Seat
from last_e.state import State
from last_e.text import one_line

STEPS, FEW_STEPS = 50, 4
TIMES, FEW_TIMES = 60, 5
PATIENCE = 120.0
"""Seconds that a rank may take."""
_FORK = multiprocessing.get_context("fork")
_Work = Callable[[Task, Seat], dict[str, Any]]


def two_ranks(task: Task) -> dict[str, Any]:
    """Steps of two ranks against those of one: whether they end with the same bits, and how many times as fast they are; the
    ordered sum of a step's gradients against an all-reduce, in milliseconds, and what of it a side stream hides.

    Where there is one GPU both have that one. The bits have to be the same where one rank gives its own ones twice, as a CPU
    does; elsewhere the largest difference is told beside that of one rank from itself.
    """
    both = _run(task, _trained_and_summed)
    assert both[0]["sums"] == both[1]["sums"], "the ordered sum is not the same on both ranks"
    assert both[0]["weights"] == both[1]["weights"], "the ranks end with other weights than each other"
    result = {**both[0], **{f"{name}_ms": max(one["ms"][name] for one in both) for name in both[0]["ms"]}}
    same = result["largest_difference_of_one_rank_from_itself"] == 0
    assert result["identical"] or not same, f"weights differ by {result['largest_difference']:.1e}"
    return {name: value for name, value in result.items() if name not in ("sums", "weights", "ms")}


def shared_gpu(task: Task) -> dict[str, Any]:
    """The same with both on the first GPU, where there are more: tensors go through gloo, by way of the CPU."""
    if task.device.type == "cpu" or task.found.get("two ranks", {}).get("through") == "gloo":
        return {"not_there": "two ranks shared what there is before"}
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return two_ranks(task)


def nccl_on_one(task: Task) -> dict[str, Any]:
    """What NCCL says of two ranks on one GPU, for which it is therefore not used."""
    said = _run(task, _through_nccl)[0]["said"]
    assert said is not None, "NCCL lets two ranks share a GPU: they need not go by way of the CPU"
    return {"refused": said}


def ordered_sum(group: Group, device: torch.device, parts: int, size: int) -> tuple[Tensor, float]:
    """The sum of ``parts`` tensors of ``size`` numbers, each made from its place alone and there before the time begins, and
    the seconds that it takes once all ranks are there."""
    fold: Fold[Tensor] = Fold(parts, Tensor.add_)
    for part in shares(parts, group.size)[group.rank]:
        made = torch.Generator().manual_seed(part)
        fold.add((0, part), torch.randn(size, generator=made).to(device))
    synchronize(device)
    group.agree(0)
    began = time.perf_counter()
    total = fold.total if group.size == 1 else group.complete(fold, parts)
    synchronize(device)
    return total, time.perf_counter() - began


def _run(task: Task, work: _Work) -> list[dict[str, Any]]:
    """What two processes come to, each a rank."""
    with TemporaryDirectory() as folder:
        pairs = [_FORK.Pipe(duplex=False) for _ in range(2)]
        processes = [
            _FORK.Process(target=_answer, args=(task, Seat(rank, 2, Path(folder) / "meeting", 2), work, there))
            for rank, (_, there) in enumerate(pairs)
        ]
        for process in processes:
            process.start()
        for _, there in pairs:
            there.close()
        try:
            told = [here.recv() if here.poll(PATIENCE) else "no answer in time" for here, _ in pairs]
        except EOFError:
            told = ["a rank has ended without a word"]
        finally:
            for process in processes:
                process.kill()
                process.join()
    for one in told:
        if isinstance(one, str):
            raise RuntimeError(one)
    return told


def _answer(task: Task, seat: Seat, work: _Work, connection: Connection) -> None:
    try:
        connection.send(work(task, seat))
    except Exception as error:  # whatever it is, the process that has started this one has to hear of it
        connection.send(f"rank {seat.rank}: {type(error).__name__}: {one_line(error)}")
    os._exit(0)  # as a rank does: threads of gloo and NCCL may still run


def _trained_and_summed(task: Task, seat: Seat) -> dict[str, Any]:
    device, _ = choose_device(task.config.hardware, seat.rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = Joined(seat)
    group.meet(device)
    config = with_shares(task.config, 2)
    clips = some_clips(task)
    steps = FEW_STEPS if task.quick else STEPS

    def trained(group: Group) -> tuple[State, float]:
        own = Own(config, clips, device, group)
        stepping = own.train()
        for _ in range(WARM_UP + 1):  # algorithms are chosen, connections made, graphs recorded
            next(stepping)
        synchronize(device)
        began = time.perf_counter()
        for _ in range(steps):
            next(stepping)
        synchronize(device)
        return own.state, time.perf_counter() - began

    alone, seconds_alone = trained(ALONE)
    group.agree(0)
    together, seconds = trained(group)
    again, _ = (alone, 0.0) if device.type == "cpu" else trained(ALONE)
    expected, found, once_more = (torch.cat([p.detach().flatten() for p in one.parameters]) for one in (alone, together, again))
    parts = micro_batches(config)
    return {
        "through": "gloo" if group.tensors is None else "nccl",
        "micro_batches": parts,
        "identical": torch.equal(expected, found),
        "largest_difference": _apart(found, expected),
        "largest_difference_of_one_rank_from_itself": _apart(once_more, expected),
        "of_one": seconds_alone / seconds,
        "step_ms": 1000 * seconds / steps,
        "weights": together.digest(),
        **_sums(task, group, device, parts, len(expected)),
    }


def _sums(task: Task, group: Joined, device: torch.device, parts: int, size: int) -> dict[str, Any]:
    """The ordered sum is that of one process; how long it takes, and an all-reduce, and the former beside other work."""
    total, _ = ordered_sum(group, device, parts, size)
    alone, _ = ordered_sum(ALONE, device, parts, size)
    assert torch.equal(total, alone), "the ordered sum of two ranks is not that of one"
    ordered, reduced, beside, work = [], [], [], []
    flat, square = torch.randn(size, device=device), torch.randn(512, 512, device=device)

    def reduce() -> dist.Work:
        """NCCL's on a stream of its own, gloo's in a thread."""
        work = dist.all_reduce(flat if group.tensors else flat.cpu(), group=group.tensors, async_op=True)
        assert work is not None
        return work

    for _ in range(FEW_TIMES if task.quick else TIMES):
        ordered.append(ordered_sum(group, device, parts, size)[1])
        reduced.append(_timed(device, group, lambda: reduce().wait()))
        work.append(_timed(device, group, lambda: _products(square)))

        def both() -> None:
            waiting = reduce()
            _products(square)
            waiting.wait()

        beside.append(_timed(device, group, both))
    ms = {"ordered": ordered, "all_reduce": reduced, "other_work": work, "all_reduce_beside_it": beside}
    return {"ms": {name: 1000 * statistics.median(values) for name, values in ms.items()}, "sums": total.double().sum().item()}


def _timed(device: torch.device, group: Group, what: Callable[[], object]) -> float:
    synchronize(device)
    group.agree(0)
    began = time.perf_counter()
    what()
    synchronize(device)
    return time.perf_counter() - began


def _products(square: Tensor) -> None:
    for _ in range(4):
        square @ square


def _through_nccl(task: Task, seat: Seat) -> dict[str, Any]:
    """What comes of an all-reduce through NCCL of ranks that are all on one device; None: it is done."""
    device = task.device
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store = dist.FileStore(str(seat.meeting), seat.size)  # type: ignore[attr-defined]  # it is there, unlisted
        dist.init_process_group("nccl", store=store, rank=seat.rank, world_size=seat.size)
        dist.all_reduce(torch.ones(1, device=device))
        synchronize(device)
    except (RuntimeError, ValueError) as error:
        return {"said": one_line(error)[:200]}
    return {"said": None}


def _apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest number."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
