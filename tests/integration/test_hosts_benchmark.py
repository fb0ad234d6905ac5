"""``benchmarks/hosts.py`` runs where there is no host; how long an attempt takes to begin on one is measured by hand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hosts.py"


@pytest.mark.slow
def test_what_following_many_jobs_takes_is_measured(clean_env: dict[str, str]) -> None:
    words = ["--rounds", "0", "--jobs", "5", "--seconds", "15"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, env=clean_env, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"following 5 jobs at work: [1-9]\d* looks in 15 s\n", done.stdout), done.stdout
    assert re.search(r"a look is \d+ calls of the store \(.*get.*\)\nCPU time: \d+\.\d s a minute\n", done.stdout), done.stdout
