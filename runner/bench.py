"""``lastrun bench``: how fast the trainer is here, against a plain one in the same run. ``last_e.bench`` measures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.options import JsonOption

if TYPE_CHECKING:
    from last_e.config import TrainConfig

PARTS = ("data", "forward", "train", "epoch")
MEANINGS = {
    "data": "batches made",
    "forward": "forward passes, as in a test",
    "train": "training steps",
    "epoch": "training on batches as they are made",
}
PASSES = {"forward": 1.0, "train": 3.0, "epoch": 3.0}
"""Forward passes' worth of arithmetic."""
MOVES = {"forward": 2.0, "train": 5.0, "epoch": 5.0}
"""How often each number that a forward pass makes goes through memory at the least: written, and read by what follows; in
training read once more on the way back, where its gradient is written and read."""


def bench(
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="nano, small, base or large")] = "base_e_v3",
    env: Annotated[str, typer.Option("--env", metavar="ENV", help="auto, local, kaggle, gcp, lambda or a100")] = "auto",
    data: Annotated[Path | None, typer.Option("--data", metavar="FILE", help="a prepared file (default: made-up)")] = None,
    part: Annotated[
        list[str] | None, typer.Option("--part", metavar="PART", help="only this: data, forward, train or epoch")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=100, help="how often each is measured")] = 3,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=600, help="how long each time")] = 3.0,
    alone: Annotated[bool, typer.Option("--alone", help="leave out the plain trainer that this one is compared with")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE ...", help="set any keys; values read as YAML")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="where the result goes (default: where plan finds it)")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure clips per second on this machine, for lastrun plan and for you."""
    from runner import console
    from runner.errors import UsageError
    from runner.machine import versions
    from runner.plan.measurements import cpu, user_folder

    unknown = [name for name in part or [] if name not in PARTS]
    if unknown:
        raise UsageError(f"--part {', '.join(unknown)}: allowed are {', '.join(PARTS)}")
    parts = [name for name in PARTS if name in part] if part else list(PARTS)
    config = _config(model, env, set_ or [], data)
    kinds = ["lastrun"] if alone else ["lastrun", "plain"]
    plannable = {"train", "forward"} <= set(parts)
    if out is not None:
        out = _checked(out, data)
    source = None if data is None else str(data.absolute())
    asked = {
        "config": config.model_dump(mode="json"),
        "data": source,
        "parts": parts,
        "kinds": kinds,
        "rounds": rounds,
        "seconds": seconds,
    }
    now = datetime.now(timezone.utc)
    result = {"date": f"{now:%Y-%m-%d}", "versions": versions(), **_measured(asked)}
    if result["machine"]["device"] == "cpu":
        result["machine"]["name"] = cpu(result["machine"]["name"], result["machine"]["cores"]).name
    add_shares(result, config)
    if out is None and plannable:
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{config.model.variant} {result['machine']['name']}").strip("-").lower()
        out = user_folder() / f"{now:%Y%m%d-%H%M%S}-{name}.json"
    if out is not None:
        _write(out, result)
    if json:
        console.print_json("bench", {"file": None if out is None else str(out), **result})
    else:
        print_result(result, out)


def _config(model: str, env: str, settings: list[str], data: Path | None) -> TrainConfig:
    from last_e.config import TrainConfig
    from last_e.layers import resolve
    from last_e.problems import Origin
    from last_e.reading import Entry, set_layer

    flags = {
        "model.variant": Entry(model, Origin("--model")),
        "env": Entry(env, Origin("--env")),
        "dataset": Entry(_dataset(data), Origin("lastrun bench")),
    }
    sets, problems = set_layer(settings)
    return resolve([flags, sets], TrainConfig, problems).config


def _dataset(data: Path | None) -> str:
    """Which data set a prepared file is of, as its header says; ntu60 where it says nothing."""
    told = None
    if data is not None:
        with suppress(OSError, ValueError, AttributeError, KeyError), data.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            told = json.loads(file.read(min(size, 10_000_000)))["__metadata__"].get("dataset")
    return told if told in ("ntu60", "ntu120") else "ntu60"


def _measured(asked: dict[str, Any]) -> dict[str, Any]:
    """What the child that measures says at the end; meanwhile a bar.

    Raises:
        EngineError: no torch, or no GPU that was asked for.
        LastrunError: it could not measure, with the reason.
    """
    from runner.data_view import Bar
    from runner.errors import EngineError, LastrunError
    from runner.signals import handled, interrupt

    command = [sys.executable, "-m", "last_e.bench"]
    with (
        handled(interrupt),
        Bar("measurements") as bar,
        TemporaryFile("w+") as said,  # no pipe: nobody reads it before the end, and a full one would stop the child
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(asked))
            child.stdin.close()
            for line in child.stdout:
                told = json.loads(line)
                if "result" in told:
                    result: dict[str, Any] = told["result"]
                    return result
                if "error" in told:
                    raise (EngineError if told["no_gpu"] else LastrunError)(told["error"])
                bar.update(told["done"], told["total"], told["what"])
            child.wait()
            said.seek(0)
            errors = said.read().strip().splitlines()
        except BaseException:
            child.terminate()
            raise
    if any("No module named 'torch'" in line for line in errors):
        raise EngineError("torch is not installed here; from a clone of lastrun: pip install '.[train]'")
    raise LastrunError(f"the measurement broke off: {errors[-1] if errors else f'exit code {child.wait()}'}")


def add_shares(result: dict[str, Any], config: TrainConfig) -> None:
    """What each part reaches of the two rates that were measured beside it, as ``of_peak``: of the fastest matrix products, by
    the network's arithmetic as its design writes it down, and of a copy, by the bytes that it cannot help moving."""
    from runner.plan.hardware import BYTES
    from runner.plan.work import work_of

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
    from last_e.datafile import DataError, output_path
    from runner.errors import UsageError

    try:
        target = output_path(out, *([] if data is None else [data]), example="bench.json")
        with TemporaryFile(dir=target.parent):
            return target
    except DataError as error:
        raise UsageError(f"--out {error}") from None
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written there: {error.strerror}") from None


def _write(path: Path, result: dict[str, Any]) -> None:
    """The result as a file: whole or not at all.

    Raises:
        UsageError: it cannot be written there.
    """
    from runner.errors import UsageError

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        os.replace(part, path)
    except OSError as error:
        raise UsageError(f"{path}: the result cannot be written there: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink()


def print_result(result: dict[str, Any], out: Path | None) -> None:
    """The result for people."""
    from rich import box
    from rich.table import Table

    from last_e.text import plain
    from runner.console import make_console

    console = make_console()
    machine, ceilings = result["machine"], result["ceilings"]
    peak = ceilings[f"matrix_{result['precision']}_flops_per_second"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    print(plain(f"{result['model']} in {result['precision']} on {machine['name']}; {versions}"))
    print(
        f"batches of {result['batch_size']} clips, {result['rows_per_clip']:.2f} bodies each, {result['frames']} frames; "
        f"median of {result['rounds']} rounds of {result['seconds']:g} s"
    )
    if machine["load"] > machine["cores"] / 2:
        others = f"load {machine['load']:.1f} on {machine['cores']} cores"
        print(f"others used it as this began ({others}): ratios hold, rates are too low")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("clips per second")
    for name in ("lastrun", "from - to", "plain", "ratio", "of matrix", "of copy"):
        table.add_column(name, justify="right")
    for part in PARTS:
        if part not in result:
            continue
        rates, rounds = result[part]["clips_per_second"], result[part]["rounds"]["lastrun"]
        shares = result[part].get("of_peak", {})
        table.add_row(
            MEANINGS[part],
            f"{rates['lastrun']:,.1f}",
            f"{min(rounds):,.1f} - {max(rounds):,.1f}",
            f"{rates['plain']:,.1f}" if "plain" in rates else "-",
            f"{result[part]['ratio']:.2f}" if "ratio" in result[part] else "-",
            *(f"{shares[kind]:.0%}" if shares else "-" for kind in ("matrix", "copy")),
        )
    console.print(table)
    stalls = result["checkpoint_stall_ms"]
    print(f"a checkpoint holds training up for {stalls[len(stalls) // 2]:.1f} ms (up to {stalls[-1]:.1f})")
    print(
        f"peaks: {peak / 1e9:,.0f} GFLOP/s in matrix products, {ceilings['copy_bytes_per_second'] / 1e9:,.0f} GB/s in copies; "
        f"memory: {result['memory']['lastrun'] / 2**20:,.0f} MiB"
    )
    print(
        f"kept in {out}" if out is not None else "not kept: plan needs training steps and forward passes; --out FILE keeps it"
    )
