"""What begins an attempt: of a new job, or of one that is there. Checked before anything is written; the same for the commands
and for Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.bar import Bar
from last_e.layers import Resolved
from runner import kaggle
from runner.errors import UsageError
from runner.job.carry import carry, home_of, newer
from runner.job.job import Job
from runner.launch.approve import approve
from runner.launch.hosts import hosts_named
from runner.launch.protocol import Launcher
from runner.launch.ready import How, ready
from runner.launch.rent import Instead, agree, instead
from runner.launch.settle import settled
from runner.launch.start import make_launcher
from runner.resolve import Points, name_of, resolve_points
from runner.spec import JobSpec
from runner.store.open import store_of
from runner.store.protocol import Store
from runner.submitter import submitter
from runner.trust import Trust, brought, notes_of_file, see_that_nothing_is_gained, words
from runner.version import lastrun_version
from runner.weights import Begun, with_their_weights

if TYPE_CHECKING:
    from last_e.resume import Change

Say = Callable[[str], None]
Spec = Path | Mapping[str, Any]
"""A job's file, or what would stand in it."""


@dataclass(frozen=True)
class Begin:
    """All that it takes."""

    make: Callable[[], Job]
    """Makes the job, or brings it to where it goes on."""
    arguments: list[str]
    """For its attempt."""
    launcher: Launcher
    changes: Sequence[Change] = ()
    """Of one that goes on: what is other than before."""
    auto_continue: int = 0


def how_to(
    env: str | None = None,
    settings: Sequence[str] = (),
    launcher: str | None = None,
    *,
    on: str | None = None,
    relay: bool = False,
    private: bool = False,
    here: bool = False,
    shut_down: bool = False,
    allow_change: Sequence[str] = (),
    takeover: bool = False,
) -> How:
    """What somebody wants, by the options of the commands.

    Raises:
        UsageError: hosts that cannot be named so.
    """
    said = {"run.relay=true": relay, "run.kaggle.private_dataset=true": private}
    all_settings = (*settings, *(word for word, meant in said.items() if meant))
    how = How(env, all_settings, tuple(allow_change), takeover, launcher, here, _hosts(on, launcher), shut_down)
    # With launcher slurm: through the login node that is named, whose queue deals out machines itself.
    return how.at(how.on[0]) if how.on and how.launcher == "slurm" else how


def _hosts(on: str | None, launcher: str | None) -> tuple[str, ...]:
    """Those that ``--on`` names.

    Raises:
        UsageError: they cannot be, or another launcher was named.
    """
    if on is None:
        return ()
    if launcher not in (None, "ssh", "slurm"):
        raise UsageError(f"--on {on}: found --launcher {launcher}; --on is for launcher ssh, and for slurm's login node")
    names = hosts_named(on)
    if launcher == "slurm" and len(names) > 1:
        raise UsageError(f"--on {on}: found {len(names)} hosts; with launcher slurm it names one, the login node")
    return names


def on_first(how: How) -> How:
    """On the first of the hosts, where some are named. What a sweep keeps is what all of them have in common: the profile of
    one says nothing of the others."""
    if not how.on:
        return how
    envs = {how.at(host).env for host in how.on}
    return replace(how.at(how.on[0]), env=how.env or (envs.pop() if len(envs) == 1 else None))


def see_that_it_is_one(what: str, how: How) -> None:
    """That one job is not given to several hosts.

    Raises:
        UsageError: it is.
    """
    if len(how.on) > 1:
        raise UsageError(f"{what} is one job: --on {','.join(how.on)} is for a sweep; one job takes one host")


def _see_that_relay_fits(config: JobSpec, how: How) -> None:
    """That it is asked for where it means something.

    Raises:
        UsageError: it is not.
    """
    if "run.relay=true" in how.settings and config.run.launcher != "ssh":
        raise UsageError(f"--relay: found launcher {config.run.launcher}; --relay is for a host that ssh reaches: --on HOST")


def _see_that_it_may_be_shut_down(config: JobSpec, yes: bool) -> None:
    """A file or a store alone switches no machine off.

    Raises:
        UsageError: it says so, and whoever calls has not, or the other way round; or it cannot be.
    """
    run = config.run
    if yes and run.after != "shutdown":
        raise UsageError("--yes-shut-down: found run.after: nothing; --set run.after=shutdown switches the machine off")
    if run.after != "shutdown":
        return
    where = "this machine" if run.launcher == "local" else run.host
    if run.launcher not in ("local", "ssh"):
        raise UsageError(f"run.after: found shutdown with launcher {run.launcher}; allowed: with local and ssh alone")
    if run.relay and run.launcher == "ssh":
        raise UsageError(f"run.after: found shutdown with --relay; what {where} keeps has to be fetched while it is on")
    if not yes:
        raise UsageError(
            f"run.after: shutdown would switch {where} off when the attempt has ended, and a file alone does not decide that: "
            "--yes-shut-down says that it may, --set run.after=nothing leaves it on. Nothing was started"
        )


