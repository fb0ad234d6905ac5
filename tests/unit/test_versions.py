"""What pyproject.toml promises about versions, and what else has to say the same."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

APART = ("browser", "executorch", "mlflow", "sky", "tensorboard", "trackio", "triton", "ui", "wandb")
"""Extras that are no part of dev: their lowest versions are not tried."""
ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "versions.py"))
SUPPORTED: list[str] = SCRIPT["supported"]()


def test_the_classifiers_name_every_python_from_the_lowest_on() -> None:
    lowest = int(SUPPORTED[0].partition(".")[2])
    assert [f"3.{lowest + i}" for i in range(len(SUPPORTED))] == SUPPORTED
    assert PROJECT["project"]["requires-python"] == f">=3.{lowest}"
    assert PROJECT["tool"]["mypy"]["python_version"] == f"3.{lowest}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{lowest}"
    makefile = (ROOT / "Makefile").read_text()
    assert f"(3, {lowest})" in makefile
    assert f"--python-version 3.{lowest} " in makefile
    assert f"Python 3.{lowest} or newer" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("python", SUPPORTED)
def test_the_lowest_versions_that_are_tried_are_the_lower_bounds(python: str) -> None:
    env = {"python_version": python, "python_full_version": f"{python}.0"}
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    tried = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins if pin.marker is None or pin.marker.evaluate(env)}

    bounds: dict[str, list[Version]] = {}
    extras = {n: one for n, one in PROJECT["project"]["optional-dependencies"].items() if n not in APART}
    for one in map(Requirement, [*PROJECT["project"]["dependencies"], *(text for group in extras.values() for text in group)]):
        if one.name == "lastrun" or (one.marker is not None and not one.marker.evaluate(env)):
            continue
        assert tried[canonicalize_name(one.name)] in one.specifier, f"{one}: make lowest"
        lower = [Version(bound.version) for bound in one.specifier if bound.operator == ">="]
        assert len(lower) == 1, f"{one} has no lower bound"
        bounds.setdefault(canonicalize_name(one.name), []).extend(lower)
    for name, lower in bounds.items():
        said = max(lower)
        assert Version(tried[name]).release[: len(said.release)] == said.release, f"{name} {said}: make lowest"


def test_skypilot_which_lies_beside_nothing_else_is_tried_as_its_bound_says() -> None:
    (bound,) = map(Requirement, PROJECT["project"]["optional-dependencies"]["sky"])
    pins = [line for line in (ROOT / "constraints-sky.txt").read_text().splitlines() if not line.startswith("#")]
    tried = {pin.name: str(pin.specifier).removeprefix("==") for pin in map(Requirement, pins)}
    assert str(bound.specifier) == f">={tried['skypilot']}"
    with_all_else = next(one for one in PROJECT["project"]["optional-dependencies"]["dev"] if one.startswith("lastrun["))
    assert "sky" not in with_all_else


def test_readme_names_the_lowest_torch() -> None:
    (torch,) = (one for one in PROJECT["project"]["optional-dependencies"]["train"] if one.startswith("torch"))
    (said,) = re.findall(r"a torch of (\S+) or newer", (ROOT / "README.md").read_text())
    assert torch == f"torch>={said}"


def test_what_was_skipped_is_not_counted_as_tried(tmp_path: Path) -> None:
    path = tmp_path / "test_two.py"
    path.write_text("import pytest\n\ndef test_one(): pass\n\ndef test_other(): pytest.skip('no sshd here')\n")
    assert SCRIPT["tests"](Path(sys.prefix), path, "-c", os.devnull, "--rootdir", tmp_path, LASTRUN_NO_SKIPS="") == 1
