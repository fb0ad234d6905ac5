"""Folders of attempts: found again, and removed whole whoever looks or writes meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from runner.attempt import outbox
from runner.attempt.leftovers import leftovers, sync_job
from runner.attempt.scratch import make_scratch, remove_scratch
from runner.job.job import Job
from runner.store.directory import DirectoryStore

KILLED = """
import os, sys
from itertools import count
from pathlib import Path
from runner.attempt.scratch import remove_scratch

def unlink(*given, of=os.unlink, number=count(), **more):
    if next(number) == 1000:
        os.kill(os.getpid(), 9)
    of(*given, **more)

os.unlink = unlink
remove_scratch(Path(sys.argv[1]))
"""


def test_one_that_is_removed_is_still_its_jobs_when_the_remover_is_killed(tmp_path: Path) -> None:
    """Whenever that is; and nothing of it is sent, since its outbox may be half there."""
    store = DirectoryStore(tmp_path / "store")
    job = Job(store, "job-20260101-000000-abcd")
    folder = make_scratch(job, "0001-aaaaaaaa", tmp_path)
    for key in [job.paths.log("0001-aaaaaaaa", number) for number in range(1, 3001)]:
        (folder / "outbox" / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / "outbox" / key).touch()
    assert subprocess.run([sys.executable, "-c", KILLED, folder], check=False).returncode == -signal.SIGKILL
    left = leftovers(job, tmp_path)
    assert [path.parent for path in left] == [tmp_path], "it was killed in the middle"
    assert sync_job(job, None, [tmp_path]) == 0
    assert list(store.scan("")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) in (["store"], [])


def test_who_looks_while_one_is_removed_sees_what_is_there(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "job-20260101-000000-abcd")
    for _ in range(6):
        folder = make_scratch(job, "0001-aaaaaaaa", tmp_path)
        for number in range(40):
            (folder / "outbox" / f"{number}" / "below").mkdir(parents=True)
            (folder / "outbox" / f"{number}" / "below" / "a").touch()
        remover = Thread(target=remove_scratch, args=(folder,))
        remover.start()
        seen = [len(outbox.waiting(folder / "outbox")) for _ in range(5)]
        remover.join()
        assert max(seen) <= 40
        assert outbox.waiting(folder / "outbox") == []


def test_what_a_trainer_that_is_just_ending_still_writes_is_no_reason_to_leave_a_folder(tmp_path: Path) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "job-20260101-000000-abcd")
    folder = make_scratch(job, "0001-aaaaaaaa", tmp_path)
    (folder / "run").mkdir()
    code = "import sys\nnumber = 0\nwhile True:\n open(f'{sys.argv[1]}/{number}', 'w').close()\n number += 1"
    with subprocess.Popen([sys.executable, "-c", code, str(folder / "run")], stderr=subprocess.DEVNULL) as writer:
        try:
            while sum(1 for _ in (folder / "run").iterdir()) < 3000:
                time.sleep(0.001)
            sync_job(job, None, [tmp_path])
            assert writer.wait(60) != 0, "there is no such folder any more"
        finally:
            writer.kill()
    assert list(tmp_path.glob("lastrun-*")) == []


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_a_folder_is_found_again_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    job = Job(DirectoryStore(tmp_path / "store"), "job-20260101-000000-abcd")
    before = os.umask(umask)
    try:
        folder = make_scratch(job, "0001-aaaaaaaa", tmp_path)
    finally:
        os.umask(before)
    assert leftovers(job, tmp_path) == [folder]
