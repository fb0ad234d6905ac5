"""Who can only write to a store, or share this machine's temporary folder, gains nothing. Each was seen to work once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from last_e import checkpoint
from last_e.datafile import DataError
from last_e.events import Discard
from last_e.manifest import MANIFEST, DamagedCheckpoint, File, Manifest, _digest, describe_file
from last_e.metrics import History, read_metrics
from last_e.prepare.inspect import animate
from last_e.prepare.synth import synthesize
from last_e.whole import is_ours, whole_file
from runner.attempt import data_cache, outbox
from runner.attempt.leftovers import clear_leftovers, leftovers, sync_job
from runner.attempt.outbox import Outbox
from runner.attempt.pruner import Pruner
from runner.attempt.scratch import make_scratch
from runner.errors import DamagedObjectError, StoreError
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.job.lease import claim
from runner.plan.bench import _write
from runner.store.directory import DirectoryStore
from runner.view.status import summaries
from tests.jobs import PATIENCE

CONFIG = {"model.variant": "nano", "dataset": "irds", "split_type": "xsub", "env": "local", "training.epochs": 1}


def plant(folder: Path, key: str) -> Path:
    """An outbox with something in it."""
    path = folder / "outbox" / key
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    return path


# --- what lies on this machine ---------------------------------------------------------------------------------------------


def test_a_stored_job_has_no_folder_deleted_that_only_sounds_like_its_own(tmp_path: Path) -> None:
    projects = tmp_path / "projects"
    names = ("lastrun-experiments-2026", "lastrun-experiments-")
    mine = [plant(projects / name, "experiments/attempts/0001-aa/x") for name in names]
    job = Job(DirectoryStore(tmp_path / "shared"), "experiments")
    clear_leftovers(job, projects, print)
    assert sync_job(job, None, [projects]) == 0
    assert [path.read_text() for path in mine] == ["mine", "mine"]


def test_a_job_whose_name_begins_anothers_gets_nothing_of_it(tmp_path: Path) -> None:
    private = Job(DirectoryStore(tmp_path / "private"), "secret-20260101-000000-abcd")
    attempt = claim(private)
    folder = make_scratch(private, attempt.id, tmp_path)
    key = f"{private.id}/checkpoints/00000001-{attempt.id}/state.pt"
    weights = plant(folder, key)
    for store, name in ((tmp_path / "shared", private.id[:12]), (tmp_path / "shared", private.id)):
        hostile = Job(DirectoryStore(store), name)
        hostile.attempts.write(Attempt(attempt.id, "elsewhere", 1, "1", time.time(), phase="ended", began=True))
        clear_leftovers(hostile, tmp_path, print)
        assert sync_job(hostile, None, [tmp_path]) == 0
    assert weights.read_text() == "mine"
    assert not list((tmp_path / "shared").rglob("state.pt"))
    attempt.phase = "ended"
    private.attempts.write(attempt)
    assert leftovers(private, tmp_path) == [folder]  # its own job finds it


KINDS = ("others may write", "marker of others", "marker is a link", "folder is a link", "a pipe", "endless")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_others_can_have_made_is_nobodys(tmp_path: Path, kind: str) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "job-20260101-000000-abcd")
    folder = make_scratch(job, "0001-aaaaaaaa", tmp_path)
    assert leftovers(job, tmp_path) == [folder]
    marker = folder / "lastrun.json"
    if kind == "others may write":
        folder.chmod(0o777)
    elif kind == "marker of others":
        marker.chmod(0o666)
    elif kind == "marker is a link":
        marker.rename(tmp_path / "elsewhere")
        marker.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder is a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "a pipe":
        marker.unlink()
        os.mkfifo(marker)
    else:
        marker.write_text("[" * 200_000)
    assert leftovers(job, tmp_path) == []


def test_a_folder_of_somebody_else_is_nobodys_but_on_a_share_that_maps_users(tmp_path: Path, mapped_disk: Path) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "job-20260101-000000-abcd")
    theirs, mapped = (make_scratch(job, "0001-aaaaaaaa", root) for root in (tmp_path, mapped_disk))
    for path in (theirs / "lastrun.json", theirs):
        os.chown(path, mapped.stat().st_uid, -1)
    assert mapped.stat().st_uid != os.geteuid()
    assert leftovers(job, tmp_path) == []
    assert leftovers(job, mapped_disk) == [mapped]
    mapped.chmod(0o777)
    assert leftovers(job, mapped_disk) == []
    synthesize("ntu60", mapped_disk / "out.safetensors", clips=10)  # its unfinished work lies there, too


def test_what_another_user_made_on_a_share_is_not_ours(mapped_disk: Path) -> None:
    made = mapped_disk / "made"
    made.touch()
    assert is_ours(made.stat(), mapped_disk)
    assert not is_ours(os.stat_result((*made.stat()[:4], 4711, *made.stat()[5:])), mapped_disk)


# --- what a store holds ----------------------------------------------------------------------------------------------------


def huge(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(100 << 30)


def test_objects_of_a_hundred_gigabytes_are_not_read(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    job, other = (Job.create(store, "j", CONFIG, {}, "0") for _ in range(2))
    attempt = claim(job)
    huge(tmp_path / job.paths.request("evil"))
    huge(tmp_path / job.paths.checkpoint("00000001-0001-aaaaaaaa"))
    tracemalloc.start()
    assert job.requests.new(()) == {}
    told: list[str] = []
    assert job.checkpoints.all(told.append) == []
    assert "never more than" in told[0]
    huge(tmp_path / job.paths.log(attempt.id, 1))
    job.store.put(job.paths.log(attempt.id, 2), b"heard")
    assert "never more than" in (log := "".join(job.log()))
    assert log.endswith("heard")
    huge(tmp_path / job.paths.record)
    found = {facts["id"]: facts for facts in summaries(iter([job, other]), 50)[0]}
    assert "never more than" in found[job.id]["error"]
    assert found[other.id]["state"] == "queued"
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_a_manifest_cannot_promise_more_than_a_checkpoint_ever_holds() -> None:
    whole = json.loads(Manifest(step=1, epoch=1, evaluated=True).to_json())
    del whole["sha256"]
    for size, count in ((6 << 30, 1), (1, 17)):
        values = {**whole, "files": {f"f{number}": {"size": size, "sha256": 64 * "0"} for number in range(count)}}
        with pytest.raises(DamagedCheckpoint, match="of another format"):
            Manifest.from_json(json.dumps({**values, "sha256": _digest(values)}))


def test_the_largest_attempt_number_ends_no_loop_and_breaks_no_other(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path), "j")
    job.store.put(job.paths.attempt("9999999-aaaaaaaa"), b"{}")
    assert claim(job).number == 1  # no attempt of ours has such a name
    job.store.put(job.paths.claim("999999-aaaaaaaa"), b"{}")
    with pytest.raises(DamagedObjectError):
        claim(Job(job.store, "j"))


def test_lines_that_are_nested_without_end_cost_only_themselves() -> None:
    good = {"epoch": 1, "step": 2, "lr": 0.1, "train_loss": 1.0, "test_loss": 1.0, "test_top1": 0.5, "test_top5": 0.9}
    assert len(read_metrics(f"{'[' * 100_000}\n{json.dumps(good)}\n")) == 1


# --- what a checkpoint holds -----------------------------------------------------------------------------------------------


def deflated(path: Path) -> None:
    torch.save({"model": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = [(entry, archive.read(entry)) for entry in archive.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts:
            archive.writestr(name, data)


def program(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def tape(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "pickle")


def doubled(times: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda path: torch.save({"model": torch.zeros(1).expand(1 << 40)}, path),
        deflated,
        program,
        tape,
        lambda path: torch.save({"model": doubled(60)}, path),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save([], path),
    ],
    ids=["stride 0", "deflated", "a program", "a tape archive", "nested", "empty", "no state"],
)
def test_a_state_that_is_not_what_is_saved_here_is_damaged_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "state.pt")
    (tmp_path / "config.json").write_text("{}")
    files: dict[str, File] = {name: describe_file(tmp_path / name) for name in ("state.pt", "config.json")}
    (tmp_path / MANIFEST).write_text(Manifest(step=1, epoch=1, evaluated=True, files=files).to_json())
    with pytest.raises(DamagedCheckpoint):
        checkpoint.load(tmp_path)


# --- what keeps an attempt alive -------------------------------------------------------------------------------------------


def test_uploads_and_pruning_survive_whatever_goes_wrong_and_say_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, failures, said = outbox._at_once, [TypeError("on purpose"), RecursionError("again")], []

    def wrong(keys: list[str]) -> list[str]:
        if failures:
            raise failures.pop(0)
        return right(keys)

    monkeypatch.setattr(outbox, "_at_once", wrong)
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.01)
    box = Outbox(DirectoryStore(tmp_path / "store"), tmp_path / "outbox", said.append, lambda key: None)
    box.put("j/a", b"1")
    assert box.drain(10)
    assert said == ["uploads wait: TypeError: on purpose", "uploads go on"]
    box.close()

    calls: list[int] = []

    def prune() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise IndexError("on purpose")

    pruner = Pruner(prune, said.append)
    for _ in range(2):
        pruner.want()
        pruner.drain(10)
    assert len(calls) == 2
    assert "IndexError: on purpose" in said[-1]


# --- others on the same machine --------------------------------------------------------------------------------------------


EXCHANGE = """
import ctypes, os, sys
names = [os.fsencode(name) for name in sys.argv[1:]]
exchange = ctypes.CDLL(None, use_errno=True).renameat2
print("on", flush=True)
while True:
    exchange(-100, names[0], -100, names[1], 2)
