"""Users without a home folder, with one that cannot be written, without an entry in the list of users, with a strict umask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import PATIENCE

USER = 54321
"""Of nobody's."""
COMMANDS = (
    *(["validate", "JOB"], ["explain", "JOB"], ["plan", "JOB"], ["submit", "JOB", "--dry-run"], ["submit", "JOB"], ["list"]),
    *(["status", "tiny"], ["logs", "tiny"], ["pull", "tiny", "OUT"], ["sync", "tiny"], ["stop", "--all"], ["rm", "ID"]),
)
WITHOUT_A_STORE = ("validate", "explain", "plan")


def call(env: dict[str, str], folder: Path, words: list[str], before: list[str], umask: int = -1) -> tuple[int, str]:
    command = [*before, sys.executable, "-m", "runner", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=folder, timeout=PATIENCE, check=False, umask=umask
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def all_work(env: dict[str, str], tiny: Path, store: Path, before: list[str], umask: int = -1) -> None:
    """With ``--store`` nothing else is needed."""
    for words in COMMANDS:
        ids = [path.name for path in store.glob("tiny-*")]
        given = [{"JOB": str(tiny), "ID": "".join(ids), "OUT": f"{store}-out"}.get(word, word) for word in words]
        more = [] if words[0] in WITHOUT_A_STORE else ["--store", str(store)]
        code, said = call(env, tiny.parent, [*given, *more], before, umask)
        assert code == 0, (words, said)
    assert not list(store.glob("tiny-*"))


@pytest.fixture
def nobody() -> list[str]:
    """What to put before a command for a user of whom the system knows nothing, and who may do what we may."""
    words = ["unshare", "--user", f"--map-user={USER}"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not let one have a namespace of users of one's own")
    return words


def test_a_user_of_whom_the_system_knows_nothing(
    nobody: list[str], clean_env: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    env = {name: value for name, value in clean_env.items() if name not in ("HOME", "LASTRUN_STORE", "USER", "LOGNAME")}
    all_work(env, tiny, tmp_path / "named", nobody)
    for words in (["submit", str(tiny)], ["submit", str(tiny), "--dry-run"], ["list"], ["status", "x"]):
        code, said = call(env, tmp_path, words, nobody)
        assert code == 2
        expected = "set HOME or XDG_DATA_HOME to a folder, or name a store with --store or LASTRUN_STORE\n"
        assert said == f"error: this user has no home folder: {expected}"
    assert call(env, tmp_path, ["plan", str(tiny)], nobody)[0] == 0
    env["XDG_DATA_HOME"] = str(tmp_path / "data")
    assert call(env, tmp_path, ["list"], nobody) == (
        0,
        f"no jobs in file://{tmp_path}/data/lastrun/jobs; lastrun submit FILE begins one\n",
    )


def test_a_home_that_cannot_be_written(clean_env: dict[str, str], tiny: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        (home := tmp_path / "home").mkdir(mode=0o500)
        before: list[str] = []
    else:  # root may write anywhere but on what is mounted so
        (home := tmp_path / "home").mkdir()
        script = 'mount -t tmpfs -o ro none "$HOME" && exec "$@"'
        before = ["unshare", "--mount", "sh", "-c", script, "sh"]
        if subprocess.run([*before, "true"], capture_output=True, check=False, env={**clean_env, "HOME": str(home)}).returncode:
            pytest.skip("nothing can be mounted here")
    env = {name: value for name, value in clean_env.items() if name != "LASTRUN_STORE"} | {"HOME": str(home)}
    all_work(env, tiny, tmp_path / "named", before)
    code, said = call(env, tmp_path, ["submit", str(tiny)], before)
    assert code == 4
    assert "name a folder that you may write to, or a bucket, with --store or LASTRUN_STORE" in said
    code, said = call(env, tmp_path, ["submit", str(tiny), "--dry-run"], before)
    assert code == 4
    assert f"{(home / '.local/share/lastrun/jobs').as_uri()} can only be read" in said
    assert call(env, tmp_path, ["list"], before)[0] == 0


def test_what_is_made_is_nobody_elses_whatever_the_umask_and_a_strict_one_works(
    clean_env: dict[str, str], tiny: Path, tmp_path: Path
) -> None:
    store = tmp_path / "lax"
    code, said = call(clean_env, tmp_path, ["submit", str(tiny), "--store", str(store)], [], umask=0)
    assert code == 0, said
    assert {path.stat().st_mode & 0o077 for path in [store, *store.rglob("*")]} == {0}
    all_work(clean_env, tiny, tmp_path / "strict", [], umask=0o077)
