"""Tab: what shells are told, how little is imported for that, and the shells themselves."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import debian
from tests.conftest import Cli

JOB = "tiny-20260101-120000-0a0b"
POINT = "sweep-20260102-120000-0c0dp0001"


@pytest.fixture
def env(clean_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A store with two jobs, and ``lastrun`` on the path."""
    for number, job in ((79739898879999, JOB), (79739897879999, POINT)):
        for name in (f".index/{number}-{job}", f"{job}/job.json"):
            (tmp_path / "store" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "store" / name).write_text("")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "lastrun"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m runner "$@"\n')
    program.chmod(0o755)
    return {**clean_env, "PATH": f"{tmp_path / 'bin'}:{clean_env['PATH']}"}


def asked(env: dict[str, str], line: str, current: str | None = None) -> list[str]:
    words = [sys.executable, "-m", "runner", "__complete", "bash", line.split(" ")[-1] if current is None else current, line]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=env["HOME"], check=True)
    assert done.stderr == ""
    return [word.partition("\t")[0] for word in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lastrun res", ["words", "resume"]),
        ("lastrun data im", ["words", "import"]),
        ("lastrun submit ", ["files"]),
        ("lastrun submit a.yaml --set training.lr=1 training.label", ["open", "training.label_smoothing="]),
        ("lastrun submit a.yaml --env ka", ["words", "kaggle"]),
        ("lastrun submit a.yaml --launcher s", ["words", "slurm", "ssh", "sky"]),
        ("lastrun status ", ["words", "sweep-20260102-120000-0c0d", POINT, JOB]),
        ("lastrun status --json ti", ["words", JOB]),
        ("lastrun pull tiny ", ["files"]),
        ("lastrun cp ti", ["words", JOB]),
        ("lastrun cp tiny:log.txt ", ["files"]),
        ("lastrun list --cl", ["words", "--clouds"]),
        ("lastrun list --columns re", ["open", "reason"]),
        ("lastrun list --columns id,be", ["open", "id,best"]),
        ("lastrun list --columns=id,state,s", ["open", "--columns=id,state,split"]),
        ("lastrun list --state failed,lo", ["open", "failed,lost"]),
        ("lastrun nonsense ", ["words"]),
        ("lastrun status 'ti", ["words"]),
    ],
)
def test_what_could_come_next(env: dict[str, str], line: str, expected: list[str]) -> None:
    assert asked(env, line) == expected


def test_a_word_of_bash_begins_behind_an_equals_sign(env: dict[str, str]) -> None:
    assert asked(env, "lastrun submit a.yaml --env=ka", "ka") == ["words", "kaggle"]
    assert asked(env, "lastrun submit a.yaml --env=ka") == ["words", "--env=kaggle"]


def test_nothing_is_imported_for_what_is_kept_and_what_is_new_is_seen(env: dict[str, str], cli: Cli, tmp_path: Path) -> None:
    assert asked(env, "lastrun status ti") == ["words", JOB]
    code = (
        "import json, sys\nsys.argv = ['lastrun', '__complete', 'bash', 'ti', 'lastrun status ti']\n"
        "from runner.__main__ import main\nmain()\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=env["HOME"], check=True)
    assert done.stdout.split() == ["words", JOB]
    assert {"typer", "click", "pydantic", "yaml", "boto3", "runner.commands.app"} & set(json.loads(done.stderr)) == set()

    newer = "tiny-20260103-120000-0e0f"
    (tmp_path / "store" / ".index" / f"79739896879999-{newer}").write_text("")
    assert asked(env, "lastrun status ti") == ["words", newer, JOB]
    assert asked({**env, "LASTRUN_STORE": str(tmp_path / "other")}, "lastrun status ti") == ["words"]
    cache = tmp_path / ".cache" / "lastrun" / "completion"
    assert {path.stat().st_mode & 0o77 for path in cache.iterdir()} == {0}
    for path in cache.iterdir():
        path.write_text("{")  # a disk that was full
    assert asked(env, "lastrun status ti") == ["words", newer, JOB]


def test_a_shell_that_is_not_known_is_told(cli: Cli) -> None:
    done = cli("completion", "csh")
    assert (done.returncode, done.stderr) == (2, "error: completion: found 'csh'; allowed: bash, zsh, fish\n")


def test_bash_completes(env: dict[str, str]) -> None:
    script = (
        'eval "$(lastrun completion bash)"\n'
        'try() { COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=("${@:2}"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _lastrun; '
        'echo "${COMPREPLY[@]}"; }\ncompopt() { echo "compopt $*"; }\n'
        "try 'lastrun status ti' lastrun status ti\n"
        "try 'lastrun submit a.yaml --set training.label' lastrun submit a.yaml --set training.label\n"
        "try 'lastrun submit a.yaml --env=ka' lastrun submit a.yaml --env = ka\n"
        "try 'lastrun submit j' lastrun submit j\n"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, cwd=env["HOME"], check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        JOB,
        "compopt -o nospace",
        "training.label_smoothing=",
        "kaggle",
        "compopt -o default",
        "",
    ]


def test_fish_completes(env: dict[str, str]) -> None:
    debian.need("fish", lambda: debian.why_not(["fish"], ["fish"]))
    script = "lastrun completion fish | source; complete -C 'lastrun status ti'; complete -C 'lastrun submit a.yaml --env ka'"
    done = subprocess.run(["fish", "-N", "-c", script], capture_output=True, text=True, env=env, cwd=env["HOME"], check=True)
    assert done.stdout.split() == [JOB, "kaggle"]


def test_zsh_completes(env: dict[str, str]) -> None:
    debian.need("zsh", lambda: debian.why_not(["zsh"], ["zsh"]))
    ours, theirs = pty.openpty()
    words = {**env, "TERM": "dumb", "PS1": "> ", "ZDOTDIR": env["HOME"]}
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=words, cwd=env["HOME"], start_new_session=True
    )
    os.close(theirs)
    try:
        os.write(ours, b'eval "$(lastrun completion zsh)"; echo re""ady\n')
        read_until(ours, "ready")
        os.write(ours, b"lastrun status ti\t")
        read_until(ours, JOB)
        os.write(ours, b" && true\x15lastrun submit a.yaml --set training.label\t")
        read_until(ours, "training.label_smoothing=")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def read_until(terminal: int, text: str) -> None:
    seen, deadline = "", time.monotonic() + 60
    while text not in seen:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], seen
        seen += os.read(terminal, 4096).decode()
