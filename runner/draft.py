"""A job file for somebody who has none: what matters is set and explained, what is often wanted next is a comment."""

from __future__ import annotations

import json
import re
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from last_e.config import DATASETS
from last_e.datafile import DataError, find_file
from last_e.described import is_own
from last_e.layers import Resolved, known_keys, package_layer
from last_e.problems import ConfigError, Problem
from last_e.whole import whole_file
from runner.errors import UsageError, unwritable
from runner.plan.clips import data_of
from runner.plan.figures import Figure
from runner.plan.planner import make_plan
from runner.resolve import resolve_spec
from runner.spec import JobSpec

_HEAD = """\
# What lastrun trains, and how. A line behind # is an offer: without the # it counts.
#   lastrun validate FILE   every mistake at once
#   lastrun explain FILE    every key, and where its value comes from
#   lastrun plan FILE       time and cost on each kind of machine
#   lastrun submit FILE     train
"""
_SET = ("epochs", "batch_size", "lr", "warmup_epochs", "seed")
_OFFERS: dict[str, dict[str, Any]] = {
    "training": {"patience": 10, "class_weights": "balanced"},
    "data": {"validation": 0.2},
    "run": {"launcher": "local", "auto_continue": 3},
    "hardware": {"session_limit": "8h50m"},
    "checkpoint": {"every_minutes": 5},
}
"""Of each section, with what they could be."""
_DATA = f"{', '.join(DATASETS)}, or a prepared file, which lastrun data import makes (docs/own-data.md)"
_STEPS_AT_LEAST = 8
"""In an epoch: with fewer, a schedule has little to go by."""
_WIDTH = 100


@dataclass(frozen=True)
class Draft:
    """A file that is written."""

    path: Path
    model: str
    dataset: str
    epochs: int
    total_seconds: Figure | None
    """Of all of it on this machine; None: nobody can tell."""
    busy: str | None
    """That others use this machine now, in words."""


def see_that_it_may_be_written(path: Path, force: bool) -> None:
    """See to it before anybody is asked anything.

    Raises:
        UsageError: it is a folder, or there, and not to be replaced.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file, such as {path / 'job.yaml'}")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already: name another file, or --force replaces it")


def draft(path: Path, *, data: str, model: str, epochs: str | None, name: str | None, force: bool) -> Draft:
    """Write a job file.

    Args:
        path: where; a file that is there is left alone, unless ``force`` says otherwise.
        data: a data set that is known by its name, or a prepared file.
        model: a variant.
        epochs: as somebody wrote it; None: as many as the recipe has.
        name: of the job; None: what model and data are called.
        force: replace a file that is there.

    Raises:
        ConfigError, UsageError: what cannot be.
    """
    see_that_it_may_be_written(path, force)
    head = _head(data, model, name)
    with tempfile.TemporaryDirectory(prefix="lastrun-init-") as folder:
        trial = Path(folder) / path.name
        trial.write_text(json.dumps(head | _training(epochs)))  # JSON is YAML
        resolved = _resolved(trial, path.absolute().parent, data)
        usual = resolved.items()
        training = {key: usual[f"training.{key}"] for key in _SET}
        training["warmup_epochs"] = min(training["warmup_epochs"], max(1, training["epochs"] // 5))
        clips = data_of([resolved.config]).counts.train
        while training["batch_size"] > 2 and training["batch_size"] * _STEPS_AT_LEAST > clips:
            training["batch_size"] //= 2
        text = "\n".join([_HEAD, *(f"{key}: {_value(value)}" for key, value in head.items()), *_sections(training)]) + "\n"
        trial.write_text(text)
        config = resolve_spec(trial, None, []).config
        try:
            row = make_plan(trial, "local", []).rows[0]
            seconds, busy = row.total_seconds, row.busy
        except (UsageError, ConfigError):
            seconds = busy = None
    _put(path, text)
    return Draft(path, config.model.variant, config.dataset, config.training.epochs, seconds, busy)


def see_that_it_can_be(path: Path, *, data: str, model: str, epochs: str | None, name: str | None = None) -> None:
    """See that a job file at ``path`` could say this; writes none.

    Raises:
        ConfigError: it could not.
    """
    with tempfile.TemporaryDirectory(prefix="lastrun-init-") as folder:
        trial = Path(folder) / path.name
        trial.write_text(json.dumps(_head(data, model, name) | _training(epochs)))
        _resolved(trial, path.absolute().parent, data)


def _head(data: str, model: str, name: str | None) -> dict[str, str]:
    """What stands above the sections; a file that is there with its folder, for the job's file may lie in another."""
    file = Path(data).expanduser()
    own = is_own(data) and not file.is_absolute() and file.exists()
    return {**({} if name is None else {"name": name}), "model": model, "dataset": str(file.absolute()) if own else data}


def _training(epochs: str | None) -> dict[str, Any]:
    """What stands there of epochs; what is no number stands there too, so that it is told with all else that is wrong."""
    if epochs is None:
        return {}
    return {"training": {"epochs": int(epochs) if re.fullmatch("-?[0-9]{1,18}", epochs) else epochs}}


def _resolved(trial: Path, home: Path, data: str) -> Resolved[JobSpec]:
    """The job of what was given; what is wrong with that is told of the option that gave it, and of the folder in which it will
    be."""
    options = {
        "dataset": "--data",
        "model": "--model",
        "model.variant": "--model",
        "name": "--name",
        "training.epochs": "--epochs",
    }
    try:
        return resolve_spec(trial, None, [])
    except ConfigError as error:
        is_missing = is_own(data) and "://" not in data and not _is_there(data)
        raise ConfigError(
            Problem("--data", "-", f"{data}, and no such file is there", _DATA)
            if one.key == "dataset" and is_missing
            else Problem(
                options.get(one.key, one.origin),
                "-" if one.key in options else one.key,
                one.found.replace(str(trial.parent), str(home)),
                one.allowed.removesuffix(", without quotes") if one.key in options else one.allowed,
            )
            for one in error.problems
        ) from None


def _is_there(data: str) -> bool:
    """Whether there is a file of that name, here or where data lie."""
    root = package_layer("nano_e_v3", "irds", "local")["hardware.data_root"].value
    try:
        return Path(data).expanduser().exists() or find_file(data, None, root).exists()
    except DataError:
        return False


def _sections(training: dict[str, Any]) -> Iterator[str]:
    for section, offers in _OFFERS.items():
        is_set = section == "training"
        yield f"{section}:" if is_set else f"# {section}:"
        for key, value in (training if is_set else {}).items():
            yield from _said(f"{section}.{key}", "  # ")
            yield f"  {key}: {_value(value)}"
        before = "  # " if is_set else "#   "
        for key, value in offers.items():
            yield from _said(f"{section}.{key}", f"{before}# ")
            yield f"{before}{key}: {_value(value)}"


def _said(key: str, before: str) -> list[str]:
    return [f"{before}{line}" for line in textwrap.wrap(known_keys(JobSpec)[key].description, _WIDTH - len(before))]


def _value(value: Any) -> str:
    """As YAML has it; text that could be read as something else in quotes."""
    plain = isinstance(value, str) and value[:1].isalpha() and all(letter.isalnum() or letter in "_./-" for letter in value)
    if plain and value.lower() not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n"):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _put(path: Path, text: str) -> None:
    """Whole or not at all.

    Raises:
        UsageError: not there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(text, "utf-8")
    except OSError as error:
        raise unwritable(path, error) from None
