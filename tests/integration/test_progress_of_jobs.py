"""What people see of a job at terminals: where it was submitted, and elsewhere."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.jobs import LONGER, PATIENCE, wait_until
from tests.terminals import Terminal

PLAIN = [sys.executable, "-m", "runner"]
BAR = re.compile("━{3}")


@pytest.fixture
def at_terminal(clean_env: dict[str, str]) -> Iterator[Callable[..., tuple[Terminal, subprocess.Popen[bytes]]]]:
    """``lastrun`` at a terminal of its own."""
    started: list[tuple[Terminal, subprocess.Popen[bytes]]] = []

    def start(*words: str | Path, columns: int = 80) -> tuple[Terminal, subprocess.Popen[bytes]]:
        terminal = Terminal(columns, 30)
        started.append((terminal, terminal.start([*PLAIN, *map(str, words)], clean_env, clean_env["HOME"])))
        return started[-1]

    yield start
    for terminal, process in started:
        process.kill()
        process.wait()
        terminal.close()


def shows(terminal: Terminal, *patterns: str) -> bool:
    return all(re.search(pattern, terminal.text, re.MULTILINE) for pattern in patterns)


def test_a_job_has_the_same_view_at_its_terminal_and_elsewhere(
    at_terminal: Callable[..., tuple[Terminal, subprocess.Popen[bytes]]], tiny: Path, clean_env: dict[str, str]
) -> None:
    own, submit = at_terminal("submit", tiny, *LONGER, "training.epochs=3000", columns=60)
    figures = r"^epoch ━.* left$", r"^job   .* left$", r"^loss \d", r" clips/s", r"synced step \d"
    wait_until(lambda: shows(own, *figures))
    status, watching = at_terminal("status", "tiny", "--watch")
    log, following = at_terminal("logs", "tiny", "--follow")
    piped = subprocess.Popen([*PLAIN, "status", "tiny", "-w"], stdout=subprocess.PIPE, text=True, env=clean_env)
    own.resize(100, 40)
    wait_until(lambda: shows(own, r"^epoch ━{30}", r"^epoch \d+/3000  .*train loss"))
    own.resize(60, 30)
    wait_until(lambda: shows(status, *figures, r"running, attempt 1 on "))
    wait_until(lambda: shows(log, *figures, r"^--- attempt 1 on "))
    told = [""]
    while not re.match(r"epoch \d+/3000  lr ", told[-1]):  # it may begin later than the others
        assert piped.stdout is not None
        told.append(piped.stdout.readline())
        assert told[-1]
    status.press("\x03")
    assert watching.wait(PATIENCE) == -signal.SIGINT  # as a shell likes it: 130 to its script
    wait_until(lambda: not BAR.search(status.text))
    own.press("\x03")
    assert submit.wait(PATIENCE) == 75
    assert following.wait(PATIENCE) == 0
    for terminal in (own, status, log):
        wait_until(lambda terminal=terminal: not BAR.search(terminal.text))
        assert terminal.shows_cursor
        assert b"\x1b[?25" not in terminal.raw
    wait_until(lambda: own.lines[-1].startswith("next: lastrun resume "))
    epochs = [int(number) for number in re.findall(r"^epoch (\d+)/3000  ", own.text, re.MULTILINE)]
    assert epochs == list(range(1, len(epochs) + 1))
    assert epochs
    assert not re.search(r"left$|clips/s", own.text, re.MULTILINE), own.text
    assert "interrupted: saved at step" in log.text
    text = "".join([*told, piped.communicate(timeout=PATIENCE)[0]])
    assert "\x1b" not in text
    assert re.search(r"^state +running", text, re.MULTILINE)
    assert re.search(r"^state +paused \(interrupted: ", text, re.MULTILINE)


def test_a_view_whose_program_was_killed_is_cleared_by_who_started_it(
    at_terminal: Callable[..., tuple[Terminal, subprocess.Popen[bytes]]], tiny: Path
) -> None:
    own, submit = at_terminal("submit", tiny, *LONGER, "training.epochs=3000")
    wait_until(lambda: shows(own, r"^epoch ━"))
    attempt = int(Path(f"/proc/{submit.pid}/task/{submit.pid}/children").read_text().split()[0])
    subprocess.run(["kill", "-9", str(attempt)], check=True)
    assert submit.wait(PATIENCE) == 1
    wait_until(lambda: re.search("^next: lastrun (resume|sync) ", own.text, re.MULTILINE))  # as it has sent all or not
    assert not BAR.search(own.text)
    assert own.shows_cursor


def test_quiet_prints_no_more_than_how_it_went(tiny: Path, clean_env: dict[str, str]) -> None:
    done = subprocess.run(
        [*PLAIN, "submit", str(tiny), "--quiet", "--set", "training.epochs=1"], capture_output=True, text=True, env=clean_env
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"job: (\S+)\ncompleted at step 6 of 6: .*\njob:  \1\nnext: .*\n", done.stdout), done.stdout
