"""``benchmarks/gpu.py`` runs whole where there is no GPU, and no section of it can spoil another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
SECTIONS = (
    *("machine", "batches", "logits", "losses", "kernels", "graph", "waiting", "checkpoint", "formats", "job"),
    *("epoch", "plain epoch", "bench", "two ranks", "container", "compile", "compile with graphs"),
    *("ranks on one GPU", "nccl on one GPU"),
)
UNRULY = """
import os, sys, time
sys.path.insert(0, sys.argv.pop(1))
from benchmarks import gpu
def fails(task): raise ValueError("on purpose")
def dies(task): os._exit(9)
def hangs(task): time.sleep(600)
def works(task): return {"seen": sorted(task.found), "not_finite": float("inf")}
gpu.SECTIONS = {
    "long": gpu.Section(works, 3600),
    "first": gpu.Section(works, 30),
    "fails": gpu.Section(fails, 30),
    "dies": gpu.Section(dies, 30),
    "hangs": gpu.Section(hangs, 0.5),
    "last": gpu.Section(works, 30),
}
sys.exit(gpu.main())
"""
"""Sections that do what none should."""


def run(folder: Path, *words: str | Path) -> tuple[int, dict[str, Any], str]:
    """Exit code, what was kept, what was printed."""
    command = [sys.executable, *words, "--quick", "--device", "cpu", "--cores", "1", "--out", folder / "gpu.json"]
    with tempfile.TemporaryDirectory() as home:  # of its own: where an engine answers, a job of this user's runs in a container
        env = {**{name: value for name, value in os.environ.items() if not name.startswith("XDG_")}, "HOME": home}
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=600, check=False, cwd=folder, env=env
        )
    found = json.loads((folder / "gpu.json").read_text())
    assert [path.name for path in folder.iterdir()] == ["gpu.json"]
    return done.returncode, found["sections"], done.stdout + done.stderr


@pytest.mark.slow
def test_every_section_runs_on_a_cpu(tmp_path: Path) -> None:
    code, sections, said = run(tmp_path, SCRIPT, "--minutes", "60")  # a busy machine may take longer than a GPU
    assert code == 0, said
    assert tuple(sections) == SECTIONS
    assert {entry["outcome"] for entry in sections.values()} == {"done"}
    results = {name: entry["result"] for name, entry in sections.items()}
    assert all(f"{name}: done in " in said for name in SECTIONS)
    assert results["job"]["identical"]
    assert 0 < results["job"]["killed_after_step"] < results["job"]["steps"]
    assert results["losses"]["largest_relative_difference"] < 1e-9
    assert results["epoch"]["seconds_of_an_epoch"] > 0
    assert set(results["epoch"]["of_peak"]) == {"matrix", "copy"}
    assert 0 < results["epoch"]["measured_share"] < 0.01  # of 40,091 clips
    assert results["plain epoch"]["measured_share"] == results["epoch"]["measured_share"]
    ratio = results["plain epoch"]["seconds_of_an_epoch"] / results["epoch"]["seconds_of_an_epoch"]
    assert results["plain epoch"]["ratio"] == ratio
    assert all(results["bench"][part]["ratio"] > 0 for part in ("data", "forward", "train", "epoch"))
    assert results["bench"]["checkpoint_stall_ms"]["median"] > 0
    assert (results["two ranks"]["through"], results["two ranks"]["identical"]) == ("gloo", True)
    assert results["two ranks"]["of_one"] > 0
    assert min(value for name, value in results["two ranks"].items() if name.endswith("_ms")) > 0
    assert results["nccl on one GPU"]["refused"]  # this torch has none
    assert results["kernels"]["ratio"] > 0
    assert results["graph"]["graphs"] > 1
    assert results["graph"]["ratio"] > 0
    assert results["compile"]["ratio"] > 0


def test_no_section_spoils_the_next(tmp_path: Path) -> None:
    code, sections, said = run(tmp_path, "-c", UNRULY, ROOT)
    assert code == 1, said
    assert [entry["outcome"] for entry in sections.values()] == ["left out", "done", "failed", "failed", "failed", "done"]
    reasons = {name: entry["reason"] for name, entry in sections.items() if "reason" in entry}
    assert reasons == {
        "long": "no time",
        "fails": "ValueError: on purpose",
        "dies": "its process ended with exit code 9",
        "hangs": "cut off after 3 s",
    }
    assert "on purpose" in sections["fails"]["traceback"]
    assert "long: left out (no time)\n" in said
    assert sections["last"]["result"] == {"seen": ["first"], "not_finite": None}
