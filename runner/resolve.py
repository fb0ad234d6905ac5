"""Layers to a resolved job: at submission from a job.yaml, and again for each attempt from what the job keeps."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from last_e.config import effective_batch, is_pinned, micro_batches, most_for
from last_e.described import SUFFIX, is_own
from last_e.described import name_of as name_of_set
from last_e.layers import Resolved, resolve, set_by
from last_e.problems import ConfigError, Origin, Problem, show
from last_e.reading import Entry, Layer, layer_of, load_file, set_layer
from last_e.redact import keep_secret, redact
from last_e.text import UnsetVariable, misspelt, with_variables
from runner import kaggle
from runner.halving import Halving
from runner.launchers import DEFAULT, LAUNCHERS, gpus_allowed
from runner.spec import NOTIFY_VARIABLES, JobSpec, StoreConfig
from runner.sweep import take_sweep

if TYPE_CHECKING:
    from last_e.resume import Change

REQUIRED = ("model.variant", "dataset")
_PACKAGE_ORIGINS = ("configs/", "default")
_MOST_TOLD = 3
SPEC = "spec"
"""Where the values stand of a job that is in no file."""
FROM_JOB = "job ("
"""How the origin begins of a value that a stored job brings along."""
_LONGEST_NAME = 48
"""Of a job; as of one that its user names."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMES_A_VARIABLE = tuple(f"notify.{key}" for key in NOTIFY_VARIABLES)


def resolve_spec(path: Path, env: str | None, settings: Iterable[str], launcher: str | None = None) -> Resolved[JobSpec]:
    """A job.yaml with its flags, checked; of a sweep its first point.

    Raises:
        ConfigError: every mistake at once, of any point.
    """
    points = resolve_points(path, env, settings, launcher).points
    if len(points) > 1:
        told = f"note: {path} is a sweep of {len(points)} points; this is the first: {points[0]}"
        points[0].job.notes.append(told)
    return points[0].job


def name_of(config: JobSpec) -> str:
    """What a job is called."""
    return config.name or as_name(f"{config.model.variant}-{config.dataset.removesuffix(SUFFIX)}-{config.split_type}")


def as_name(text: str) -> str:
    """A text as a job's name, by which the job is found again, whatever the file of its data is called."""
    return re.sub("[^a-z0-9]+", "-", text.lower())[:_LONGEST_NAME].strip("-") or "job"


@dataclass(frozen=True)
class Point:
    """A job of a sweep."""

    job: Resolved[JobSpec]
    values: dict[str, Any]
    """What it sets that others set otherwise; empty of a job that is no point of a sweep."""

    def __str__(self) -> str:
        return ", ".join(f"{key}={show(value)}" for key, value in self.values.items()) or "the job as it is"


@dataclass(frozen=True)
class Points:
    """The jobs of a file."""

    points: list[Point]
    is_sweep: bool
    halving: Halving | None = None


def unlike(jobs: Iterable[Resolved[JobSpec]]) -> list[Resolved[JobSpec]]:
    """Of jobs that differ only in what and how they learn, the one with the largest batch: a machine, a store and data that do
    for it do for all."""
    found: dict[str, Resolved[JobSpec]] = {}
    for job in jobs:
        needs = {key: value for key, value in job.items().items() if not key.startswith(("model.", "training."))}
        other = found.setdefault(repr(needs), job)
        if effective_batch(job.config.training) > effective_batch(other.config.training):
            found[repr(needs)] = job
    return list(found.values())


