"""Which lastrun this is."""

from __future__ import annotations


def lastrun_version() -> str:
    """Its version; ``unknown`` where it is not installed."""
    from importlib import metadata  # slow to import

    try:
        return metadata.version("lastrun")
    except metadata.PackageNotFoundError:
        return "unknown"
