"""Jobs of a group: seen to before the first is made, and run side by side."""

from __future__ import annotations

from collections.abc import Iterable

from last_e.layers import Resolved
from runner.errors import LastrunError
from runner.launch.approve import approve
from runner.launch.start import make_launcher
from runner.spec import JobSpec
from runner.store.protocol import Store


def approve_all(store: Store, jobs: Iterable[Resolved[JobSpec]], *, here: bool, only_look: bool = False) -> None:
    """See to all that attempts of these jobs need; see :func:`~runner.launch.approve.approve`.

    Raises:
        LastrunError: all that is missing, with the exit code of the first.
    """
    missing: dict[str, LastrunError] = {}
    for job in jobs:
        try:
            approve(make_launcher(job.config), store, job, here=here, only_look=only_look)
        except LastrunError as error:
            missing.setdefault(str(error), error)
    if missing:
        first = next(iter(missing.values()))
        first.args = ("\n".join(missing),)
        raise first