@dataclass(frozen=True)
class New:
    """A job that could be made."""

    resolved: Resolved[JobSpec]
    store: Store
    name: str
    launcher: Launcher
    other: Instead | None
    """What gets a machine in place of this one."""
    notes: list[str]
    """To be shown before :attr:`begun` is asked for."""
    how: How

    @cached_property
    def begun(self) -> Begun:
        """With the weights that it begins with. They are looked for now and not before: that asks a server, in this
        user's name, for what a file of somebody else's may have named.

        Raises:
            LastrunError: there are none, or they do not fit.
        """
        return with_their_weights([self.resolved], self.store.uri)[0]

    def begin(self, *, yes: bool, may_ask: bool) -> Begin:
        """See to all that it needs, and that whoever pays for a machine has said so. What the job does here is remembered.

        Raises:
            LastrunError: all that is missing.
        """
        begun = self.begun
        approve(self.launcher, self.store, self.resolved, here=self.how.here)
        if self.other is not None:
            agree(self.resolved.env, self.other, yes, may_ask=may_ask)
        # What was asked for is kept, not what auto found here: the attempt may run elsewhere.
        origins = {key: str(origin) for key, origin in self.resolved.origins.items()}
        trust, values, by = Trust(self.store.uri), brought(self.resolved), submitter()
        trust.remember(values)
        flags = {"--here": self.how.here, "--yes-shut-down": self.how.shut_down}
        return Begin(
            lambda: Job.create(self.store, self.name, begun.job.items(), origins, lastrun_version(), begun.weights, by),
            [*(flag for flag, given in flags.items() if given), *words(values)],
            self.launcher,
            auto_continue=self.resolved.config.run.auto_continue,
        )


def new_job(points: Points, spec: Spec, how: How, store: str | None) -> New:
    """The job of a file that is no sweep, whose ``points`` have been resolved.

    Raises:
        LastrunError: it cannot be so.
    """
    first = on_first(how)
    resolved = points.points[0].job
    if (other := instead(resolved, how.here)) is not None:
        resolved = resolve_points(spec, first.env, first.settings, other.launcher).points[0].job
    notes = [*(notes_of_file(resolved, spec) if isinstance(spec, Path) else []), *resolved.of_data]
    _see_that_relay_fits(resolved.config, how)
    _see_that_it_may_be_shut_down(resolved.config, how.shut_down)
    target = store_of(resolved.config.store, store)
    notes += kaggle.notes(target.uri)
    starter, name = make_launcher(resolved.config), name_of(resolved.config)
    return New(resolved, target, name, starter, other, notes, how)


def go_on(found: Job, how: How, *, trust: bool, yes: bool, may_ask: bool, say: Say) -> Begin:
    """What goes on with a job. One whose store can only be read goes on in a copy.

    Args:
        found: the job.
        how: see :func:`how_to`.
        trust: take what the job brings along.
        yes: a machine may be rented.
        may_ask: somebody is there who could be asked that.
        say: told what is worth a word.

    Raises:
        LastrunError: it cannot go on so.
    """
    how = on_first(how)
    home = found
    if found.store.is_read_only(found.paths.all):  # it goes on where it can be written
        home = home_of(found)
        read, found = found.store, newer(home, found)
        if found is home:
            say(f"going on with the job in {home.store.uri}, which has all of it that {read.uri} has")
    trusted = Trust(found.store.uri, all_of_it=trust)
    attempts = settled(found)
    go = ready(found, attempts, how, trusted, copied=found is not home)
    # Only for who names the profile now: a stored job's own does not choose what starts it, nor what that costs.
    other = None if how.env is None else instead(go.resolved, how.here)
    if other is not None:
        go = ready(found, attempts, replace(how, launcher=other.launcher), trusted, copied=found is not home)
    _see_that_relay_fits(go.resolved.config, how)
    _see_that_it_may_be_shut_down(go.resolved.config, how.shut_down)
    if found is not home:
        to = Trust(home.store.uri)
        see_that_nothing_is_gained(trusted, to)
        to.remember(go.values)
    if trust:
        trusted.remember(go.values)
    kaggle.take_secrets(go.resolved.config.named_variables())
    for note in kaggle.notes(home.store.uri):
        say(note)
    approve(go.launcher, home.store, go.resolved, here=how.here, prefix=home.paths.all)
    if other is not None:
        agree(go.resolved.env, other, yes, may_ask=may_ask)
    if how.takeover:
        from runner.launch.ssh.relay import end_all

        for note in end_all(found):
            say(note)

    def at_home() -> Job:
        if found is home:
            return home
        with Bar("MB") as bar:
            return carry(found, home, say, bar.of_growing)

    return Begin(at_home, go.arguments, go.launcher, go.changes, go.resolved.config.run.auto_continue)
