"""Arguments and options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from last_e.terminal import QUIET
from last_e.text import expand
from runner.launchers import NAMES


def at_home(value: Path | list[Path] | None) -> Path | list[Path] | None:
    """Paths with ``~`` replaced: behind the ``=`` of ``--out=~/FILE`` no shell does so, and a folder ``~`` would be made."""
    if isinstance(value, Path):
        return expand(str(value))
    return None if value is None else [expand(str(path)) for path in value]


def be_quiet(value: bool) -> bool:
    """Kept where what is started here finds it, too."""
    if value:
        os.environ[QUIET] = "1"
    return value


JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object instead")]
SpecArgument = Annotated[Path, typer.Argument(metavar="JOB.YAML", help="the job's file", callback=at_home)]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="tell warnings, errors and the result alone, not how far it is", callback=be_quiet)
]
JOB_HELP = "ID of a job, the beginning of one, or STORE/ID"
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help=JOB_HELP)]
GROUP_HELP = f"{JOB_HELP}; or a group's"
JobOrGroupArgument = Annotated[str, typer.Argument(metavar="JOB|GROUP", help=GROUP_HELP)]
EnvOption = Annotated[
    str | None, typer.Option("--env", metavar="ENV", help="kind of machine: auto, local, kaggle, gcp, lambda or a100")
]
HereOption = Annotated[bool, typer.Option("--here", help="train on this machine, though the profile is for another kind")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE ...", help="set any keys of the job; applied last, values read as YAML"),
]
LauncherOption = Annotated[str | None, typer.Option("--launcher", metavar="NAME", help=f"what runs it: {NAMES}")]
OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="HOST,...",
        help="run it there: --launcher ssh --set run.host=HOST; a sweep on several; with --launcher slurm: the login node",
    ),
]
RelayOption = Annotated[
    bool,
    typer.Option("--relay", help="with --on: the host keeps the job, and what comes is fetched into the store, a folder here"),
]
ShutDownOption = Annotated[
    bool, typer.Option("--yes-shut-down", help="with run.after: shutdown: the machine is really switched off afterwards")
]
PrivateOption = Annotated[
    bool,
    typer.Option(
        "--yes-private-dataset",
        help="launcher kaggle: keys may lie in a private data set of yours there until the session ends",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="where jobs are kept; default: LASTRUN_STORE, config.toml, your data folder"),
]
DetachOption = Annotated[bool, typer.Option("--detach", help="start it and return; it lives on in the background")]
ParallelOption = Annotated[
    int | None,
    typer.Option(
        "--parallel",
        metavar="N",
        min=1,
        max=256,
        help="so many points at a time (default: one a GPU, else one); on hosts, on each",
    ),
]
StopAfterOption = Annotated[
    int | None,
    typer.Option(
        "--stop-after", metavar="N", min=1, help="end when so many points in a row failed for one reason (default: 5)"
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow-change", metavar="KEY", help="a key that may change although it decides learning (data: the clips)"),
]

TakeoverOption = Annotated[bool, typer.Option("--takeover", help="take the job from an attempt that still seems to run")]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="take what the job brings along: places, images, servers; remembered for its store")
]

MirrorOption = Annotated[bool, typer.Option("--mirror", help="average with what is said of the clip in a mirror")]
EmaOption = Annotated[bool, typer.Option("--ema", help="use the average of the weights (training.ema)")]
