"""One attempt to a GPU. There is none here, so what lists them is a program of the test's; the locks are real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from runner import gpus
from runner.errors import EngineError
from runner.gpus import Asked, is_open_to_all, make_folder, taken
from runner.resolve import resolve_points

A, B = (f"GPU-{uuid.uuid4()}" for _ in range(2))


@pytest.fixture(autouse=True)
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: {A})'\necho 'GPU 1: Tesla T4 (UUID: {B})'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "gpu_names", lambda: ["Tesla T4"] * 2)
    monkeypatch.setattr(gpus, "FOLDER", tmp_path)


def asks(tmp_path: Path, **run: Any) -> Asked:
    (tmp_path / "job.yaml").write_text("model: nano_e_v3\ndataset: irds\n")
    asked = Asked.of(resolve_points(tmp_path / "job.yaml", "local", []).points[0].job.config)
    return asked._replace(gpus=run.get("gpus", asked.gpus), shared=run.get("share_gpus", asked.shared))


HOLD = """
import os
import sys
from pathlib import Path
from runner import gpus
gpus.FOLDER, gpus.gpu_names = Path(sys.argv[1]), lambda: ["Tesla T4"] * 2
from runner.errors import EngineError
from runner.resolve import resolve_points
config = gpus.Asked.of(resolve_points(Path(sys.argv[1]) / "job.yaml", "local", []).points[0].job.config)
sys.stdin.readline()
try:
    with gpus.taken(config, f"job-of-{os.getpid()}") as got:
        print(*got, flush=True)
        sys.stdin.read()
except EngineError as error:
    print("none:", error, flush=True)
"""


def hold(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that takes one, once it is told a line."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=pipe, stdout=pipe, text=True)


def test_what_is_asked_for_is_had_and_by_nobody_else(tmp_path: Path) -> None:
    with taken(asks(tmp_path), "one") as first, taken(asks(tmp_path, gpus=1), "two") as second:
        assert (first, second) == ([A], [B])
        for config in (asks(tmp_path), asks(tmp_path, gpus="all"), asks(tmp_path, gpus=2), asks(tmp_path, gpus=[1])):
            with pytest.raises(EngineError) as refused, taken(config, "three"):
                pass
            assert f"{B} is used by job two (process {os.getpid()})" in str(refused.value)
        with taken(asks(tmp_path, gpus=0), "three") as none:
            assert none == []
    with taken(asks(tmp_path, gpus="all"), "one") as both:
        assert both == [A, B]
    with taken(asks(tmp_path, gpus=1), "one"), pytest.raises(EngineError) as refused, taken(asks(tmp_path, gpus=2), "two"):
        pass
    assert str(refused.value).startswith(f"2 GPUs wanted, 1 of 2 GPUs ({A}, {B}) is free: {A} is used by job one")


def test_more_than_there_are_is_told_with_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, named in ((3, "3"), ([5], "5"), (["GPU-none"], "GPU-none")):
        with pytest.raises(EngineError) as refused, taken(asks(tmp_path, gpus=asked), "one"):
            pass
        assert str(refused.value) == f"run.gpus asks for {named}; this machine has 2 GPUs ({A}, {B})"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EngineError, match=r"this machine has none that may be used \(CUDA_VISIBLE_DEVICES\)"):
        taken(asks(tmp_path, gpus=1), "one").__enter__()
    with taken(asks(tmp_path), "one") as none:
        assert none == []


def test_certain_ones_and_those_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a GPU is called, it is the same one."""
    with taken(asks(tmp_path, gpus=[1]), "one") as by_place:
        assert by_place == [B]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
        with taken(asks(tmp_path), "two") as other:
            assert other == ["0"]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", B[:12])
        with pytest.raises(EngineError, match=f"{B[:12]} is used by job one"):
            taken(asks(tmp_path), "two").__enter__()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with taken(asks(tmp_path, gpus=[B[:10]]), "one") as by_uuid:
        assert by_uuid == ["1"]


def test_those_that_share_one_share_it_with_each_other_alone(tmp_path: Path) -> None:
    shared = asks(tmp_path, gpus=[0], share_gpus=True)
    with taken(shared, "one") as one, taken(shared, "two") as two:
        assert one == two == [A]
        with pytest.raises(EngineError, match="is used by job"):
            taken(asks(tmp_path, gpus=[0]), "three").__enter__()


def test_four_that_begin_at_once_get_one_each_and_a_kill_gives_it_back(tmp_path: Path) -> None:
    asks(tmp_path)
    all_of_them = [hold(tmp_path) for _ in range(4)]
    try:
        for one in all_of_them:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()
        said = [one.stdout.readline().strip() for one in all_of_them if one.stdout is not None]
        got = sorted(word for word in said if not word.startswith("none:"))
        assert got == sorted([A, B])
        assert sum("is used by" in word for word in said) == 2
        killed = all_of_them[said.index(A)]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        with taken(asks(tmp_path), "next") as free:
            assert free == [A]
    finally:
        for one in all_of_them:
            one.kill()
            one.communicate()


