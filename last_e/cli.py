"""The reference's command line: direct flags, then ``--set KEY=VALUE ...``, applied last."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from last_e import manifest
from last_e.config import MOST_CLIPS, PINNED_SECTIONS, TrainConfig, micro_batches, most_for
from last_e.console import ConsoleSink
from last_e.datafile import DataError, data_path
from last_e.described import SUFFIX, is_own
from last_e.environment import fits, share_cores, usable_cores
from last_e.events import Ended, JsonLines, Message, Sink
from last_e.layers import Resolved, is_of_another_machine, package_layer, resolve
from last_e.manifest import DamagedCheckpoint, newest_whole
from last_e.problems import ConfigError, Origin, Problem, nearest, show
from last_e.process import importing, run_module
from last_e.ranks.agent import GONE, Agent, OnlyItsEnd
from last_e.ranks.fold import shares
from last_e.ranks.lifeline import Lifeline, end_with_its_parent
from last_e.reading import Entry, Layer, flat_items, parse_value, set_layer
from last_e.resume import changes, refuse_pinned
from last_e.stop import INTERRUPTED_TWICE, REASONS, Stop
from last_e.text import counted, expand, one_line, plain, seconds_text
from last_e.whole import read_bounded, whole_file

DONE, FAILED, USAGE, PAUSED, NO_GPU = 0, 1, 2, 75, 6
CONFIG = "config.json"
_CODES = {"bad_usage": USAGE, "data_missing": USAGE, "data_changed": USAGE, "no_gpu": NO_GPU, "gpu_lost": NO_GPU}
_LESS_MEMORY = "lower hardware.micro_batch (it changes no result but batch statistics)"

FLAGS = {
    "model": ("model.variant", "model variant: nano, small, base, large (default: base)"),
    "dataset": ("dataset", "irds, ntu60, ntu120, synthetic, or an own set's file (default: ntu60)"),
    "split_type": ("split_type", "train/test split: xsub, xview, xset (default: xsub)"),
    "epochs": ("training.epochs", "number of epochs"),
    "batch_size": ("training.batch_size", "batch size"),
    "lr": ("training.lr", "peak learning rate"),
    "weight_decay": ("training.weight_decay", "L2 weight decay"),
    "dropout": ("model.dropout", "classifier dropout"),
    "scheduler": ("training.scheduler", "cosine_warmup, cosine_warmup_restart, multistep, constant"),
    "min_lr": ("training.min_lr", "floor of the cosine"),
    "milestones": ("training.milestones", "multistep milestones, comma-separated"),
    "workers": ("hardware.num_workers", "threads that prepare batches"),
    "seed": ("training.seed", "random seed"),
    "env": ("env", "auto, local, kaggle, gcp, lambda, a100 (default: auto)"),
}
"""The reference's direct flags that take a value: the key each sets, and its help."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([Problem("command line", "-", message, "see --help")])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see docs/exit-codes.md)."""
    try:
        return _main(sys.argv[1:] if argv is None else list(argv))
    except ConfigError as error:
        for problem in error.problems:
            _say(f"error: {problem}")
        return USAGE
    except DamagedCheckpoint as error:
        _say(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:  # before there was anything to save
        return INTERRUPTED_TWICE


def _main(argv: list[str]) -> int:
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    stop = Stop()
    if args.supervised:
        lifeline = Lifeline()
        if args.rank is not None:
            end_with_its_parent(args.parent)
            if not Path(args.config).exists():
                _say(f"error: rank {args.rank} comes too late: that start of the run is over; what goes on does so without it")
                return FAILED
            if args.parent == 0:
                lifeline.watch()
        stop.when_supervised(lifeline.hear)
        sink: Sink = JsonLines(lambda: stop.ask("lease_lost"))
        if args.rank:
            sink = OnlyItsEnd(sink)
        config, resume = TrainConfig.model_validate_json(Path(args.config).read_bytes()), args.resume and Path(args.resume)
        return _train(config, resume, args, sink, stop)
    resume = _find_checkpoint(args.resume) if args.resume else None
    if resume is not None and args.out is None:
        _refuse_newer(resume)
    resolved = _resolve(args, unknown, resume)
    with ConsoleSink() as console:
        stop.on_signals(lambda word: console.emit(Message(word, "warning")))
        fitting, found = fits(resolved.env)
        if not fitting:
            console.emit(Message(f"env {resolved.env} is used on a machine that {found}", "warning"))
        for note in [*resolved.notes, *resolved.of_data]:
            console.emit(Message(note))
        hardware = resolved.config.hardware
        if hardware.session_limit is not None:
            stop.after(hardware.session_limit - hardware.stop_margin)
            limit, margin = seconds_text(hardware.session_limit), seconds_text(hardware.stop_margin)
            console.emit(Message(f"session limit: {limit}; stops {margin} before"))
        return _train(_with_own_folder(resolved), resume, args, console, stop)


def _with_own_folder(resolved: Resolved[TrainConfig]) -> TrainConfig:
    """A profile of another kind of machine is used here all the same, but none of its folders is made."""
    config = resolved.config
    if not is_of_another_machine(resolved, "hardware.output_root"):
        return config
    own = package_layer(config.model.variant, config.dataset, "local")["hardware.output_root"].value
    return config.model_copy(update={"hardware": config.hardware.model_copy(update={"output_root": own})})


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m last_e",
        description="Train LAST-E v3 without the job runner. Every key of the configuration can be set with --set; "
        "`lastrun explain` lists them.",
        allow_abbrev=False,
    )
    for flag, (_, text) in FLAGS.items():
        parser.add_argument(f"--{flag}", metavar="X", help=text)
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=None, help="mixed precision on a GPU")
    parser.add_argument("--resume", metavar="PATH", help="go on from a checkpoint, or from the newest one in a run's folder")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="set any key; applied last")
    parser.add_argument("--allow-change", nargs="+", action="extend", default=[], metavar="KEY", help="with --resume: keys "
                        "that may differ although they decide learning (`data`: other clips)")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="folder of this run (default: a new one in hardware.output_root)")
    parser.add_argument("--config", metavar="FILE", help=argparse.SUPPRESS)  # the runner's: a resolved configuration
    parser.add_argument("--init", metavar="FILE", help=argparse.SUPPRESS)  # the runner's: the weights of model.init
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)  # the runner's: events as JSON lines
    # The agent's, for each rank; and the runner's for it: all machines, this one first, with the words to run a command there.
    parser.add_argument("--board", action="store_true", help=argparse.SUPPRESS)  # the agent's: TensorBoard's files, too
    for name, kind in (("--rank", int), ("--meeting", Path), ("--parent", int), ("--here", int), ("--nodes", json.loads)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    return parser


def _resolve(args: argparse.Namespace, unknown: list[str], resume: Path | None) -> Resolved[TrainConfig]:
    problems = [
        Problem("command line", word, "an unknown flag", nearest(word.lstrip("-"), [*FLAGS, "amp", "resume", "set", "out"]))
        for word in unknown
    ]
    flags: Layer = {}
    for flag, (key, _) in FLAGS.items():
        text = getattr(args, flag)
        if text is None:
            continue
        try:
            value = parse_value(f"[{text}]" if flag == "milestones" else text)
        except ValueError as error:
            problems.append(Problem(f"--{flag}", key, f"{text!r} ({error})", "a plain value"))
            continue
        flags[key] = Entry(value, Origin(f"--{flag}"))
    if args.amp is not None:
        flags["training.use_amp"] = Entry(args.amp, Origin("--amp" if args.amp else "--no-amp"))
    settings, set_problems = set_layer(args.set)
    layers = [flags, settings]
    for layer in layers:  # a name alone is looked for where data are, unless it is here
        if (named := layer.get("dataset")) and is_own(named.value) and Path(named.value).is_file():
            layer["dataset"] = Entry(str(Path(named.value).absolute()), named.origin)
    before: dict[str, Any] = {}
    if resume is not None:
        try:
            before = dict(flat_items(json.loads(read_bounded(resume / CONFIG, manifest.MOST_CONFIG_BYTES))))
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise DamagedCheckpoint(_damaged(resume, DamagedCheckpoint(f"{CONFIG}: {one_line(error)}"))) from None
        origin = Origin(str(resume / CONFIG))
        layers.insert(0, {k: Entry(value, origin) for k, value in before.items() if k.split(".")[0] in PINNED_SECTIONS})
    resolved = resolve(layers, TrainConfig, [*problems, *set_problems])
    if resume is not None:
        refuse_pinned(changes(before, resolved.items()), args.allow_change, resolved.origins)
    return resolved


def _find_checkpoint(text: str) -> Path:
    """The checkpoint that ``--resume`` means: a checkpoint's folder, a file in it, or a run's folder (the newest whole one).

    Raises:
        ConfigError: there is nothing there.
    """
    path = expand(text)
    try:
        if path.is_file():
            path = path.parent
        path.exists()
    except (OSError, ValueError) as error:
        raise ConfigError(
            [Problem("--resume", show(text), one_line(error), "a checkpoint's folder or a run's folder")]
        ) from None
    if (path / manifest.MANIFEST).exists() or path.name.startswith("step-"):
        try:
            manifest.verify(path)
        except DamagedCheckpoint as error:
            raise DamagedCheckpoint(_damaged(path, error)) from None
        return path
    for folder in (path / "checkpoints", path):
        found = newest_whole(folder, lambda word: _say(f"warning: {word}"))
        if found is not None:
            return found
    what = "a folder without a whole checkpoint" if path.exists() else "no such file or folder"
    raise ConfigError([Problem("--resume", str(path), what, "a checkpoint's folder (step-00001234) or a run's folder")])


def _refuse_newer(resume: Path) -> None:
    """Going on from an older checkpoint in the same folder would undo what came after it.

    Raises:
        ConfigError: there are newer ones.
    """
    here = manifest.read_manifest(resume).order
    newer = []
    for path, about in manifest.listed(resume.parent, lambda _: None):
        with contextlib.suppress(DamagedCheckpoint):  # one that is damaged is no loss
            if about.order > here:
                manifest.verify(path)
                newer.append(path)
    if newer:
        how = f"the newest ({newer[-1]}), or --out NEW-FOLDER to branch off"
        raise ConfigError([Problem("--resume", str(resume), f"an older checkpoint ({len(newer)} came after it)", how)])


def _train(config: TrainConfig, resume: Path | None, args: argparse.Namespace, sink: Sink, stop: Stop) -> int:
    from filelock import FileLock, Timeout

    out = Path(args.out) if args.out else _run_folder(config, resume)
    try:
        data_path(config)  # what is missing is told before a folder is made
        if args.rank is not None:
            ended = _train_here(config, out, resume, args, sink, stop)
        else:
            out.mkdir(parents=not args.supervised, exist_ok=True)  # an attempt makes its own
            with FileLock(out / ".lock", timeout=0):
                if not args.supervised:
                    sink.emit(Message(f"run: {out}"))
                config = _with_shares(config, resume, sink)
                if not args.supervised:
                    _write_config(out, config)
                train = _lead if _ranks(config) > 1 else _train_here
                ended = train(config, out, resume, args, sink, stop)
    except Timeout:
        ended = Failed("bad_usage", f"{out}: another training is writing there")
    except DataError as error:
        ended = Failed("data_missing" if error.missing else "data_damaged", str(error))
    except DamagedCheckpoint as error:
        ended = Failed("checkpoint_damaged", _damaged(resume or out, error))
    except ConfigError as error:
        ended = Failed("bad_usage", "; ".join(map(str, error.problems)))
    except MemoryError as error:
        ended = Failed("out_of_memory", f"{one_line(error)}; {_LESS_MEMORY}")
    except OSError as error:
        ended = Failed("trainer_error", f"{error.filename or out}: {error.strerror or error}")
    if isinstance(ended, Failed):
        return _fail(sink, ended)
    sink.emit(ended)
    if ended.reason in REASONS:
        if not args.supervised:
            sink.emit(Message(f"go on with: python -m last_e --resume {out}"))
        return PAUSED
    return DONE if ended.reason == "completed" else FAILED


class Failed(NamedTuple):
    """A run that could not begin, or go on."""

    reason: str
    message: str


def _train_here(
    config: TrainConfig, out: Path, resume: Path | None, args: argparse.Namespace, sink: Sink, stop: Stop
) -> Ended | Failed:
    """In this process, alone or as one of several ranks."""
    share_cores()
    try:
        with importing():
            from last_e import train
            from last_e.gpu import NoGpu, has_no_memory, is_lost
            from last_e.model.agreed import KernelFailed
            from last_e.ranks.group import PeerGone, RanksDiffer, Seat
    except ModuleNotFoundError as error:
        return Failed("no_gpu", f"{error.name} is not installed; from a clone of lastrun: pip install '.[train]'")
    seat = None if args.rank is None else Seat(args.rank, _ranks(config), args.meeting, args.here)
    try:
        init = _init(config, args)
        return train.run(
            config,
            out,
            resume,
            sink,
            stop,
            "data" in args.allow_change,
            seat,
            None if init is None else expand(init),
            args.board or not args.supervised,
        )
    except train.DataChanged as error:
        return Failed("data_changed", f"{error}; or add --allow-change data")
    except NoGpu as error:
        return Failed("no_gpu", str(error))
    except PeerGone as error:
        return Failed(GONE, one_line(error))
    except RanksDiffer as error:
        return Failed("trainer_error", str(error))
    except KernelFailed as error:
        without = "hardware.kernels: off trains without them, and goes on from the last checkpoint"
        return Failed("trainer_error", f"a kernel of lastrun's own failed ({error}); {without}")
    except RuntimeError as error:
        if has_no_memory(error):
            return Failed("out_of_memory", f"{one_line(error)}; {_LESS_MEMORY}")
        if not is_lost(error):
            if seat is None:
                raise
            return _crashed(error)
        hint = manifest.STANDS if _is_saved(out, resume) else manifest.NO_CHECKPOINT
        return Failed("gpu_lost", f"the GPU or its driver failed ({one_line(error)}); {hint}")
    except (DataError, DamagedCheckpoint, ConfigError, MemoryError, OSError):
        raise
    except Exception as error:
        if seat is None:
            raise
        return _crashed(error)


def _init(config: TrainConfig, args: argparse.Namespace) -> str | None:
    """Where the weights of ``model.init`` are. Of a job the runner says so: its own word may be another's, or of another
    machine."""
    return args.init if args.supervised else config.model.init


def _crashed(error: Exception) -> Failed:
    """Of a rank: told at once, for others say soon that it has gone; its process may take long to be taken apart."""
    traceback.print_exc()
    return Failed("trainer_error", f"{type(error).__name__}: {one_line(error)}")


def _ranks(config: TrainConfig) -> int:
    """How many processes train: no more than a step has micro-batches."""
    return min(config.hardware.ranks or 1, micro_batches(config))


def _with_shares(config: TrainConfig, resume: Path | None, sink: Sink) -> TrainConfig:
    """The batch cut as the run cut it that is gone on from; one that begins has a share for each rank, unless somebody has said
    how to cut it. What ranks there are, and what each has, is told."""
    wanted, size = config.hardware.ranks or 1, config.training.batch_size
    if config.hardware.micro_batch is None and (most := _most_before(resume)) is not None:
        config = _with_micro_batch(config, most)
        if wanted > 1 or micro_batches(config) > config.training.gradient_accumulation_steps:
            sink.emit(Message(f"micro-batches of at most {most} clips, as the run began"))
    enough = most_for(config, wanted)
    if wanted > micro_batches(config) and enough is not None and resume is None and config.hardware.micro_batch is None:
        config = _with_micro_batch(config, enough)
        sink.emit(
            Message(f"micro-batches of at most {enough} clips, not {size}, so that each rank has some; the run keeps to that")
        )
    ranks, parts = _ranks(config), micro_batches(config)
    share, uneven = divmod(parts, ranks)
    if ranks > 1:
        each = f"{share} or {share + 1}" if uneven else f"{share}"
        sink.emit(Message(f"ranks: {ranks}, each with {each} of the {parts} micro-batches of a step"))
    if wanted > ranks:
        way = f"hardware.micro_batch={enough} makes enough, each with batch statistics of its own fewer clips"
        way = way if enough is not None else "no hardware.micro_batch makes enough of such batches"
        has = counted(parts, "micro-batch", "micro-batches")
        sink.emit(Message(f"ranks: {ranks} instead of {wanted}, for a step has {has}; {way}", "warning"))
    return config


def _most_before(resume: Path | None) -> int | None:
    """``hardware.micro_batch`` of the run that is gone on from."""
    if resume is None:
        return None
    try:
        most = json.loads(read_bounded(resume / CONFIG, manifest.MOST_CONFIG_BYTES))["hardware"]["micro_batch"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # a damaged checkpoint is told when it is loaded
        return None
    return most if isinstance(most, int) and 2 <= most <= MOST_CLIPS else None


def _with_micro_batch(config: TrainConfig, most: int) -> TrainConfig:
    return config.model_copy(update={"hardware": config.hardware.model_copy(update={"micro_batch": most})})


def _lead(
    config: TrainConfig, out: Path, resume: Path | None, args: argparse.Namespace, sink: Sink, stop: Stop
) -> Ended | Failed:
    """As several processes, each a rank, on this machine or on several, where the folders of the run are those of all."""
    nodes = args.nodes or {"": []}
    machines = shares(_ranks(config), len(nodes))
    if (ranks_here := len(machines[0])) > (cores := usable_cores()):
        sink.emit(Message(f"ranks: {ranks_here} share {counted(cores, 'core')}, and hold each other up", "warning"))

    def commands(folder: Path) -> list[list[str]]:
        (folder / CONFIG).write_text(json.dumps(config.model_dump(mode="json")))
        words = ["--supervised", "--config", str(folder / CONFIG), "--out", str(out), "--meeting", str(folder / "meeting")]
        words += [] if resume is None else ["--resume", str(resume)]
        words += [] if (init := _init(config, args)) is None else ["--init", init]
        words += ["--allow-change", *args.allow_change] if args.allow_change else []
        words += [] if args.supervised else ["--board"]  # a job's are made of what its store holds: lastrun tensorboard
        found = []
        for before, ranks in zip(nodes.values(), machines):
            place = ["--parent", "0" if before else str(os.getpid()), "--here", str(len(ranks))]
            found += [[*before, *run_module("last_e"), "--rank", str(rank), *place, *words] for rank in ranks]
        return found

    where = [name for name, ranks in zip(nodes, machines) for _ in ranks]
    several = (where, out) if args.nodes else ()
    ended = Agent(commands, sink, stop, lambda: _is_saved(out, resume), *several).run()
    return ended if ended.total_steps else Failed(ended.reason, ended.message)


def _is_saved(out: Path, resume: Path | None) -> bool:
    return resume is not None or bool(manifest.listed(out / "checkpoints", lambda _: None))


def _write_config(out: Path, config: TrainConfig) -> None:
    with whole_file(out / "config.json") as part:
        part.write_text(json.dumps(config.model_dump(mode="json"), indent=1) + "\n")


def _run_folder(config: TrainConfig, resume: Path | None) -> Path:
    """A resumed run goes on in its own folder, so that its history stays in one place; a new one gets a name of its own."""
    if resume is not None and resume.resolve().parent.name == "checkpoints":
        return resume.resolve().parent.parent
    stamp = time.strftime("%Y%m%d-%H%M%S")
    root = expand(config.hardware.output_root)
    return root / f"{config.model.variant}-{config.dataset.removesuffix(SUFFIX)}-{config.split_type}-{stamp}"


def _say(text: str) -> None:
    """For people, on standard error; names of files, too, may be anybody's."""
    print(plain(text), file=sys.stderr)


def _damaged(path: Path, error: DamagedCheckpoint) -> str:
    """What is wrong with a checkpoint, and the newest whole one beside it."""
    other = newest_whole(path.parent, lambda _: None)
    hint = f"; the newest whole one beside it: --resume {other}" if other is not None else ""
    return f"{path}: damaged checkpoint: {error}{hint}"


def _fail(sink: Sink, failed: Failed) -> int:
    """One line for people, an event for the runner."""
    if isinstance(sink, (JsonLines, OnlyItsEnd)):
        sink.emit(Ended(failed.reason, failed.message, 0, 0))
    else:
        _say(f"error: {failed.message}")
    return _CODES.get(failed.reason, FAILED)
