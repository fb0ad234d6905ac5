"""Figures of steps: kept in pieces, and of all attempts one run."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from last_e.events import Point
from runner.attempt.publish import Publisher
from runner.job.attempts import Attempt
from runner.job.job import Job
from runner.job.steps import LINES, Growing, Steps, pieces_of
from runner.store.directory import DirectoryStore


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(DirectoryStore(tmp_path / "store"), "j")


def attempt(job: Job, number: int, from_epoch: float | None) -> Attempt:
    one = Attempt(f"{number:04d}-aaaaaaaa", "elsewhere", 1, "1", time.time(), phase="ended", began=True, from_epoch=from_epoch)
    job.attempts.write(one)
    return one


def lines(first: int, last: int, per_epoch: int, loss: float = 1.0) -> bytes:
    points = [Point(step, step / per_epoch, 0.1, loss, 1.0, 0.5, 0) for step in range(first, last + 1)]
    return "".join(json.dumps(point.figures()) + "\n" for point in points).encode()


def seen(found: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(line["step"], line["loss"]) for line in found]


def test_attempts_are_one_run_without_what_a_cut_has_undone(job: Job) -> None:
    for number, from_epoch, piece in ((1, 0.0, lines(1, 9, 6)), (2, 1.0, lines(7, 8, 6, 2.0)), (3, 7 / 6, lines(8, 9, 6, 3.0))):
        job.store.put(job.paths.steps(attempt(job, number, from_epoch).id, 1), piece)
    attempt(job, 4, None)  # it never came to train
    expected = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 2), (8, 3), (9, 3)]
    assert seen(Steps(job).read()) == expected
    job.store.put(job.paths.steps(attempt(job, 5, None).id, 1), lines(9, 9, 6, 5.0))
    assert seen(Steps(job).read()) == [*expected[:8], (9, 5)]


def test_where_epochs_have_fewer_steps_after_a_cut_none_of_the_epoch_that_begins_anew_stays(job: Job) -> None:
    job.store.put(job.paths.steps(attempt(job, 1, 0.0).id, 1), lines(1, 9, 6))
    job.store.put(job.paths.steps(attempt(job, 2, 1.0).id, 1), lines(4, 6, 3, 2.0))
    assert seen(Steps(job).read()) == [*((step, 1) for step in range(1, 7)), (4, 2), (5, 2), (6, 2)]


def test_what_an_older_version_or_a_damaged_store_has_of_steps_is_passed_over(job: Job) -> None:
    attempt(job, 1, None)
    assert Steps(job).read() == []
    one = attempt(job, 2, 0.5)
    job.store.put(job.paths.steps(one.id, 1), lines(4, 5, 6) + b'{"step": 6\n[]\n\xff\n')
    assert seen(Steps(job).read()) == [(4, 1), (5, 1)]


def test_of_what_has_not_changed_nothing_is_read_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    one, read = attempt(job, 1, 0.0), []
    get = job.store.get
    monkeypatch.setattr(job.store, "get", lambda key, *more: (read.append(key), get(key, *more))[1])
    steps = Steps(job)
    for number, piece in ((1, lines(1, 2, 6)), (2, lines(3, 3, 6)), (2, lines(3, 4, 6))):
        job.store.put(job.paths.steps(one.id, number), piece)
        steps.read([one])
    assert seen(steps.read([one])) == [(step, 1) for step in range(1, 5)]
    assert [key[-12:] for key in read] == ["000001.jsonl", "000002.jsonl", "000002.jsonl"]
    job.store.delete([job.paths.steps(one.id, 1)])
    assert seen(steps.read([one])) == [(3, 1), (4, 1)]


def test_pieces_hold_whole_lines() -> None:
    data = lines(1, 2 * LINES + 1, 6)
    pieces = pieces_of(data + b'{"step": ')
    assert b"".join(pieces) == data
    assert [piece.count(b"\n") for piece in pieces] == [LINES, LINES, 1]
    assert pieces_of(b"") == pieces_of(b"{") == []


def bytes_read() -> int:
    """By this process so far, of any file."""
    return int(re.findall(r"rchar: (\d+)", Path("/proc/self/io").read_text())[0])


def test_of_a_file_of_steps_only_what_is_new_is_read_and_all_of_one_that_was_replaced(tmp_path: Path) -> None:
    file, sent = tmp_path / "steps.jsonl", dict[int, bytes]()
    steps = Growing(file)
    steps.send(sent.__setitem__)
    assert sent == {}
    file.write_bytes(lines(1, 20 * LINES, 60))
    steps.send(sent.__setitem__)
    assert b"".join(sent.values()) == file.read_bytes()
    before = bytes_read()
    with file.open("ab") as open_file:
        open_file.write(lines(20 * LINES + 1, 20 * LINES + 2, 60) + b'{"step"')
    for _ in range(20):
        steps.send(sent.__setitem__)
    assert bytes_read() - before < file.stat().st_size / 5
    assert b"".join(sent.values()) == lines(1, 20 * LINES + 2, 60)

    def breaks_off(number: int, piece: bytes) -> None:
        raise OSError("the disk is full")

    with file.open("ab") as open_file:
        open_file.write(b": 1}\n")
    with pytest.raises(OSError, match="is full"):
        steps.send(breaks_off)
    steps.send(sent.__setitem__)  # what did not get there is not forgotten
    assert b"".join(sent.values()) == file.read_bytes()
    other = file.read_bytes().replace(b'"epoch": ', b'"epoch" :', 1)  # as long, and another: a trainer that began anew
    file.with_name("new").write_bytes(other)
    file.with_name("new").replace(file)
    steps.send(sent.__setitem__)
    assert b"".join(sent.values()) == other
    file.unlink()
    steps.send(sent.__setitem__)
    assert set(sent.values()) == {b""}


def test_only_the_piece_that_grows_is_sent_again_and_what_was_taken_back_goes(job: Job, tmp_path: Path) -> None:
    one, sent = attempt(job, 1, 0.0), []
    publisher = Publisher(job, one, 3, tmp_path, {}, SimpleNamespace(take=str), lambda _: None, lambda _: None)
    put = publisher.outbox.put
    publisher.outbox.put = lambda key, data: (sent.append(key), put(key, data))[1]
    file = tmp_path / "run" / "steps.jsonl"
    file.parent.mkdir()
    last = 2 * LINES + 5
    for upto in (last, last + 1, last + 1, LINES - 1):
        file.write_bytes(lines(1, upto, 6))
        publisher.end()
    numbers = [int(key[-12:-6]) for key in sent if "/steps/" in key]
    assert numbers == [1, 2, 3, 3, 1, 2, 3]
    assert publisher.outbox.drain(60)
    publisher.outbox.close()
    assert seen(Steps(job).read()) == [(step, 1) for step in range(1, LINES)]
