"""What ``import runner`` offers: the commands as functions, jobs and checkpoints as objects. See docs/python.md.

Every error that a command would tell is a :class:`~runner.errors.LastrunError` with the same words.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from last_e.manifest import MANIFEST
from last_e.problems import ConfigError
from last_e.redact import redact
from last_e.text import expand
from runner.errors import LastrunError, Reason, SpecError, State, UsageError
from runner.job.find import find_job, list_jobs, store_with_jobs
from runner.job.job import Job as StoredJob
from runner.job.steps import Steps
from runner.launch import start as launch
from runner.launch.begin import Begin, go_on, how_to, new_job, on_first, see_that_it_is_one
from runner.models import Choice, Model, bring, is_checkpoint
from runner.resolve import resolve_points
from runner.view.config import changes_text
from runner.view.status import FOLLOW_SECONDS, follow_log, job_status
from runner.view.table import Table
from runner.view.wanted import STOPPING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from last_e.model.network import LastE

Place = str | PathLike[str]
Settings = Mapping[str, Any] | Sequence[str]
"""``{"training.epochs": 3}``, or ``["training.epochs=3"]`` as ``--set`` takes them."""


@contextmanager
def _told() -> Iterator[None]:
    """What the commands tell comes as an error of one kind, with the same words."""
    try:
        yield
    except ConfigError as error:
        raise SpecError(redact(str(error)), error.problems) from None
    except OSError as error:
        if error.filename is None:
            raise
        raise LastrunError(f"{error.filename}: {error.strerror or error}") from None


@_told()
def submit(
    spec: Place | Mapping[str, Any],
    *,
    env: str | None = None,
    settings: Settings = (),
    store: str | None = None,
    launcher: str | None = None,
    on: str | None = None,
    here: bool = False,
    yes: bool = False,
) -> Job:
    """Check a job, keep it in the store, and start it. It lives on when this process ends; :meth:`Job.wait` follows it.

    Args:
        spec: a job's file, or what would stand in one: ``{"model": "nano", "dataset": "irds"}``.
        env: a profile: ``auto``, ``local``, ``kaggle``, ...
        settings: keys that are set last.
        store: where it is kept; default: as for the commands.
        launcher: what starts it.
        on: a host that ssh reaches.
        here: train on this machine, though the profile is for another kind.
        yes: a machine may be rented for ``env``.

    Raises:
        SpecError: every mistake in the job, at once.
        LastrunError: it could not start, with what is missing.
    """
    meant = spec if isinstance(spec, Mapping) else expand(fspath(spec))
    how = how_to(env, _words(settings), launcher, on=on, here=here)
    first = on_first(how)
    points = resolve_points(meant, first.env, first.settings, first.launcher)
    if points.is_sweep:
        raise UsageError(f"this is a sweep of {len(points.points)} points: lastrun submit begins it")
    see_that_it_is_one("this", how)
    new = new_job(points, meant, how, store)
    for note in new.notes:
        warnings.warn(note, stacklevel=3)
    for note in new.begun.told:  # not before the others were
        warnings.warn(note, stacklevel=3)
    return _started(new.begin(yes=yes, may_ask=False))


@_told()
def find(name: str, store: str | None = None) -> Job:
    """The job of an ID, of the beginning of one, or of ``STORE/ID``.

    Raises:
        LastrunError: none or several.
    """
    return Job(find_job(name, store))


@_told()
def jobs(store: str | None = None, limit: int = 50) -> list[Job]:
    """Those of a store, the newest first."""
    return [Job(one) for one in islice(list_jobs(store_with_jobs(store)), limit)]


def load_model(
    job: Job | Place, *, store: str | None = None, last: bool = False, step: int | None = None, trust: bool = False
) -> LastE:
    """The network of a job's best checkpoint, of another one of its, or of a checkpoint's folder: a ``torch.nn.Module`` in
    evaluation mode on the CPU. Its bytes are compared with the hashes in its manifest first.

    It takes ``joint``, ``velocity`` and ``bone``, each (N, 3, T, V), as ``last_e.data.transform.to_streams`` makes them, and
    gives logits (N, classes). ``model.description`` has names of classes, joints and units.

    Raises:
        LastrunError: there is no such checkpoint, it is damaged, or torch is not installed.
    """
    one = job if isinstance(job, Job) else _named(job, store)
    return one.load_model(last=last, step=step, trust=trust)


class _Asked:
    """What a job and a checkpoint have in common: a network that can be asked."""

    _name: str
    _store: str | None = None

    @_told()
    def load_model(self, *, last: bool = False, step: int | None = None, trust: bool = False) -> LastE:
        """See :func:`load_model`."""
        try:
            from last_e.load import load_network
        except ImportError as error:
            from runner.errors import EngineError

            raise EngineError(f"{error}; from a clone of lastrun: pip install '.[train]'") from None
        from last_e.config import TrainConfig
        from last_e.datafile import DataError
        from last_e.manifest import DamagedCheckpoint

        with ExitStack() as held:
            brought = bring(Model(self._name), self._choice((), trust, last, step, needs_data=False), held, _silent)
            try:
                model, description = load_network(Path(brought["folder"]), TrainConfig.model_validate(brought["config"]))
            except (DamagedCheckpoint, DataError) as error:
                raise LastrunError(f"{self._name}: {error}") from None
        model.description = description  # type: ignore[assignment]
        return model

    @_told()
    def evaluate(
        self,
        *,
        data: Place | None = None,
        split: str | None = None,
        part: str = "test",
        crops: int = 1,
        mirror: bool = False,
        ema: bool = False,
        spoil: dict[str, float | None] | None = None,
        others: Sequence[Job | Checkpoint | tuple[Job | Checkpoint, float]] = (),
        weigh_on: str | None = None,
        last: bool = False,
        step: int | None = None,
        settings: Settings = (),
        trust: bool = False,
        progress: bool = True,
    ) -> dict[str, Any]:
        """Score it anew, as ``lastrun evaluate`` does: ``top1``, ``top5``, ``interval``, ``balanced_accuracy``,
        ``calibration_error``, ``per_class``, ``confusion`` and more, and under ``said`` a :class:`Table` with a row for each
        clip.

        Args:
            data: a prepared file instead of its own.
            split: instead of its own.
            part: ``test``, ``train`` or ``validation``.
            crops: pieces of each clip.
            mirror: each piece in a mirror, too.
            ema: the average of the weights, where one was kept.
            spoil: what is wrong with the clips: ``noise`` (metres), ``missing`` (chance for a joint), ``motion`` (factor).
            others: further models, whose probabilities are added, each perhaps with its weight.
            weigh_on: the part on which weights are chosen.
            last: the newest checkpoint instead of the best.
            step: the checkpoint of a step.
            settings: keys that are set last.
            trust: take what the job brings along.
            progress: tell how far it is.

        Raises:
            LastrunError: what cannot be, with the reason.
        """
        from last_e.bar import Bar
        from runner.evaluate import evaluate

        models = [Model(self._name)]
        for one in others:
            other, weight = one if isinstance(one, tuple) else (one, 1.0)
            models.append(Model(other._name, weight))
        with Bar("clips") as bar:
            result = evaluate(
                models,
                store=self._store,
                trust=trust,
                last=last,
                step=step,
                data=None if data is None else expand(fspath(data)),
                split=split,
                part=part,
                crops=crops,
                weigh_on=weigh_on,
                mirror=mirror,
                ema=ema,
                spoil=spoil,
                settings=_words(settings),
                say=_silent,
                progress=bar.update if progress else lambda done, total, what: None,
                is_watched=progress,
            )
        return {**result, "said": Table(result["said"])}

    @_told()
    def predict(
        self,
        *recordings: Place | ArrayLike,
        top: int = 3,
        window: str | float | None = None,
        stride: str | float | None = None,
        fps: float | None = None,
        crops: int = 1,
        mirror: bool = False,
        ema: bool = False,
        kind: str | None = None,
        units: str | None = None,
        last: bool = False,
        step: int | None = None,
        settings: Settings = (),
        trust: bool = False,
    ) -> Predictions:
        """Say what recordings show, as ``lastrun predict`` does.

        Args:
            recordings: files, folders, or arrays (frames, joints, D) or (people, frames, joints, D).
            top: so many classes of each.
            window: go through each by so many frames (``64``), or seconds (``"2s"``).
            stride: from window to window; default: half of one.
            fps: frames a second; default: those of the training set.
            crops: pieces of each, whose probabilities are averaged.
            mirror: each piece in a mirror, too.
            ema: the average of the weights, where one was kept.
            kind: what the files are; default: as their names say.
            units: of keypoints; default: those of the training set.
            last: the newest checkpoint instead of the best.
            step: the checkpoint of a step.
            settings: keys that are set last.
            trust: take what the job brings along.

        Raises:
            LastrunError: what cannot be, with the reason. One bad recording among others is a warning, and in ``problems``.
        """
        from runner.predict import How, predict

        how = How(top, kind, units, window, stride, fps, crops, mirror)
        choice = self._choice(settings, trust, last, step, ema=ema, needs_data=False)
        found = Predictions()
        with tempfile.TemporaryDirectory(prefix="lastrun-arrays-") as folder:
            places = [_place(one, Path(folder), number) for number, one in enumerate(recordings)]
            for event in predict(self._name, places, choice, how, _silent):
                found._take(event, folder)
        for problem in found.problems:
            warnings.warn(problem["error"], stacklevel=3)
        return found

    def _choice(
        self, settings: Settings, trust: bool, last: bool, step: int | None, *, ema: bool = False, needs_data: bool
    ) -> Choice:
        if last and step is not None:
            raise UsageError("last and step name one checkpoint each: give one of them")
        return Choice(self._store, trust, last, step, _words(settings), ema, needs_data=needs_data, is_watched=False)


class Job(_Asked):
    """One job in a store. :func:`submit`, :func:`find` and :func:`jobs` give them."""

    def __init__(self, stored: StoredJob) -> None:
        self._job, self._name = stored, stored.uri

    @property
    def id(self) -> str:
        """By which it is found."""
        return self._job.id

    @property
    def uri(self) -> str:
        """Store and ID."""
        return self._job.uri

    @property
    def state(self) -> str:
        """``queued``, ``running``, ``stopping``, ``paused``, ``succeeded``, ``failed``, ``stopped`` or ``lost``."""
        return str(self.status()["state"])

    @_told()
    def status(self) -> dict[str, Any]:
        """Where it is and how it fares: what ``lastrun status --json`` says."""
        return job_status(self._job)

    @_told()
    def wait(self, timeout: float | None = None, *, progress: bool = True, check: bool = True) -> Job:
        """Until it no longer runs, nor waits to begin; how it fares is shown meanwhile. Leaving (Ctrl-C) leaves the job alone.

        Args:
            timeout: most seconds.
            progress: show how it fares.
            check: a job that failed is an error.

        Raises:
            LastrunError: it has failed, or its attempt is gone without a word.
            TimeoutError: it still runs.
        """
        from runner.view.live import shown

        end = None if timeout is None else time.monotonic() + timeout
        with shown(progress) as show:
            while True:
                facts = job_status(self._job)
                show(facts)
                if facts["state"] not in (State.RUNNING.value, STOPPING) and not facts["waits"]:
                    break
                if end is not None and time.monotonic() >= end:
                    raise TimeoutError(f"{self.id} is {facts['state']} after {timeout:g} s")
                time.sleep(FOLLOW_SECONDS if end is None else max(0.0, min(FOLLOW_SECONDS, end - time.monotonic())))
        if check and facts["state"] in (State.FAILED.value, State.LOST.value):
            why = facts["message"] or facts["reason"] or "its attempt is gone without a word"
            error = LastrunError(f"{self.id} is {facts['state']}: {why}; {facts['next']}")
            if facts["reason"] is not None:
                error.exit_code = Reason(facts["reason"]).ending.exit_code
            raise error
        return self

    @_told()
    def logs(self) -> str:
        """All that its attempts have said so far."""
        return "".join(self._job.log())

    def follow(self) -> Iterator[str]:
        """The same piece by piece, and what comes, until it no longer runs."""
        with _told():
            yield from follow_log(self._job)

    @_told()
    def metrics(self) -> Table:
        """A row for each epoch: ``epoch``, ``step``, ``train_loss``, ``test_top1``, ..."""
        return Table(self._job.metrics())

    @_told()
    def steps(self) -> Table:
        """A row for every tenth step, or as ``checkpoint.log_every_steps`` says: ``step``, ``epoch`` (how many were trained by
        then), ``lr``, ``loss``, ``train_loss`` and ``train_top1`` (of the epoch so far), ``skipped_steps``."""
        return Table(Steps(self._job).read())

    @_told()
    def stop(self, *, now: bool = False, wait: bool = False) -> Job:
        """Ask it to save and leave, wherever it runs.

        Args:
            now: without saving.
            wait: until it has.

        Raises:
            LastrunError: there is nothing to stop, or what runs it does not hear.
        """
        from runner.launch.stopping import ask, to_stop

        found = to_stop(self._job)
        deaf = ask(found, now)
        if deaf:
            raise LastrunError("; ".join(words for told in deaf.values() for words in told))
        told = [f"{job.id}: {what} was taken out of the queue" for job, what in found.taken]
        told += [f"{job.id} waits: it leaves once it has begun ({what})" for job, what in found.later]
        told += [f"{job.id}: whoever follows it begins no other attempt" for job in found.cut]
        for words in (*found.silent, *told):
            warnings.warn(words, stacklevel=3)
        return self.wait(progress=False, check=False) if wait and found.runs else self

    @_told()
    def resume(
        self,
        *,
        env: str | None = None,
        settings: Settings = (),
        allow_change: Sequence[str] = (),
        launcher: str | None = None,
        on: str | None = None,
        here: bool = False,
        takeover: bool = False,
        trust: bool = False,
        yes: bool = False,
    ) -> Job:
        """Go on from its newest whole checkpoint; the job that goes on, which is a copy where its store can only be read.

        Args:
            env, settings, launcher, on, here, yes: as of :func:`submit`.
            allow_change: keys that may change although they decide learning.
            takeover: take it from an attempt that still seems to run.
            trust: take what it brings along.

        Raises:
            LastrunError: it cannot go on so.
        """
        words = _words(settings)
        how = how_to(env, words, launcher, on=on, here=here, allow_change=allow_change, takeover=takeover)
        see_that_it_is_one(self.id, how)
        return _started(go_on(self._job, how, trust=trust, yes=yes, may_ask=False, say=_warn))

    def __repr__(self) -> str:
        return f"<Job {self.uri}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)


class Checkpoint(_Asked):
    """A checkpoint's folder, as ``lastrun pull`` makes it."""

    def __init__(self, folder: Place) -> None:
        self.folder = expand(fspath(folder))
        if not is_checkpoint(self.folder):
            raise UsageError(f"{self.folder}: no checkpoint: it has no {MANIFEST}; lastrun pull JOB FOLDER makes such a folder")
        self._name = str(self.folder.absolute())

    def __repr__(self) -> str:
        return f"<Checkpoint {self.folder}>"


