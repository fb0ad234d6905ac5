"""What a child tells whoever called it when it cannot do what it was asked: why, and whose it is to mend. Torch-free."""

from __future__ import annotations

from typing import Any

from last_e.text import one_line

USAGE, NO_GPU, FAILED = "usage", "no_gpu", "failed"
"""``whose`` an error is: what was asked cannot be; this machine lacks what it needs; anything else, such as a damaged file."""


def refusal(error: BaseException) -> dict[str, Any]:
    """A line of JSON: ``error``, on one line, and ``whose``."""
    return {"error": one_line(error), "whose": getattr(error, "whose", FAILED)}
