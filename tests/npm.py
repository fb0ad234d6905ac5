"""What npm brings for the tests: the very package that pages have, fetched once as lastrun fetches it."""

from __future__ import annotations

from pathlib import Path

from runner.page.runtime import FILE, _fetch
from tests import debian


def runtime_in(folder: Path) -> Path:
    """npm's package of what runs a model in a browser."""
    debian.need("npm", lambda: debian.why_not(["npm"], ["npm"]))
    _fetch(folder / FILE, lambda _: None)
    return folder / FILE
