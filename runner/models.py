"""Checkpoints of jobs and of folders brought to where a child can open them, each with the configuration that it runs with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from last_e import manifest
from last_e.bar import Bar
from last_e.config import PINNED_SECTIONS, TrainConfig
from last_e.datafile import is_remote
from last_e.layers import resolve
from last_e.problems import Origin
from last_e.reading import Entry, flat_items, set_layer
from last_e.text import expand, one_line
from last_e.whole import read_bounded
from runner.attempt.data_cache import fetch_data
from runner.errors import LastrunError, UsageError
from runner.job.find import find_job
from runner.job.job import Job
from runner.job.pull import pull_checkpoint, unseen
from runner.resolve import resolve_attempt
from runner.trust import Trust, see_that_it_is_taken

Say = Callable[[str], None]
_OF_THE_SPLIT = ("split_type", "data.validation", "data.validation_by", "data.validation_seed")
"""Keys that decide learning, and may be others here: they choose among clips."""


@dataclass(frozen=True)
class Model:
    """One that is to be asked."""

    name: str
    """A job's, or the folder of a checkpoint."""
    weight: float = 1.0
    """Of its probabilities, where there are several."""


@dataclass(frozen=True)
class Choice:
    """Which checkpoint of a job, and what is taken of it.

    By default the best by top-1.
    """

    store: str | None = None
    """Where the jobs are."""
    trust: bool = False
    """Take what they bring along (``--trust``)."""
    last: bool = False
    step: int | None = None
    words: Sequence[str] = ()
    """``KEY=VALUE``."""
    ema: bool = False
    """The average of its weights."""
    needs_data: bool = True
    """Whether the data set is read: fetched here, if it lies in a bucket. Else the job's word on where it is does not count."""
    is_watched: bool = True
    """Whether somebody is to see how far it is that something large is fetched."""

    def __post_init__(self) -> None:
        if self.last and self.step is not None:
            raise UsageError("--last and --step name one checkpoint each: give one of them")


def bring(model: Model, choice: Choice, held: ExitStack, say: Say) -> dict[str, Any]:
    """A model as a child takes it: ``folder``, ``config``, ``weight``, ``ema``. What is fetched is deleted when ``held`` ends.

    Args:
        model: a job or a folder.
        choice: which checkpoint.
        held: see above.
        say: told which checkpoint is taken.

    Raises:
        LastrunError: there is none, or it is damaged.
    """
    path = expand(model.name)
    words = [*([] if choice.needs_data else ["data.uri=null"]), *choice.words]
    if is_checkpoint(path):
        if choice.last or choice.step is not None:
            raise UsageError(f"{path} is one checkpoint: --last and --step choose among those of a job")
        folder, config = path.absolute(), _of_folder(path, words)
    else:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lastrun-model-"))) / "checkpoint"
        config = _of_job(find_job(model.name, choice.store), choice, folder, words, say)
    return {"folder": str(folder), "config": config, "weight": model.weight, "ema": choice.ema}


def see_that_it_is_there(name: str, choice: Choice) -> None:
    """See that there is such a job or folder, before anything is done for it.

    Raises:
        LastrunError: there is none.
    """
    if not is_checkpoint(expand(name)):
        find_job(name, choice.store)


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is one."""
    with suppress(OSError):  # a name too long for a folder is no folder's
        return (path / manifest.MANIFEST).is_file()
    return False


def _of_job(job: Job, choice: Choice, folder: Path, words: list[str], say: Say) -> dict[str, Any]:
    """Bring a job's checkpoint into a folder; its configuration, as this machine has it."""
    config, origins, _ = job.settings(job.attempts.all())
    trust = Trust(job.store.uri, all_of_it=choice.trust)
    resolved, _ = resolve_attempt(
        config,
        origins,
        None,
        words,
        [key for key in _OF_THE_SPLIT if any(word.startswith(f"{key}=") for word in words)],
        takes=trust.takes,
        options=trust.options,
    )
    values = see_that_it_is_taken(resolved, trust)
    if choice.trust:
        trust.remember(values)
    best = not choice.last and choice.step is None
    with Bar("MB") as bar:
        watch = bar.of_growing if choice.is_watched else unseen
        say(f"{job.id}: checkpoint {pull_checkpoint(job, folder, best=best, step=choice.step, watch=watch)}")
    spec = resolved.config
    values = spec.what_it_trains()
    if spec.run.gpus == 0:
        values["hardware"]["device"] = "cpu"
    if values["hardware"]["micro_batch"] is None:
        values["hardware"]["micro_batch"] = _kept(folder).get("hardware.micro_batch")
    if is_remote(spec.data.uri):
        options = spec.store.model_dump(exclude={"uri"})
        with Bar("MB") as bar:
            watch_data = bar.update_bytes if choice.is_watched else lambda *_: None
            values["data"]["uri"] = str(fetch_data(str(spec.data.uri), options=options, say=say, watch=watch_data))
    return values


def _of_folder(path: Path, words: list[str]) -> dict[str, Any]:
    """The configuration that a checkpoint was trained with, as this machine has it."""
    try:
        manifest.verify(path)
    except manifest.DamagedCheckpoint as error:
        raise LastrunError(f"{path}: damaged checkpoint: {error}") from None
    origin = Origin(str(path / "config.json"))
    pinned = {
        key: Entry(value, origin)
        for key, value in _kept(path).items()
        if key.split(".")[0] in PINNED_SECTIONS or key == "hardware.micro_batch"  # which tests are rounded by, too
    }
    sets, problems = set_layer(words)
    return resolve([pinned, sets], TrainConfig, problems).config.model_dump(mode="json")


def _kept(folder: Path) -> dict[str, Any]:
    """What a checkpoint was trained with, by dotted key."""
    try:
        return dict(flat_items(json.loads(read_bounded(folder / "config.json", manifest.MOST_CONFIG_BYTES))))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise LastrunError(f"{folder}: config.json cannot be read ({one_line(error)})") from None
