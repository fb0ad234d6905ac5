"""What comes out of a job: files and folders by their names there, whole or not at all; and its report in a browser."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from last_e.manifest import File, Manifest
from runner.commands.app import app
from runner.commands.copy import _job_and_path
from runner.errors import StoreError, UsageError
from runner.job.copy import contents, copy_out
from runner.job.job import Job
from runner.store.directory import DirectoryStore
from runner.store.protocol import Entry, Store
from tests.conftest import Cli
from tests.reports import made_up

LAST = "0003-00000003"


def add_checkpoint(job: Job, step: int, top1: float, content: bytes = b"weights") -> str:
    name = f"{step:08d}e-{LAST}"
    file = File(size=7, sha256=hashlib.sha256(b"weights").hexdigest())
    made = Manifest(step=step, epoch=step // 10, evaluated=True, files={"state.pt": file}, test_top1=top1)
    job.store.put(job.paths.checkpoint(name, "state.pt"), content)
    job.store.put(job.paths.checkpoint(name), made.to_json().encode())
    return name


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """With two checkpoints, the first of them the best, and the report of its last attempt."""
    (tmp_path / "made").mkdir()
    made = made_up(DirectoryStore(tmp_path / "store"), tmp_path / "made", clips=12)
    add_checkpoint(made, 110, 0.9)
    add_checkpoint(made, 120, 0.8)
    made.store.put(made.paths.report("0002-00000002"), b"<p>earlier")
    made.store.put(made.paths.report(LAST), b"<p>last")
    for piece in (1, 2):
        made.store.put(made.paths.log(LAST, piece), f"line {piece}\n".encode())
        made.store.put(made.paths.steps(LAST, piece), f'{{"step": {piece}, "epoch": 0.{piece}}}\n'.encode())
    return made


def test_single_files_come_into_a_folder_or_under_a_name(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert copy_out(job, "report.html", out).place == out / "report.html"
    assert (out / "report.html").read_bytes() == b"<p>last"
    copied = copy_out(job, "metrics.jsonl", tmp_path / "m.jsonl")
    assert [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()] == job.metrics()
    assert (copied.files, copied.size) == (["metrics.jsonl"], (tmp_path / "m.jsonl").stat().st_size)
    copy_out(job, "steps.jsonl", out)
    assert (out / "steps.jsonl").read_text() == '{"step": 1, "epoch": 0.1}\n{"step": 2, "epoch": 0.2}\n'
    copy_out(job, "log.txt", out)
    assert (out / "log.txt").read_text().endswith("--- attempt 3 on rented-3 (lambda)\nline 1\nline 2\n")
    copy_out(job, "/job.json", out)
    assert (out / "job.json").read_bytes() == job.store.get(job.paths.record)
    copy_out(job, f"attempts/{LAST}/metrics.jsonl", out)
    assert (out / "metrics.jsonl").read_bytes() == job.store.get(job.paths.metrics(LAST))
    copy_out(job, "checkpoints/best/state.pt", out)
    assert (out / "state.pt").read_bytes() == b"weights"


def test_a_folder_is_a_new_one_with_all_that_is_in_it(job: Job, tmp_path: Path) -> None:
    copied = copy_out(job, "checkpoints/newest", tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["MANIFEST.json", "state.pt"]
    assert copied.files == [f"checkpoints/00000120e-{LAST}/{name}" for name in ("MANIFEST.json", "state.pt")]
    (tmp_path / "model" / "newest").write_text("mine")
    with pytest.raises(UsageError, match="model/newest is there already: name a new or empty folder"):
        copy_out(job, "checkpoints/newest", tmp_path / "model")
    copy_out(job, "checkpoints/best/", tmp_path / "model")
    assert json.loads((tmp_path / "model" / "best" / "MANIFEST.json").read_text())["step"] == 110
    everything = copy_out(job, "", tmp_path / "all")
    assert sorted(everything.files) == sorted(entry.key for entry in contents(job))
    assert Job(DirectoryStore(tmp_path), "all").store.get("all/job.json") == job.store.get(job.paths.record)


def test_a_log_is_copied_as_it_is_whatever_the_locale(job: Job, cli: Cli, tmp_path: Path) -> None:
    job.store.put(job.paths.log(LAST, 3), "é ☃\n".encode())
    done = cli("cp", f"{job.id}:log.txt", "log.txt", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log.txt").read_bytes().endswith("é ☃\n".encode())


def test_what_is_there_stays_unless_it_may_be_replaced(job: Job, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UsageError, match=r"report.html is there already: name another file, or say --overwrite"):
        copy_out(job, "report.html", tmp_path)
    assert (tmp_path / "report.html").read_text() == "mine"
    copy_out(job, "report.html", tmp_path, overwrite=True)
    assert (tmp_path / "report.html").read_bytes() == b"<p>last"
    with pytest.raises(UsageError, match="there is no such folder"):
        copy_out(job, "report.html", tmp_path / "no" / "report.html")


def test_what_is_damaged_or_goes_away_leaves_nothing(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    add_checkpoint(job, 130, 0.95, b"WEIGHTS")
    says = r"state\.pt is damaged: it is not what its checkpoint's manifest says; checkpoints/\w+-\w+-\w+ is another one"
    for path in ("checkpoints/best", "checkpoints/best/state.pt"):
        with pytest.raises(StoreError, match=says):
            copy_out(job, path, out)
    lacking = add_checkpoint(job, 140, 0.99)
    job.store.delete([job.paths.checkpoint(lacking, "state.pt")])
    for path in ("checkpoints/best", "checkpoints", ""):
        with pytest.raises(StoreError, match=rf"checkpoint {lacking} is damaged: it lacks state\.pt; copy another one, or"):
            copy_out(job, path, out)
    listed = contents(job)
    job.store.delete([job.paths.log(LAST, 2)])
    monkeypatch.setattr("runner.job.copy._below", lambda *_: [e for e in listed if f"{LAST}/log" in e.key])
    with pytest.raises(StoreError, match="whoever trains has deleted it meanwhile: try again"):
        copy_out(job, f"attempts/{LAST}/log", out)
    assert list(out.iterdir()) == []


def test_links_are_left_out_of_a_folder_and_told(job: Job, cli: Cli, tmp_path: Path) -> None:
    log = tmp_path / "store" / job.id / "attempts" / LAST / "log"
    (log / "secret").symlink_to("/etc/passwd")
    done = cli("cp", f"{job.id}:attempts/{LAST}/log", "logs")
    assert (done.returncode, done.stdout) == (0, "logs: 2 files, 14 bytes\n")
    assert done.stderr.startswith("note: left out, for they are symbolic links, which nothing follows: ")
    assert f"attempts/{LAST}/log/secret" in done.stderr
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == sorted(path.name for path in log.glob("0*"))
    with pytest.raises(StoreError, match="it is a symbolic link"):
        copy_out(job, f"attempts/{LAST}/log/secret", tmp_path / "one")
    weights = tmp_path / "store" / job.paths.checkpoint(job.checkpoints.all()[-1].name, "state.pt")
    weights.rename(tmp_path / "weights")
    weights.symlink_to(tmp_path / "weights")
    with pytest.raises(StoreError, match="it is a symbolic link"):
        copy_out(job, "checkpoints/newest", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_of_what_is_not_there_it_is_told_what_is(job: Job, tmp_path: Path) -> None:
    job.store.put(job.paths.checkpoint(f"00000140e-{LAST}", "state.pt"), b"half")  # no manifest: no checkpoint yet
    for path, told in (
        ("report", f"there is no report in {job.id}; {job.id} has: attempts/, checkpoints/, job.json, log.txt, metrics.jsonl"),
        ("attempts/0009-00000009/log", f"; attempts/ of {job.id} has: 0001-00000001/, 0002-00000002/, {LAST}/"),
        (f"attempts/{LAST}/logs", f"; attempts/{LAST}/ of {job.id} has: end.json, heartbeat.json, log/, metrics.jsonl"),
        (f"checkpoints/00000140e-{LAST}", f" has: 00000110e-{LAST}/, 00000120e-{LAST}/, best/, newest/"),
        ("checkpoints/best/nothing.pt", f"; checkpoints/best/ of {job.id} has: MANIFEST.json, state.pt"),
    ):
        with pytest.raises(UsageError) as error:
            copy_out(job, path, tmp_path)
        assert told in str(error.value)


class Foreign(DirectoryStore):
    """A bucket, in which keys may be any text."""

    def scan(self, prefix: str, after: str = "") -> list[Entry]:  # type: ignore[override]
        job = prefix.partition("/")[0]
        names = ("../../evil", "..", ".ssh/key", "a//b", "a/../../b", "x\x1b[2J", "a" * 300, "attempts/\\..\\evil")
        evil = [Entry(f"{job}/{name}", 1) for name in names]
        return sorted([*super().scan(prefix, after), *(entry for entry in evil if entry.key.startswith(prefix))])


def test_no_name_leads_out_of_the_folder(job: Job, tmp_path: Path) -> None:
    store: Store = Foreign(tmp_path / "store")
    copied = copy_out(Job(store, job.id), "", tmp_path / "deep" / "all")
    assert copied.files == [entry.key for entry in contents(job)]
    assert not list(tmp_path.rglob("*evil*"))
    for path in ("../other/job.json", "attempts/../../x", ".index/x", "a\nb", "a\\b"):
        with pytest.raises(UsageError, match="is no path of a job"):
            copy_out(job, path, tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("tiny", ("tiny", None)),
        ("tiny:", ("tiny", "")),
        ("tiny:report.html", ("tiny", "report.html")),
        ("s3://bucket/tiny", ("s3://bucket/tiny", None)),
        ("s3://bucket/tiny:log.txt", ("s3://bucket/tiny", "log.txt")),
        ("s3://b/tiny?endpoint_url=http://h:9000", ("s3://b/tiny?endpoint_url=http://h:9000", None)),
        ("s3://b/tiny?endpoint_url=http://h:9000:a/b", ("s3://b/tiny?endpoint_url=http://h:9000", "a/b")),
    ],
)
def test_a_colon_of_an_address_is_none_before_a_path(source: str, expected: tuple[str, str | None]) -> None:
    assert _job_and_path(source) == expected


def test_the_command_copies_lists_and_tells_what_it_does_not_do(job: Job, cli: Cli, tmp_path: Path) -> None:
    done = cli("cp", f"{job.id}:report.html", "page.html")
    assert (done.returncode, done.stdout) == (0, "page.html: 7 bytes\n")
    listed = cli("cp", job.id)
    assert listed.returncode == 0
    rows = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert {"metrics.jsonl", "job.json", "checkpoints/best/", f"attempts/{LAST}/report.html"} <= set(rows)
    assert rows[f"attempts/{LAST}/log/"].split()[1:] == ["14", "2", "files"]
    runner = CliRunner(env={"LASTRUN_STORE": str(tmp_path / "store")})
    facts = json.loads(runner.invoke(app, ["cp", "--json", job.id]).output)
    assert {"path": "job.json", "bytes": len(job.store.get(job.paths.record))} in facts["files"]
    for words, told in (
        ([f"{tmp_path}/page.html", f"{job.id}:"], "cp copies out of a job alone"),
        ([f"{tmp_path}/page.html", f"{tmp_path}/x"], "cp copies out of a job alone"),
        ([f"{job.id}:log.txt"], f"name where log.txt is to be put: lastrun cp {job.id}:log.txt FOLDER"),
        ([job.id, str(tmp_path)], f"name what of {job.id} is to be copied, as {job.id}:PATH"),
    ):
        done_ = runner.invoke(app, ["cp", *words])
        assert isinstance(done_.exception, UsageError), done_.output
        assert told in str(done_.exception)


def test_a_report_is_opened_and_made_anew_only_when_its_job_has_changed(job: Job, cli: Cli, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)
    nobody = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": "", "WSL_DISTRO_NAME": ""}
    first = cli("open", job.id, **{**nobody, "BROWSER": f"{browser} %s"})
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.partition(": opened in the browser")[0])
    assert (tmp_path / "opened").read_text() == f"{path.as_uri()}\n"
    assert b"<!-- lastrun report -->" in path.read_bytes()
    again = cli("open", job.id, **nobody)
    assert (again.returncode, again.stdout) == (
        0,
        f"{path}: no browser can be opened from here; open it in one (it needs no network)\n",
    )
    add_checkpoint(job, 150, 0.5)
    newer = json.loads(cli("open", "--json", job.id, **nobody).stdout)
    assert newer["made"] is True
    assert newer["file"] != str(path)
    assert [os.fspath(one) for one in path.parent.iterdir()] == [newer["file"]]
    assert (tmp_path / "opened").read_text().count("\n") == 1
