"""What an agent makes of ranks that fail in every way; they are stubs here, which only say what ranks say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
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
def beat(entered, waits=False): say(event="beat", entered=entered, waits=waits)
def end(reason, message="so"): say(event="ended", reason=reason, message=message, step=6, total_steps=6)
def beat_on(entered, waits=False):
    while True: beat(entered, waits); time.sleep(0.05)
"""


def verdict(*ranks: str, machines: Sequence[str] = ()) -> Ended:
    """Of ranks that do so."""

    def commands(folder: Path) -> list[list[str]]:
        return [[sys.executable, "-c", SAYS + rank] for rank in ranks]

    return Agent(commands, Discard(), Stop(), lambda: True, machines).run()


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


@pytest.mark.parametrize("late", [0, 1])
def test_where_all_wait_for_each_other_nothing_gets_through(late: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one was answered and did not hear the answer."""
    monkeypatch.setattr(agent, "STUCK_SECONDS", 1.0)
    ended = verdict("beat(8); beat_on(9, True)", f"beat(8); beat_on({9 + late}, True)")
    told = "nothing gets from one rank to another: all have waited for 1 s; the last checkpoint stands"
    assert (ended.reason, ended.message) == ("rank_lost", told)


# --- several machines --------------------------------------------------------------------------------------------------

TWO = ("n1", "n2")


def test_machines_that_never_reach_each_other_are_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "STUCK_AT_FIRST_SECONDS", 1.0)
    ended = verdict("beat_on(1, True)", "beat_on(1, True)", machines=TWO)
    told = "(the network between n1, n2; GLOO_SOCKET_IFNAME, with run.pass_env, names the interface)"
    assert ended.reason == "rank_not_begun"
    assert told in ended.message


def test_a_machine_that_does_not_take_its_rank_is_named_with_its_own_word() -> None:
    ended = verdict("beat_on(1, True)", "sys.exit('srun: error: Communication connection failure')", machines=TWO)
    told = "rank 1 on n2 has gone (srun: error: Communication connection failure); the last checkpoint stands"
    assert (ended.reason, ended.message) == ("rank_not_begun", told)


def test_a_machine_that_others_miss_and_that_says_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what they say of a closed connection, though it closed before the silence was long enough to tell by itself."""
    monkeypatch.setattr(agent, "BEAT_SECONDS", 0.3)
    monkeypatch.setattr(agent, "ALONE_SECONDS", 3.0)
    ended = verdict("beat(9); end('peer_gone', 'Connection closed by peer')", "beat(9); time.sleep(60)", machines=TWO)
    assert ended.reason == "rank_lost"
    assert re.fullmatch(r"rank 1 on n2 has gone: it did not answer for \d+ s; the last checkpoint stands", ended.message)


def test_ranks_of_other_machines_hear_that_their_agent_lives() -> None:
    hears = "beat(9); sys.stdin.readline(); end('completed')"
    assert verdict("beat(9); end('completed')", hears, machines=TWO).reason == "completed"


ALONE_THERE = """\
import os, signal, sys, threading, time
from last_e.ranks import lifeline
lifeline.SILENT_SECONDS, lifeline.BEAT_SECONDS = 1.0, 0.1
line = lifeline.Lifeline()
line.watch()
def hear_for(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until: line.hear(); time.sleep(0.05)
"""


@pytest.mark.parametrize("what", ["line.hear(); time.sleep(600)", "hear_for(2); time.sleep(600)"])
def test_a_rank_that_hears_nothing_more_of_its_agent_ends_itself(what: str) -> None:
    done = subprocess.run([sys.executable, "-c", ALONE_THERE + what], capture_output=True, text=True, check=False)
    said = "nothing came from the machine that leads the run for 1 s: this rank ends\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_one_that_never_heard_anything_or_slept_itself_does_not() -> None:
    """What starts it may hand nothing on; a whole machine may be paused."""
    sleeps = "os.system(f'(sleep 2; kill -CONT {os.getpid()}) &'); os.kill(os.getpid(), signal.SIGSTOP); hear_for(1)"
    for what in ("time.sleep(2)", f"hear_for(0.5); {sleeps}"):
        subprocess.run([sys.executable, "-c", f"{ALONE_THERE}{what}; os._exit(0)"], check=True)


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
