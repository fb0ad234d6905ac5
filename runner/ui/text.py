"""Text that others have written, for pages."""

from __future__ import annotations

from typing import Any

from last_e.text import plain


def plained(value: Any) -> Any:
    """With control characters made visible in all text, whoever has written it."""
    if isinstance(value, dict):
        return {key: plained(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plained(item) for item in value]
    return plain(value) if isinstance(value, str) else value
