"""Which jobs ``list`` shows, in which columns, and how little it reads to find them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runner.commands.app import app
from runner.errors import UsageError
from runner.job.attempts import Attempt
from runner.job.group import Group, PointRecord
from runner.job.job import Job
from runner.job.paths import made_at
from runner.store.directory import DirectoryStore
from runner.store.protocol import Store
from runner.submitter import submitter
from runner.view.status import summaries
from runner.view.wanted import Wanted, moment
from tests.conftest import Cli
from tests.counting.store import CountingStore

CONFIG = {"model.variant": "nano_e_v3", "dataset": "irds", "split_type": "xsub", "env": "local", "training.epochs": 9}
DAY = 86400.0


def make(store: Store, name: str, days: float, by: str | None = None, reason: str | None = None) -> Job:
    """A job that was made so many days ago, as its record and its ID say."""
    when = time.time() - days * DAY
    job = Job.create(store, name, CONFIG, {}, "0", by=by)
    record = {**json.loads(store.get(job.paths.record)), "created_at": when}
    job.delete()
    job = Job(store, f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(when))}-0a0b")
    store.put(job.paths.index, b"")
    store.put(job.paths.record, json.dumps({**record, "id": job.id}).encode())
    if reason is not None:
        one = Attempt("0001-aaaaaaaa", "elsewhere", 1, "1", when, phase="ended", began=True, reason=reason)
        job.attempts.write(one)
    return job


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    store = DirectoryStore(tmp_path / "store")
    return [
        make(store, "new", 0.5, "ann@laptop", "diverged"),
        make(store, "waits", 1.5, "ann@laptop"),
        make(store, "theirs", 2.5, "bob@desk", "preempted"),
        make(store, "old", 9.5, None, "completed"),
    ]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["new", "waits", "theirs", "old"]),
        (["--state", "failed,paused"], ["new", "theirs"]),
        (["--state", "queued", "--state", "succeeded"], ["waits", "old"]),
        (["--since", "2d"], ["new", "waits"]),
        (["--since", "2d", "--state", "failed"], ["new"]),
        (["--since", time.strftime("%Y-%m-%d", time.localtime(time.time() - 8 * DAY))], ["new", "waits", "theirs"]),
        (["--mine"], ["new", "waits"]),
        (["--mine", "--limit", "1"], ["new"]),
        (["--state", "lost"], []),
    ],
    ids=" ".join,
)
def test_only_jobs_that_are_wanted_are_listed(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch, words: list[str], names: list[str]
) -> None:
    monkeypatch.setenv("LASTRUN_SUBMITTER", "ann@laptop")
    monkeypatch.setenv("LASTRUN_STORE", str(Path(jobs[0].store.uri.removeprefix("file://"))))
    done = CliRunner().invoke(app, ["list", "--json", *words])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.output)
    assert [job["name"] for job in facts["jobs"]] == names
    assert facts["more"] is ("--limit" in words)


def test_columns_are_those_that_were_asked_for(jobs: list[Job], cli: Cli) -> None:
    done = cli("list", "--mine", "--columns", "id, reason,BY,point", LASTRUN_SUBMITTER="ann@laptop")
    assert done.returncode == 0, done.stderr
    head, _, first, second = (line.split() for line in done.stdout.splitlines())
    assert head == ["job", "reason", "by", "point"]
    assert (first, second) == ([jobs[0].id, "diverged", "ann@laptop", "-"], [jobs[1].id, "-", "ann@laptop", "-"])
    assert done.stderr.startswith("note: 1 job does not say who submitted it")
    none = cli("list", "--state", "lost")
    assert none.stdout == f"no such jobs in {jobs[0].store.uri}; lastrun list shows all\n"


def test_every_mistake_in_what_is_listed_is_told_with_what_is_allowed(jobs: list[Job], cli: Cli) -> None:
    done = cli("list", "--state", "failed,gone", "--since", "yesterdays", "--columns", "id,colour")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.partition("; ")[0] for line in lines] == [
        "error: --columns: found 'colour'",
        "error: --since: found 'yesterdays'",
        "error: --state: found 'gone'",
    ]
    assert "allowed: id, state, epoch, best, env, created, name, group" in lines[0]
    assert "2026-11-30T14:00" in lines[1]
    assert lines[2].endswith("allowed: queued, running, paused, succeeded, failed, stopped, lost, stopping")
    nobody = cli("list", "--mine", LASTRUN_SUBMITTER="")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (2, 1)
    assert "--mine: jobs from here do not say who submitted them; LASTRUN_SUBMITTER" in nobody.stderr


def test_one_that_cannot_be_read_may_be_wanted(jobs: list[Job], tmp_path: Path) -> None:
    jobs[1].store.put(jobs[1].paths.record, b"damaged")
    for wanted in (Wanted(frozenset({"failed"})), Wanted(by="ann@laptop")):
        found, _ = summaries(iter(jobs), 9, wanted)
        assert [facts["id"] for facts in found] == [jobs[0].id, jobs[1].id]


def test_what_ids_and_records_tell_is_asked_of_nothing_else(tmp_path: Path) -> None:
    store = CountingStore(tmp_path)
    jobs = [make(store, f"j{number}", number, "ann@laptop" if number == 7 else "bob@desk", "completed") for number in range(20)]
    store.calls.clear()
    young = Wanted(since=time.time() - 2.5 * DAY)
    assert [job.id for job in young.of(iter([*jobs[3:], *jobs[:3]]))] == [job.id for job in jobs[:3]]  # in whatever order
    assert store.calls == []
    found, more = summaries(iter(jobs), 50, Wanted(by="ann@laptop"))
    assert ([facts["name"] for facts in found], more) == (["j7"], False)
    read = [call for call in store.calls if jobs[7].id not in call]
    assert sorted(read) == sorted(f"get {job.id}/job.json" for job in jobs if job is not jobs[7])


def test_points_of_a_sweep_say_who_submitted_it_also_where_others_write_them(tmp_path: Path) -> None:
    points = [PointRecord(values={"training.lr": lr}, config={**CONFIG, "training.lr": lr}, origins={}) for lr in (0.1, 0.2)]
    group = Group.create(DirectoryStore(tmp_path), "sw", points, "0", by="ann@laptop")
    Group(group.store, group.id).complete()
    assert [job.record()["by"] for job in group.jobs()] == ["ann@laptop"] * 2
    made = made_at(group.id)
    assert made is not None
    assert abs(made - time.time()) < 3600
    assert {made_at(job.id) for job in group.jobs()} == {made}


def test_who_submits_is_this_user_here_unless_somebody_names_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, tiny: Path
) -> None:
    monkeypatch.setenv("LASTRUN_SUBMITTER", "ann")
    assert submitter() == "ann"
    monkeypatch.setenv("LASTRUN_SUBMITTER", "")
    assert submitter() is None
    for name in ("a\x1b[31m", " ann", "a" * 101, "a\nb"):
        monkeypatch.setenv("LASTRUN_SUBMITTER", name)
        with pytest.raises(UsageError, match="LASTRUN_SUBMITTER: found a name that cannot be kept"):
            submitter()
    monkeypatch.delenv("LASTRUN_SUBMITTER")
    monkeypatch.setattr("runner.submitter.read_settings", lambda: type("Of", (), {"submitter": None}))
    monkeypatch.setenv("LOGNAME", "me")
    assert str(submitter()).startswith("me@")
    (tmp_path / ".config" / "lastrun").mkdir(parents=True)
    (tmp_path / ".config" / "lastrun" / "config.toml").write_text("submitter = 3\n")
    assert "submitter has to be text in quotes" in cli("list", "--mine").stderr
    (tmp_path / ".config" / "lastrun" / "config.toml").write_text('submitter = "ann"\n')
    assert "ann" not in cli("list", "--mine").stderr


def test_a_time_that_no_clock_has_is_none() -> None:
    for text in (f"{'9' * 400}d", f"{'9' * 5000}s", "0000-01-01", "9999-99-99T99:99"):
        assert moment(text) is None


def test_times_are_read_in_this_zone_unless_they_name_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert moment("2026-11-30") == moment("2026-11-29T23:00Z") == 1795993200.0
        assert moment("2026-11-30 14:00:30") == moment("2026-11-30T14:00:30+01:00")
        ago = moment("1d12h")
        assert ago is not None
        assert abs(time.time() - ago - 1.5 * DAY) < 5
        assert [moment(word) for word in ("", "soon", "2026-13-01", "2026-11-30T25:00", "-3d", "5")] == [None] * 6
    finally:
        monkeypatch.undo()
        time.tzset()


def test_on_a_narrow_screen_no_figure_and_no_id_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twenty columns: lines are longer, and the terminal folds them; what may fold does so itself."""
    from runner.view.console import make_console, make_table

    monkeypatch.setenv("COLUMNS", "20")
    table = make_table("job", "best top-1", "before")
    table.add_row("sweep-20261130-124600-aaaa-p0001", "99.64%", "some words that may fold")
    console = make_console()
    console.width = 20
    console.print(table)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == ["job", "best", "top-1", "before"]
    assert lines[2].split()[:3] == ["sweep-20261130-124600-aaaa-p0001", "99.64%", "some"]
    assert len(lines) > 3
    assert console.width == 20
