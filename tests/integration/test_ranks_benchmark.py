"""``benchmarks/ranks.py`` runs; what it is for is measured by hand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ranks.py"


@pytest.mark.slow
def test_both_sums_are_given_as_shares_of_a_step(clean_env: dict[str, str]) -> None:
    words = ["--model", "nano", "--ranks", "1,2", "--rounds", "1", "--seconds", "0.1"]
    words += ["--set", "model.channels=[8,8,8]", "model.stem_channels=8", "training.input_frames=16"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, env=clean_env, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    head, sizes, _, one, two = done.stdout.splitlines()
    assert "cores, load" in head
    assert re.fullmatch(r"nano_e_v3: [\d,]+ numbers a sum, 2 micro-batches of 16 clips a step", sizes)
    assert re.fullmatch(r"1 +[\d.]+ +[\d.]+ - [\d.]+ +1\.00 +\d+ ms +0%", one), one
    assert re.fullmatch(r"2 +[\d.]+ +[\d.]+ - [\d.]+ +[\d.]+ +\d+ ms +\d+%( +[\d.]+ ms +[\d.]+%){2}", two), two
