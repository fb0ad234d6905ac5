"""Which attempts this user has started from here on which host: that host is asked later, whatever a store says."""

from __future__ import annotations

from collections.abc import Collection

from runner.launch.notes import Notes

_NOTES = Notes("ssh", "host", "folder")
forget, place = _NOTES.forget, _NOTES.place


def write(token: str, host: str, folder: str, **more: str) -> None:
    """Note it, with the folder of the version that it was started with. Of a batch job, with ``job``, its job's URI, and
    ``batch``, its ID there once that is known; of one that keeps its job there, with ``relay``, what that copy is called."""
    _NOTES.write(token, host=host, folder=folder, **more)


def read(token: str) -> dict[str, str] | None:
    """``host``, ``folder`` and ``relay``; None: it was not started from here."""
    found = _NOTES.read(token)
    return None if found is None else {"relay": "", **found}


def of_batches(jobs: Collection[str]) -> list[dict[str, str]]:
    """Those of batch jobs that were handed over for jobs with these URIs, the newest last, each with its ``token``."""
    return [{"batch": "", **note} for note in _NOTES.all() if note.get("job") in jobs]


def has_relays() -> bool:
    """Whether any keeps its job where it runs."""
    return any(note.get("relay") for note in _NOTES.all())


def hosts() -> list[str]:
    """The host of each attempt that is noted."""
    return [note["host"] for note in _NOTES.all()]


def sweep() -> None:
    """Those of long ago; not of those that are fetched, for who waits for their end has nothing else."""
    _NOTES.sweep(keep=lambda note: bool(note.get("relay")))
