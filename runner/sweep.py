"""What a job file says of a sweep, to the values that each of its points sets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

from last_e.layers import field_problems, known_keys, known_only, without_secrets
from last_e.problems import Origin, Problem, nearest, show
from last_e.reading import Entry, Layer
from runner.halving import Halving
from runner.search import Range, draw, end_problems, take_space, why_not
from runner.spec import JobSpec, SweepFile

MOST_POINTS = 1000
_HEAD = "sweep"
_KINDS = ("grid", "zip", "points", "search")
_OF_THE_GROUP = {
    "name": "a group has one name",
    "store": "a group has one store",
    "run": "all points are started alike",
    "notify": "of all points the same are told",
    "tracking": "all points are tracked alike",
}
"""What all points of a group have in common."""
_NOWHERE = Origin("default")
_UNSAID = Entry(None, _NOWHERE)


@dataclass
class Sweep:
    """The points of a job file; of one without a sweep a single point that sets nothing."""

    points: list[Layer] = field(default_factory=lambda: [{}])
    seeds: int = 1
    seeds_origin: Origin = _NOWHERE
    origin: Origin = _NOWHERE
    """Of what the points come from: ``grid``, ``zip``, ``points``, ``search`` or ``seeds``."""
    halving: Halving | None = None
    halving_origin: Origin = _NOWHERE
    problems: list[Problem] = field(default_factory=list)
    given: bool = False


def take_sweep(spec: Layer, flags: Layer, sets: Layer) -> Sweep:
    """Take what is said of a sweep out of a file's layer and out of ``--set``; what is wrong with it comes along."""
    said = _merged(_taken(spec), _taken(sets))
    sweep = Sweep()
    whole = said.pop(_HEAD, None)
    nothing = whole is not None and whole.value == {} and not said
    if whole is not None and (nothing or whole.value not in (None, {})):
        sweep.problems.append(
            Problem(str(whole.origin), _HEAD, show(whole.value), "a mapping with grid, zip, points or search, and seeds")
        )
    said, problems = without_secrets(said)
    sweep.problems += [*problems, *_misspelt((spec, sets))]
    if not said or (whole is not None and whole.origin.name == "--set"):  # sweep=null: the job without its sweep
        return sweep
    sweep.given = True
    parts: dict[str, Layer] = {kind: {} for kind in _KINDS}
    for key, entry in said.items():
        kind, _, rest = key.removeprefix(f"{_HEAD}.").partition(".")
        if kind in parts:
            parts[kind][rest] = entry
        elif key not in known_keys(SweepFile):
            unknown = f"an unknown key (= {show(entry.value)})"
            sweep.problems.append(Problem(str(entry.origin), key, unknown, nearest(key, known_keys(SweepFile))))
    _take_seeds(sweep, said)
    _take_halving(sweep, said)
    used = [kind for kind in _KINDS if parts[kind]]
    if "search" not in used:
        for key in (f"{_HEAD}.trials", f"{_HEAD}.draw_seed"):
            if key in said:
                sweep.problems.append(Problem(str(said[key].origin), key, show(said[key].value), "beside search only"))
    if len(used) > 1:
        origin = next(iter(parts[used[1]].values())).origin
        sweep.problems.append(
            Problem(str(origin), _HEAD, " and ".join(used), "one of grid, zip, points and search; seeds beside it")
        )
    elif used:
        kind = used[0]
        sweep.origin = next(iter(parts[kind].values())).origin
        if kind == "search":
            sweep.points = _searched(parts[kind], said, sweep)
        else:
            make = {"grid": _grid, "zip": _zip, "points": _listed}[kind]
            sweep.points = make(parts[kind], sweep.problems, sweep.seeds)
        given, _ = known_only({**flags, **sets}, JobSpec)
        for key in dict.fromkeys(key for point in sweep.points for key in point if key in given):
            entry = given[key]
            allowed = "a key that the sweep does not vary: leave it out here or there"
            sweep.problems.append(Problem(str(entry.origin), key, show(entry.value), allowed))
    elif sweep.seeds == 1 and not sweep.problems:
        origin = next(iter(said.values())).origin
        sweep.problems.append(Problem(str(origin), _HEAD, "no points", "grid, zip, points, search, or seeds of more than 1"))
    return sweep


def _taken(layer: Layer) -> Layer:
    return {key: layer.pop(key) for key in [key for key in layer if key == _HEAD or key.startswith(f"{_HEAD}.")]}


