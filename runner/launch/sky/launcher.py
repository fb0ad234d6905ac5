"""An attempt on a machine of a cloud that is asked of SkyPilot: there for it alone, and given back when it is over."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from last_e.text import plain
from runner.attempt.data_check import check_data
from runner.errors import ClaimedError, EngineError, LastrunError, PausedError, UsageError
from runner.job.attempts import Attempt
from runner.job.cost import DOLLARS, PAID_SINCE, spent
from runner.job.job import Job
from runner.launch import bill
from runner.launch.brought.sent import ADDRESS, CODE, Parcel
from runner.launch.followed import SILENCE_SECONDS
from runner.launch.heard import with_heard
from runner.launch.inside import ONLY
from runner.launch.protocol import Offer, Rented
from runner.launch.sky import terms
from runner.launch.sky.engine import (
    NO_CLOUD,
    NO_SKYPILOT,
    NOTES,
    PREFIX,
    FullError,
    InfeasibleError,
    KeysError,
    Seen,
    SilentError,
    ended_by,
    is_set_up,
    python,
    sky,
)
from runner.launch.sky.started import StartedThere
from runner.launch.ssh.sent import of_this_machine
from runner.launch.together import see_to_all
from runner.launch.variables import is_private, see_that_they_are_set, values_elsewhere
from runner.launchers import gpus_allowed
from runner.machine import HiddenProcessError, identity, process_identity
from runner.signals import interruptible
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import WAITS

IDLE_MINUTES = 2
"""After which a machine that does nothing is given back by itself: also when nobody is there to take it down."""
_ROUNDS = 6
"""How often all kinds of machines are asked for, where there is none of any."""
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 15 * WAITS.follow, 300 * WAITS.follow
"""Between two of these: at first, and at most. Each is twice the one before."""
_LOOK_SECONDS = WAITS.follow / 2
_GRACE_SECONDS = 300
"""What an attempt may take to save when its time is over, before its machine ends it."""


class SkyLauncher:
    """Starts machines there. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = False

    def __init__(self, config: JobSpec) -> None:
        self._config = config

    def preflight(self, store: str) -> None:
        """There is such a machine at that price, and it can reach the store and the data."""
        see_to_all([self._see_what_is_asked, lambda: self._see_the_places(StoreUri.parse(store)), self._see_the_price])
        check_data(self._config)

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedThere:
        """Ask for one kind of machine after the other, until there is one."""
        for one in sky().clusters():
            if one.job == job.id and "--takeover" not in arguments:  # then the claim decides which of both has the job
                seen = sky().look(one.name)
                if seen.runs:
                    more = f"lastrun stop {job.reference} takes it back" if seen.waits else f"lastrun status -w {job.reference}"
                    told = f"{seen}; {more}" if seen.waits else f"is being run by {seen}; {more} follows it"
                    raise ClaimedError(f"{job.id}{':' if seen.waits else ''} {told}")
        name, began, arguments = f"{PREFIX}{job.id}-{token}", time.time(), with_heard(job, arguments)
        left = f"{job.id}: interrupted before its attempt began; lastrun resume {job.reference} begins it"
        with interruptible(left):
            _note(job, name, is_there=False)  # first: it is never forgotten
            with _given_back(job, name):
                machine = self._get_one(job, name, arguments, lambda one: self._task(job, arguments, token, one, began))
            _note(job, name, is_there=True)
        sys.stderr.write(plain(f"SkyPilot cluster {name}: {machine}; {ended_by(name)} ends it\n"))
        return StartedThere(job, name, token, output)

    def order(self, store: str, name: str) -> dict[str, str]:
        """The task's own values, and what its first machine costs, once SkyPilot has taken it in a dry run of its own."""
        uri, job_id = StoreUri.parse(store), f"{name}-DATE-CODE"
        cluster, machine = f"{PREFIX}{job_id}-TOKEN", self._machines[0]
        seconds = bill.seconds_of(self._config, machine, 0.0)
        secrets = [*values_elsewhere(uri, self._config), ADDRESS]
        task = self._asked(machine, seconds, {}, dict.fromkeys(secrets, "-"))  # it takes them, and need not know them
        sky().dry_run(task, cluster, IDLE_MINUTES)
        asked = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in task["resources"].items()}
        dearer = ", ".join(map(str, self._machines[1:]))
        return {
            "cluster": cluster,
            **{f"resources.{key}": value for key, value in asked.items()},
            "price": f"{machine.dollars:.2f} USD an hour, {machine.dollars * seconds / 3600:.2f} USD at most",
            **({"else": dearer} if dearer else {}),
            "autostop": f"down after {IDLE_MINUTES} idle minutes",
            "run": task["run"],
            "command": shlex.join(["lastrun", "attempt", *self._attempt(str(uri.child(job_id)), "TOKEN", seconds)]),
            "secrets": ", ".join(secrets),
        }

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """Only of one that gives no sign SkyPilot is asked, and only if this user has started that very attempt from here. What
        is left of its machine is given back."""
        token = str((attempt.container or {}).get("token"))
        note = NOTES.read(token)
        if note is None or (job.attempts.alive(attempt) and job.attempts.gave_a_sign(attempt, 3 * WAITS.heartbeat)):
            return attempt
        found = sky().look(note["cluster"])
        if found.runs:
            return attempt
        current = job.attempts.again(attempt)
        if current is not None and current.open:
            job.attempts.write_lost(current, plain(f"its SkyPilot cluster {found.name} {found.end}"))
        if found.state != "gone":
            sky().down(found.name)
        NOTES.forget(token)
        return current

    @staticmethod
    def waits(job: Job) -> str | None:
        """What is being set up of what was started from here."""
        found = _waiting([job])
        return str(found[0][1]) if found else None

    @staticmethod
    def waiting(jobs: Sequence[Job]) -> list[Job]:
        """The same of several."""
        return [job for job, _ in _waiting(jobs)]

    @staticmethod
    def withdraw(job: Job) -> str | None:
        """Give back what is being set up. Who is between two requests for a machine, or may be, looks for ours in the store."""
        taken = None
        for _, found in _waiting([job]):
            if sky().down(found.name) or found.state != "asked":
                NOTES.forget(found.name[-8:])
                taken = f"SkyPilot cluster {found.name}"
        return taken

    @staticmethod
    def ready() -> str:
        """By SkyPilot's own records: its server is not started for that."""
        if python() is None:
            raise EngineError(NO_SKYPILOT)
        if not is_set_up():
            raise UsageError(NO_CLOUD)
        return "SkyPilot has a cloud to rent from, by its records; sky check asks each, lastrun gpus tells the prices"

    @staticmethod
    def clean() -> None:
        """Machines whose attempt is over are given back, wherever they were started from, and those that have been made for so
        long that nothing will come of it. One of which something is missing may still run its attempt."""
        for one in sky().clusters():
            found = sky().look(one.name)
            over = found.state == "STOPPED" or (found.state == "UP" and found.job is not None and not found.runs)
            if over or (found.waits and time.time() - one.since > bill.SET_UP_SECONDS):
                sky().down(one.name)
                NOTES.forget(one.token)
        NOTES.sweep()

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """None: what was there went with the machine."""
        return set()

    @staticmethod
    def offers() -> list[Offer]:
        """Of all clouds that are set up."""
        return terms.offers()

    @staticmethod
    def rented() -> list[Rented]:
        """By the names that lastrun's clusters have."""
        return terms.rented()

    @cached_property
    def _machines(self) -> list[terms.Machine]:
        """Those that will do and that SkyPilot's optimizer finds, too: a catalogue may list what a cloud does not take."""
        found, why = terms.machines(self._config), ""
        for number, machine in enumerate(found):
            try:
                sky().see_that_it_is_feasible({"run": "true", "resources": machine.resources(self._config)})
                return found[number:]
            except InfeasibleError as error:
                why = why or str(error)
        others = [one for one in terms.everything() if one not in found and one.number == found[0].number]
        near = ", ".join(map(str, others[:3]))
        raise UsageError(
            f"run.resources: SkyPilot finds no machine for {terms.wanted(self._config)} ({why})"
            + (f"; the nearest are {near}" if near else "")
        )

    def _get_one(
        self, job: Job, name: str, heard: Collection[str], task: Callable[[terms.Machine], dict[str, Any]]
    ) -> terms.Machine:
        """The first kind of which there is one; after all kinds a pause, and so on for a while. A cloud that does not take our
        keys is not asked again. Requests to stop that are not ``heard`` of are looked for each time.

        Raises:
            EngineError: there is none, or it cannot be set up.
            PausedError: somebody has asked to stop.
        """
        paid = 0.0 if self._config.run.max_cost is None else spent(job)
        there = [one for one in self._machines if bill.pays_for(self._config, one, paid)] or self._machines[:1]
        pause, why, closed = _PAUSE_SECONDS, "", set[str]()
        for number in range(_ROUNDS):
            for machine in there:
                if machine.cloud in closed:
                    continue
                if job.requests.new(heard):
                    told = "stopped before its attempt began"
                    raise PausedError(f"{job.id}: {told}; lastrun resume {job.reference} begins it")
                _note(job, name, is_there=False)
                try:
                    _wait_for(sky().launch(task(machine), name, IDLE_MINUTES))
                    return machine
                except (FullError, InfeasibleError) as error:
                    why = str(error)
                    told = f"there is no {machine} now ({why})"
                except KeysError as error:
                    closed.add(machine.cloud)
                    told = why = f"{machine.cloud} does not take its keys ({error}): sky check {machine.cloud} tells more"
                except EngineError as error:
                    raise EngineError(f"{error}. {self._what_then(job)}") from None
                sys.stderr.write(plain(f"SkyPilot: {told}\n"))
                sky().down(name)
            if all(one.cloud in closed for one in there):
                break
            if number + 1 < _ROUNDS:
                sys.stderr.write(f"SkyPilot: none of them is to be had; asked again in {pause:.0f} s\n")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        raise EngineError(
            f"no machine is to be had: {why}. lastrun resume {job.reference} asks again; --set run.resources.cloud=NAME or "
            "run.resources.gpu=NAME asks for another (lastrun gpus lists them)"
        )

    def _what_then(self, job: Job) -> str:
        """After a machine that could not be set up."""
        image = self._config.run.image
        other = f" ({image} is the image that it was to run: can it be pulled there?)" if image else ""
        return f"lastrun resume {job.reference} asks for another machine{other}"

    def _attempt(self, job_uri: str, token: str, seconds: int) -> list[str]:
        """What it is told; its machine was chosen for its profile, whatever it looks like from within."""
        return [*bill.arguments(self._config, job_uri, token, seconds), "--here"]

    def _task(self, job: Job, arguments: list[str], token: str, machine: terms.Machine, began: float) -> dict[str, Any]:
        """For one attempt of a job."""
        seconds = bill.seconds_left(self._config, machine, job, "SkyPilot")
        uri, _ = StoreUri.parse(job.uri).parent()
        about = {"launcher": "sky", "what": "SkyPilot cluster", "name": f"{PREFIX}{job.id}-{token}", "token": token}
        about |= {DOLLARS: f"{machine.dollars:g}", PAID_SINCE: f"{began:.0f}"}
        told = [*self._attempt(job.uri, token, seconds), *(word for word in arguments if word != "--here")]
        parcel = Parcel(job, self._config, about, told)
        secrets = {**values_elsewhere(uri, self._config), ADDRESS: parcel.address()}
        return self._asked(machine, seconds, parcel.variables(), secrets)

    def _asked(self, machine: terms.Machine, seconds: int, envs: dict[str, str], secrets: dict[str, str]) -> dict[str, Any]:
        """As SkyPilot's YAML has it. All is done by ``run``: a machine whose ``setup`` fails is not given back."""
        resources = machine.resources(self._config)
        return {"name": "lastrun", "resources": resources, "envs": envs, "secrets": secrets, "run": _script(seconds)}

    def _see_what_is_asked(self) -> None:
        run = self._config.run
        if allowed := gpus_allowed("sky", run.gpus):
            raise UsageError(f"run.gpus: found {run.gpus}; allowed: {allowed}")
        if run.gpus == 0 and run.resources.gpu is None:
            raise UsageError(
                "run.gpus: found 0; launcher sky rents machines for their GPU: leave it out, or say which with "
                "--set run.resources.gpu=NAME, whose CPU is used then"
            )
        if run.container is not None:
            raise UsageError(ONLY.format(run.container, "sky"))
        see_that_they_are_set(self._config)

    def _see_the_places(self, store: StoreUri) -> None:
        """What a machine of a cloud can reach."""
        if store.scheme == "file":
            raise UsageError(
                f"store {store}: a folder of this machine is not there: take a bucket (--store s3://BUCKET/PREFIX)"
            )
        endpoint = store.options.get("endpoint_url", "")
        if is_private(endpoint) and not is_private(os.environ.get("SKYPILOT_API_SERVER_ENDPOINT", "")):
            raise UsageError(f"store {store}: {endpoint} is an address of this network alone, which is not reached from there")
        if (data := of_this_machine(self._config)) is not None:
            raise UsageError(f"data.uri: {data.path} is not there: put it into the bucket, and name it with its s3:// address")

    def _see_the_price(self) -> None:
        """Told before it is paid."""
        sys.stderr.write(plain(f"SkyPilot: {terms.price_of(self._config, self._machines)}\n"))


