"""An attempt as a session of Kaggle: a script that is pushed, with what it needs in data sets that nobody else sees."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, TextIO

from last_e.datafile import DataError, data_path, is_remote
from last_e.described import is_own
from last_e.redact import NAMED
from last_e.text import plain, seconds_text
from runner.attempt.data_check import check_data
from runner.errors import ClaimedError, EngineError, LastrunError, PausedError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.again import UnsureError
from runner.launch.heard import with_heard
from runner.launch.inside import ONLY
from runner.launch.kaggle import kept, parcel, terms
from runner.launch.kaggle.account import SHAPE, Account, Seen, account, is_on_this_network
from runner.launch.kaggle.kept import NOTES
from runner.launch.kaggle.session import JOB, PRIVATE
from runner.launch.kaggle.started import StartedThere
from runner.launch.protocol import Offer
from runner.launch.ssh.sent import of_this_machine
from runner.launch.ssh.wheel import Wheel, this_version
from runner.launch.together import see_to_all
from runner.launch.variables import authority, is_private, see_that_they_are_set, uses_buckets, values_elsewhere, wants_cpu
from runner.launchers import gpus_allowed
from runner.machine import process_identity
from runner.signals import interruptible
from runner.spec import JobSpec
from runner.store.uri import StoreUri
from runner.waits import VARIABLE

_LONGEST_SECONDS = 12 * 3600
"""Of a session, whoever asks for it."""
_NO_SECRETS = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_EC2_METADATA_DISABLED", "AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"),
)
"""They say where something is, and how it is asked, and stand in the script."""
_SHORT_LIVED = "AWS_SESSION_TOKEN"
"""Keys that live long have none."""

_HOW_DATA_GET_THERE = (
    "make a private data set of the prepared file at kaggle.com, name that with --set run.kaggle.datasets=[USER/NAME], and "
    "leave out data.uri; or put it into a bucket, and name it with its s3:// address"
)


class KaggleLauncher:
    """Starts sessions there. See :class:`~runner.launch.protocol.Launcher`."""

    runs_here = False

    def __init__(self, config: JobSpec) -> None:
        self._config = config

    def preflight(self, store: str) -> None:
        """It lets us, has GPUs left for us, and can reach the store and the data."""
        told: list[str] = []
        see_to_all(
            [
                self._see_what_is_asked,
                lambda: self._see_the_places(StoreUri.parse(store)),
                lambda: self._see_that_they_get_secrets(StoreUri.parse(store)),
                lambda: told.append(self._quota()),
            ]
        )
        sys.stderr.write(plain(f"Kaggle, {self._account.name}: {told[0]}\n"))
        if secrets := [] if self._config.run.kaggle.private_dataset else self._secrets(StoreUri.parse(store)):
            sys.stderr.write(
                f"Kaggle: a push attaches no secrets, so the session ends at once for want of {', '.join(secrets)}; attach "
                "them then in its page (Edit, Add-ons, Secrets), and Save Version, Save & Run All there begins it. "
                "--yes-private-dataset puts them into a private data set, which is deleted when it ends (docs/kaggle.md)\n"
            )

    def start(self, job: Job, arguments: list[str], token: str, *, output: TextIO | None) -> StartedThere:
        """The script holds no secret: what is one is attached to it there, or lies in a private data set of this attempt."""
        there, slug = self._account, slug_of(job.id)
        left = f"{job.id}: interrupted before its attempt began; lastrun resume {job.reference} begins it"
        with interruptible(left), _one_at_a_time():
            uri, _ = StoreUri.parse(job.uri).parent()
            folder = uri.scheme == "file"
            seen = there.look(slug)
            if folder or "--takeover" not in arguments:  # with a bucket the claim decides which of both has the job
                self._see_that_none_is_at_it(job, seen)
            self._quota()  # of one that is gone on with some was used
            private = self._private(job, uri)
            data = f"lastrun-{token}" if private else ""
            note = {"job": job.id, "slug": slug, "user": there.name, "folder": str(int(folder)), "pid": str(os.getpid())}
            note |= {"process": process_identity(os.getpid()) or "", "data": data, "before": "" if seen is None else "1"}
            asked = self._asked(job.uri, arguments if folder else with_heard(job, arguments), token) | {
                **self._see_that_the_code_is_there(),
                "job": job.id,
                "authority": authority(uri).get("authority", ""),
                "parcel": hashlib.sha256(private[JOB]).hexdigest() if folder else "",
                "private": PRIVATE in private,
            }
            NOTES.write(token, **note, version="")  # first: it is never forgotten
            if private and NOTES.read(token) is None:
                raise EngineError(
                    "launcher kaggle: no note of its private data set can be kept in your data folder (no home, or no room): "
                    "nothing was begun"
                )
            if folder:
                try:  # nobody else begins it here while it is uploaded
                    kept.claim(job, token, asked["about"], takeover="--takeover" in arguments)
                except LastrunError:
                    NOTES.forget(token)
                    raise
            is_pushed = False
            try:
                if private:
                    there.put_data(data, private)
                is_pushed = True
                version = there.push(
                    slug,
                    script(asked),
                    gpu=not wants_cpu(self._config),
                    seconds=self._limit,
                    datasets=[*self._datasets(asked["dataset"], data), *self._config.run.kaggle.datasets],
                )
            except BaseException as error:
                _take_back(there, slug, job, token, error, is_pushed=is_pushed)
            NOTES.write(token, **note, version=version)
        sys.stderr.write(f"Kaggle session {there.name}/{slug}: {there.page(slug)}\n")
        return StartedThere(job, there, slug, version, token, output)

    def order(self, store: str, name: str) -> dict[str, str]:
        """Its session there."""
        uri, job_id = StoreUri.parse(store), f"{name}-DATE-CODE"
        folder = uri.scheme == "file"
        private = "lastrun-TOKEN" if folder or self._config.run.kaggle.private_dataset else ""
        gpu = f"{SHAPE} (two T4)" if not wants_cpu(self._config) else "none"
        names = self._secrets(uri)
        where = "in the private data set" if private and (folder or names) else "attached to the script at Kaggle"
        datasets = [*self._datasets(_code_name(this_version()), private), *self._config.run.kaggle.datasets]
        return {
            "account": self._account.name,
            "session": f"{slug_of(job_id)}, private, with Internet",
            "accelerator": gpu,
            "timeout": f"{self._limit} s",
            "data sets": ", ".join(datasets),
            "command": shlex.join(["lastrun", "attempt", str(uri.child(job_id)), *self._attempt("TOKEN")]),
            "secrets": f"{', '.join(names)} ({where})" if names else "none",
        }

    @staticmethod
    def settle(job: Job, attempt: Attempt) -> Attempt | None:
        """Only if this user has started that very attempt from here; what a session has left is fetched."""
        return kept.settle(job, attempt)

    @staticmethod
    def waits(job: Job) -> str | None:
        """What waits for a machine there, of what was started from here, and where it is taken back."""
        return next((words for _, words in _waiting([job])), None)

    @staticmethod
    def waiting(jobs: Sequence[Job]) -> list[Job]:
        """The same of several."""
        return [job for job, _ in _waiting(jobs)]

    @staticmethod
    def withdraw(job: Job) -> str | None:
        """Kaggle has no call for it: who stops a job has what waits leave as soon as it begins."""
        return None

    @staticmethod
    def ready() -> str:
        """Whose key it is."""
        return f"sessions of {account().name}; lastrun gpus tells how much of this week's quota is left"

    @staticmethod
    def clean() -> None:
        """Data sets whose session has ended go, and notes of long ago."""
        kept.clean()

    @staticmethod
    def places(job: Job, attempts: list[Attempt]) -> set[Path]:
        """None: what was there went with the session."""
        return set()

    @staticmethod
    def offers() -> list[Offer]:
        """Its two kinds of session."""
        return terms.offers()

    @cached_property
    def _account(self) -> Account:
        return account()

    @property
    def _limit(self) -> int:
        """Seconds after which a session is ended there."""
        return terms.limit_of(self._config)

    def _attempt(self, token: str) -> list[str]:
        return ["--token", token]

    def _asked(self, job_uri: str, arguments: list[str], token: str) -> dict[str, Any]:
        """What the script is told. Nothing of it is secret."""
        uri, job_id = StoreUri.parse(job_uri).parent()
        folder = uri.scheme == "file"
        about = {"launcher": "kaggle", "what": "Kaggle session", "token": token}
        about["name"] = f"{self._account.name}/{slug_of(job_id)}"
        about |= {} if wants_cpu(self._config) else {"device": "cuda"}
        about |= {"relay": "1"} if folder else {}
        values = {**values_elsewhere(uri, self._config), **os.environ}  # a region may stand in boto3's own file
        open_values = {name: values[name] for name in (*_NO_SECRETS, VARIABLE, NAMED) if values.get(name)}
        return {
            "about": about,
            "uri": "" if folder else job_uri,
            "arguments": [*self._attempt(token), *arguments],
            "limit": self._limit,
            "variables": open_values,
            "secrets": self._secrets(uri),
            "if_attached": [_SHORT_LIVED] if uses_buckets(self._config, uri) else [],
        }

    def _secrets(self, uri: StoreUri) -> list[str]:
        """Names of what the attempt needs and nobody else may see. Keys that are attached may be others than those here."""
        names = [*values_elsewhere(uri, self._config), *self._config.named_variables()]
        open_ = _NO_SECRETS if self._config.run.kaggle.private_dataset else (*_NO_SECRETS, _SHORT_LIVED)
        return [name for name in dict.fromkeys(names) if name not in (*open_, NAMED)]

    def _private(self, job: Job, uri: StoreUri) -> dict[str, bytes]:
        """The files of the attempt's own data set."""
        found = {JOB: parcel.pack(job)} if uri.scheme == "file" else {}
        if self._config.run.kaggle.private_dataset and self._secrets(uri):
            values = values_elsewhere(uri, self._config)
            found[PRIVATE] = json.dumps({name: value for name, value in values.items() if name not in _NO_SECRETS}).encode()
        return found

    def _datasets(self, code: str, own: str) -> list[str]:
        return [f"{self._account.name}/{name}" for name in (code, own) if name]

    def _see_that_the_code_is_there(self) -> dict[str, str]:
        """This very lastrun as a private data set of this user's, made once; too large to stand in the script."""
        wheel = this_version()
        dataset = _code_name(wheel)
        if not self._account.has_data(dataset):
            where = f"data set {self._account.name}/{dataset}"
            sys.stderr.write(plain(f"Kaggle: putting this version of lastrun into {where}, once\n"))
            self._account.put_data(dataset, {wheel.name: wheel.data})
        digest = hashlib.sha256(wheel.data).hexdigest()
        return {"wheel": wheel.name, "dataset": dataset, "sha256": digest, "code": wheel.code}

    def _see_that_none_is_at_it(self, job: Job, seen: Seen | None) -> None:
        if seen is not None and seen.waits:
            raise ClaimedError(f"{job.id}: {seen}; only its page takes it back: {page_of(seen)}, Cancel Run")
        if seen is not None and seen.active:
            raise ClaimedError(
                f"{job.id} is being run by {seen}; lastrun status -w {job.reference} follows it: {page_of(seen)}"
            )

    def _see_what_is_asked(self) -> None:
        if allowed := gpus_allowed("kaggle", self._config.run.gpus):
            raise UsageError(f"run.gpus: found {self._config.run.gpus}; allowed: {allowed}")
        if self._config.run.container is not None:
            raise UsageError(ONLY.format(self._config.run.container, "kaggle"))
        if self._config.env not in (None, "auto", "kaggle", "local"):
            raise UsageError(f"env: found {self._config.env}; allowed with launcher kaggle: kaggle, auto")
        if self._limit > _LONGEST_SECONDS:
            found = seconds_text(self._limit)
            raise UsageError(f"hardware.session_limit: found {found}; Kaggle ends a session after 12 h: at most 12h")
        see_that_they_are_set(self._config)

    def _see_the_places(self, store: StoreUri) -> None:
        """What a session can reach."""
        endpoint = store.options.get("endpoint_url", "")
        if is_private(endpoint) and not is_on_this_network():
            raise UsageError(f"store {store}: {endpoint} is an address of this network alone, which is not reached from there")
        if (data := of_this_machine(self._config)) is not None:
            if is_own(self._config.dataset):
                name = f"name it without a folder (dataset: {self._config.dataset}, with a copy here in hardware.data_root)"
                raise UsageError(
                    f"dataset: {data.path} is not there: {_HOW_DATA_GET_THERE.replace('leave out data.uri', name)}"
                )
            raise UsageError(f"data.uri: {data.path} is not there: {_HOW_DATA_GET_THERE}")
        if not is_remote(self._config.data.uri):
            try:
                data_path(self._config)
            except DataError:  # it is looked for there, below /kaggle/input
                if not self._config.run.kaggle.datasets:
                    raise UsageError(f"data: no data set has {self._config.dataset}: {_HOW_DATA_GET_THERE}") from None
                return
        check_data(self._config)

    def _see_that_they_get_secrets(self, store: StoreUri) -> None:
        """What has to be attached in a session's page cannot be where the job goes along, or where sessions begin by
        themselves, when the one before has ended."""
        if self._config.run.kaggle.private_dataset or not (secrets := self._secrets(store)):
            return
        most, hands = self._config.run.auto_continue, "--yes-private-dataset hands them over"
        if store.scheme == "file":
            raise UsageError(
                f"store {store}: a session needs {', '.join(secrets)}, which nobody can attach in its page where the store "
                f"is a folder here and the job goes along: {hands}, or take a bucket (--store s3://BUCKET/PREFIX)"
            )
        if most:
            raise UsageError(
                f"run.auto_continue: found {most}; a session finds {', '.join(secrets)} only once you have attached them to it "
                f"in its page, so none goes on by itself: {hands}, --set run.auto_continue=0 does without others"
            )

    def _quota(self) -> str:
        return terms.quota_of(self._config, self._account)


