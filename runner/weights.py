"""The weights that a job begins with (``model.init``): found when it is made, and kept with it, so that nothing needs their
source again."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from last_e.datafile import is_remote
from last_e.init import SUFFIXES
from last_e.layers import Resolved
from last_e.problems import ConfigError, Problem
from last_e.text import expand, misspelt
from runner.child import result_of
from runner.errors import LastrunError, NoSuchJobError, UsageError
from runner.job.find import find_job
from runner.job.pull import pull_checkpoint
from runner.spec import JobSpec
from runner.store.uri import StoreUri

HUB = "hf://"


@dataclass(frozen=True)
class Begun:
    """A job with the weights that it begins with."""

    job: Resolved[JobSpec]
    weights: bytes | None = None
    """As they are kept; None: it begins with random ones."""
    told: tuple[str, ...] = ()
    """What was taken over, and what was not."""


def with_their_weights(jobs: list[Resolved[JobSpec]], store: str) -> list[Begun]:
    """Find and read the weights of jobs, and see that they fit; a source that several name is looked for once.

    Args:
        jobs: as they are to be made.
        store: where a job that one names by its ID is looked for.

    Raises:
        UsageError: there are none, they are damaged, or of another network.
    """
    found: dict[str, Begun] = {}
    with tempfile.TemporaryDirectory(prefix="lastrun-init-") as folder:
        sources: dict[str, Path] = {}
        begun = []
        for job in jobs:
            named = job.config.model.init
            if named is None:
                begun.append(Begun(job))
                continue
            if named not in sources:
                sources[named] = _source(named, store, Path(folder, str(len(sources))))
            # What fits hangs on these alone; how it is trained then does not matter.
            key = repr((job.config.model, job.config.data, job.config.dataset))
            if key not in found:
                found[key] = _read(job, sources[named], Path(folder, f"{len(found)}.safetensors"))
            one = found[key]
            begun.append(replace(one, job=_with_hash(job, one.weights or b"")))
    return begun


def see_that_it_is_there(job: Resolved[JobSpec]) -> None:
    """Look for the file that ``model.init`` names, if it names one; jobs, checkpoints and what is elsewhere are not asked for.

    Raises:
        ConfigError: it is not there.
    """
    named = str(job.config.model.init or "").removeprefix("file://")
    if "://" in named or not named.endswith(SUFFIXES):
        return
    with suppress(OSError):  # a name too long for a file is none's
        if expand(named).exists():
            return
    allowed = f"a file that is there ({', '.join(SUFFIXES)}), the folder of a checkpoint, a job, or hf://OWNER/REPO"
    raise ConfigError([Problem(str(job.origins["model.init"]), "model.init", f"{named}, and no such file is there", allowed)])


def _read(job: Resolved[JobSpec], source: Path, out: Path) -> Begun:
    config = job.config.what_it_trains()
    try:
        told = result_of(
            "last_e.init", {"source": str(source), "config": config, "out": str(out)}, lambda *_: None, "reading model.init"
        )["told"]
    except LastrunError as error:
        kind = UsageError if type(error) is LastrunError else type(error)
        raise kind(str(error).replace(str(source), str(job.config.model.init))) from None
    return Begun(job, out.read_bytes(), tuple(map(str, told)))


def _with_hash(job: Resolved[JobSpec], weights: bytes) -> Resolved[JobSpec]:
    config, digest = job.config, hashlib.sha256(weights).hexdigest()
    if config.model.init_sha256 not in (None, digest):
        raise UsageError(
            f"model.init: {config.model.init}: its weights have the sha256 {digest}, and model.init_sha256 is "
            f"{config.model.init_sha256}: leave that out, or name the weights that have it"
        )
    return replace(job, config=config.model_copy(update={"model": config.model.model_copy(update={"init_sha256": digest})}))


def _source(named: str, store: str, folder: Path) -> Path:
    """The file or folder that is meant, brought here where it is elsewhere.

    Raises:
        UsageError: there is none.
    """
    if named.startswith(HUB):
        from runner.hub_files import fetch  # its library is slow to import

        return fetch(named.removeprefix(HUB), folder)
    path = expand(named.removeprefix("file://"))
    with suppress(OSError, ValueError):  # a name too long for a file is no file's
        if path.is_file() or (path.is_dir() and not (path / "job.json").is_file()):
            return path
    if wrong := misspelt(named):
        raise UsageError(f"model.init: found {named}; allowed: {wrong}")
    try:
        _see_that_its_server_is_ours(named, store)
        job = find_job(named, store)
        pull_checkpoint(job, folder, best=any(one.manifest.top1 is not None for one in job.checkpoints.all()), step=None)
    except (NoSuchJobError, UsageError) as error:
        hint = "" if is_remote(named) else "no such file here, and as a job: "
        raise UsageError(f"model.init: {named}: {hint}{error}") from None
    return folder


def _see_that_its_server_is_ours(named: str, store: str) -> None:
    """That no other server than that of the job's store gets what this user's keys sign.

    Raises:
        UsageError: another one would.
    """
    if not is_remote(named):
        return
    endpoint, own = (StoreUri.typed(uri).options.get("endpoint_url") for uri in (named, store))
    if endpoint is not None and endpoint.rstrip("/") != (own or "").rstrip("/"):
        raise UsageError(
            f"found endpoint_url {endpoint}; allowed: that of the job's store ({own or 'it names none'}), "
            "as your keys sign what is asked there. If that server is yours: lastrun pull the job, and name its folder"
        )
