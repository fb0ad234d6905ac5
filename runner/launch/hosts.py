"""Several hosts that ssh reaches, to which the points of a group are dealt out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from last_e.layers import Resolved
from last_e.problems import show
from last_e.reading import set_layer
from runner.errors import LastrunError, UsageError
from runner.job.attempts import Attempt
from runner.job.group import MOST_HOSTS, Group
from runner.job.job import Job
from runner.launch.points import Task, approve_all
from runner.launch.ready import How, Ready, ready
from runner.launch.settle import settled
from runner.launch.ssh.launcher import markers_removed
from runner.launch.together import raise_all
from runner.launchers import HOST, HOST_MEANING
from runner.spec import JobSpec
from runner.store.parallel import in_parallel
from runner.store.protocol import Store
from runner.trust import Trust, UntrustedError


def hosts_named(text: str) -> tuple[str, ...]:
    """Those that ``--on`` names.

    Raises:
        UsageError: what is wrong with them.
    """
    names = [name.strip() for name in text.split(",")]
    wrong = [
        f"found {show(name) if name else 'nothing'}; allowed: {HOST_MEANING}" for name in names if not re.fullmatch(HOST, name)
    ]
    wrong += [f"{name} is named twice; --parallel N begins N points on each host" for name in _twice(names)]
    wrong += [f"found {len(names)} hosts; allowed: {MOST_HOSTS}"] if len(names) > MOST_HOSTS else []
    if wrong:
        raise UsageError(f"--on {text}: " + "; ".join(wrong))
    return tuple(names)


def with_its_hosts(group: Group, how: How, trust: Trust, *, remember: bool = False) -> How:
    """On the hosts that the group was begun on, where nothing else is asked for.

    Raises:
        UntrustedError: this user has not named them for this store: others may write to it.
    """
    if how.on or how.launcher is not None or "run.host" in set_layer(how.settings)[0]:
        return how
    hosts = group.hosts()
    if unknown := [host for host in hosts if not trust.takes("run.host", host)]:
        raise UntrustedError(
            f"{group.id} was begun on {', '.join(hosts)}, as the store says; you have not named {', '.join(unknown)} from "
            f"here, and others may write to {trust.store}. Nothing was started: --on HOST,... names hosts, --trust takes these"
        )
    if remember:
        for host in hosts:
            trust.remember({"run.host": host})
    return replace(how, on=hosts)


def approve_on(
    store: Store, jobs: Mapping[str, Iterable[Resolved[JobSpec]]], *, here: bool, prefix: str = "", only_look: bool = False
) -> None:
    """See to all that attempts need on each host, at all of them at once; see :func:`~runner.launch.approve.approve`.

    Raises:
        LastrunError: all that is missing on any, with the exit code of the first.
    """

    def look(some: Iterable[Resolved[JobSpec]]) -> LastrunError | None:
        try:
            approve_all(store, some, here=here, prefix=prefix, only_look=only_look)
        except LastrunError as error:
            return error
        return None

    with markers_removed():
        raise_all(filter(None, in_parallel([partial(look, some) for some in jobs.values()])))


def preparing(how: How, trust: Callable[[], Trust]) -> Callable[[Task, str], Ready]:
    """What it takes to go on with a point on one of the hosts, as it is then."""

    def prepare(task: Task, host: str) -> Ready:
        job = Job(task.job.store, task.job.id)
        return ready(job, settled(job), how.at(host), trust())

    return prepare


def at_work(tasks: Iterable[Task], hosts: tuple[str, ...]) -> list[tuple[Task, Attempt, str]]:
    """Those of these points that an earlier command has begun on one of the hosts, and where."""
    found = []
    for task in tasks:
        attempts = task.job.attempts.all()
        _, attempt, _ = task.job.attempts.state(attempts)
        host = (attempt.container or {}).get("name") if attempt is not None and attempt.launcher == "ssh" else None
        if attempt is not None and attempt.open and host in hosts:
            found.append((task, attempt, host))
    return found


def _twice(names: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