"""


@contextmanager
def exchanged(folder: Path, link_to: Path) -> Iterator[None]:
    """Somebody who may write there exchanges a folder for a link and back, as fast as the kernel does it."""
    link = folder.with_name("link")
    link.symlink_to(link_to)
    command = [sys.executable, "-c", EXCHANGE, str(folder), str(link)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield
        finally:
            process.kill()
    if folder.is_symlink():  # as it was
        folder.unlink()
        link.rename(folder)


def test_folders_that_are_exchanged_for_links_lead_a_store_nowhere(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    for name in ("note", "old"):
        (private / name).write_text("mine")
    store = DirectoryStore(tmp_path / "shared")
    store.put("job/in/note", b"theirs")
    store.put("job/in/old", b"theirs")
    read = set()
    with exchanged(tmp_path / "shared" / "job" / "in", private):
        for new in [f"job/in/new{number}" for number in range(7)] * 200:
            calls: tuple[Callable[[], object], ...] = (
                lambda: read.add(store.get("job/in/note")),
                partial(store.put, new, b"x"),
                lambda: read.add(b"mine" if any(entry.size == 4 for entry in store.scan("job/in/")) else b""),
                partial(store.delete, [new, "job/in/old"]),
                lambda: store.sweep("job/", lambda key: False),
            )
            for call in calls:
                with suppress(StoreError):
                    call()
        with suppress(StoreError):
            store.clear("job/in/")
    assert b"mine" not in read
    assert sorted(path.name for path in private.iterdir()) == ["note", "old"]
    assert [(private / name).read_text() for name in ("note", "old")] == ["mine", "mine"]


@pytest.mark.parametrize("kind", ["others may write", "link", "file"])
def test_unfinished_work_that_others_may_have_planted_is_not_taken(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "private"
    victim.mkdir()
    (victim / "000000.part").write_text("mine")
    parts = tmp_path / ".out.safetensors.parts"
    if kind == "link":
        parts.symlink_to(victim)
    elif kind == "file":
        parts.write_text("no folder")
    else:
        parts.mkdir()
        parts.chmod(0o777)
        (parts / "000000.part").write_text("planted")
    with pytest.raises(DataError, match="others made it, or may write into it; delete it, or name another place"):
        synthesize("ntu60", tmp_path / "out.safetensors", clips=10)
    assert (victim / "000000.part").read_text() == "mine"
    assert not (tmp_path / "out.safetensors").exists()


def test_no_temporary_name_is_foreseen(tmp_path: Path) -> None:
    victim = tmp_path / "private"
    victim.write_text("mine")
    shared = tmp_path / "shared"
    shared.mkdir()
    for name in (f".out.{os.getpid()}.part", f".config.{os.getpid()}.part", ".part-out"):
        (shared / name).symlink_to(victim)
    with whole_file(shared / "out") as part:
        assert part.parent == shared
        part.write_text("new")
        names = {part.name}
    with whole_file(shared / "out") as part:
        names.add(part.name)
    assert len(names) == 2
    assert (shared / "out").read_text() == ""
    assert victim.read_text() == "mine"
    with pytest.raises(ValueError, match="no"), whole_file(shared / "out") as part:
        raise ValueError("no")
    assert not part.exists()


def test_copies_of_data_are_private_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / "lastrun" / "remote"
    place.mkdir(parents=True)
    place.chmod(0o777)

    class Stopped(Exception):
        """As far as it has to go."""

    def stopped(*_: Any) -> Path:
        raise Stopped

    monkeypatch.setattr(data_cache, "_fetch", stopped)
    with pytest.raises(Stopped):
        data_cache.fetch_data("s3://bucket/x.safetensors")
    assert place.stat().st_mode & 0o777 == 0o700


def test_torch_is_one_that_reads_weights_without_running_code() -> None:
    """CVE-2025-32434: before 2.6 ``weights_only`` was not enough."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"torch>=2.6"' in text
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)


