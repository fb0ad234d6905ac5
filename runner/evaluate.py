"""Checkpoints scored anew on this machine, by a child (``last_e.score``)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from last_e import manifest
from last_e.config import PINNED_SECTIONS, TrainConfig
from last_e.datafile import is_remote
from last_e.layers import resolve
from last_e.problems import Origin
from last_e.reading import Entry, flat_items, set_layer
from last_e.text import one_line
from last_e.whole import read_bounded
from runner.attempt.data_cache import fetch_data
from runner.child import result_of
from runner.errors import UsageError
from runner.job.find import find_job
from runner.job.pull import pull_checkpoint
from runner.resolve import resolve_attempt
from runner.trust import Trust, see_that_it_is_taken


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
    last: bool,
    step: int | None,
    data: Path | None,
    split: str | None,
    part: str,
    crops: int,
    settings: Iterable[str],
    say: Callable[[str], None],
    progress: Callable[[int, int, str], None],
) -> dict[str, Any]:
    """The figures of one model, or of several whose probabilities are added; with ``said``, what it says of each clip.

    Args:
        models: jobs and folders.
        store: where the jobs are.
        last, step: which checkpoint of a job; by default the best.
        data: a prepared file instead of theirs.
        split: instead of theirs.
        part: ``test`` or ``train``.
        crops: pieces of each clip.
        settings: ``KEY=VALUE`` words.
        say: told which checkpoints are taken.
        progress: told clips done, of how many, and what comes next.

    Raises:
        LastrunError: there is no such model, it or the clips are damaged or do not fit, and what to do.
    """
    words = [*settings, *([] if data is None else [f"data.uri={json.dumps(str(data.absolute()))}"])]
    words += [] if split is None else [f"split_type={json.dumps(split)}"]
    with ExitStack() as held:
        asked = []
        for model in models:
            path = Path(model.name).expanduser()
            if (path / manifest.MANIFEST).is_file():
                if last or step is not None:
                    raise UsageError(f"{path} is one checkpoint: --last and --step choose among those of a job")
                folder, config = path.absolute(), _of_folder(path, words)
            else:
                folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lastrun-evaluate-"))) / "checkpoint"
                config = _of_job(model.name, store, folder, last, step, words, say)
            asked.append({"folder": str(folder), "config": config, "weight": model.weight})
        return result_of("last_e.score", {"models": asked, "part": part, "crops": crops}, progress, "the evaluation")


def _of_job(
    name: str, store: str | None, folder: Path, last: bool, step: int | None, words: list[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Bring a job's checkpoint into a folder; its configuration, as this machine has it."""
    job = find_job(name, store)
    config, origins, _ = job.settings(job.attempts.all())
    trust = Trust(job.store.uri)
    resolved, _ = resolve_attempt(
        config,
        origins,
        None,
        words,
        ["split_type"] if any(word.startswith("split_type=") for word in words) else [],
        takes=trust.takes,
        options=trust.options,
    )
    see_that_it_is_taken(resolved, trust)
    say(f"{job.id}: checkpoint {pull_checkpoint(job, folder, best=not last and step is None, step=step)}")
    spec = resolved.config
    values = spec.model_dump(mode="json", exclude={"name", "run", "store"})
    if is_remote(spec.data.uri):
        values["data"]["uri"] = str(fetch_data(str(spec.data.uri), options=spec.store.model_dump(exclude={"uri"}), say=say))
    return values


def _of_folder(path: Path, words: list[str]) -> dict[str, Any]:
    """The configuration that a checkpoint was trained with, as this machine has it."""
    try:
        manifest.verify(path)
        kept = dict(flat_items(json.loads(read_bounded(path / "config.json", manifest.MOST_CONFIG_BYTES))))
    except manifest.DamagedCheckpoint as error:
        raise UsageError(f"{path}: damaged checkpoint: {error}") from None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: config.json cannot be read ({one_line(error)})") from None
    origin = Origin(str(path / "config.json"))
    pinned = {key: Entry(value, origin) for key, value in kept.items() if key.split(".")[0] in PINNED_SECTIONS}
    sets, problems = set_layer(words)
    return resolve([pinned, sets], TrainConfig, problems).config.model_dump(mode="json")
