"""Checkpoints scored anew on this machine, by a child (``last_e.score``)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from last_e import manifest
from last_e.config import PINNED_SECTIONS, TrainConfig
from last_e.datafile import is_remote
from last_e.layers import resolve
from last_e.problems import Origin
from last_e.reading import Entry, flat_items, set_layer
from last_e.text import expand, one_line
from last_e.whole import read_bounded
from runner.attempt.data_cache import Watch, fetch_data
from runner.child import result_of
from runner.errors import UsageError
from runner.job.find import find_job
from runner.job.job import Job
from runner.job.pull import pull_checkpoint
from runner.resolve import resolve_attempt
from runner.trust import Trust, see_that_it_is_taken

_OF_THE_SPLIT = ("split_type", "data.validation", "data.validation_by", "data.validation_seed")
_UNDRAWN = ("data.validation_by=null", "data.validation_seed=null")
PARTS = ("test", "train", "validation")


@dataclass(frozen=True)
class Model:
    """One that is to be scored."""

    name: str
    """A job's, or the folder of a checkpoint."""
    weight: float = 1.0


def evaluate(
    models: list[Model],
    *,
    store: str | None,
    trust: bool,
    last: bool,
    step: int | None,
    data: Path | None,
    split: str | None,
    part: str,
    crops: int,
    settings: Iterable[str],
    say: Callable[[str], None],
    progress: Callable[[int, int, str], None],
    watch: Watch = lambda *_: None,
) -> dict[str, Any]:
    """The figures of one model, or of several whose probabilities are added; with ``said``, what it says of each clip.

    Args:
        models: jobs and folders.
        store: where the jobs are.
        trust: take what they bring along (``--trust``).
        last, step: which checkpoint of a job; by default the best.
        data: a prepared file instead of theirs.
        split: instead of theirs.
        part: ``test``, ``train`` or ``validation``.
        crops: pieces of each clip.
        settings: ``KEY=VALUE`` words.
        say: told which checkpoints are taken.
        progress: told clips done, of how many, and what comes next.
        watch: told how far data are that are fetched first.

    Raises:
        LastrunError: there is no such model, it or the clips are damaged or do not fit, and what to do.
    """
    if data is not None and not data.is_file():
        raise UsageError(f"--data {data}: no such file; without it the clips are those that the model was trained for")
    words = [*settings, *([] if data is None else [f"data.uri={json.dumps(str(data.absolute()))}"])]
    words += [] if split is None else [f"split_type={json.dumps(split)}", "data.validation=null", *_UNDRAWN]
    with ExitStack() as held:
        asked: list[dict[str, Any]] = []
        for model in models:
            path = expand(model.name)
            if _is_checkpoint(path):
                if last or step is not None:
                    raise UsageError(f"{path} is one checkpoint: --last and --step choose among those of a job")
                folder, config = path.absolute(), _of_folder(path, words)
            else:
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lastrun-evaluate-"))) / "checkpoint"
                config = _of_job(find_job(model.name, store), trust, folder, last, step, words, say, watch)
            asked.append({"folder": str(folder), "config": config, "weight": model.weight})
        result = result_of("last_e.score", {"models": asked, "part": part, "crops": crops}, progress, "the evaluation")
        as_trained = split is None and not last and step is None
        return {**result, "chosen_on": _chosen_on(models, asked) if as_trained else None}


def _chosen_on(models: list[Model], asked: list[dict[str, Any]]) -> str | None:
    """By which clips the best checkpoints were chosen; None: none was, for folders alone were named."""
    jobs = [one for model, one in zip(models, asked) if not _is_checkpoint(expand(model.name))]
    if not jobs:
        return None
    return "test" if any(one["config"]["data"]["validation"] is None for one in jobs) else "validation"


def _is_checkpoint(path: Path) -> bool:
    with suppress(OSError):  # a name too long for a folder is no folder's
        return (path / manifest.MANIFEST).is_file()
    return False


def _of_job(
    job: Job,
    trusts: bool,
    folder: Path,
    last: bool,
    step: int | None,
    words: list[str],
    say: Callable[[str], None],
    watch: Watch,
) -> dict[str, Any]:
    """Bring a job's checkpoint into a folder; its configuration, as this machine has it."""
    config, origins, _ = job.settings(job.attempts.all())
    trust = Trust(job.store.uri, all_of_it=trusts)
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
    if trusts:
        trust.remember(values)
    best = not last and step is None
    say(f"{job.id}: checkpoint {pull_checkpoint(job, folder, best=best, step=step)}")
    spec = resolved.config
    values = spec.model_dump(mode="json", exclude={"name", "run", "store", "notify", "tracking"})
    if spec.run.gpus == 0:
        values["hardware"]["device"] = "cpu"
    if values["hardware"]["micro_batch"] is None:
        values["hardware"]["micro_batch"] = _kept(folder).get("hardware.micro_batch")
    if is_remote(spec.data.uri):
        options = spec.store.model_dump(exclude={"uri"})
        values["data"]["uri"] = str(fetch_data(str(spec.data.uri), options=options, say=say, watch=watch))
    return values


def _of_folder(path: Path, words: list[str]) -> dict[str, Any]:
    """The configuration that a checkpoint was trained with, as this machine has it."""
    try:
        manifest.verify(path)
    except manifest.DamagedCheckpoint as error:
        raise UsageError(f"{path}: damaged checkpoint: {error}") from None
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
        raise UsageError(f"{folder}: config.json cannot be read ({one_line(error)})") from None
