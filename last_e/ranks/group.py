"""The ranks of a run as one of them sees them: what they agree on, what they add up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch import distributed as dist

from last_e.gpu import has_no_memory, is_lost
from last_e.ranks.fold import Fold, nodes_of, shares

PATIENCE = timedelta(hours=6)
"""How long a rank waits for others. Whoever has started them all ends them much sooner: it sees who is missing."""
GPU_PATIENCE = timedelta(minutes=30)
"""On GPUs all may wait for each other without anybody seeing who is missing."""


_NCCL = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}
"""By itself nccl aborts a process whose peer is gone, or that waits for long (a machine that slept): then that would be what is
told, and not what has become of the peer. Whoever has started them all sees that, and ends them."""


class PeerGone(RuntimeError):
    """Another rank has gone, and tells why itself."""


class RanksDiffer(RuntimeError):
    """The ranks did not begin with the same."""


class Seat(NamedTuple):
    """What a process is told that is one of several ranks."""

    rank: int
    """From 0 on."""
    size: int
    """How many there are."""
    meeting: Path
    """A file that is not there yet, in a folder of this user's that all of them have."""
    here: int
    """How many of them are on this machine."""


class Group(Protocol):
    """All ranks, of which this process is one."""

    rank: int
    size: int
    here: int
    """Those on this machine."""
    done: tuple[int, float, float | None]
    """Clips of its own that it has trained, in how many seconds without what it waited for others, and how long that was (None:
    not seen): see :meth:`work`."""

    def work(self, clips: int) -> AbstractContextManager[None]:
        """A step with so many clips of this rank's own."""

    def agree(self, wish: int) -> int:
        """The largest number that one of them has; all wait for each other. Needs no device."""

    def complete(self, fold: Fold[Tensor], parts: int) -> Tensor:
        """The sum of all parts, each rank having added its share of them: the same bits on each."""

    def fill(self, rows: Tensor) -> None:
        """Rows that were zero here and are not on another rank become what they are there."""


class Alone:
    """A run of one process."""

    rank, size, here = 0, 1, 1
    done: tuple[int, float, float | None] = (0, 0.0, None)

    def work(self, clips: int) -> AbstractContextManager[None]:
        """Nobody asks."""
        return nullcontext()

    def agree(self, wish: int) -> int:
        """Its own."""
        return wish

    def complete(self, fold: Fold[Tensor], parts: int) -> Tensor:
        """All of it is here."""
        return fold.total

    def fill(self, rows: Tensor) -> None:
        """All are here."""


ALONE = Alone()


class Joined:
    """Several processes, mostly of one machine, once they have met (:meth:`meet`).

    Numbers that decide go through gloo, so that nobody waits for a GPU; tensors through nccl, if each has a GPU of its own.

    Raises:
        PeerGone: of every method: another rank has gone.
    """

    def __init__(self, seat: Seat) -> None:
        self.rank, self.size, self.here = seat.rank, seat.size, seat.here
        self.entered = 0
        """How often it has met the others, or is waiting to."""
        self.waits = False
        """For others, now. Not seen are those who wait on a GPU."""
        self.done: tuple[int, float, float | None] = (0, 0.0, 0.0)
        self._waited = 0.0
        self._seat = seat
        self.tensors: dist.ProcessGroup | None = None
        """What tensors go through, each rank having a GPU of its own; None: the same as numbers, by way of the CPU."""

    def meet(self, device: torch.device) -> None:
        """Wait for all to be there; this one trains on ``device``, which is the current one where it is a GPU.

        Raises:
            RanksDiffer: some have a GPU, and some have none.
        """
        seat = self._seat
        has_gpu = device.type == "cuda"
        own_gpu = has_gpu and seat.here <= torch.cuda.device_count()
        for name, value in _NCCL.items():
            os.environ.setdefault(name, value)
        with self._all_together():
            store = dist.FileStore(str(seat.meeting), seat.size)  # type: ignore[attr-defined]  # it is there, unlisted
            dist.init_process_group("gloo", store=store, rank=seat.rank, world_size=seat.size, timeout=PATIENCE)
            most = torch.tensor([int(has_gpu), int(not has_gpu), int(not own_gpu)])
            dist.all_reduce(most, dist.ReduceOp.MAX)
            some_have, some_have_none, some_share = map(bool, most)
            if not some_share:  # a group of nccl's is made by all of them or by none
                self.tensors = dist.new_group(backend="nccl", timeout=GPU_PATIENCE)
        if some_have and some_have_none:
            raise RanksDiffer("some ranks have a GPU, and some have none: hardware.device=cpu has all train on processors")

    def leave(self) -> None:
        """Of a process that does not end at once (:mod:`last_e.__main__` does): torn down by Python while threads of gloo still
        run, it would be aborted."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def work(self, clips: int) -> Iterator[None]:
        """See :class:`Group`. Through nccl a rank waits for others on its GPU, which is not seen here."""
        began, waited = time.perf_counter(), self._waited
        yield
        waited = self._waited - waited
        done, own, others = self.done
        others = None if others is None or self.tensors is not None else others + waited
        self.done = done + clips, own + time.perf_counter() - began - waited, others  # at once: another thread reads them

    def agree(self, wish: int) -> int:
        """See :class:`Group`."""
        number = torch.tensor([wish], dtype=torch.int64)
        with self._all_together():
            dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def complete(self, fold: Fold[Tensor], parts: int) -> Tensor:
        """See :class:`Group`. Only sums travel: a rank adds up what it can of its own share before."""
        nodes = [nodes_of(parts, share) for share in shares(parts, self.size)]
        own = [fold.nodes[node] for node in nodes[self.rank]]
        most = max(map(len, nodes))
        sent = torch.stack([*own, *[own[0]] * (most - len(own))])
        for rank, received in enumerate(self._gather(sent)):
            if rank != self.rank:
                for node, value in zip(nodes[rank], received):
                    fold.add(node, value)
        return fold.total

    def fill(self, rows: Tensor) -> None:
        """See :class:`Group`."""
        there = rows if self.tensors is not None else rows.cpu()
        with self._all_together():
            dist.all_reduce(there, group=self.tensors)
        rows.copy_(there)

    def see_that_all_have(self, digest: bytes) -> None:
        """See that every rank has this digest of what it begins with.

        Raises:
            RanksDiffer: one has another.
        """
        own = torch.frombuffer(bytearray(digest), dtype=torch.uint8).to(torch.int64)
        lowest, highest = own.clone(), own.clone()
        with self._all_together():
            dist.all_reduce(lowest, dist.ReduceOp.MIN)
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        if not torch.equal(lowest, highest):
            raise RanksDiffer(
                "not all ranks have the same weights, step, clips, number format, kind of device and torch: begin all of them "
                "from one checkpoint and one data file, on machines of one kind, with one version of torch"
            )

    def _gather(self, sent: Tensor) -> list[Tensor]:
        there = sent if self.tensors is not None else sent.cpu()
        received = [torch.empty_like(there) for _ in range(self.size)]
        with self._all_together():
            dist.all_gather(received, there, group=self.tensors)
        return [one.to(sent.device) for one in received]

    @contextmanager
    def _all_together(self) -> Iterator[None]:
        self.entered += 1
        began, self.waits = time.perf_counter(), True
        with _gone():
            yield
        self._waited, self.waits = self._waited + time.perf_counter() - began, False


class _gone:  # reads as a word where it is used
    """What torch raises when a connection to another rank breaks, by its own name."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError) and not (has_no_memory(error) or is_lost(error)):
            raise PeerGone(str(error)) from error
