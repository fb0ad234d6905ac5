"""The command that brings something out of a job: cp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.commands.options import JsonOption, QuietOption, StoreOption, at_home

_ONLY_OUT = (
    "cp copies out of a job alone: what a job holds is what its attempts have written, and each says from which checkpoint it "
    "went on. Other weights to begin with are model.init of a new job; lastrun sync JOB sends what an attempt could not"
)


def cp(
    source: Annotated[
        str, typer.Argument(metavar="JOB:PATH", help="a file or a folder of a job, such as JOB:report.html; JOB shows them")
    ],
    target: Annotated[
        Path | None,
        typer.Argument(metavar="TARGET", help="a folder to put it in, or its new name", callback=at_home, show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that is there")] = False,
    store: StoreOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Copy a file or a folder out of a job, whole or not at all; without a target, show what there is."""
    from last_e.bar import Bar
    from runner.errors import UsageError
    from runner.job.copy import contents, copy_out
    from runner.job.find import find_job
    from runner.launch.ssh.relay import fetch
    from runner.view.console import print_json, show
    from runner.view.contents import print_contents

    name, path = _job_and_path(source)
    if (target is not None and _names_a_job(target)) or (path is None and target is not None and Path(source).exists()):
        raise UsageError(_ONLY_OUT)
    found = find_job(name, store)
    if target is None and path:
        raise UsageError(f"name where {path} is to be put: lastrun cp {source} FOLDER")
    if target is not None and path is None:
        raise UsageError(f"name what of {found.id} is to be copied, as {name}:PATH; lastrun cp {name} shows what there is")
    fetch(found)
    if target is None:
        files = contents(found)
        if json:
            print_json("cp", {"id": found.id, "files": [{"path": entry.key, "bytes": entry.size} for entry in files]})
        else:
            print_contents(found.id, files)
        return
    with Bar("MB") as bar:
        copied = copy_out(found, path or "", target, overwrite=overwrite, watch=bar.of_growing)
    if json:
        print_json(
            "cp",
            {"id": found.id, "path": str(copied.place), "files": copied.files, "bytes": copied.size, "links": copied.links},
        )
    else:
        files_ = "" if len(copied.files) == 1 else f"{len(copied.files):,} files, "
        show(f"{copied.place}: {files_}{copied.size:,} bytes")
        if copied.links:
            show(f"note: left out, for they are symbolic links, which nothing follows: {', '.join(copied.links)}", error=True)


def _job_and_path(source: str) -> tuple[str, str | None]:
    """What stands before the last colon, and behind it; a colon of a store's address is none."""
    name, colon, path = source.rpartition(":")
    is_address = path.startswith("//") or ("?" in name and path.partition("/")[0].partition("&")[0].isdigit())
    return (name, path) if colon and not is_address else (source, None)


def _names_a_job(target: Path) -> bool:
    """Whether a target is meant as a place in a job."""
    from runner.job.paths import JOB_ID

    name, colon, _ = str(target).partition(":")
    return bool(colon) and bool(JOB_ID.fullmatch(name.rpartition("/")[2])) and not target.exists()
