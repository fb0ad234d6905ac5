"""Random search: points drawn by optuna from ranges and lists, all of them before the first job is made."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from math import floor, log10
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from last_e.layers import field_problems, known_keys
from last_e.problems import Problem, show
from last_e.reading import Entry, Layer
from runner.spec import JobSpec

_DRAWS = 10
"""For each point that is wanted, until enough different ones are found."""
_DIGITS = 4
"""Significant ones of a number that is drawn: more say nothing, and nobody reads them."""
_ALLOWED = "low and high, low below high; with log: true (low above 0), or with step"


class Range(BaseModel):
    """Values from ``low`` to ``high``, both among them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    step: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _make_sense(self) -> Range:
        if self.low >= self.high or (self.log and (self.low <= 0 or self.step is not None)):
            raise ValueError
        return self


def take_space(entries: Layer, problems: list[Problem]) -> tuple[Layer, dict[str, Range]]:
    """What ``sweep.search`` says of each key, as a list (the values of a list, both ends of a range); and the ranges."""
    lists: Layer = {}
    parts: dict[str, Layer] = {}
    names: dict[str, None] = {}
    """In the order of the file."""
    for key, entry in entries.items():
        stem, _, part = key.rpartition(".")
        is_range = bool(stem) and part in Range.model_fields
        names.setdefault(stem if is_range else key)
        if is_range:
            parts.setdefault(stem, {})[part] = entry
        elif not key or not isinstance(entry.value, list) or not entry.value:
            allowed = "a list of values, or a range such as {low: 0.01, high: 0.3, log: true}"
            where = f"sweep.search{'.' if key else ''}{key}"
            problems.append(Problem(str(entry.origin), where, show(entry.value), allowed))
        else:
            lists[key] = entry
    ranges: dict[str, Range] = {}
    for key, said in parts.items():
        origin = next(iter(said.values())).origin
        values = {part: entry.value for part, entry in said.items()}
        try:
            ranges[key] = Range(**values)
            lists[key] = Entry([values["low"], values["high"]], origin)
        except ValidationError:
            problems.append(Problem(str(origin), f"sweep.search.{key}", show(values), _ALLOWED))
    return {key: lists[key] for key in names if key in lists}, ranges


def end_problems(key: str, said: Range, entry: Entry) -> list[Problem]:
    """What is wrong with the ends of a key's range: what lies between them is right if they are."""
    if counts(key) and any(value != int(value) for value in (said.low, said.high, said.step or 1)):
        allowed = "whole numbers, as the key has"
        return [Problem(str(entry.origin), f"sweep.search.{key}", show(said.model_dump(exclude_defaults=True)), allowed)]
    if said.step is not None and abs((steps := (said.high - said.low) / said.step) - round(steps)) > 1e-6:
        allowed = f"a step that leads from {show(said.low)} to {show(said.high)}"
        return [Problem(str(entry.origin), f"sweep.search.{key}", show(said.step), allowed)]
    ends = [int(end) if counts(key) else end for end in entry.value]
    return [wrong for end in ends for wrong in field_problems(JobSpec, {}, {key: Entry(end, entry.origin)})]


def draw(lists: Layer, ranges: dict[str, Range], trials: int, seed: int) -> list[dict[str, Any]]:
    """Different points of a space, as many as wanted if it has so many.

    Args:
        lists: values of each key, by its own name; the ends of a range.
        ranges: those keys that have one.
        trials: how many points.
        seed: the same one draws the same.

    Raises:
        ModuleNotFoundError: optuna is not installed.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space: dict[str, BaseDistribution] = {}
    for key, entry in lists.items():
        if key not in ranges:
            space[key] = CategoricalDistribution(range(len(entry.value)))  # optuna's own choices are plain values only
            continue
        said = ranges[key]
        if counts(key):
            space[key] = IntDistribution(int(said.low), int(said.high), log=said.log, step=int(said.step or 1))
        else:
            space[key] = FloatDistribution(said.low, said.high, log=said.log, step=said.step)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    points: dict[str, dict[str, Any]] = {}
    for _ in range(_DRAWS * trials):
        drawn = study.ask(space).params
        point = {key: _value(drawn[key], lists[key].value, ranges.get(key)) for key in space}
        points.setdefault(repr(point), point)
        if len(points) == trials:
            break
    return list(points.values())


def why_not() -> str | None:
    """What is missing to draw."""
    return None if find_spec("optuna") else "optuna is not installed; from a clone of lastrun: pip install '.[search]'"


def _value(drawn: Any, values: list[Any], said: Range | None) -> Any:
    if said is None:
        return values[drawn]
    if isinstance(drawn, int) or drawn == 0:
        return drawn
    if said.step is not None:
        return round(drawn, 12)  # 0.1 + 6 * 0.1 is not 0.7
    rounded = round(drawn, _DIGITS - 1 - floor(log10(abs(drawn))))
    return min(max(rounded, said.low), said.high)


def counts(key: str) -> bool:
    """Whether a key's values are whole numbers."""
    types = set(_types(known_keys(JobSpec)[key].annotation))
    return int in types and float not in types


def _types(annotation: Any) -> Iterable[Any]:
    """The types that an annotation is made of."""
    inner = get_args(annotation)
    return [annotation] if not inner else [one for part in inner for one in _types(part)]
