"""What an agent makes of ranks that fail in every way; they are stubs here, which only say what ranks say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from last_e.events import Discard, Ended
from last_e.ranks import agent
from last_e.ranks.agent import Agent
from last_e.ranks.meeting import PREFIX, meeting_folder
from last_e.stop import Stop

SAYS = """\
import json, sys, threading, time
def say(**values): print(json.dumps(values), flush=True)
def beat(entered): say(event="beat", entered=entered)
def end(reason, message="so"): say(event="ended", reason=reason, message=message, step=6, total_steps=6)
def beat_on(entered):
    while True: beat(entered); time.sleep(0.05)
"""


def verdict(*ranks: str) -> Ended:
    """Of ranks that do so."""

    def commands(folder: Path) -> list[list[str]]:
        return [[sys.executable, "-c", SAYS + rank] for rank in ranks]

    return Agent(commands, Discard(), Stop(), lambda: True).run()


def test_the_first_ones_word_is_that_of_all() -> None:
    assert verdict("beat(9); end('completed')", "beat(9); end('completed')").reason == "completed"


@pytest.mark.parametrize("late", [0, 1])
def test_why_one_failed_is_told_and_not_that_the_others_are_alone(late: int) -> None:
    """Whichever of them is heard first."""
    alone = f"beat(9); time.sleep({1 - late}); end('peer_gone', 'Connection closed by peer')"
    failed = f"beat(9); time.sleep({late}); end('out_of_memory', 'no memory')"
    ended = verdict(alone, failed)
    assert (ended.reason, ended.message) == ("out_of_memory", "rank 1: no memory")


@pytest.mark.parametrize(
    ("visible", "seen"), [("MIG-a, MIG-b", "MIG-b"), ("MIG-a", "MIG-a"), ("GPU-a,GPU-b", "GPU-a,GPU-b"), ("0,1", "0,1")]
)
def test_a_rank_has_a_part_of_a_gpu_of_its_own(visible: str, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA shows a process one part of all that are named, the first."""
    monkeypatch.setattr(agent, "LAST_WORD_SECONDS", 0.2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    ended = verdict("beat(9); beat_on(9)", "import os; beat(9); end('out_of_memory', os.environ['CUDA_VISIBLE_DEVICES'])")
    assert ended.message == f"rank 1: {seen}"


def test_where_all_are_alone_their_word_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "ALONE_SECONDS", 0.5)
    ended = verdict("beat(9); end('peer_gone', 'no loopback')", "beat(9); beat_on(9)")
    assert (ended.reason, ended.message) == ("rank_lost", "the ranks lost each other (no loopback); the last checkpoint stands")


def test_a_mistake_of_its_own_is_no_rank_that_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "LAST_WORD_SECONDS", 0.5)
    ended = verdict("beat(9); beat_on(9)", "beat(9); sys.exit('boom')")
    assert (ended.reason, ended.message) == ("trainer_error", "rank 1: boom")


@pytest.mark.parametrize(
    ("constant", "first", "second", "told"),
    [
        ("SILENT_SECONDS", "beat_on(9)", "beat(9); time.sleep(60)", "rank 1 did not answer for 2 s"),
        ("SILENT_AT_FIRST_SECONDS", "beat_on(2)", "beat(2); time.sleep(60)", "rank 1 did not answer for 2 s"),
        ("FIRST_SECONDS", "beat_on(0)", "time.sleep(60)", "rank 1 did not answer for 2 s"),
        ("FIRST_SECONDS", "beat_on(2)", "beat_on(1)", "rank 1 did not come on for 2 s while others waited for it"),
        ("BEHIND_SECONDS", "beat_on(9)", "beat_on(8)", "rank 1 did not come on for 2 s while others waited for it"),
        ("BEHIND_SECONDS", "end('completed')", "beat_on(9)", "rank 1 did not end with the others"),
    ],
)
def test_one_that_hangs_is_named(constant: str, first: str, second: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, constant, 2.0)
    monkeypatch.setattr(agent, "LAST_WORD_SECONDS", 0.5)
    ended = verdict(first, second)
    assert (ended.reason, ended.message) == ("rank_lost", f"{told}; the last checkpoint stands")


@pytest.mark.slow
def test_a_sleep_of_the_agent_is_held_against_nobody_and_is_no_measure() -> None:
    """Ctrl-Z and ``fg``, or a closed lid: a rank that said nothing meanwhile is not lost; one that keeps others waiting later
    is not given ten times as long as the sleep."""
    stops = "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(4); os.kill(os.getppid(), signal.SIGCONT)"
    program = f"""\
from last_e.ranks import agent
from tests.unit.test_ranks_agent import verdict
agent.BEAT_SECONDS, agent.SILENT_SECONDS, agent.BEHIND_SECONDS, agent.LAST_WORD_SECONDS = 0.1, 3.0, 1.0, 0.5
print(verdict("import os, signal; beat(8); time.sleep(0.5); {stops}; beat_on(9)", "beat(8); time.sleep(5); beat_on(8)").message)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = re.fullmatch(
        r"rank 1 did not come on for (\d+) s while others waited for it; the last checkpoint stands\n", done.stdout
    )
    assert found, done.stdout
    assert int(found[1]) < 30


# --- where they meet ---------------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def another(temporary: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A process that has a folder to meet in."""
    program = "from last_e.ranks.meeting import meeting_folder\nwith meeting_folder() as one: print(one, flush=True); input()"
    env = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        yield Path(process.stdout.readline().rstrip()), process
        process.kill()


def test_what_a_killed_agent_left_the_next_one_removes(temporary: Path) -> None:
    with another(temporary) as (left, process):
        (left / "meeting").write_text("")
        with meeting_folder() as own:
            assert {left, own} == set(temporary.iterdir()), "that one is in use"
        process.kill()
        process.wait()
        assert list(temporary.iterdir()) == [left]
        with meeting_folder() as own:
            assert list(temporary.iterdir()) == [own]
    assert list(temporary.iterdir()) == []


def test_nothing_but_a_folder_of_ones_own_is_removed(temporary: Path) -> None:
    kept = temporary / "kept"
    kept.mkdir()
    (temporary / f"{PREFIX}link").symlink_to(kept)
    (temporary / f"{PREFIX}file").write_text("")
    if os.geteuid() == 0:
        (temporary / f"{PREFIX}another").mkdir()
        os.chown(temporary / f"{PREFIX}another", 65534, 65534)
    before = set(temporary.iterdir())
    with meeting_folder():
        pass
    assert set(temporary.iterdir()) == before
