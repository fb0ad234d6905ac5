"""Where in a store what belongs to a job lies; every key of it is made here.

.index/<time, backwards>-JOB-ID       empty; so that the newest of many jobs stand first in one listing
JOB-ID/job.json                       the resolved spec with origins; written once
JOB-ID/init.safetensors               the weights that it begins with, if it names some; written before its record
JOB-ID/attempts/0003-<id>/            claim.json, once it has run attempt.json, once it is over end.json; heartbeat.json,
                                      log/000017.txt, metrics.jsonl, steps/000017.jsonl, predictions.safetensors,
                                      report.html, told/<news>.json; of older versions events/
JOB-ID/checkpoints/<step>-<attempt>/  files, then MANIFEST.json last
JOB-ID/requests/<random>.json         stop requests
JOB-ID/deleted                        empty; of a job that was deleted while an attempt might come back

GROUP-ID/group.json                   of a sweep: every point; written once, before its jobs, whose IDs are GROUP-IDp0001, ...
GROUP-ID/made                         empty; the jobs were all there once
GROUP-ID/requests/<random>.json       stop requests, for whoever runs its points
"""

from __future__ import annotations

import calendar
import re

from last_e.manifest import MANIFEST, Manifest

PREDICTIONS = "predictions.safetensors"
"""As the trainer calls it (:data:`last_e.predictions.FILE`)."""

INDEX = ".index/"
JOB_RECORD, ATTEMPT_RECORD, CLAIM_RECORD, END_RECORD = "job.json", "attempt.json", "claim.json", "end.json"
JOB_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,80}")
_DRAWN = r"(?:[0-9a-z]{6}|[0-9a-f]{4})"
"""What tells jobs of one name and second apart. Of the four digits that older ones have, two of twenty would have been the same
in one of 350 cases."""
_GROUP_ID = rf"[a-z0-9][a-z0-9-]{{0,60}}-\d{{8}}-\d{{6}}-{_DRAWN}"
GROUP_ID, POINT_ID = re.compile(_GROUP_ID), re.compile(rf"({_GROUP_ID})p\d{{4}}")
_MADE = re.compile(rf"-(\d{{4}})(\d\d)(\d\d)-(\d\d)(\d\d)(\d\d)-{_DRAWN}(?:p\d{{4}})?\Z")
ATTEMPT_ID = re.compile(r"[0-9]{4,6}-[0-9a-f]{2,16}")
LARGEST_NUMBER = 999_999
"""Of an attempt."""
WRITTEN_BY_ATTEMPTS = re.compile(r"[^/]+/(attempts|checkpoints)/[^/]+/.")
"""Keys of any job that an attempt writes while it runs."""


class Paths:
    """The keys of one job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.all = f"{job_id}/"
        self.record = f"{job_id}/{JOB_RECORD}"
        self.init = f"{job_id}/init.safetensors"
        self.tombstone = f"{job_id}/deleted"
        self.attempts = f"{job_id}/attempts/"
        self.checkpoints = f"{job_id}/checkpoints/"
        self.requests = f"{job_id}/requests/"

    @property
    def index(self) -> str:
        """Its place in the index: the later it was made, the earlier it stands.

        Raises:
            ValueError: an ID that was not made here.
        """
        day, second = self.job_id.split("-")[-3:-1]
        return f"{INDEX}{99_999_999_999_999 - int(day + second)}-{self.job_id}"

    def attempt(self, attempt_id: str, *parts: str) -> str:
        """Something of an attempt's; by itself, its record."""
        return self.attempts + "/".join((attempt_id, *(parts or (ATTEMPT_RECORD,))))

    def claim(self, attempt_id: str) -> str:
        """What an attempt says of itself before it has ever run. It lies apart: an old request that comes late cannot undo that
        it has."""
        return self.attempt(attempt_id, CLAIM_RECORD)

    def end(self, attempt_id: str) -> str:
        """What an attempt says when it is over. It lies apart for the same reason: what was true before comes late, too."""
        return self.attempt(attempt_id, END_RECORD)

    def heartbeat(self, attempt_id: str) -> str:
        """An attempt's last sign of life."""
        return self.attempt(attempt_id, "heartbeat.json")

    def metrics(self, attempt_id: str) -> str:
        """What an attempt's epochs gave."""
        return self.attempt(attempt_id, "metrics.jsonl")

    def steps(self, attempt_id: str, piece: int | None = None) -> str:
        """A piece of what an attempt's steps gave; without a number, how the keys of all begin."""
        return self.attempt(attempt_id, "steps", "" if piece is None else f"{piece:06d}.jsonl")

    def predictions(self, attempt_id: str) -> str:
        """What the best of an attempt's epochs says of each clip."""
        return self.attempt(attempt_id, PREDICTIONS)

    def report(self, attempt_id: str) -> str:
        """The job's report, as it was when an attempt ended."""
        return self.attempt(attempt_id, "report.html")

    def log(self, attempt_id: str, segment: int | str) -> str:
        """A piece of an attempt's log, by its number or name."""
        return self.attempt(attempt_id, "log", f"{segment:06d}.txt" if isinstance(segment, int) else f"{segment}.txt")

    def told(self, attempt_id: str, news: str) -> str:
        """Who has been told some news of an attempt."""
        return self.attempt(attempt_id, "told", f"{news}.json")

    def request(self, name: str) -> str:
        """A stop request."""
        return f"{self.requests}{name}.json"

    def checkpoint(self, name: str, file: str = MANIFEST) -> str:
        """A file of a checkpoint; by itself, its manifest."""
        return f"{self.checkpoints}{name}/{file}"


class GroupPaths:
    """The keys of one group, beside those of its jobs."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.all = f"{group_id}/"
        self.record = f"{group_id}/group.json"
        self.made = f"{group_id}/made"

    @property
    def index(self) -> str:
        """How the places of its jobs in the index begin.

        Raises:
            ValueError: an ID that was not made here.
        """
        return f"{Paths(self.group_id).index}p"

    def point(self, number: int) -> str:
        """The ID of a job of it, counted from 1."""
        return f"{self.group_id}p{number:04d}"


def made_at(job_id: str) -> float | None:
    """When a job or a group was made, by its ID, in seconds since 1970; None: an ID that was not made here."""
    if (found := _MADE.search(job_id)) is None:
        return None
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        return calendar.timegm((year, month, day, hour, minute, second))
    except (ValueError, OverflowError):
        return None


def group_of(job_id: str) -> str | None:
    """The group to which a job belongs, by its ID."""
    found = POINT_ID.fullmatch(job_id)
    return found[1] if found else None


def checkpoint_name(manifest: Manifest, attempt_id: str) -> str:
    """What an attempt's checkpoint is called. An end of epoch may be stored twice by one attempt, before and after its test."""
    return f"{manifest.step:08d}{'e' if manifest.evaluated else ''}-{attempt_id}"


def attempt_order(attempt_id: str) -> tuple[int, str]:
    """Of two attempts the one that claimed later has the larger one; of two that chose the same number, one or the other."""
    return int(attempt_id.partition("-")[0]), attempt_id


def attempt_of(key: str) -> str:
    """The attempt to which a key below ``attempts/`` or ``checkpoints/`` belongs; empty for any other key."""
    _, kind, name, *_ = [*key.split("/"), "", ""]
    return {"attempts": name, "checkpoints": name.partition("-")[2]}.get(kind, "")


def step_of(checkpoint_key: str) -> int:
    """The step of the checkpoint to which a key belongs."""
    return int(checkpoint_key.split("/")[2].split("-")[0].rstrip("e"))