def _script(seconds: int) -> str:
    """What the machine runs: no longer than it is paid for, whatever becomes of the attempt."""
    limit = f"timeout --kill-after={_GRACE_SECONDS} {seconds}"
    return f'exec {limit} "$(command -v python || command -v python3)" -I -c "{CODE}"'


def _wait_for(request: str) -> None:
    """Until SkyPilot has carried it out; its server goes on with it while it cannot be reached from here.

    Raises:
        LastrunError: it cannot be.
    """
    silent_since: float | None = None
    try:
        while True:
            try:
                if sky().is_done(request):
                    return
                silent_since = None
            except SilentError as error:
                if silent_since is None:
                    silent_since = time.monotonic()
                    sys.stderr.write(f"{error}; the machine is made all the same\n")
                if time.monotonic() - silent_since > SILENCE_SECONDS:
                    raise
            time.sleep(_LOOK_SECONDS)
    except (FullError, InfeasibleError, KeysError):
        raise
    except BaseException:
        with suppress(LastrunError):
            sky().cancel(request)
        raise


@contextmanager
def _given_back(job: Job, name: str) -> Iterator[None]:
    """Where it comes to nothing, no machine is left to cost money; where that cannot be seen to, what ends it is told."""
    try:
        yield
    except BaseException as error:
        sys.stderr.write(f"SkyPilot: cluster {name} is taken down; if this is interrupted, {ended_by(name)} does it\n")
        why = str(error) or "interrupted"
        try:
            there = sky().down(name)
        except LastrunError as another:
            raise EngineError(f"{why}; its machine may be left ({another}): {ended_by(name)}") from None
        if not there and name in sky().unheard:
            then = f"{ended_by(name)} ends it then, and so does lastrun stop {job.reference}"
            raise EngineError(f"{why}; its machine may come up all the same: {then}") from None
        NOTES.forget(name[-8:])
        raise


