"""No credential gets into a spec, a store, a log, a command line or an error."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from runner.store.open import open_store
from tests.ceph import ACCESS_KEY, SECRET_KEY
from tests.conftest import Cli
from tests.jobs import LONGER, command_lines, jobs_in, some_step_is_stored

API_KEY = "test-api-key-0123456789"
"""That no command line shows. The other tests here, which may run at the same time, type one of their own."""
TYPED = "typed-api-key-0123456789"
TALKATIVE = """
import os, sys
if "last_e" in sys.orig_argv:
    print("logging in with " + os.environ["SOME_API_KEY"], file=sys.stderr, flush=True)
"""
"""A trainer's library that prints what it should not."""


@pytest.mark.xdist_group("ceph")
def test_secrets_of_a_run_stay_in_its_environment(
    bucket: str, run: Any, cli: Cli, tiny: Path, clean_env: Any, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(TALKATIVE)
    path = os.pathsep.join([str(tmp_path / "site"), clean_env.get("PYTHONPATH", "")])
    clean_env.update(SOME_API_KEY=API_KEY, PYTHONPATH=path)
    tiny.write_text(tiny.read_text() + "run: {pass_env: [SOME_API_KEY]}\n")
    current = run("submit", tiny, *LONGER)
    shown: set[str] = set()

    def look() -> None:
        shown.update(line.replace(b"\0", b" ").decode("utf-8", "replace") for line in command_lines().values())

    while not (jobs_in(current.store) and some_step_is_stored(current.job)):
        look()
        assert current.process.poll() is None, current.process.communicate()
        time.sleep(0.05)
    with current.held(some_step_is_stored):
        look()  # now it is there for sure
        current.press_ctrl_c()
    code, out = current.end()
    assert code == 75, out
    assert "logging in with ***" in out
    said = [out, *shown]
    for words in (["status"], ["logs"], ["resume", "--env", "nowhere"], ["status", "--json"]):
        done = cli(words[0], current.job.id, *words[1:])
        said += [done.stdout, done.stderr]
    store = open_store(clean_env["LASTRUN_STORE"])
    said += [store.get(entry.key).decode("latin-1") for entry in store.scan("")]
    assert any("-m last_e" in text for text in said), "the trainer's command line was not seen"
    for secret in (ACCESS_KEY, SECRET_KEY, API_KEY):
        assert [text for text in said if secret in text] == []


def test_a_job_with_secrets_in_it_is_refused_and_they_are_not_repeated(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(tiny.read_text() + f"store: {{uri: 's3://AKIAIOSFODNN7EXAMPLE:{TYPED}@b/p', secret_key: {TYPED}}}\n")
    for words in (
        ["validate", tiny],
        ["submit", tiny],
        ["validate", tiny, "--set", f"run.pass_env=[WANDB_API_KEY={TYPED}]"],
        ["validate", tiny, "--set", f"password=[{TYPED}"],
        ["list", "--store", f"s3://me:{TYPED}@b/p"],
        ["list", "--store", f"s3://b/p?endpoint_url=https://me:{TYPED}@host"],
    ):
        done = cli(*words)
        assert done.returncode == 2, done.stderr
        assert TYPED not in done.stdout + done.stderr
    assert not (tmp_path / "store").exists()
