"""What ``lastrun bench`` measures, by a child (``last_e.bench``), and keeps for plan."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from last_e.config import MOST_RANKS, TrainConfig, effective_batch, micro_batches, most_for
from last_e.datafile import DataError, output_path, read_header
from last_e.described import DESCRIPTION
from last_e.layers import resolve
from last_e.problems import Origin, Problem, show
from last_e.reading import Entry, set_layer
from last_e.text import counted, seconds_text
from last_e.whole import whole_file
from runner.child import result_of
from runner.errors import UsageError, unwritable
from runner.machine import versions
from runner.plan.hardware import BYTES
from runner.plan.measurements import cpu, user_folder
from runner.plan.work import work_of

PARTS = ("data", "forward", "train", "epoch")
PASSES = {"forward": 1.0, "train": 3.0, "epoch": 3.0}
"""Forward passes' worth of arithmetic."""
_START_SECONDS = 15.0
"""Until processes have begun, and the peaks are measured."""
MOVES = {"forward": 2.0, "train": 5.0, "epoch": 5.0}
"""How often each number that a forward pass makes goes through memory at the least: written, and read by what follows; in
training read once more on the way back, where its gradient is written and read."""


def measure(
    model: str,
    env: str,
    data: Path | None,
    parts: list[str],
    *,
    rounds: int,
    seconds: float,
    alone: bool,
    settings: list[str],
    out: Path | None,
    progress: Callable[[int, int, str], None],
    say: Callable[[str], None],
    ranks: str | None = None,
) -> tuple[dict[str, Any], Path | None]:
    """Measure, and keep the result as a file; returns both. No file: plan can do nothing with these parts, and none was named.

    Args:
        model, env, settings: as for a job.
        data: a prepared file; None: made-up clips.
        parts: of :data:`PARTS`; empty: all.
        rounds, seconds: how often each is measured, and how long.
        alone: without the plain trainer.
        out: where the result goes; None: where plan finds it.
        progress: told what is done, of how much, and what comes next.
        say: told how long it will take, once all that was asked for is right.
        ranks: numbers of ranks, such as ``1,2,4``, that training steps are measured with as well.

    Raises:
        ConfigError, UsageError: mistakes in what was asked.
        EngineError: no torch, or no GPU that was asked for.
        LastrunError: it could not measure, with the reason.
    """
    wrong = [Problem("--part", "-", show(name), ", ".join(PARTS)) for name in parts if name not in PARTS]
    if ranks is not None and not all(_is_number_of_ranks(word) for word in ranks.split(",")):
        wrong.append(Problem("--ranks", "-", show(ranks), f"numbers from 1 to {MOST_RANKS} with commas between, such as 1,2,4"))
    parts = [name for name in PARTS if name in parts] if parts else list(PARTS)
    if data is not None and not data.is_file():
        raise UsageError(f"--data {data}: no such file; without it made-up clips are measured")
    config = _config(model, env, settings, data, wrong)
    numbers = _numbers(ranks, config)
    if out is not None:
        out = _checked(out, data)
    asked = {
        "config": config.model_dump(mode="json"),
        "data": None if data is None else str(data.absolute()),
        "parts": parts,
        "kinds": ["lastrun"] if alone else ["lastrun", "plain"],
        "rounds": rounds,
        "seconds": seconds,
        "ranks": numbers,
    }
    say(at_least(len(parts) * (1 if alone else 2), len(numbers), rounds, seconds))
    now = datetime.now(timezone.utc)
    result = {
        "date": f"{now:%Y-%m-%d}",
        "versions": versions(),
        **result_of("last_e.bench", asked, progress, "the measurement"),
    }
    if result["machine"]["device"] == "cpu":
        result["machine"]["name"] = cpu(result["machine"]["name"], result["machine"]["cores"]).name
    add_shares(result, config)
    if out is None and {"train", "forward"} <= set(parts):
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{config.model.variant} {result['machine']['name']}").strip("-").lower()
        out = user_folder() / f"{now:%Y%m%d-%H%M%S}-{name}.json"
    if out is not None:
        _write(out, result)
    return result, out


