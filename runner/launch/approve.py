"""Whether a job could start and be kept, before there is one: the same for submit, its dry run, resume and validate --deep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from last_e.layers import Resolved
from runner.attempt.scratch import see_scratch
from runner.errors import StoreError
from runner.launch.protocol import Elsewhere, Launcher, SharesGpus
from runner.launch.together import see_to_all
from runner.machine import see_that_it_fits
from runner.spec import JobSpec
from runner.store.protocol import Store


def approve(
    launcher: Launcher, store: Store, resolved: Resolved[JobSpec], *, here: bool, prefix: str = "", only_look: bool = False
) -> None:
    """See to all that an attempt needs. Whether a machine fits that is not seen before, the attempt sees there for itself.

    Args:
        launcher: what would start it.
        store: where it would be kept.
        resolved: the job.
        here: a profile for another kind of machine is meant to be used on this one.
        prefix: where the job lies that goes on; empty for a new one.
        only_look: there will be no job, whose first write would tell that the store takes none.

    Raises:
        LastrunError: all that is missing, with the exit code of the first.
    """
    looks: list[Callable[[], object]] = [partial(launcher.preflight, store.uri)]
    if launcher.runs_here:
        looks[:0] = [partial(see_that_it_fits, resolved.env, here), partial(see_scratch, resolved)]
    if isinstance(launcher, SharesGpus):
        looks.append(partial(launcher.see_that_gpus_are_free, prefix.strip("/").rpartition("/")[2]))
    if isinstance(launcher, Elsewhere):
        looks.append(partial(launcher.see_that_it_fits, here))
    if store.is_read_only(prefix):
        looks.append(partial(_refuse, store))
    elif only_look:
        looks.append(store.check)
    see_to_all(looks)


def _refuse(store: Store) -> None:
    raise StoreError(
        f"{store.uri} can only be read: name a folder that you may write to, or a bucket, with --store or LASTRUN_STORE; a job "
        f"that is there goes on elsewhere with lastrun resume JOB --store {store.uri}"
    )
