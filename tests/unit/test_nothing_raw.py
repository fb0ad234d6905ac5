"""Whatever somebody has written into a store, no command sends it to a terminal as it stands, and none ends in a traceback."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from last_e.manifest import MANIFEST, Manifest, describe_file
from runner.commands.app import main
from runner.job.group import Group, PointRecord
from runner.job.job import Job
from runner.resolve import resolve_spec
from runner.store.directory import DirectoryStore
from runner.view.console import make_console, make_table, styled
from tests.conftest import TINY

EVIL = "\x1b]0;owned\x07\x1b[7mred\x9b1m\rover\u202ertl\x08[link=http://evil.example]here[/link][/nope][bold]"
RAW = ["\x1b]", "\x07", "\x1b[7m", "\x9b", "\rover", "\u202e", "\x08"]
"""What of it must not come out. Rich colours with other sequences."""
FIELDS = (
    "record",
    "config",
    "origins",
    "attempt",
    "container",
    "changes",
    "heartbeat",
    "metrics",
    "log",
    "manifest",
    "request",
    "names",
)


def put(store: DirectoryStore, key: str, values: Any) -> None:
    store.put(key, json.dumps(values).encode())


def evil_job(folder: Path, path: Path, *where: str) -> str:
    """A job that has ended, or is lost, with control characters in some of what the store keeps of it."""

    def evil(field: str, good: Any) -> Any:
        return EVIL if field in where else good

    path.write_text(TINY)
    resolved = resolve_spec(path, None, [])
    config = {
        key: (evil("config", value) if isinstance(value, str) or value is None else value)
        for key, value in resolved.items().items()
    }
    origins = {key: evil("origins", "job.yaml:3") for key in config}
    store = DirectoryStore(folder)
    job = Job.create(store, "evil", config, origins, "0.1.0")
    record = json.loads(store.get(job.paths.record))
    put(store, job.paths.record, {**record, "name": evil("record", "evil"), "lastrun": evil("record", "0.1.0")})
    attempt = {
        "id": "0001-0123abcd",
        "machine": evil("attempt", "elsewhere"),
        "pid": 1,
        "process": evil("attempt", "1"),
        "started_at": time.time() - 1e5,
        "phase": evil("attempt", "lost"),
        "host": evil("attempt", "host"),
        "env": evil("attempt", "local"),
        "container": dict.fromkeys(("name", "token", "engine", "image", "scratch", "launcher"), evil("container", "local")),
        "versions": {"torch": evil("attempt", "2")},
        "hardware": {"cpu": evil("attempt", "x")},
        "changes": [{"key": evil("changes", "training.lr"), "before": evil("changes", 1), "after": evil("changes", 2)}],
        "began": True,
        "inherited": [evil("attempt", "00000001-0001-0123abcd")],
        "resumed_from": evil("attempt", "00000001-0001-0123abcd"),
        "message": evil("attempt", "gone"),
        "data_fingerprint": evil("attempt", "x"),
    }
    put(store, job.paths.attempt("0001-0123abcd"), attempt)
    beat = {"time": time.time() - 1e5, "step": 3, "local_step": 9, "stopping": evil("heartbeat", None)}
    put(store, job.paths.heartbeat("0001-0123abcd"), beat)
    epoch = {
        "epoch": 1,
        "step": 3,
        "train_loss": 1.0,
        "test_top1": 0.5,
        "test_top5": 0.9,
        "lr": 0.1,
        "note": evil("metrics", ""),
    }
    store.put(job.paths.metrics("0001-0123abcd"), (json.dumps(epoch) + f"\n{evil('metrics', '')}\n" + "[" * 100_000).encode())
    store.put(job.paths.log("0001-0123abcd", 1), f"a line {evil('log', '')}\n".encode())
    (path.parent / "state.pt").write_bytes(b"no state")
    about = Manifest(
        epoch=1, step=3, test_top1=0.5, evaluated=True, files={"state.pt": describe_file(path.parent / "state.pt")}
    )
    names = ["00000003-0001-0123abcd"]
    store.put(job.paths.checkpoint(names[0], "state.pt"), b"no state")
    store.put(job.paths.checkpoint(names[0], MANIFEST), about.to_json().encode())
    if "manifest" in where:
        store.put(job.paths.checkpoint("00000004-0001-0123abcd", MANIFEST), EVIL.encode())
    put(store, job.paths.request("0123"), {"time": evil("request", 1.0), "now": evil("request", True)})
    if "names" in where:  # a server takes keys that this store refuses
        name = EVIL.replace("/", "")
        for key in (
            job.paths.checkpoints,
            job.paths.requests,
            job.paths.attempts,
            job.paths.attempt("0001-0123abcd", "log", ""),
        ):
            shutil.copytree(folder / job.paths.checkpoints / names[0], folder / key / f"00000005-{name}")
            (folder / key / f"{name}.json").write_text("{}")
        (folder / name).mkdir()
        (folder / ".index" / f"0-{name}").touch()
    return job.id


def run(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["lastrun", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert [raw for raw in RAW if raw in out + err] == [], (words, out, err)
    return int(end.value.code or 0), out + err


@pytest.fixture(autouse=True)
def own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = {"HOME": tmp_path, "LASTRUN_STORE": tmp_path / "store", "TMPDIR": tmp_path, "DOCKER_HOST": "unix:///nowhere"}
    for name, value in {**own, "FORCE_COLOR": "1", "COLUMNS": "60"}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("where", [FIELDS, *((field,) for field in FIELDS)], ids="-".join)
def test_no_command_steers_a_terminal_for_a_store(
    tmp_path: Path, where: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = evil_job(tmp_path / "store", tmp_path / "job.yaml", *where)
    evil_options = ["--set", "training.lr=0.2", "--allow-change", "training.lr", "--trust", "--env", EVIL]
    for words in (
        ["list"],
        ["status", job],
        ["status", job, "--json"],
        ["status", job, "--watch"],
        ["logs", job],
        ["stop", job],
        ["stop", "--all"],
        ["sync", job],
        ["pull", job, str(tmp_path / f"pulled{EVIL[:20]}")],
        ["resume", job, "--launcher", "docker"],
        ["resume", job, *evil_options],
        ["rm", job],
    ):
        code, said = run(words, capsys, monkeypatch)
        assert code in (0, 1, 2, 3, 4, 6), (words, said)
        if words[0] == "logs" and where != FIELDS and where != ("attempt",):
            assert "a line" in said


def test_no_command_steers_a_terminal_for_a_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(TINY)
    config = resolve_spec(path, None, []).items()
    points = [
        PointRecord(values={f"k{EVIL}": EVIL}, config={**config, "split_type": f"{EVIL}{n}"}, origins={"split_type": EVIL})
        for n in (1, 2)
    ]
    group = Group.create(DirectoryStore(tmp_path / "store"), "evil", points, EVIL)
    group.complete()
    for words in (
        ["status", group.id],
        ["status", group.id, "--json"],
        ["list", "--group", group.id],
        ["compare", group.id],
        ["compare", group.id, "--csv"],
        ["resume", group.id],
        ["stop", group.id],
        ["rm", group.id],
    ):
        code, said = run(words, capsys, monkeypatch)
        assert code in (0, 2), (words, said)


@pytest.mark.parametrize("field", ["host", "message", "env"])
def test_what_is_shown_of_an_attempt_is_shown_in_full(
    tmp_path: Path, field: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = evil_job(tmp_path / "store", tmp_path / "job.yaml")
    record = tmp_path / "store" / job / "attempts/0001-0123abcd/attempt.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), field: EVIL}))
    code, said = run(["status", job], capsys, monkeypatch)
    assert code == 0
    assert "\\x1b]0;owned\\x07" in said
    assert "[link=http://evil.example]here[/link][/nope][bold]" in said


@pytest.mark.parametrize("kind", ["print", "table", "styled", "style in a table"])
def test_a_console_takes_text_as_it_stands(kind: str) -> None:
    console: Console = make_console()
    console.width = 400
    table = make_table("one", "two")
    table.add_row(EVIL, styled(EVIL, "red"))
    with console.capture() as caught:
        shown = {"print": EVIL, "table": table, "styled": styled(EVIL, "red"), "style in a table": table}[kind]
        console.print(shown)
    text = caught.get()
    assert [raw for raw in RAW if raw in text] == []
    assert "[link=http://evil.example]here[/link][/nope][bold]" in text.replace("\n", "")
    assert isinstance(table, Table)


def test_what_only_data_commands_print_goes_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(tmp_path / f"x{EVIL.replace('/', '')[:40]}.safetensors")
    for words in (
        ["data", "synth", "--like", "ntu60", "--clips", "2", "--out", name],
        ["data", "inspect", name],
        ["validate", name],
    ):
        code, said = run(words, capsys, monkeypatch)
        assert "owned" in said
        assert code in (0, 2)
