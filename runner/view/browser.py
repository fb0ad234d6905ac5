"""A page in the browser of whoever sits at this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def is_there() -> bool:
    """Whether there is one for whoever sits here. One for a terminal is none: it would take it over."""
    telling = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME")
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in telling)


def open_page(path: Path) -> bool:
    """Open a file; False: there is no browser, or it does not start."""
    if not is_there():
        return False
    import webbrowser

    try:
        return webbrowser.open(path.absolute().as_uri())
    except (webbrowser.Error, OSError):
        return False