def test_what_lies_in_the_way_keeps_nobody_from_training(tmp_path: Path) -> None:
    """Everybody may put things where the locks are."""
    os.mkfifo(tmp_path / f"{A}.lock")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / f"{B}.lock").symlink_to(tmp_path / "precious")
    with taken(asks(tmp_path, gpus="all"), "one") as both:
        assert both == [A, B]
    assert (tmp_path / "precious").read_text() == "mine"


def test_other_users_see_a_lock_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with taken(asks(tmp_path), "one"):
            assert (tmp_path / f"{A}.lock").stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_a_session_of_kaggle_is_the_attempts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "detect_environment", lambda: ("kaggle", "it is one"))
    with taken(asks(tmp_path), "one") as both:
        assert both == [A, B]


@pytest.mark.parametrize("launcher", ["hf", "sky"])
def test_a_machine_that_was_rented_for_an_attempt_is_its_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    monkeypatch.setenv("LASTRUN_CONTAINER", f'{{"launcher": "{launcher}", "token": "0a1b2c3d"}}')
    with taken(asks(tmp_path), "one") as all_of_them:
        assert all_of_them == [A, B]
    with taken(asks(tmp_path, gpus=1), "one") as asked:
        assert asked == [A]


def test_a_list_chooses_on_a_machine_that_ssh_reaches_and_is_all_that_an_engine_has_handed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTRUN_CONTAINER", '{"launcher": "ssh", "name": "there"}')
    with taken(asks(tmp_path, gpus=[1]), "one") as chosen:
        assert chosen == [B]
    monkeypatch.setenv("LASTRUN_CONTAINER", '{"launcher": "docker", "engine": "here"}')
    with taken(asks(tmp_path, gpus=[7, 8]), "one") as handed:
        assert handed == [A, B]


def test_who_takes_over_from_the_same_job_does_not_wait_for_it(tmp_path: Path) -> None:
    """That attempt leaves once the job is taken; who only resumes is told by the claim."""
    with taken(asks(tmp_path, gpus="all"), "one"), taken(asks(tmp_path), "one") as same:
        assert same == [A]
        with pytest.raises(EngineError, match="is used by job one"):
            taken(asks(tmp_path), "").__enter__()


def test_as_many_as_ranks_and_none_twice(tmp_path: Path) -> None:
    with taken(asks(tmp_path)._replace(ranks=2), "one") as both:
        assert both == [A, B]
    with pytest.raises(EngineError, match=f"run.gpus names a GPU twice: 1, {B[:9]} are {B}, {B}"):
        taken(asks(tmp_path, gpus=[1, B[:9]]), "one").__enter__()


def test_those_that_share_spread_over_what_is_free(tmp_path: Path) -> None:
    shared = asks(tmp_path, share_gpus=True)
    with taken(shared, "one") as one, taken(shared, "two") as two, taken(shared, "three") as three:
        assert (one, two, three) == ([A], [B], [A])


def test_the_folder_of_locks_is_everybodys_and_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "FOLDER", tmp_path / "locks")
    before = os.umask(0o077)
    try:
        with taken(asks(tmp_path), "one"):
            assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
    finally:
        os.umask(before)
    monkeypatch.setattr(gpus, "FOLDER", tmp_path / "link")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    with taken(asks(tmp_path), "one") as first:
        assert first == [A]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_container_meets_the_machines_others_in_the_folder_that_it_was_handed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And names their jobs, whose processes it cannot see."""
    monkeypatch.setattr(gpus, "HANDED", tmp_path)
    monkeypatch.setattr(gpus, "FOLDER", tmp_path / "own")
    with taken(asks(tmp_path), "outside") as first, monkeypatch.context() as inside:  # no engine: its own folder
        assert first == [A]
        inside.setenv("LASTRUN_CONTAINER", '{"launcher": "docker", "engine": "here"}')
        with taken(asks(tmp_path), "inside") as second:
            assert second == [A]
            inside.setattr(gpus, "identity", lambda: "another")
            with taken(asks(tmp_path), "next") as third:
                assert third == [B]
            with pytest.raises(EngineError, match=f"{A} is used by job inside; wait"), taken(asks(tmp_path, gpus=2), "next"):
                pass
            with taken(asks(tmp_path), "inside") as same:
                assert same == [A]


def test_a_folder_of_locks_is_open_to_all_and_no_link(tmp_path: Path) -> None:
    folder, home = tmp_path / "locks", tmp_path / "home"
    assert not is_open_to_all(folder)
    make_folder(folder)
    assert is_open_to_all(folder)
    home.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(home)
    make_folder(link)
    assert not is_open_to_all(home)
    home.chmod(0o1777)  # whatever the link leads to
    assert is_open_to_all(home)
    assert not is_open_to_all(link)
