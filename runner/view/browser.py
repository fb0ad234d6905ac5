"""A page in the browser of whoever sits at this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def open_page(path: Path) -> bool:
    """Open a file; False: there is no browser, or nobody sits here. One for a terminal is none: it would take it over."""
    telling = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in telling):
        return False
    import webbrowser

    try:
        return webbrowser.open(path.absolute().as_uri())
    except (webbrowser.Error, OSError):
        return False
