"""The documentation as a site: it builds without a warning, has every page, and asks nobody else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runner.errors import Reason

pytestmark = pytest.mark.slow  # other Pythons have no Zensical
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, with no warning."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return folder / "site"


def test_every_page_is_in_the_site_and_asks_nobody_else(site: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert {path.name for path in DOCS.glob("*.md")} == set(re.findall(r"[\w-]+\.md", str(yaml.safe_load(text)["nav"])))
    for page in site.glob("*.html"):
        assert not re.search(r"<code>[^<]*\\\|", page.read_text()), f"{page.name}: a backslash before a bar is shown in code"
        foreign = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(https?:[^\"'> ]+)", page.read_text())
        assert foreign == [], page.name


def test_what_to_do_is_told_of_every_reason() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert {reason.value for reason in Reason} <= set(re.findall(r"`([a-z_]+)`", " ".join(rows)))
