"""A job whose store can only be read is copied whole into one that can be written, and goes on there; never an older state."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from last_e.manifest import MANIFEST, Manifest, describe_file
from runner.errors import ClaimedError, NoSuchJobError, State, StoreError, UsageError
from runner.job.attempts import Attempt
from runner.job.carry import carry, home_of, newer, refuse_running
from runner.job.find import find_job, list_jobs, store_with_jobs
from runner.job.job import Job
from runner.job.lease import claim
from runner.job.paths import INDEX, checkpoint_name
from runner.job.pull import pull_checkpoint
from runner.job.steps import Steps
from runner.launch.approve import approve
from runner.launch.local import LocalLauncher
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.trust import Trust, UntrustedError, see_that_nothing_is_gained
from runner.view.status import job_status, summaries
from tests.ceph import Ceph

CONFIG = {"model.variant": "nano_e_v3", "dataset": "synthetic", "split_type": "xsub", "env": "local", "training.epochs": 9}
Mount = Callable[[Path, Path], Path]


@pytest.fixture
def read_only() -> Iterator[Mount]:
    """Shows a folder in another place, where it can only be read, also by root."""
    mounted: list[Path] = []

    def mount(folder: Path, place: Path) -> Path:
        place.mkdir(parents=True)
        done = subprocess.run(["mount", "--bind", folder, place], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"a folder cannot be mounted to be read only here: {done.stderr.strip()}")
        mounted.append(place)
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def made(tmp_path: Path) -> Job:
    """A job that was killed in its second attempt, as the machine that trained it has it."""
    job = Job.create(DirectoryStore(tmp_path / "made"), "far", CONFIG, {}, "0", b"weights")
    attempt(job, 1, "preempted", 10)
    attempt(job, 2, None, 20)
    return job


@pytest.fixture
def attached(made: Job, read_only: Mount, tmp_path: Path) -> Job:
    """The same, seen by another machine that can only read it."""
    return Job(DirectoryStore(read_only(made.store.root, tmp_path / "input" / "first")), made.id)


@pytest.fixture
def home(attached: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("LASTRUN_STORE", str(tmp_path / "home"))
    return home_of(attached)


def attempt(job: Job, number: int, reason: str | None, step: int, token: str = "aaaaaaaa") -> Attempt:
    """One that has trained to a step, saved there, and ended for a reason, or for none."""
    phase = "running" if reason is None else "ended"
    one = Attempt(f"{number:04d}-{token}", "elsewhere", 1, "1", time.time(), phase=phase, reason=reason, began=True)
    one.inherited = [stored.name for stored in job.checkpoints.all()]
    job.attempts.write(one)
    job.attempts.write_heartbeat(one, {"step": step})
    job.store.put(job.paths.log(one.id, 1), f"to step {step}\n".encode())
    line = {
        "epoch": step // 10,
        "step": step,
        "lr": 0.1,
        "train_loss": 1.0,
        "test_loss": 1.0,
        "test_top1": 0.5,
        "test_top5": 0.9,
    }
    job.store.put(job.paths.metrics(one.id), json.dumps(line).encode())
    job.store.put(job.paths.steps(one.id, 1), json.dumps({"step": step, "epoch": step / 10}).encode())
    checkpoint(job, one, step)
    return one


def checkpoint(job: Job, by: Attempt, step: int) -> None:
    folder = job.store.root.parent / "checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "state.pt").write_text(f"step {step}")
    manifest = Manifest(step=step, epoch=1, evaluated=False, files={"state.pt": describe_file(folder / "state.pt")})
    name = checkpoint_name(manifest, by.id)
    job.store.put_file(job.paths.checkpoint(name, "state.pt"), folder / "state.pt")
    job.store.put(job.paths.checkpoint(name), manifest.to_json().encode())


def told(job: Job) -> tuple[object, ...]:
    """What people see of a job, but for the attempt whose end nobody knows."""
    return (
        job.store.get(job.paths.init),
        job.record(),
        job.metrics(),
        Steps(job).read(),
        "".join(job.log()),
        [stored.name for stored in job.checkpoints.all()],
    )


def test_what_is_copied_is_the_whole_job_and_can_be_gone_on_with(attached: Job, home: Job) -> None:
    assert newer(home, attached) is attached
    said: list[str] = []
    seen: list[tuple[str, int]] = []

    @contextmanager
    def watch(folder: Path, of: str, size: int) -> Iterator[None]:
        assert list(folder.iterdir()) == []
        yield
        seen.append((of, size - sum(path.stat().st_size for path in folder.iterdir() if path.name != MANIFEST)))

    copy = carry(attached, home, said.append, watch)
    assert told(copy) == told(attached)
    assert seen == [(stored.name, 0) for stored in attached.checkpoints.all()]
    assert [job.id for job in list_jobs(copy.store)] == [attached.id]
    assert [one.phase for one in copy.attempts.all()] == ["ended", "lost"]
    assert copy.state()[0] is State.LOST  # though its heartbeat has just been copied
    assert claim(copy).number == 3
    assert said == [
        f"copying {attached.id} from {attached.store.uri}, which can only be read, to {home.store.uri}",
    ]


@pytest.mark.xdist_group("ceph")
def test_a_bucket_takes_it_as_a_folder_does(made: Job, attached: Job, ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ceph.credentials(), "LASTRUN_STORE": ceph.uri("jobs/carried")}.items():
        monkeypatch.setenv(name, value)
    home = home_of(attached)
    assert home.store.uri.startswith("s3://")
    copy = carry(attached, home, print)
    assert told(copy) == told(attached)
    assert copy.state()[0] is State.LOST
    attempt(made, 3, "time_limit", 30)
    attached = Job(attached.store, attached.id)
    assert newer(home_of(attached), attached) is attached
    copy = carry(attached, home_of(attached), print)
    assert told(copy) == told(attached)
    assert copy.state()[0] is State.PAUSED
    assert newer(home_of(attached), attached).uri == copy.uri


def test_it_goes_on_in_the_copy_once_that_has_all_of_it(attached: Job, home: Job) -> None:
    copy = carry(attached, home, print)
    assert newer(home_of(attached), attached).uri == copy.uri
    attempt(copy, 3, "time_limit", 30)
    assert newer(home_of(attached), attached).uri == copy.uri


def test_an_older_copy_is_brought_up_to_date(made: Job, attached: Job, home: Job) -> None:
    carry(attached, home, print)
    made.attempts.write(
        Attempt("0002-aaaaaaaa", "elsewhere", 1, "1", 1.0, phase="ended", reason="time_limit", began=True, inherited=[])
    )
    attempt(made, 3, "time_limit", 40)
    attached = Job(attached.store, attached.id)
    assert newer(home_of(attached), attached) is attached
    copy = carry(attached, home_of(attached), print)
    assert told(copy) == told(attached)
    assert copy.state()[0] is State.PAUSED


def test_of_two_that_went_on_by_themselves_neither_is_chosen(made: Job, attached: Job, home: Job) -> None:
    copy = carry(attached, home, print)
    attempt(made, 3, "time_limit", 40, "bbbbbbbb")
    attempt(copy, 3, "time_limit", 30, "cccccccc")
    with pytest.raises(UsageError, match="has gone on in two places") as error:
        newer(home_of(attached), Job(attached.store, attached.id))
    words = str(error.value)
    assert all(each in words for each in ("3 attempts, the last of them 0003-cccccccc; step 30", "step 40", "LASTRUN_STORE"))


def test_another_job_of_the_same_id_is_not_taken_for_it(attached: Job, home: Job) -> None:
    home.store.put(home.paths.record, b"{}")
    with pytest.raises(UsageError, match=f"has another job with the ID {home.id}"):
        newer(home, attached)


class Cut(DirectoryStore):
    """A disk that is full after so many writes."""

    left = 0

    def _write(self, key: str, fill: Callable[..., object]) -> None:
        if self.left == 0:
            raise StoreError("full")
        self.left -= 1
        super()._write(key, fill)


@pytest.mark.parametrize("older", [False, True])
def test_a_copy_that_was_cut_off_is_no_job_wherever_that_was(attached: Job, home: Job, older: bool, tmp_path: Path) -> None:
    writes = 0
    while True:
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        if older:
            carry(attached, home, print)
        (tmp_path / "home").mkdir(exist_ok=True)
        store = Cut(tmp_path / "home")
        store.left = writes
        try:
            carry(attached, Job(store, home.id), print)
            break
        except StoreError:
            if older:  # which is there as it was, or with all of the newer one
                assert find_job(home.id, str(tmp_path / "home")).checkpoints.all()
            else:
                with pytest.raises((NoSuchJobError, UsageError)):  # before its first write there is no such folder
                    find_job(home.id, str(tmp_path / "home"))
                assert newer(home_of(attached), attached) is attached
        writes += 1
    assert writes > 10
    assert told(Job(store, home.id)) == told(attached)


def test_what_is_damaged_is_left_out_with_a_word(made: Job, attached: Job, home: Job) -> None:
    first, last = made.checkpoints.all()
    made.store.put(made.paths.checkpoint(last.name, "state.pt"), b"step 2x")
    said: list[str] = []
    copy = carry(attached, home, said.append)
    assert [stored.name for stored in copy.checkpoints.all()] == [first.name]
    assert [text for text in said if text.startswith(f"leaving out checkpoint {last.name}: ")]


def test_a_job_that_was_deleted_does_not_come_again_where_an_attempt_of_it_may(attached: Job, home: Job) -> None:
    copy = carry(attached, home, print)
    copy.delete()
    assert carry(attached, home, print).attempts.all(), "nobody could come back"
    silent = claim(home)
    home.delete()
    assert home.is_deleted()
    with pytest.raises(UsageError, match=r"was deleted in .*, and an attempt that sleeps somewhere may not know yet"):
        carry(attached, home, print)
    assert home.is_deleted()
    assert silent.id not in [one.id for one in home.attempts.all()]


def test_what_runs_in_the_new_store_is_not_written_over(made: Job, attached: Job, home: Job) -> None:
    copy = carry(attached, home, print)
    attempt(made, 3, "time_limit", 40)  # the attached one goes on elsewhere, with all that the copy had
    running = claim(copy, token="aaaaaaaa")
    attached = Job(attached.store, attached.id)
    with pytest.raises(ClaimedError, match=r"from an older state than .* has: lastrun stop .* --wait"):
        newer(home_of(attached), attached)
    assert home_of(attached).attempts.all()[-1].id == running.id
    assert home_of(attached).attempts.all()[-1].open


def test_a_second_copying_takes_nothing_from_the_first(attached: Job, home: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was decided on before the first had ended, and goes on while that one's attempt trains."""
    copy = carry(attached, home, print)
    running = claim(copy)
    states = []
    write = DirectoryStore._write

    def watched(store: DirectoryStore, *words: object) -> None:
        write(store, *words)  # type: ignore[arg-type]
        fresh = Job(copy.store, copy.id)
        states.append((fresh.is_gone(), fresh.is_there(), [one.id for one in fresh.attempts.all() if one.open]))

    monkeypatch.setattr(DirectoryStore, "_write", watched)
    carry(attached, Job(home.store, home.id), print)
    assert len(states) > 5
    assert set(map(str, states)) == {str((False, True, [running.id]))}


