"""Checkpoints scored anew on this machine, by a child (``last_e.score``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from last_e.text import expand
from runner.child import result_of
from runner.errors import UsageError, refuse
from runner.models import Choice, Model, bring, is_checkpoint

_UNDRAWN = ("data.validation_by=null", "data.validation_seed=null")
PARTS = ("test", "train", "validation")


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
    weigh_on: str | None = None,
    mirror: bool = False,
    ema: bool = False,
    spoil: dict[str, float | None] | None = None,
    settings: Iterable[str],
    say: Callable[[str], None],
    progress: Callable[[int, int, str], None],
    is_watched: bool = True,
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
        weigh_on: the part on which the weights of several models are chosen, in place of their own.
        mirror: each piece in a mirror, too.
        ema: the average of the weights, where one was kept.
        spoil: what is wrong with the clips: ``noise`` (metres), ``missing`` (chance for a joint), ``motion`` (factor).
        settings: ``KEY=VALUE`` words.
        say: told which checkpoints are taken.
        progress: told clips done, of how many, and what comes next.
        is_watched: whether somebody is to see how far downloads are.

    Raises:
        LastrunError: there is no such model, it or the clips are damaged or do not fit, and what to do.
    """
    asked_for = [("--part", part), *([] if weigh_on is None else [("--weigh-on", weigh_on)])]
    unknown = [f"{flag}: found {value}; allowed: {', '.join(PARTS)}" for flag, value in asked_for if value not in PARTS]
    wrong = {name: value for name, value in (spoil or {}).items() if value is not None}
    for name, most in (("noise", 10), ("missing", 1), ("motion", 10)):
        if not 0 <= wrong.get(name, 0) <= most:
            unknown.append(f"--{name}: found {wrong[name]:g}; allowed: 0 to {most}")
    refuse(unknown)
    if weigh_on is not None and len(models) < 2:
        raise UsageError("--weigh-on chooses weights between models: name another one with --with")
    if weigh_on == part:
        raise UsageError(
            f"--weigh-on {part}: weights that are chosen on the clips they are judged by say nothing; another part"
        )
    if weigh_on is not None and any(model.weight != 1 for model in models):
        raise UsageError("--weigh-on chooses the weights, and --with has one too: leave one of them out")
    if data is not None and not data.is_file():
        raise UsageError(f"--data {data}: no such file; without it the clips are those that the model was trained for")
    words = [*settings, *([] if data is None else [f"data.uri={json.dumps(str(data.absolute()))}"])]
    words += [] if split is None else [f"split_type={json.dumps(split)}", "data.validation=null", *_UNDRAWN]
    choice = Choice(store, trust, last, step, words, ema, is_watched=is_watched)
    with ExitStack() as held:
        asked = [bring(model, choice, held, say) for model in models]
        what = {"models": asked, "part": part, "crops": crops, "weigh_on": weigh_on, "mirror": mirror, "spoil": wrong}
        result = result_of("last_e.score", what, progress, "the evaluation")
        as_trained = split is None and not last and step is None
        return {**result, "chosen_on": _chosen_on(models, asked) if as_trained else None}


def _chosen_on(models: list[Model], asked: list[dict[str, Any]]) -> str | None:
    """By which clips the best checkpoints were chosen; None: none was, for folders alone were named."""
    jobs = [one for model, one in zip(models, asked) if not is_checkpoint(expand(model.name))]
    if not jobs:
        return None
    return "test" if any(one["config"]["data"]["validation"] is None for one in jobs) else "validation"