# --- what a second attack found --------------------------------------------------------------------------------------------


def deep(folder: Path, levels: int) -> None:
    """More folders in each other than Python calls functions."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=opened)
        inner = os.open("d", os.O_RDONLY, dir_fd=opened)
        os.close(opened)
        opened = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=opened))
    os.close(opened)


def test_folders_deeper_than_any_key_hide_nothing_and_can_be_deleted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    job = Job.create(store, "job", CONFIG, dict.fromkeys(CONFIG, "default"), "0.1.0")
    for place in (".index/d", f"{job.id}/checkpoints/x", f"{job.id}/requests/x"):
        deep(tmp_path / place, 1500)
    [shown], _ = summaries(iter([Job(store, job.id)]), 5)
    assert shown["state"] == "queued"
    store.sweep(f"{job.id}/", lambda key: False)
    job.delete()
    assert not (tmp_path / job.id).exists()
    store.clear(".index/")
    assert not list(tmp_path.iterdir())


ENDLESS = ("=", "=a", "&sig=", "://a:", "-eyJaaaaaaaa", "a/", "://", "sk-", "xoxb-a")


def test_no_text_keeps_the_search_for_secrets_busy() -> None:
    """Each took between seconds and hours; a child process of its own has ten seconds of processor time for all of them."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (10, 10))\n"
        "from last_e.redact import redact, secret_in\n"
        f"for text in {ENDLESS!r}:\n"
        "    text *= 60_000 // len(text)\n"
        "    redact(text); secret_in('name', text); secret_in('x', [text])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["pipe", "device", "endless"])
