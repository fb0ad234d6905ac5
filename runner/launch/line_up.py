"""The points of a group handed to a queue at once, which begins them without any process of ours."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from runner.errors import ClaimedError, LastrunError, PausedError
from runner.launch.points import Task
from runner.launch.protocol import Queue
from runner.signals import handled


def line_up(tasks: Sequence[Task], at_once: int) -> int:
    """Hand over all of them, in ``at_once`` lines; in each one begins when the one before it has ended, in whatever way.
    Returns how many; what is in the queue already stays where it is.

    Raises:
        LastrunError: the queue takes one not, or a signal came; it says how many are in the queue.
    """
    last: dict[int, str] = {}
    count = 0
    asked: list[int] = []
    with handled(asked.append):
        for task in tasks:
            go = task.go
            assert go is not None
            assert isinstance(go.launcher, Queue)
            if asked:
                raise PausedError(f"interrupted; {_so_far(count, tasks)}")
            line = count % at_once
            try:
                last[line] = go.launcher.line_up(task.job, go.arguments, secrets.token_hex(4), last.get(line))
            except ClaimedError:  # somebody else has handed it over
                continue
            except LastrunError as error:
                error.args = (f"{error}; {_so_far(count, tasks)}",)
                raise
            count += 1
    return count


def _so_far(count: int, tasks: Sequence[Task]) -> str:
    return f"{count} of {len(tasks)} points are in the queue, and resume of the group hands over the others"