def _merged(of_file: Layer, of_set: Layer) -> Layer:
    """What ``--set`` says of a sweep, laid on what the file says: single keys of a grid on the file's, but a list of points in
    place of the file's, and another kind in place of the file's kind. null takes a kind away, or all that the file says."""
    of_set = dict(of_set)
    if _HEAD in of_set:
        of_file = {}
        if of_set[_HEAD].value is None and len(of_set) > 1:
            del of_set[_HEAD]
    named = {kind for kind in map(_kind_of, of_set) if kind in _KINDS}
    none = {kind for kind in named if (entry := of_set.get(f"{_HEAD}.{kind}")) is not None and entry.value is None}
    gone = none | {kind for kind in _KINDS if named - none and (kind == "points" or kind not in named)}
    of_set = {key: entry for key, entry in of_set.items() if _kind_of(key) not in none}
    return {**{key: entry for key, entry in of_file.items() if _kind_of(key) not in gone}, **of_set}


def _kind_of(key: str) -> str:
    return key.removeprefix(f"{_HEAD}.").partition(".")[0]


def _misspelt(layers: Iterable[Layer]) -> list[Problem]:
    """Keys that are none, and were probably meant for the sweep; they are taken out as well."""
    known = {key.split(".")[0] for key in known_keys(JobSpec)}
    problems = []
    for layer in layers:
        for key in list(layer):
            head, dot, rest = key.partition(".")
            if head not in known and difflib.get_close_matches(head.lower(), [_HEAD], cutoff=0.75):
                meant = f"{_HEAD}{dot}{rest}"
                entry = layer.pop(key)
                problems.append(Problem(str(entry.origin), key, "an unknown key", f"known keys only; did you mean {meant}?"))
    return problems


def _take_seeds(sweep: Sweep, said: Layer) -> None:
    entry = _number("seeds", said, sweep.problems)
    if entry is not None:
        sweep.seeds, sweep.seeds_origin, sweep.origin = entry.value, entry.origin, entry.origin


def _take_halving(sweep: Sweep, said: Layer) -> None:
    first, factor = (_number(f"halving.{name}", said, sweep.problems) for name in ("first", "factor"))
    if first is not None:
        default = known_keys(SweepFile)[f"{_HEAD}.halving.factor"].default
        sweep.halving = Halving(first.value, factor.value if factor is not None else default)
        sweep.halving_origin = first.origin
    elif factor is not None:
        allowed = "beside halving.first: how many epochs all points are trained"
        sweep.problems.append(Problem(str(factor.origin), f"{_HEAD}.halving.factor", show(factor.value), allowed))


def _number(name: str, said: Layer, problems: list[Problem]) -> Entry | None:
    """A number that stands beside the points, if it is said and right."""
    key = f"{_HEAD}.{name}"
    if key not in said or said[key].value is None:
        return None
    wrong = field_problems(SweepFile, {}, {key: said[key]})
    problems += wrong
    return None if wrong else said[key]


def _searched(entries: Layer, said: Layer, sweep: Sweep) -> list[Layer]:
    """``search``: as many points as ``trials`` says, drawn."""
    problems, before = sweep.problems, len(sweep.problems)
    lists, ranges = take_space(entries, problems)
    usable: Layer = {}
    named: dict[str, Range] = {}
    for key, entry in lists.items():
        name = _add(usable, key, entry, problems)
        if name is not None and key in ranges:
            named[name] = ranges[key]
            problems += end_problems(name, ranges[key], entry)
    trials, seed = (_number(name, said, problems) for name in ("trials", "draw_seed"))
    if trials is None and said.get(f"{_HEAD}.trials", _UNSAID).value is None:
        problems.append(Problem(str(sweep.origin), f"{_HEAD}.trials", "nothing", "how many points to draw, such as 20"))
    elif missing := why_not():
        problems.append(
            Problem(str(sweep.origin), f"{_HEAD}.search", f"a search, but {missing}", "grid, zip or points without it")
        )
    if len(problems) > before or trials is None or _too_many(trials.value, sweep.seeds, entries, problems):
        return [{}]
    points = draw(usable, named, trials.value, seed.value if seed is not None else 0)
    return [{key: Entry(value, usable[key].origin) for key, value in point.items()} for point in points]


