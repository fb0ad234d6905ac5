"""The documentation: it builds without a warning, and knows every command, option and reason."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from runner.completion.table import read_off
from runner.errors import Reason

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EVERYWHERE = {"--json", "--quiet", "--help", "--version"}


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
        foreign = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(https?:[^\"'> ]+)", page.read_text())
        assert foreign == [], page.name


def test_every_command_and_option_is_told() -> None:
    lines = (DOCS / "commands.md").read_text().splitlines()
    for name, about in read_off()["commands"].items():
        if about["inner"]:
            continue
        rows = [line for line in lines if re.match(rf"\| `lastrun {name}[ `]", line)]
        assert len(rows) == 1, f"docs/commands.md: {len(rows)} rows of lastrun {name}"
        missing = {word for word in about["options"] if word.startswith("--") and word not in rows[0]}
        assert missing <= EVERYWHERE, f"docs/commands.md: lastrun {name}: {', '.join(missing)}"


@pytest.mark.parametrize("page", ["commands.md", "troubleshooting.md"])
def test_every_reason_is_told(page: str) -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", (DOCS / page).read_text(), re.MULTILINE)
    assert {reason.value for reason in Reason} <= set(re.findall(r"`([a-z_]+)`", " ".join(rows)))