def at_least(contests: int, ranks: int, rounds: int, seconds: float) -> str:
    """How long it takes where no step is longer than a measurement: each of ``contests`` (a part by a trainer), and each number
    of ranks, so many rounds, after a first one that does not count."""
    each = rounds * seconds + min(seconds, 1.0)
    told = f"{counted(rounds * (contests + ranks), 'measurement')} of {seconds:g} s"
    return f"{told}, in turns: at least {seconds_text(_START_SECONDS + each * (contests + ranks))}, longer where a step is slow"


def _numbers(text: str | None, config: TrainConfig) -> list[int]:
    """Numbers of ranks, the first of them one, with which the others are compared; none where none was asked for.

    Raises:
        UsageError: a step cannot be shared by so many.
    """
    if text is None:
        return []
    numbers = sorted({1, *map(int, text.split(","))})
    if config.hardware.micro_batch is not None and micro_batches(config) < numbers[-1]:
        has = counted(micro_batches(config), "micro-batch", "micro-batches")
        raise UsageError(f"--ranks {text}: a step has {has}; a smaller hardware.micro_batch makes more")
    if most_for(config, numbers[-1]) is None:
        raise UsageError(f"--ranks {text}: a step of {effective_batch(config.training)} clips cannot be shared by so many")
    return numbers


def _is_number_of_ranks(word: str) -> bool:
    return word.strip().isdecimal() and 1 <= int(word) <= MOST_RANKS


def _config(model: str, env: str, settings: list[str], data: Path | None, wrong: list[Problem]) -> TrainConfig:
    """What is measured; mistakes in it are told with what else is ``wrong``."""
    flags = {
        "model.variant": Entry(model, Origin("--model")),
        "env": Entry(env, Origin("--env")),
        "dataset": Entry(_dataset(data), Origin("lastrun bench")),
    }
    sets, problems = set_layer(settings)
    return resolve([flags, sets], TrainConfig, [*wrong, *problems]).config


def _dataset(data: Path | None) -> str:
    """Which data set a prepared file is of, as its header says; ntu60 where it says nothing."""
    told = None
    if data is not None:
        with suppress(OSError, ValueError), data.open("rb") as file:
            metadata = read_header(file)[0]["__metadata__"]
            told = metadata.get("dataset")
            if DESCRIPTION in metadata:
                raise UsageError(f"--data {data}: a set of your own, and what is measured has NTU's joints: leave out --data")
    return told if told in ("ntu60", "ntu120") else "ntu60"


def add_shares(result: dict[str, Any], config: TrainConfig) -> None:
    """What each part reaches of the two rates that were measured beside it, as ``of_peak``: of the fastest matrix products, by
    the network's arithmetic as its design writes it down, and of a copy, by the bytes that it cannot help moving."""
    work, precision, ceilings = work_of(config.model, result["frames"]), result["precision"], result["ceilings"]
    for part, passes in PASSES.items():
        if part in result:
            bodies = result[part]["clips_per_second"]["lastrun"] * result["rows_per_clip"]
            result[part]["of_peak"] = {
                "matrix": bodies * passes * work.flops / ceilings[f"matrix_{precision}_flops_per_second"],
                "copy": bodies * MOVES[part] * BYTES[precision] * work.kept / ceilings["copy_bytes_per_second"],
            }


def _checked(out: Path, data: Path | None) -> Path:
    """Where the result goes, seen to be writable before anything is measured.

    Raises:
        UsageError: it is not.
    """
    try:
        target = output_path(out, *([] if data is None else [data]), example="bench.json")
        with TemporaryFile(dir=target.parent):
            return target
    except DataError as error:
        raise UsageError(f"--out {error}") from None
    except OSError as error:
        raise unwritable(f"--out {out}", error) from None


def _write(path: Path, result: dict[str, Any]) -> None:
    """The result as a file: whole or not at all.

    Raises:
        UsageError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            part.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise unwritable(path, error) from None