def _code_name(wheel: Wheel) -> str:
    """Of the data set that has this very wheel, to the byte."""
    return f"lastrun-code-{hashlib.sha256(wheel.data).hexdigest()[:12]}"


def slug_of(job_id: str) -> str:
    """What a job's sessions are called there; Kaggle takes fifty characters."""
    return "lastrun-" + re.sub("-+", "-", job_id)[-42:].strip("-")


def page_of(seen: Seen) -> str:
    """Where people see a session."""
    user, _, slug = seen.name.partition("/")
    return Account(user).page(slug)


def script(asked: dict[str, Any]) -> str:
    """The one file that is pushed."""
    source = files("runner.launch.kaggle").joinpath("begin.py").read_text("utf-8")
    return f"{source}\n\nmain(json.loads({json.dumps(asked)!r}))\n"


def _take_back(there: Account, slug: str, job: Job, token: str, error: BaseException, *, is_pushed: bool) -> NoReturn:
    """A push cannot be called back, and for a moment Kaggle may not know what has begun with it: what was made for it goes only
    where there was none.

    Raises:
        BaseException: the error, and what is left, if something is.
    """
    interrupted, told = not isinstance(error, LastrunError), ""
    if is_pushed and (interrupted or isinstance(error, UnsureError)):
        kept.let_go(token)
        told = f"{_what_began(there, slug)}; lastrun status {job.reference} tells the rest"
    elif left := kept.take_back(job, token):
        told = f"data set {there.name}/{left}, should Kaggle have it, goes with the next start"
    if not told:
        raise error
    if interrupted:
        raise PausedError(f"{job.id}: interrupted while its session was begun; {told}") from None
    raise EngineError(f"{error}; {told}") from None