def resolve_points(
    path: Path | Mapping[str, Any], env: str | None, settings: Iterable[str], launcher: str | None = None
) -> Points:
    """Every job of a job.yaml, or of what would stand in one, with its flags, checked: one, or all points of its sweep.

    Raises:
        ConfigError: every mistake at once, of all points.
    """
    spec, file_problems = load_file(path) if isinstance(path, Path) else layer_of(path, SPEC)
    name, home = (str(path), path.absolute().parent) if isinstance(path, Path) else (SPEC, Path.cwd())
    flags = _flags(env, launcher)
    sets, set_problems = set_layer(settings)
    sweep = take_sweep(spec, flags, sets)
    problems = [*file_problems, *set_problems, *sweep.problems]
    problems += [*_read_places(spec, home), *_read_places(sets, Path.cwd())]
    found: dict[int, Point] = {}
    for place, layer in enumerate(sweep.points):
        folder = Path.cwd() if sweep.origin.name == "--set" else home
        problems += _read_places(layer, folder)
        seed: int | None = None
        for number in range(sweep.seeds):
            top = dict(layer)
            if seed is not None:
                top["training.seed"] = Entry(seed + number, sweep.seeds_origin)
            layers = [spec, flags, sets, top]
            wrong = _wrong_together(name, layers) if not file_problems else []
            try:
                job = _with_its_cut(resolve(layers, JobSpec, wrong, opened=_opened))
            except ConfigError as error:
                problems += error.problems
                break
            values = {key: job.items()[key] for key in top}
            if sweep.seeds > 1:
                seed = job.config.training.seed if seed is None else seed
                values["training.seed"] = job.config.training.seed
            found[1 + place * sweep.seeds + number] = Point(job, values)
    if sweep.halving is not None and found and not problems:
        epochs = min(point.job.config.training.epochs for point in found.values())
        if sweep.halving.first >= epochs:
            found_out = (str(sweep.halving_origin), "sweep.halving.first", str(sweep.halving.first))
            problems.append(Problem(*found_out, f"fewer than training.epochs, which is {epochs}"))
    problems = problems or _same(found, sweep.origin)  # a key that was left out may be what tells points apart
    if problems:
        raise ConfigError(problems)
    return Points(list(found.values()), sweep.given, sweep.halving)


def _opened(uri: str, chosen: Mapping[str, Any]) -> AbstractContextManager[tuple[IO[bytes], int]]:
    from runner.own_data import opened  # most jobs have nothing in a bucket that is read now

    return opened(uri, chosen)


def _same(points: dict[int, Point], origin: Origin) -> list[Problem]:
    """Points that would train the very same, in one word."""
    groups: dict[str, list[int]] = {}
    for number, point in points.items():
        groups.setdefault(repr(point.job.items()), []).append(number)
    twice = [numbers for numbers in groups.values() if len(numbers) > 1]
    if not twice:
        return []
    told = [f"{' and '.join(map(str, numbers))} ({points[numbers[0]]})" for numbers in twice[:_MOST_TOLD]]
    more = f"; {len(twice) - _MOST_TOLD} more" if len(twice) > _MOST_TOLD else ""
    return [Problem(str(origin), "sweep", f"points that are the same: {'; '.join(told)}{more}", "each once")]


def _with_its_cut(job: Resolved[JobSpec]) -> Resolved[JobSpec]:
    """Of a job that says how many ranks train it, how its batches are cut for them: whoever begins it with other ranks, or may
    not be told how many, learns the same."""
    config = job.config
    gpus = None if config.hardware.device == "cpu" else config.run.gpus
    each = len(gpus) if isinstance(gpus, list) else gpus if isinstance(gpus, int) else 1
    key, ranks = "hardware.ranks", config.hardware.ranks
    if ranks is None:
        key, ranks = ("run.nodes" if each < 2 else "run.gpus"), max(1, each) * config.run.nodes
    most = most_for(config, ranks) if config.hardware.micro_batch is None and micro_batches(config) < ranks else None
    if most is None:
        return job
    cut = config.model_copy(update={"hardware": config.hardware.model_copy(update={"micro_batch": most})})
    return replace(job, config=cut, origins={**job.origins, "hardware.micro_batch": Origin(f"what {key} needs")})