@pytest.mark.parametrize("name", ["MANIFEST.json", "state.pt", "config.json"])
def test_a_checkpoint_that_somebody_sent_is_no_pipe_and_no_device(tmp_path: Path, name: str, kind: str) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    files = {each: describe_file(empty) for each in ("state.pt", "config.json")}
    (folder / MANIFEST).write_text(Manifest(step=1, epoch=0, evaluated=False, files=files).to_json())
    for each in files:
        (folder / each).write_bytes(b"")
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "device" else "/dev/full")
    command = [sys.executable, "-m", "last_e", "--resume", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode in (1, 2), done.stderr
    assert "no plain file" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_in_a_folder_that_somebody_sent_steer_no_terminal(tmp_path: Path) -> None:
    for name in ("step-\x1b[31mRED\x1b]0;pwn\a", "step-00000002"):
        (tmp_path / name).mkdir()
    for words in (["--resume", str(tmp_path)], ["--resume", str(tmp_path / "step-\x1b[31mRED\x1b]0;pwn\a")]):
        done = subprocess.run([sys.executable, "-m", "last_e", *words], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "RED" in done.stderr
        assert "\x1b" not in done.stderr
        assert "\a" not in done.stderr


def test_a_history_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="no plain file"):
        History(tmp_path, 0, 0, 10, Discard())


def test_pages_and_measurements_are_written_over_no_link_that_was_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize("ntu60", tmp_path / "x.safetensors", clips=2)
    shared = tmp_path / "shared"
    shared.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for out in ("clip.html", "bench.json"):
        (shared / f".{out}.{os.getpid()}.part").symlink_to(victim)
    animate(tmp_path / "x.safetensors", "0", shared / "clip.html")
    _write(shared / "bench.json", {"a": 1})
    assert victim.read_text() == "mine"
    assert not (shared / "clip.html").is_symlink()
    assert (shared / "bench.json").read_text() == '{\n "a": 1\n}\n'