def _what_began(there: Account, slug: str) -> str:
    """With a push of which nobody has heard what became of it, in words."""
    with suppress(LastrunError):
        if (seen := there.look(slug)) is not None and seen.active:
            return f"it was pushed all the same, and only its page ends it: {there.page(slug)}, Cancel Run ({seen})"
    return f"it may have been pushed all the same: {there.page(slug)}"


def _waiting(jobs: Sequence[Job]) -> list[tuple[Job, str]]:
    """What waits of these jobs, is being begun, or is set up and has not claimed its job yet, of what this user has started
    from here, and where it is taken back; without such, nobody is asked."""
    by_id, held = {job.id: job for job in jobs}, []
    notes = [note for note in NOTES.all() if note["job"] in by_id]
    begun = [note for note in notes if not kept.is_being_begun(note)]
    for note in [note for note in notes if note not in begun]:
        words = f"Kaggle session {note['user']}/{note['slug']} is being begun by process {note['pid']}"
        held.append((by_id[note["job"]], words))
    for note, seen in [(note, kept.look(note)) for note in begun]:
        job, token = by_id[note["job"]], note["token"]
        if seen is not None and kept.is_over(token, note, seen):  # nobody has followed it to its end
            with suppress(LastrunError):
                kept.over(job, token, note, seen)
        elif seen is not None and seen.active and (why := kept.held(job, token, seen)):
            held.append((job, f"{why} ({page_of(seen)}, Cancel Run, takes it back)"))
    return held


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two commands of this user begin no two sessions of one job."""
    try:
        place = NOTES.place("x").with_name("begin.lock")
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = place.open("w")
    except (UsageError, OSError):  # no home folder: the claim decides
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