def test_one_that_somebody_runs_is_refused_and_a_young_copy_is_not(
    made: Job, attached: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.job.lease.WATCH_SECONDS", 0.5)
    refuse_running(attached, attached.attempts.all())  # its heartbeat is as young as can be, and stays as it is
    runs = made.attempts.all()[-1]
    monkeypatch.setattr("runner.job.lease.time.sleep", lambda _: made.attempts.write_heartbeat(runs, {"step": 21}))
    with pytest.raises(ClaimedError):
        refuse_running(attached, attached.attempts.all())


def test_without_a_store_that_can_be_written_it_says_what_to_name(attached: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTRUN_STORE", attached.store.uri)
    with pytest.raises(UsageError, match="can only be read: name a folder or a bucket that can be written with LASTRUN_STORE"):
        home_of(attached)


def test_a_store_is_found_below_the_folder_that_is_named(made: Job, read_only: Mount, tmp_path: Path) -> None:
    place = read_only(tmp_path / "made", tmp_path / "input" / "notebooks" / "me" / "first" / "lastrun")
    (tmp_path / "input" / "photos").mkdir()
    for above in ("input", "input/notebooks", "input/notebooks/me/first", "input/notebooks/me/first/lastrun"):
        assert find_job("far", str(tmp_path / above)).store.uri == place.as_uri()
        assert store_with_jobs(str(tmp_path / above)).uri == place.as_uri()
    assert find_job(f"{tmp_path}/input/far", None).id == made.id
    with pytest.raises(NoSuchJobError):
        find_job("near", str(tmp_path / "input"))


def test_a_folder_that_may_not_be_looked_into_holds_no_store(nobody_special: Path) -> None:
    """As ``lost+found`` does on every disk: a medium's own folder is what people name."""
    job = Job.create(DirectoryStore(nobody_special / "medium" / "mine"), "far", CONFIG, {}, "0")
    (nobody_special / "medium" / "lost+found").mkdir(mode=0)
    assert find_job("far", str(nobody_special / "medium")).id == job.id
    assert store_with_jobs(str(nobody_special / "medium")).uri == job.store.uri
    with pytest.raises(StoreError, match=r"lost\+found/jobs: cannot be looked at: Permission denied; name a folder,"):
        store_with_jobs(str(nobody_special / "medium" / "lost+found" / "jobs"))


def test_of_several_below_it_the_one_with_the_job_is_meant(made: Job, tmp_path: Path) -> None:
    other = Job.create(DirectoryStore(tmp_path / "above" / "b"), "near", CONFIG, {}, "0")
    shutil.copytree(tmp_path / "made", tmp_path / "above" / "a" / "lastrun")
    assert find_job("near", str(tmp_path / "above")).id == other.id
    with pytest.raises(
        UsageError, match=r"holds no jobs itself, but .* and .* do: lastrun list --store \S+ or lastrun list --store \S+"
    ):
        store_with_jobs(str(tmp_path / "above"))
    shutil.copytree(tmp_path / "made", tmp_path / "above" / "c" / "lastrun")
    with pytest.raises(NoSuchJobError, match=rf"far-.* is in 2 stores; name one .*such as file://.*/a/lastrun/{made.id}:"):
        find_job(made.id, str(tmp_path / "above"))
    later = Job(DirectoryStore(tmp_path / "above" / "c" / "lastrun"), made.id)
    attempt(later, 3, None, 30)
    with pytest.raises(NoSuchJobError) as told:
        find_job("far", str(tmp_path / "above"))
    assert str(told.value).splitlines() == [
        f"{made.id} is in 2 stores; name one by its whole address, without --store, such as {later.uri}:",
        f"  {(tmp_path / 'above/a/lastrun').as_uri()}/{made.id}: step 20, epoch 1",
        f"  {later.uri}: step 30, epoch 1, the furthest",
    ]
    assert find_job(later.uri, None).uri == later.uri


def test_a_copy_that_lost_its_hidden_folders_still_lists_its_jobs(made: Job) -> None:
    later = "a-21000101-000000-aaaa"
    shutil.copytree(made.store.root / made.id, made.store.root / later)
    shutil.rmtree(made.store.root / INDEX)
    assert [job.id for job in list_jobs(made.store)] == [later, made.id]
    assert find_job("far", str(made.store.root)).id == made.id


def test_a_job_gains_nothing_by_being_copied(attached: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "lastrun").mkdir()
    home = tmp_path / "home"
    source = Trust(attached.store.uri)
    assert not source.takes("hardware.scratch_root", "/somewhere")
    see_that_nothing_is_gained(source, Trust(home.as_uri()))
    (tmp_path / "lastrun" / "config.toml").write_text(f'trusted = ["{home}"]\n')
    with pytest.raises(UntrustedError, match=r"hardware\.scratch_root"):
        see_that_nothing_is_gained(source, Trust(home.as_uri()))


def test_all_that_only_looks_works_and_what_would_write_says_so(made: Job, attached: Job, tiny: Path, tmp_path: Path) -> None:
    for path in made.store.root.rglob("*.json"):
        os.utime(path, (1, 1))
    status = job_status(attached)
    assert (status["state"], status["step"], status["next"]) == ("lost", 20, f"lastrun resume {attached.uri}")
    assert summaries(list_jobs(attached.store), 1)[0][0]["id"] == attached.id
    assert pull_checkpoint(attached, tmp_path / "model", best=False, step=None) == status["checkpoint"]
    with pytest.raises(StoreError, match="Read-only file system; name a folder that you may write to"):
        attached.requests.ask_to_stop(now=False)
    resolved = resolve_spec(tiny, None, [])
    for only_look in (False, True):
        with pytest.raises(StoreError, match=r"^file://\S+ can only be read: name a folder that you may write to, or a bucket"):
            approve(LocalLauncher(resolved.config), attached.store, resolved, here=False, only_look=only_look)
