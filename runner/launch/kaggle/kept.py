"""What is remembered here of sessions of Kaggle that were begun from here, and what is done when one has ended: what it has
left is fetched, its data set deleted, its end written."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO

from last_e.text import plain
from runner import machine
from runner.errors import ClaimedError, DamagedObjectError, EngineError, LastrunError, UsageError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.launch.kaggle import parcel
from runner.launch.kaggle.account import Account, Seen, account
from runner.launch.notes import Notes
from runner.waits import WAITS

NOTES = Notes("kaggle", "job", "slug", "user", "folder", "pid", "data", "version")
"""Of each attempt: ``pid``, and in newer notes ``process``, are of who begins it; ``folder`` and ``before`` are ``1`` where its
job went along, and where its script had been pushed before; ``version`` is empty until it is known."""
_LOOK_SECONDS = 5 * WAITS.follow
ABSENT_SECONDS = 12 * WAITS.heartbeat
"""For how long it may say that there is no such session before that is believed."""
_seen: dict[str, tuple[float, Seen | None]] = {}
"""What was just answered of a session: whoever shows a job again and again does not ask every time."""


def claim(job: Job, token: str, about: dict[str, str], *, takeover: bool) -> None:
    """Write into the folder here that an attempt has the job, which cannot do so itself. It chooses the same number there.

    Raises:
        ClaimedError: somebody else is at it, and it is not to be taken over.
    """
    job = Job(job.store, job.id)  # as it is now
    inherited = [stored.name for stored in job.checkpoints.all()]
    attempt = Attempt(
        id=f"{job.attempts.next_number():04d}-{token}",
        machine="",
        pid=0,
        process="",
        started_at=time.time(),
        host="Kaggle",
        container=about,
        phase="running",
        began=True,
        inherited=inherited,
    )
    job.attempts.write(attempt)
    others = [one for one in Job(job.store, job.id).attempts.all() if one.id != attempt.id and job.attempts.alive(one)]
    if others and not takeover:
        withdraw(job, token)
        raise ClaimedError(f"{job.id} is being run by {others[-1]}; lastrun status -w {job.reference} follows it")


def withdraw(job: Job, token: str) -> None:
    """Take a claim back: no session has begun with it."""
    attempt = Job(job.store, job.id).attempts.of(token)
    if attempt is not None and attempt.open:
        attempt.phase, attempt.began, attempt.ended_at = "withdrawn", False, time.time()
        job.attempts.write(attempt)


def take_back(job: Job, token: str) -> str:
    """No session has begun: what was made for it goes. Returns the data set that may be left, if one may."""
    with suppress(LastrunError):
        withdraw(job, token)
    if (note := NOTES.read(token)) is None:
        return ""
    NOTES.write(token, **(note := {**note, "folder": "0"}))  # there is nothing to be fetched
    drop(token, note)
    return note["data"] if NOTES.read(token) is not None else ""


def let_go(token: str) -> None:
    """Nobody begins its session any more, which may have begun only just now: what came before that may have taken long."""
    if (note := NOTES.read(token)) is not None:
        NOTES.write(token, **{**note, "pid": ""})


def look(note: dict[str, str], *, anew: bool = False) -> Seen | None:
    """The session of a note; None: there is none.

    Raises:
        EngineError: nobody answers.
    """
    key = f"{note['slug']} {note['version']}"
    when, found = _seen.get(key, (0.0, None))
    if anew or not when or time.monotonic() - when > _LOOK_SECONDS:
        found = _owner(note).look(note["slug"], note["version"], at_once=True)
        _seen[key] = (time.monotonic(), found)
    return found


def settle(job: Job, attempt: Attempt) -> Attempt | None:
    """See :class:`~runner.launch.protocol.Launcher`."""
    token = str((attempt.container or {}).get("token"))
    note = NOTES.read(token)
    if note is None or is_being_begun(note):
        return attempt
    if note["folder"] != "1" and job.attempts.alive(attempt) and job.attempts.gave_a_sign(attempt, 3 * WAITS.heartbeat):
        return attempt
    if not is_over(token, note, found := look(note)):
        return attempt
    over(job, token, note, found)
    return job.attempts.again(attempt)


def is_over(token: str, note: dict[str, str], found: Seen | None) -> bool:
    """Whether the session of a note has ended, or was never begun. For a moment Kaggle may not know one that has begun: then it
    tells of none, or, where nobody has heard which version it is, of the one before."""
    if found is None or (not found.active and not note["version"] and note.get("before")):
        return not _is_new(token)
    return not found.active


def held(job: Job, token: str, found: Seen) -> str | None:
    """What keeps an attempt from its job whose session has not ended, in words; None: it has it.

    Raises:
        StoreError: that cannot be read.
    """
    if found.waits:
        return str(found)
    return None if job.attempts.of(token) is not None else f"{found} is being set up"


def over(job: Job, token: str, note: dict[str, str], found: Seen | None) -> int | None:
    """A session has ended: fetch what it has left, write the end that it could not write, remove what was made for it. Returns
    the exit code of the attempt, where the session has told it.

    Raises:
        EngineError: what it has left does not come yet; the same call goes on.
    """
    code = None
    with _alone(token) as there:
        if not there:  # somebody else has done it
            return None
        if note["folder"] == "1":
            code = _fetch(job, token, note, found)
        attempt = Job(job.store, job.id).attempts.of(token)
        if attempt is not None and attempt.open:
            how = "is there no more" if found is None else f"ended as {found.state}"
            why = f": {found.message}" if found is not None and found.message else ""
            job.attempts.write_lost(attempt, plain(f"its Kaggle session {note['user']}/{note['slug']} {how}{why}"))
        drop(token, note)
    return code


def drop(token: str, note: dict[str, str]) -> None:
    """The data set of an attempt goes, and then the note of it. What cannot be deleted now, or may only just be being made, is
    tried again by :func:`clean`."""
    if note["data"]:
        try:
            was_there = _owner(note).drop_data(note["data"])
        except LastrunError:
            return
        if not was_there and not note["version"] and _is_new(token):
            return
    NOTES.place(token).with_suffix(".part").unlink(missing_ok=True)
    NOTES.forget(token)


def clean() -> None:
    """Delete data sets whose session has ended, or was never begun."""
    for note in NOTES.all():
        if not note["data"]:
            continue
        token = note["token"]
        with suppress(LastrunError):
            if is_being_begun(note) or not is_over(token, note, look(note)):
                continue
            if note["folder"] == "1":  # what it has left is yet to be fetched, by who looks at its job
                _owner(note).drop_data(note["data"])
                with _alone(token) as there:
                    if there:
                        NOTES.write(token, **{**{name: value for name, value in note.items() if name != "token"}, "data": ""})
                continue
            drop(token, note)
    NOTES.sweep(keep=lambda note: bool(note.get("data")) or note.get("folder") == "1")


def where_to_press(job: Job) -> list[str]:
    """What to say of an attempt that hears of no request, since its job is not here but there. Who has taken the job from it
    does hear."""
    told = []
    for attempt in job.attempts.all()[-1:]:
        if attempt.open and attempt.launcher == "kaggle" and attempt.is_relayed:
            name = plain(str((attempt.container or {}).get("name")))
            told.append(
                f"{job.id} goes on: its Kaggle session {name} hears of no request, since its job is there, and Kaggle has no "
                f"call that ends one. {page_of(attempt)}, Cancel Run, ends it without what it has trained; else it saves and "
                "ends before its time is over, and whoever follows it begins no other"
            )
    return told


def page_of(attempt: Attempt) -> str:
    """Where people see its session, and end it."""
    user, _, slug = str((attempt.container or {}).get("name")).partition("/")
    return plain(Account(user).page(slug))


def _fetch(job: Job, token: str, note: dict[str, str], found: Seen | None) -> int | None:
    """What the session has left; None: nothing, and there will be nothing."""
    if found is None:
        return None
    there = _owner(note)
    name, record = parcel.names(token)
    files = there.output(note["slug"], note["version"])
    if name not in files or record not in files:
        if found.state == "COMPLETE" and note["version"]:  # it ends so only when it has written both
            raise EngineError(f"{found} has ended, and Kaggle does not show yet what it has left: try again in a minute")
        return None
    text = BytesIO()
    there.fetch(files[record], text)
    try:
        about = json.loads(text.getvalue())
        code = int(about["code"])
    except (ValueError, KeyError, TypeError):
        raise EngineError(f"{found} has left a record that this version does not understand: {parcel.NEWER}") from None
    part = NOTES.place(token).with_suffix(".part")
    with part.open("ab+") as file:
        file.seek(0, 2)
        there.fetch(files[name], file)
        try:
            parcel.join(job, token, about, file)
        except DamagedObjectError as error:
            file.truncate(0)
            raise EngineError(f"{found}: {error}; the next look fetches it anew") from None
    part.unlink(missing_ok=True)
    return code


def _is_new(token: str) -> bool:
    """Whether a session was begun a moment ago: that Kaggle does not know it says nothing yet."""
    with suppress(UsageError, OSError):
        return time.time() - NOTES.place(token).stat().st_mtime < ABSENT_SECONDS
    return False


def _owner(note: dict[str, str]) -> Account:
    """Whose session it is.

    Raises:
        EngineError: the key here is somebody else's.
    """
    mine = account()
    if mine.name != note["user"]:
        raise EngineError(f"Kaggle: the key here is that of {mine.name}, and the session is {note['user']}'s")
    return mine


def is_being_begun(note: dict[str, str]) -> bool:
    """Whether the command that has written the note is still at it, and nobody else has got its number since."""
    if note["version"] or not note["pid"]:
        return False
    try:
        found = machine.process_identity(int(note["pid"]))
    except ValueError:
        return True
    except machine.HiddenProcessError:
        return "process" not in note  # it is somebody else's; of who wrote the note more was seen
    return found is not None and found == note.get("process", found)


@contextmanager
def _alone(token: str) -> Iterator[bool]:
    """One process of this user at a time; False: it is over."""
    try:
        file = NOTES.place(token).open("rb")
    except (UsageError, OSError):
        yield False
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield NOTES.place(token).exists()
