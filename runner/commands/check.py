"""Commands that look before anything runs: validate, explain and plan at a job's file, doctor at all around it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.commands.options import EnvOption, HereOption, JsonOption, SetOption, SpecArgument, StoreOption, at_home

if TYPE_CHECKING:
    from last_e.layers import Resolved
    from runner.spec import JobSpec


def validate(
    spec: SpecArgument,
    env: EnvOption = None,
    set_: SetOption = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="also that it could start here: launcher, store, data, model.init; uses the network"),
    ] = False,
    store: StoreOption = None,
    here: HereOption = False,
    json: JsonOption = False,
) -> None:
    """Check a job's file; every mistake is told at once."""
    from last_e.text import counted
    from runner.resolve import resolve_points, unlike
    from runner.view.console import print_json, show

    found = resolve_points(spec, env, set_ or [])
    resolved, jobs = found.points[0].job, [point.job for point in found.points]
    named = resolved.config.store.uri if store is None else store
    if named is not None:
        from runner.store.uri import StoreUri

        StoreUri.typed(named)  # as it is written; --deep asks it
    if any(job.config.model.init is not None for job in jobs):  # else nothing of that is imported
        from runner.weights import see_that_it_is_there

        for job in jobs:
            see_that_it_is_there(job)
    if deep:
        from runner.launch.points import approve_all
        from runner.store.open import store_of
        from runner.trust import notes_of_file
        from runner.weights import with_their_weights

        target = store_of(resolved.config.store, store)
        for note in dict.fromkeys(note for job in jobs for note in notes_of_file(job, spec)):
            show(note, error=True)  # before anything that the file names is asked for
        approve_all(target, jobs, here=here, only_look=True)
        with_their_weights(jobs, target.uri)
    else:
        some = unlike(jobs)
        resolved.notes.extend(note for job in some for note in [*_look_at_machine(job, here), *_look_at_data(job.config)])
    notes = list(dict.fromkeys(note for job in jobs for note in [*job.notes, *job.of_data]))
    if json:
        points = {"points": [point.values for point in found.points]} if found.is_sweep else {}
        print_json("validate", {"valid": True, "config": resolved.items(), "notes": notes, **points})
        return
    for note in notes:
        show(note)
    if found.is_sweep:
        show(f"{spec} is valid: a sweep of {len(jobs)} points, the first with {found.points[0]}")
        return
    config, epochs = resolved.config, counted(resolved.config.training.epochs, "epoch")
    show(f"{spec} is valid: {config.model.variant} on {config.dataset} {config.split_type}, {epochs}")


def _look_at_machine(job: Resolved[JobSpec], here: bool) -> list[str]:
    """A note where a job that would train here is for another kind of machine: it may be submitted on one."""
    from runner.errors import UsageError
    from runner.launchers import DEFAULT
    from runner.machine import lacks, see_that_it_fits

    if job.config.run.launcher != DEFAULT:
        return []
    missing = None if job.config.run.container is not None else lacks()
    notes = [] if missing is None else [_NOT_HERE.format(missing)]
    try:
        return [*see_that_it_fits(job.env, here), *notes]
    except UsageError as error:
        return [_NOT_HERE.format(error), *notes]


_NOT_HERE = "note: on this machine it could not start: {}"


def _look_at_data(config: JobSpec) -> list[str]:
    """See that a data file that is here fits; a note where it is not, for the job may run elsewhere.

    Raises:
        UsageError: it does not fit.
    """
    from last_e.config import effective_batch
    from last_e.counts import WITHOUT_FILE, chooses

    comes_along = WITHOUT_FILE.get((config.dataset, config.split_type)) if config.data.uri is None else None
    if comes_along is not None and not chooses(config) and effective_batch(config.training) <= comes_along.train:
        return []  # nothing to look at, and so nothing to import
    from last_e.datafile import DataError, data_path, is_remote
    from runner.attempt.data_cache import parse
    from runner.attempt.data_check import check_data

    if is_remote(config.data.uri):
        parse(str(config.data.uri), config.store.model_dump(exclude={"uri"}))  # as it is written; --deep asks it
        return []
    try:
        data_path(config)
    except DataError as error:
        return [_NOT_HERE.format(error)]
    check_data(config)
    return []


def explain(spec: SpecArgument, env: EnvOption = None, set_: SetOption = None, json: JsonOption = False) -> None:
    """Print every value of a job with the layer that set it."""
    from runner.resolve import resolve_spec
    from runner.view.config import print_explained
    from runner.view.console import print_json, show

    resolved = resolve_spec(spec, env, set_ or [])
    if json:
        values = {k: {"value": v, "origin": str(resolved.origins[k])} for k, v in resolved.items().items()}
        print_json("explain", {"config": values, "notes": resolved.notes})
        return
    for note in resolved.notes:
        show(note)
    print_explained(resolved.items(), resolved.origins)


def doctor(store: StoreOption = None, json: JsonOption = False) -> None:
    """Look at this machine, each launcher and the store: what works, what is missing, what mends it; in ten seconds."""
    from dataclasses import asdict

    from runner.doctor import examine
    from runner.doctor.finding import State
    from runner.errors import Exit
    from runner.view.console import print_json
    from runner.view.doctor import print_findings

    findings = examine(store)
    well = not any(one.state is State.WRONG for one in findings)
    if json:
        print_json("doctor", {"well": well, "findings": [asdict(one) for one in findings]})
    else:
        print_findings(findings)
    raise typer.Exit(Exit.DONE if well else Exit.FAILED)


def plan(
    spec: SpecArgument,
    env: EnvOption = None,
    set_: SetOption = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="NAME", help="the GPU of --env, or of gcp, such as L4")] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", metavar="FILE", help="your own prices, as TOML", callback=at_home)
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="ask the launchers that can tell for the prices of today, over the network")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what a job would take on each profile: time, sessions, cost; measured or estimated."""
    from runner.plan.planner import make_plan
    from runner.plan.sweep import together
    from runner.view.console import print_json
    from runner.view.plan import print_plan

    made = make_plan(spec, env, set_ or [], gpu, prices)
    points = together(spec, env, set_ or [], gpu, prices)
    if live:
        from runner.plan.live import add_offers

        add_offers(made)
    if json:
        print_json("plan", {**made.to_dict(), "together": [one.to_dict() for one in points]})
    else:
        print_plan(made, points)
