"""An attempt as a job of Hugging Face: on a machine that is there for it alone, paid by the minute."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TextIO

from last_e.described import is_own
from last_e.text import plain
from runner.attempt.data_check import check_data
from runner.errors import ClaimedError, EngineError, LastrunError, PausedError, UsageError
from runner.job.attempts import Attempt
from runner.job.cost import DOLLARS
from runner.job.job import Job
from runner.launch import bill
from runner.launch.again import UnsureError
from runner.launch.brought.sent import ADDRESS, CODE, Parcel
from runner.launch.heard import with_heard
from runner.launch.hf import hub, terms
from runner.launch.hf.hub import NOTES
from runner.launch.hf.started import StartedThere, held
from runner.launch.inside import ONLY
from runner.launch.protocol import Offer, Rented
from runner.launch.ssh.sent import of_this_machine
from runner.launch.together import see_to_all
from runner.launch.variables import is_private, see_that_they_are_set, values_elsewhere
from runner.launchers import gpus_allowed
from runner.signals import interruptible
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import WAITS

JOB, TOKEN = "lastrun-job", "lastrun-token"
"""Labels of its jobs there."""
IMAGE = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
"""A public one that has torch; what else is needed is brought."""
_LINE = f'exec "$(command -v python || command -v python3)" -I -c "{CODE}"'


class HfLauncher:
    """Starts jobs there. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = False

    def __init__(self, config: JobSpec) -> None:
        self._config = config

    def preflight(self, store: str) -> None:
        """It lets us, has such a machine at that price, and can reach the store and the data."""
        see_to_all([self._see_what_is_asked, lambda: self._see_the_places(StoreUri.parse(store)), self._see_the_price])
        check_data(self._config)

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedThere:
        """With all that is secret as its secrets; the wheel lies in the store."""
        with interruptible(f"{job.id}: interrupted before its attempt began; lastrun resume {job.reference} begins it"):
            there = self._namespace
            for one in there.find({JOB: job.id}, hub.WAITING, hub.RUNNING):
                if one.stage == hub.WAITING:
                    raise ClaimedError(f"{job.id}: {one}; lastrun stop {job.reference} takes it back")
                raise ClaimedError(f"{job.id} is being run by {one}; lastrun status -w {job.reference} follows it")
            seconds = bill.seconds_left(self._config, self._flavor, job, "Hugging Face")
            uri, _ = StoreUri.parse(job.uri).parent()
            about = {"launcher": "hf", "what": "Hugging Face job", "token": token, "namespace": there.name}
            about[DOLLARS] = f"{self._flavor.dollars:g}"
            told = [*bill.arguments(self._config, job.uri, token, seconds), *with_heard(job, arguments)]
            parcel = Parcel(job, self._config, about, told)
            address = parcel.address()
            NOTES.write(token, job=job.id, id="", namespace=there.name)  # first: it is never forgotten
            try:
                id = there.run(
                    **self._asked(job.id, token, seconds),
                    command=["/bin/sh", "-c", _LINE],
                    env=parcel.variables(),
                    secrets={**values_elsewhere(uri, self._config), ADDRESS: address},
                )
            except BaseException as error:
                self._take_back(job, token, error)
        NOTES.write(token, job=job.id, id=id, namespace=there.name)
        return StartedThere(job, there, id, token, output)

    def order(self, store: str, name: str) -> dict[str, str]:
        """Its job there; what it costs is told with the machine."""
        uri, job_id = StoreUri.parse(store), f"{name}-DATE-CODE"
        seconds = bill.seconds_of(self._config, self._flavor, 0.0)
        asked = self._asked(job_id, "TOKEN", seconds)
        secrets = [*values_elsewhere(uri, self._config), ADDRESS]
        return {
            "namespace": self._namespace.name,
            "flavor": str(self._flavor),
            "image": asked["image"],
            "timeout": f"{seconds} s, {self._flavor.dollars * seconds / 3600:.2f} USD at most",
            "command": shlex.join(
                ["lastrun", "attempt", *bill.arguments(self._config, str(uri.child(job_id)), "TOKEN", seconds)]
            ),
            "secrets": ", ".join(secrets),
            "labels": ", ".join(f"{key}={value}" for key, value in asked["labels"].items()),
        }

    def _asked(self, job_id: str, token: str, seconds: int) -> dict[str, Any]:
        return {
            "image": self._config.run.image or IMAGE,
            "flavor": self._flavor.name,
            "timeout": seconds,
            "labels": {JOB: job_id, TOKEN: token},
        }

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """Only of one that gives no sign Hugging Face is asked, and only if this user has started that very attempt from
        here."""
        token = str((attempt.container or {}).get("token"))
        note = NOTES.read(token)
        if note is None or (job.attempts.alive(attempt) and job.attempts.gave_a_sign(attempt, 3 * WAITS.heartbeat)):
            return attempt
        found = _look(note, token)
        if found is not None and found.stage not in hub.ENDED:
            return attempt
        current = job.attempts.again(attempt)
        if current is not None and current.open:
            how = "is there no more" if found is None else f"ended as {found.stage}"
            why = f": {found.message}" if found is not None and found.message else ""
            job.attempts.write_lost(current, plain(f"its Hugging Face job {note['id'] or token} {how}{why}"))
        NOTES.forget(token)
        return current

    @staticmethod
    def waits(job: Job) -> str | None:
        """What waits for a machine there or is being set up, of what was started from here."""
        return next((words for *_, words in _waiting([job])), None)

    @staticmethod
    def waiting(jobs: Sequence[Job]) -> list[Job]:
        """The same of several."""
        return [job for job, *_ in _waiting(jobs)]

    @staticmethod
    def withdraw(job: Job) -> str | None:
        """End what waits or is being set up, before it costs more."""
        taken = None
        for _, there, one, _ in _waiting([job]):
            there.cancel(one.id)
            NOTES.forget(one.labels[TOKEN])
            taken = f"Hugging Face job {one.id}"
        return taken

    @staticmethod
    def ready() -> str:
        """Whose token it is."""
        return f"jobs of {plain(hub.namespace(None).name)}; lastrun gpus tells what each machine costs"

    @staticmethod
    def clean() -> None:
        """Machines go with their attempts; only notes of long ago are left."""
        NOTES.sweep()

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """None: what was there went with the machine."""
        return set()

    @staticmethod
    def offers() -> list[Offer]:
        """Its flavors."""
        return terms.offers()

    @staticmethod
    def rented() -> list[Rented]:
        """Jobs of this user, and of the organizations for which any was started from here."""
        mine = hub.namespace(None).name
        found = terms.rented(hub.Namespace(mine), JOB)
        for name in sorted({note["namespace"] for note in NOTES.all()} - {mine}):
            with suppress(EngineError):  # an organization that one has left shows nothing, and hides nothing
                found += terms.rented(hub.Namespace(name), JOB)
        return found

    @cached_property
    def _namespace(self) -> hub.Namespace:
        return hub.namespace(self._config.run.hf.namespace)

    @cached_property
    def _flavor(self) -> hub.Flavor:
        return terms.flavor_of(self._config)

    def _see_what_is_asked(self) -> None:
        if allowed := gpus_allowed("hf", self._config.run.gpus):
            raise UsageError(f"run.gpus: found {self._config.run.gpus}; allowed: {allowed}")
        if self._config.run.container is not None:
            raise UsageError(ONLY.format(self._config.run.container, "hf"))
        see_that_they_are_set(self._config)

    def _see_the_places(self, store: StoreUri) -> None:
        """What a machine of theirs can reach."""
        if store.scheme == "file":
            raise UsageError(
                f"store {store}: a folder of this machine is not there: take a bucket (--store s3://BUCKET/PREFIX)"
            )
        endpoint = store.options.get("endpoint_url", "")
        if is_private(endpoint) and not is_private(os.environ.get("HF_ENDPOINT", "")):
            raise UsageError(f"store {store}: {endpoint} is an address of this network alone, which is not reached from there")
        if (data := of_this_machine(self._config)) is not None:
            key = "dataset" if is_own(self._config.dataset) else "data.uri"
            raise UsageError(f"{key}: {data.path} is not there: put it into the bucket, and name it with its s3:// address")

    def _see_the_price(self) -> None:
        """Told before it is paid."""
        told = terms.price_of(self._config, self._flavor)
        sys.stderr.write(plain(f"Hugging Face, {self._namespace.name}: {told}\n"))

    def _take_back(self, job: Job, token: str, error: BaseException) -> NoReturn:
        """Nothing is left to run that nobody knows of: what may have begun is looked for and ended. What is not found may come
        yet, so it is told by what to look for it.

        Raises:
            BaseException: the error.
        """
        if isinstance(error, LastrunError) and not isinstance(error, UnsureError):  # it has not begun
            NOTES.forget(token)
            raise error
        interrupted, is_ended = not isinstance(error, LastrunError), False
        with suppress(LastrunError, KeyboardInterrupt):
            found = self._namespace.find({TOKEN: token}, hub.WAITING, hub.RUNNING, at_once=interrupted)
            for one in found:
                self._namespace.cancel(one.id)
            is_ended = bool(found)
        if is_ended:
            NOTES.forget(token)
            raise error
        why = f"{job.id}: interrupted while its machine was asked for" if interrupted else str(error)
        raise (PausedError if interrupted else EngineError)(
            f"{why}; it may have begun all the same: lastrun stop {job.reference} ends it then; it has the label "
            f"{TOKEN}={token}, by which hf jobs ps shows it and hf jobs cancel ends it"
        ) from None


def _look(note: dict[str, str], token: str) -> hub.Seen | None:
    """The job of a note; None: there is none."""
    there = hub.Namespace(note["namespace"])
    return there.look(note["id"], at_once=True) if note["id"] else next(iter(there.find({TOKEN: token}, at_once=True)), None)


def _waiting(jobs: Sequence[Job]) -> list[tuple[Job, hub.Namespace, hub.Seen, str]]:
    """What waits of these jobs, or is set up and has not claimed its job yet, of what this user has started from here, and how
    that is told; without such, nobody is asked."""
    by_id = {job.id: job for job in jobs}
    notes = NOTES.of(jobs)
    known = {note["token"]: by_id[note["job"]] for note in notes}
    waiting = []
    for there in [hub.Namespace(name) for name in sorted({note["namespace"] for note in notes})]:
        for one in there.find({}, hub.WAITING, hub.RUNNING, at_once=True):
            job = known.get(token := one.labels.get(TOKEN, ""))
            if job is not None and (words := held(job, token, one)):
                waiting.append((job, there, one, words))
    return waiting
