"""The checkpoints of a job as the store has them: which count, the newest whole one, and which are deleted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from last_e.manifest import MANIFEST, MOST_MANIFEST_BYTES, DamagedCheckpoint, Manifest, to_keep, verify
from runner.errors import DamagedObjectError, MissingKeyError, StoreError
from runner.job.attempts import Attempt, Attempts
from runner.job.paths import ATTEMPT_ID, Paths, attempt_of, attempt_order
from runner.store.protocol import Store

Say = Callable[[str], None]
GIVEN_UP_SECONDS = 86400.0
"""A checkpoint whose last object is so old, and has no manifest, will get none: far longer than a request is on its way."""


@dataclass(frozen=True)
class Stored:
    """A checkpoint in the store."""

    name: str
    manifest: Manifest

    @property
    def attempt(self) -> str:
        """The attempt that wrote it."""
        return self.name.split("-", 1)[1]

    @property
    def order(self) -> tuple[Any, ...]:
        """Later in training is larger; of equals, the one of the later attempt."""
        return (*self.manifest.order, attempt_order(self.attempt))


class Checkpoints:
    """Those of one job."""

    def __init__(self, store: Store, paths: Paths, attempts: Attempts) -> None:
        self._store, self._paths, self._attempts = store, paths, attempts
        self._known: dict[str, Stored] = {}
        self._unfit: set[str] = set()

    def all(self, say: Say = lambda _: None) -> list[Stored]:
        """Those that have a readable manifest and count, oldest first; ``say`` is told of unreadable ones."""
        stored, attempts = self._store.in_parallel([partial(self.written, say), self._attempts.all])
        return counted(stored, attempts)

    def add(self, stored: Stored) -> None:
        """Know what this process itself has written, without a read: the store has it."""
        self._known[stored.name] = stored

    def pass_over(self, name: str) -> None:
        """One that cannot be gone on from does not count where it is decided which are kept; nor is it deleted."""
        self._unfit.add(name)

    def written(self, say: Say = lambda _: None) -> list[Stored]:
        """Those that have a readable manifest, whoever wrote them, whether they count or not."""
        return self._stored(_with_manifest(self._listed()), say)

    def fetch_newest(self, found: list[Stored], folder: Path, say: Say) -> tuple[Path, Stored] | None:
        """Of those in ``found``, download the newest whose bytes are what was written; a damaged one is skipped with a word."""
        for stored in reversed(found):
            target = folder / f"step-{stored.manifest.step:08d}"
            target.mkdir(parents=True, exist_ok=True)
            try:
                self.download(stored, target)
            except (DamagedCheckpoint, MissingKeyError, DamagedObjectError) as error:
                say(f"skipping checkpoint {stored.name}: {error}")
                shutil.rmtree(target, ignore_errors=True)
                self.pass_over(stored.name)
                continue
            return target, stored
        return None

    def download(self, stored: Stored, folder: Path) -> None:
        """Fetch a checkpoint's files into a folder.

        Raises:
            DamagedCheckpoint: they are not what was written.
            MissingKeyError, DamagedObjectError: the store does not have them whole.
        """
        self._store.in_parallel(
            [
                partial(self._store.get_file, self._paths.checkpoint(stored.name, file), folder / file, expected.size)
                for file, expected in stored.manifest.files.items()
            ]
        )
        (folder / MANIFEST).write_text(stored.manifest.to_json())
        verify(folder)

    def sweep(self, by: Attempt, say: Say = lambda _: None) -> list[Stored]:
        """Those that count, oldest first, for an attempt that has taken the job. What earlier attempts that are gone left to
        nobody is deleted: checkpoints whose manifest has not come for a day, or which came too late to be followed, and objects
        half-written. Nothing of attempts later than ``by``: it may have slept for long."""
        attempts, listed = self._store.in_parallel([partial(self._attempts.beside, by), self._listed])
        others = [attempt for attempt in attempts if attempt.open and attempt.id != by.id]
        lives = self._store.in_parallel([partial(self._attempts.alive, attempt) for attempt in others])
        alive = {by.id, *(attempt.id for attempt, it_lives in zip(others, lives) if it_lives)}

        def gone(attempt_id: str) -> bool:
            return bool(ATTEMPT_ID.fullmatch(attempt_id)) and attempt_order(attempt_id) < by.order and attempt_id not in alive

        half_written = partial(self._store.sweep, self._paths.all, keep=lambda key: not gone(attempt_of(key)))
        stored, _ = self._store.in_parallel([partial(self._stored, _with_manifest(listed), say), half_written])
        unfinished = self._given_up([keys for name, keys in _without_manifest(listed).items() if gone(name.partition("-")[2])])
        followed = _followed(attempts)
        try:
            self._store.in_parallel([partial(self._store.delete, keys) for keys in unfinished])
            self.delete([one for one in stored if gone(one.attempt) and not followed(one)])
        except StoreError as error:  # it can be read, and probably written: no reason not to train
            if not error.lasting:
                raise
            say(f"what earlier attempts left cannot be deleted: {error}")
        return counted(stored, attempts)

    def _given_up(self, unfinished: list[list[str]]) -> list[list[str]]:
        """Those of which nothing has come for long. What a dead attempt has left on its machine another command may be sending
        just now, and its manifest would come after its files are deleted."""

        def age(key: str) -> float:
            try:
                return self._store.age(key)
            except MissingKeyError:
                return 0.0

        ages = iter(self._store.in_parallel([partial(age, key) for keys in unfinished for key in keys]))
        youngest = [min(next(ages) for _ in keys) for keys in unfinished]
        return [keys for keys, seconds in zip(unfinished, youngest) if seconds > GIVEN_UP_SECONDS]

    def prune(self, keep_last: int, by: Attempt) -> None:
        """Of those that this process knows to be in the store, delete what the retention rule does not keep, manifests first.

        An attempt from which another has taken the job deletes nothing, though nobody has told it yet. What one call could not
        delete the next does. The one that an attempt went on from is on its disk, and goes like any other.
        """
        # Known before the look: who takes the job after it finds all of these, and goes on from the newest of them or a later
        # one, which stays however late these deletions come.
        stored = [one for one in list(self._known.values()) if one.name not in self._unfit]
        attempts = self._attempts.beside(by)
        if by.superseded_by(attempts):
            return
        found = counted(stored, attempts)
        keeping = zip(found, to_keep([one.manifest for one in found], keep_last))
        self.delete([one for one, keep in keeping if not keep])

    def _stored(self, names: Collection[str], say: Say = lambda _: None) -> list[Stored]:
        """Of those that have a manifest, the ones that have a readable one. It never changes, so it is read once."""
        new = [name for name in names if name not in self._known and ATTEMPT_ID.fullmatch(name.partition("-")[2])]
        for name, read in zip(new, self._store.in_parallel([partial(self._read, name) for name in new])):
            if isinstance(read, Stored):
                self._known[name] = read
            elif read is not None:
                say(f"skipping checkpoint {name}: {read}")
        return [self._known[name] for name in names if name in self._known]

    def _read(self, name: str) -> Stored | Exception | None:
        """None: it has been deleted meanwhile."""
        try:
            return Stored(name, Manifest.from_json(self._store.get(self._paths.checkpoint(name), MOST_MANIFEST_BYTES)))
        except MissingKeyError:
            return None
        except (DamagedCheckpoint, DamagedObjectError) as error:
            return error

    def _listed(self) -> dict[str, list[str]]:
        """The keys of each checkpoint, finished or not, by its name."""
        found: dict[str, list[str]] = {}
        for entry in self._store.scan(self._paths.checkpoints):
            name, _, file = entry.key.removeprefix(self._paths.checkpoints).partition("/")
            if file:
                found.setdefault(name, []).append(entry.key)
        return found

    def delete(self, unwanted: Collection[Stored]) -> None:
        """Their manifests first, so that nobody takes what is left for whole."""
        manifests = [self._paths.checkpoint(one.name) for one in unwanted]
        files = [self._paths.checkpoint(one.name, file) for one in unwanted for file in one.manifest.files]
        for keys in (manifests, files):
            self._store.in_parallel([partial(self._store.delete, [key]) for key in keys])
        for one in unwanted:
            self._known.pop(one.name, None)


def _with_manifest(listed: dict[str, list[str]]) -> list[str]:
    return [name for name, keys in listed.items() if any(key.endswith(f"/{name}/{MANIFEST}") for key in keys)]


def _without_manifest(listed: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those that nobody takes for one: on their way, never finished, or partly deleted."""
    finished = set(_with_manifest(listed))
    return {name: keys for name, keys in listed.items() if name not in finished}


def counted(stored: Iterable[Stored], attempts: list[Attempt]) -> list[Stored]:
    """Those that count, oldest first."""
    return sorted(filter(_followed(attempts), stored), key=lambda one: one.order)


def _followed(attempts: list[Attempt]) -> Callable[[Stored], bool]:
    """Whether a checkpoint counts: an old writer that comes back after another attempt has begun changes nothing."""
    newest = next((a for a in reversed(attempts) if a.inherited is not None and a.has_taken_the_job), None)
    if newest is None:
        return lambda stored: True
    names, first = set(newest.inherited or []), newest.order
    return lambda stored: stored.name in names or attempt_order(stored.attempt) >= first