class Predictions(Table):
    """What a network says: a row for each recording, or each window, with ``source``, ``clip``, ``class``, ``probability``, and
    under ``top`` the best classes."""

    def __init__(self) -> None:
        super().__init__()
        self.timeline = Table()
        """Stretches of time with the same class, of recordings that were gone through by windows."""
        self.problems: list[dict[str, str]] = []
        """What could not be read, and why."""
        self.speed: dict[str, Any] = {}
        """How many there were, and how many seconds it took."""

    def _take(self, event: dict[str, Any], arrays: str) -> None:
        ((kind, values),) = event.items()
        if kind in ("clip", "window", "segment", "problem") and values["source"].startswith(arrays):
            values = {**values, "source": Path(values["source"]).stem}
        if kind in ("clip", "window"):
            best = values["top"][0]
            self.append({**values, "class": best["class"], "probability": best["probability"]})
        elif kind == "segment":
            self.timeline.append(values)
        elif kind == "problem":
            self.problems.append({**values, "error": values["error"].replace(f"{arrays}/", "")})
        elif kind == "doubt":
            _warn(values["text"].replace(f"{arrays}/", ""))
        elif kind == "result":
            self.speed = values


@_told()
def _named(name: Place, store: str | None) -> Job | Checkpoint:
    folder = expand(fspath(name))
    return Checkpoint(folder) if is_checkpoint(folder) else find(fspath(name), store)


def _started(begin: Begin) -> Job:
    job = begin.make()
    if begin.changes:
        _warn(changes_text(begin.changes))
    if begin.auto_continue:
        _warn(f"run.auto_continue: found {begin.auto_continue}; from Python nobody is here to begin another")
    launch.detach(begin.launcher, job, begin.arguments)
    return Job(job)


def _words(settings: Settings) -> tuple[str, ...]:
    """As ``--set`` takes them; JSON is YAML."""
    if isinstance(settings, Mapping):
        return tuple(f"{key}={json.dumps(value, default=str)}" for key, value in settings.items())
    return tuple(settings)


def _place(one: Any, folder: Path, number: int) -> str:
    """A file or a folder by its name; an array as a file."""
    if isinstance(one, (str, PathLike)):
        return str(expand(fspath(one)))
    import numpy as np

    path = folder / f"array-{number}.npy"
    try:
        np.save(path, np.asarray(one, dtype=np.float64), allow_pickle=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"recording {number}: neither a file nor an array of numbers ({error})") from None
    return str(path)


def _silent(text: str) -> None:
    """Which checkpoint was taken."""


_warn: Callable[[str], None] = warnings.warn