def _note(job: Job, name: str, *, is_there: bool) -> None:
    """Remember a cluster, and since when it is being asked for, by which process."""
    by = {"machine": identity(), "pid": f"{os.getpid()}", "process": process_identity(os.getpid()) or ""}
    asked = {} if is_there else {"asked": f"{time.time():.0f}", **by}
    NOTES.write(name[-8:], job=job.id, cluster=name, **asked)


def _waiting(jobs: Sequence[Job]) -> list[tuple[Job, Seen]]:
    """What is being asked for or set up of these jobs, of what this user has started from here; without such, nobody is asked.
    Between two kinds of machines there is no cluster: whoever is still at it is known by the process; where that is gone, or
    cannot be seen from here, SkyPilot may still have the request."""
    by_id = {job.id: job for job in jobs}
    notes = [note for note in NOTES.all() if note["job"] in by_id and by_id[note["job"]].attempts.of(note["token"]) is None]
    if not notes or python() is None:
        return []
    there = {one.name for one in sky().clusters()}
    seen = [(note, _how_it_waits(note, there)) for note in notes]
    return [(by_id[note["job"]], Seen(note["cluster"], state, None, False)) for note, state in seen if state is not None]


def _how_it_waits(note: dict[str, str], there: set[str]) -> str | None:
    if note["cluster"] in there and (found := sky().look(note["cluster"])).state != "gone":
        return "INIT" if found.runs else None
    if time.time() - float(note.get("asked", 0)) >= bill.SET_UP_SECONDS:
        return None
    return None if _has_left(note) and not sky().is_asked_for(note["cluster"]) else "asked"


def _has_left(note: dict[str, str]) -> bool:
    """Whether the process that asks for a cluster is seen to have ended."""
    if note.get("machine") != identity() or not note.get("pid", "").isdecimal():
        return False
    try:
        return process_identity(int(note["pid"])) != note.get("process")
    except HiddenProcessError:
        return False
