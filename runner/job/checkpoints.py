"""The checkpoints of a job as the store has them: which count, the newest whole one, and which are deleted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from last_e.manifest import MANIFEST, DamagedCheckpoint, Manifest, to_keep, verify
from runner.errors import DamagedObjectError, MissingKeyError
from runner.job.attempts import Attempt, Attempts
from runner.job.paths import ATTEMPT_ID, Paths, attempt_of, attempt_order
from runner.store.protocol import Store

Say = Callable[[str], None]


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

    def all(self, say: Say = lambda _: None) -> list[Stored]:
        """Those that have a readable manifest and count, oldest first; ``say`` is told of unreadable ones."""
        return _counted(self._stored(self._store.folders(self._paths.checkpoints), say), self._attempts.all())

    def fetch_newest(self, found: list[Stored], folder: Path, say: Say) -> tuple[Path, Stored] | None:
        """Of those in ``found``, download the newest whose bytes are what was written; a damaged one is skipped with a word."""
        for stored in reversed(found):
            target = folder / f"step-{stored.manifest.step:08d}"
            target.mkdir(parents=True, exist_ok=True)
            prefix = self._paths.checkpoint(stored.name, "")
            sizes = {entry.key.removeprefix(prefix): entry.size for entry in self._store.scan(prefix)}
            try:
                for file, expected in stored.manifest.files.items():
                    if sizes.get(file) != expected.size:  # before a huge one fills the disk
                        raise DamagedCheckpoint(f"{file} has {sizes.get(file, 'no')} bytes, not {expected.size}")
                self.download(stored, target)
            except (DamagedCheckpoint, MissingKeyError, DamagedObjectError) as error:
                say(f"skipping checkpoint {stored.name}: {error}")
                shutil.rmtree(target, ignore_errors=True)
                continue
            return target, stored
        return None

    def download(self, stored: Stored, folder: Path) -> None:
        """Fetch a checkpoint's files into a folder.

        Raises:
            DamagedCheckpoint: they are not what was written.
            MissingKeyError, DamagedObjectError: the store does not have them whole.
        """
        for file in stored.manifest.files:
            self._store.get_file(self._paths.checkpoint(stored.name, file), folder / file)
        (folder / MANIFEST).write_text(stored.manifest.to_json())
        verify(folder)

    def sweep(self, by: Attempt) -> None:
        """Delete what earlier attempts that are gone left to nobody: checkpoints whose manifest never came, or which came too
        late to be followed, and objects half-written. Nothing of attempts later than ``by``: it may have slept for long."""
        attempts = [by if attempt.id == by.id else attempt for attempt in self._attempts.all()]
        alive = {attempt.id for attempt in attempts if self._attempts.alive(attempt)}

        def gone(attempt_id: str) -> bool:
            return bool(ATTEMPT_ID.fullmatch(attempt_id)) and attempt_order(attempt_id) < by.order and attempt_id not in alive

        listed = self._listed()
        for name, keys in _without_manifest(listed).items():
            if gone(name.partition("-")[2]):
                self._store.delete(keys)
        followed = _followed(attempts)
        for stored in self._stored(_with_manifest(listed), lambda _: None):
            if gone(stored.attempt) and not followed(stored):
                self._delete(stored)
        self._store.sweep(self._paths.all, keep=lambda key: not gone(attempt_of(key)))

    def prune(self, keep_last: int, by: Attempt) -> None:
        """Delete those that the retention rule does not keep, manifests first.

        The one that an attempt went on from stays as long as the attempt has not ended, whoever prunes. An attempt from which
        another has taken the job deletes nothing, though nobody has told it yet. What an earlier call of this attempt's began
        to delete is deleted too.
        """
        listed = self._listed()
        stored = list(self._stored(_with_manifest(listed), lambda _: None))
        # Last, so that little can happen between this look and what is deleted; of its own record it knows better.
        attempts = [by if attempt.id == by.id else attempt for attempt in self._attempts.all()]
        if by.superseded_by(attempts):
            return
        found = _counted(stored, attempts)
        newest = max((stored.name for stored in found if stored.attempt == by.id), default="")
        for name, keys in _without_manifest(listed).items():
            if name.partition("-")[2] == by.id and name < newest:  # uploads go in order: a later one is on its way
                self._store.delete(keys)
        origins = {attempt.resumed_from for attempt in attempts if attempt.open}
        for one, keep in zip(found, to_keep([s.manifest for s in found], keep_last)):
            if not keep and one.name not in origins:
                self._delete(one)

    def _stored(self, names: Collection[str], say: Say) -> Iterator[Stored]:
        """Of these, the ones that have a readable manifest, whoever wrote them."""
        for name in names:
            try:
                manifest = Manifest.from_json(self._store.get(self._paths.checkpoint(name)))
            except MissingKeyError:
                continue  # never finished
            except (DamagedCheckpoint, DamagedObjectError) as error:
                say(f"skipping checkpoint {name}: {error}")
                continue
            if ATTEMPT_ID.fullmatch(name.partition("-")[2]):
                yield Stored(name, manifest)

    def _listed(self) -> dict[str, list[str]]:
        """The keys of each checkpoint, finished or not, by its name."""
        found: dict[str, list[str]] = {}
        for entry in self._store.scan(self._paths.checkpoints):
            name, _, file = entry.key.removeprefix(self._paths.checkpoints).partition("/")
            if file:
                found.setdefault(name, []).append(entry.key)
        return found

    def _delete(self, stored: Stored) -> None:
        """Its manifest first, so that nobody takes what is left for whole."""
        names = [MANIFEST, *stored.manifest.files]
        self._store.delete(self._paths.checkpoint(stored.name, name) for name in names)


def _with_manifest(listed: dict[str, list[str]]) -> list[str]:
    return [name for name, keys in listed.items() if any(key.endswith(f"/{name}/{MANIFEST}") for key in keys)]


def _without_manifest(listed: dict[str, list[str]]) -> dict[str, list[str]]:
    """Those that nobody takes for one: on their way, never finished, or partly deleted."""
    finished = set(_with_manifest(listed))
    return {name: keys for name, keys in listed.items() if name not in finished}


def _counted(stored: Iterable[Stored], attempts: list[Attempt]) -> list[Stored]:
    """Those that count, oldest first."""
    return sorted(filter(_followed(attempts), stored), key=lambda one: one.order)


def _followed(attempts: list[Attempt]) -> Callable[[Stored], bool]:
    """Whether a checkpoint counts: an old writer that comes back after another attempt has begun changes nothing."""
    newest = next((a for a in reversed(attempts) if a.inherited is not None and a.has_taken_the_job), None)
    if newest is None:
        return lambda stored: True
    names, first = set(newest.inherited or []), newest.order
    return lambda stored: stored.name in names or attempt_order(stored.attempt) >= first