def _grid(lists: Layer, problems: list[Problem], seeds: int) -> list[Layer]:
    usable = _lists(lists, problems, "grid")
    if _too_many(prod(len(entry.value) for entry in usable.values()), seeds, usable, problems):
        return [{}]
    return [_point(usable, values) for values in product(*(entry.value for entry in usable.values()))]


def _zip(lists: Layer, problems: list[Problem], seeds: int) -> list[Layer]:
    usable = _lists(lists, problems, "zip")
    lengths = {key: len(entry.value) for key, entry in usable.items()}
    if len(set(lengths.values())) > 1:
        first = next(iter(lengths))
        problems += [
            Problem(str(usable[key].origin), f"sweep.zip.{key}", f"{length} values", f"{lengths[first]}, as {first} has")
            for key, length in lengths.items()
            if length != lengths[first]
        ]
        return [{}]
    if _too_many(next(iter(lengths.values()), 0), seeds, usable, problems):
        return [{}]
    return [_point(usable, values) for values in zip(*(entry.value for entry in usable.values()))]


def _point(lists: Layer, values: Iterable[Any]) -> Layer:
    return {key: Entry(value, entry.origin) for (key, entry), value in zip(lists.items(), values)}


def _lists(lists: Layer, problems: list[Problem], kind: str) -> Layer:
    """The keys that can vary, by their own names, each with its list of values."""
    usable: Layer = {}
    for key, entry in lists.items():
        if not key:
            allowed = f"keys, each with a list of values, such as {kind}: {{training.lr: [0.1, 0.05]}}"
            problems.append(Problem(str(entry.origin), f"sweep.{kind}", show(entry.value), allowed))
        elif not isinstance(entry.value, list) or not entry.value:
            value = entry.value
            several = isinstance(value, str) and "," in value
            guess = (
                "" if value is None or isinstance(value, (list, dict)) else f", such as [{value if several else show(value)}]"
            )
            problems.append(Problem(str(entry.origin), f"sweep.{kind}.{key}", show(entry.value), f"a list of values{guess}"))
        else:
            _add(usable, key, entry, problems)
    return usable


def _listed(entries: Layer, problems: list[Problem], seeds: int) -> list[Layer]:
    """``points``: what has been read of them by their numbers."""
    if "" in entries:
        entry = entries[""]
        allowed = "a list of mappings, such as points: [{training.lr: 0.1}, {training.lr: 0.05}]"
        problems.append(Problem(str(entry.origin), "sweep.points", show(entry.value), allowed))
        return [{}]
    points: dict[str, Layer] = {}
    bad: set[str] = set()
    for key, entry in entries.items():
        number, _, name = key.partition(".")
        point = points.setdefault(number, {})
        if not number.isdigit():
            allowed = "a list of mappings, such as points: [{training.lr: 0.1}, {training.lr: 0.05}]"
            problems.append(Problem(str(entry.origin), "sweep.points", f"the key {key}", allowed))
        elif name and name not in bad:
            before = len(problems)
            _add(point, name, Entry([entry.value], entry.origin), problems)
            bad |= {name} if len(problems) > before else set()
    if _too_many(len(points), seeds, entries, problems):
        return [{}]
    return [{key: Entry(entry.value[0], entry.origin) for key, entry in point.items()} for point in points.values()]


def _add(layer: Layer, key: str, entry: Entry, problems: list[Problem]) -> str | None:
    """Take a key for each of a list of values, by its own name, if there is such a key and it may vary; returns that name. The
    values are checked later, with the rest of their point."""
    values, name = [], ""
    for value in entry.value:
        named, wrong = known_only({key: Entry(value, entry.origin)}, JobSpec)
        if wrong or not named:
            problems += wrong or [Problem(str(entry.origin), key, show(value), "a value")]
            return None
        name = next(iter(named))
        values.append(named[name].value)
    if why := _OF_THE_GROUP.get(name.split(".")[0]):
        allowed = f"any other key: {why}"
        problems.append(Problem(str(entry.origin), key, "a key that all points share", allowed))
    elif name in layer:
        problems.append(Problem(str(entry.origin), key, f"{name} twice", "each key once"))
    else:
        layer[name] = Entry(values, entry.origin)
        return name
    return None


def _too_many(count: int, seeds: int, layer: Layer, problems: list[Problem]) -> bool:
    if count * seeds <= MOST_POINTS:
        return False
    origin = next(iter(layer.values())).origin
    problems.append(Problem(str(origin), _HEAD, f"{count * seeds:,} points", f"at most {MOST_POINTS:,}"))
    return True