def _wrong_together(where: str, layers: list[Layer]) -> list[Problem]:
    """What is missing, or cannot be said together."""
    spec, flags, sets, top = layers
    problems = []
    given = {*spec, *sets, *top}
    for key in REQUIRED:
        name = key.split(".")[0]
        if not any(k in (key, name) for k in given):
            problems.append(Problem(where, name, "nothing", f"required: for example {name}: {_EXAMPLES[name]}"))
    chosen = {**spec, **flags, **sets, **top}
    passed, gpus = chosen.get("run.pass_env"), chosen.get("run.gpus")
    names = [("run.pass_env", name) for name in (passed.value if passed and isinstance(passed.value, list) else [])]
    names += [(key, entry.value) for key, entry in chosen.items() if key in _NAMES_A_VARIABLE]
    names = [(key, name) for key, name in names if isinstance(name, str) and _VARIABLE.fullmatch(name)]
    kaggle.take_secrets([name for _, name in names])
    keep_secret(name for key, name in names if key in _NAMES_A_VARIABLE)
    for key, name in names:
        if name not in os.environ:
            found = f"{name}, which is not set here"
            problems.append(Problem(str(chosen[key].origin), key, found, "names of variables that are set"))
    name = chosen.get("run.launcher", Entry(DEFAULT, Origin("default"))).value
    if gpus and isinstance(name, str) and name in LAUNCHERS and (allowed := gpus_allowed(name, gpus.value)):
        problems.append(Problem(str(gpus.origin), "run.gpus", show(gpus.value), allowed))
    nodes = chosen.get("run.nodes")
    alone = isinstance(name, str) and name in LAUNCHERS and not LAUNCHERS[name].has_nodes
    if nodes and alone and isinstance(nodes.value, int) and nodes.value > 1:
        allowed = f"1 with launcher {name}; several with slurm, which begins and ends machines together"
        problems.append(Problem(str(nodes.origin), "run.nodes", show(nodes.value), allowed))
    return problems


def _flags(env: str | None, launcher: str | None) -> Layer:
    given = {"env": (env, "--env"), "run.launcher": (launcher, "--launcher")}
    return {key: Entry(value, Origin(flag)) for key, (value, flag) in given.items() if value is not None}


_PATHS = ("dataset", "data.uri", "hardware.data_root", "hardware.scratch_root", "store.ca_bundle")
_PLACES = (*_PATHS, "store.uri", "store.endpoint_url", "hardware.output_root")


def _read_places(layer: Layer, folder: Path) -> list[Problem]:
    """Paths and URIs, as they are meant where they were written: with the variables of this machine, and relative to the job
    file's folder, or to the current one for ``--set``; an attempt in a container has another. Returns what is wrong."""
    problems = []
    for key in (*_PLACES, "model.init"):
        entry = layer.get(key)
        if entry is None or not isinstance(entry.value, str) or (key == "dataset" and not is_own(entry.value)):
            continue
        try:
            text = with_variables(entry.value)
        except UnsetVariable as error:
            allowed = "variables that are set here, or what they stand for"
            problems.append(Problem(str(entry.origin), key, f"{show(entry.value)}; {error}", allowed))
            continue
        if key in ("dataset", "data.uri", "store.uri") and (wrong := misspelt(text)):
            problems.append(Problem(str(entry.origin), key, show(entry.value), wrong))
            continue
        if key in ("dataset", "data.uri") and "://" in text:
            from last_e.datafile import PLACES, is_of_no_known_kind  # most jobs have none of these

            if is_of_no_known_kind(text):
                problems.append(Problem(str(entry.origin), key, show(redact(text)), PLACES))
                continue
        if key == "dataset" and "/" not in text and not (folder / text).is_file():
            continue  # a name alone that is not beside the job: it is looked for where data are
        if key == "model.init":  # else a job, or what is elsewhere
            text = str(folder / text) if os.path.exists(folder / text) else text  # noqa: PTH110 -- names too long are none
        if key in _PATHS and "://" not in text and text[:1] not in ("/", "~", ""):
            text = str(folder / text)
        layer[key] = Entry(text, entry.origin)
    return problems


def absolute_settings(settings: Iterable[str]) -> list[str]:
    """``--set`` words that mean the same in any folder."""
    words = list(settings)
    before, after = set_layer(words)[0], set_layer(words)[0]
    _read_places(after, Path.cwd())
    return [*words, *(f"{key}={json.dumps(after[key].value)}" for key in _PLACES if key in after and after[key] != before[key])]


_EXAMPLES = {"model": "nano_e_v3", "dataset": "irds"}


def resolve_attempt(
    config: dict[str, Any],
    origins: dict[str, str],
    env: str | None,
    settings: Iterable[str],
    allow_change: Iterable[str],
    launcher: str | None = None,
    *,
    takes: Callable[[str, Any], bool],
    options: Mapping[str, str] | None,
) -> tuple[Resolved[JobSpec], list[Change]]:
    """What an attempt on this machine runs with, and how that differs from what the job began with.

    What decides learning, and what the user set, comes from the job's record; what fits the machine comes from the
    profile: of ``env`` where given, else of the job's own, which for ``auto`` is found on this machine.

    Args:
        config: the job's flat resolved configuration.
        origins: where each of its values came from.
        env: the profile asked for now.
        settings: ``KEY=VALUE`` words given now.
        allow_change: pinned keys that may change all the same.
        launcher: the launcher asked for now.
        takes: whether a stored job may set a key that is a matter of one machine (:mod:`last_e.set_by`) so here.
        options: how the bucket is reached in which the job was found; None: it is no bucket.

    Raises:
        ConfigError: a value is wrong, or a pinned value would change.
    """
    from last_e.resume import changes, refuse_pinned

    job: Layer = {}
    who = set_by(JobSpec)
    for key, value in config.items():
        by_user = not origins.get(key, "default").startswith(_PACKAGE_ORIGINS)
        if not (is_pinned(key) or by_user or key == "env"):
            continue
        if key not in who or who[key].who != "here" or value in who[key].harmless or takes(key, value):
            job[key] = Entry(value, Origin(f"{FROM_JOB}{origins.get(key, 'default')})"))
    _see_that_its_set_is_told(job)
    allow_change, flags = list(allow_change), _flags(env, launcher)
    sets, problems = set_layer(settings)
    problems = [*problems, *_read_places(sets, Path.cwd())]
    named = {key for word in allow_change for key in word.split(",")} - {"data"}
    for key in sorted(key for key in named & config.keys() if is_pinned(key) and key not in sets):
        problems.append(Problem("--allow-change", key, "no other value for it", f"with --set {key}=VALUE beside it"))
    resolved = resolve([job, flags, sets], JobSpec, problems, opened=_opened)
    keep_secret(resolved.config.notify.variables().values())
    after = resolved.items()
    of_us = {key for key, origin in resolved.origins.items() if str(origin).startswith(_PACKAGE_ORIGINS)}
    new = of_us - config.keys()  # a key that the job's version had not, as the package has it: nobody has changed it
    found = [
        change
        for change in changes(config, after)
        if change.key in after and not change.key.startswith("store.") and (change.pinned or change.key not in new)
    ]
    refuse_pinned(found, allow_change, resolved.origins)
    if options is not None:  # what the job says of its store may be another's word
        values = {**options, "requester_pays": options.get("requester_pays") == "true"}
        resolved = replace(resolved, config=resolved.config.model_copy(update={"store": StoreConfig.model_validate(values)}))
    return resolved, found


_OF_ITS_FILE = ("split_type", "data.num_classes", "data.splits", "data.joints", "data.content")


def _see_that_its_set_is_told(job: Layer) -> None:
    """See that a stored job says all of an own set that its file said when it was made: else that would be read here, from
    wherever the job says, before anybody has been asked.

    Raises:
        ConfigError: it does not, or says where the file is in place of its name.
    """
    chosen = job.get("dataset")
    if chosen is None or not is_own(chosen.value):
        return
    lacking = [key for key in _OF_ITS_FILE if key not in job or job[key].value is None]
    if lacking or name_of_set(chosen.value) != chosen.value:
        found = f"{show(redact(chosen.value))}, and no {', '.join(lacking)}" if lacking else show(redact(chosen.value))
        allowed = "a stored job names its own set's file without a place, and all that this said: submit it anew"
        raise ConfigError([Problem(str(chosen.origin), "dataset", found, allowed)])
