"""Whether a trainer gets on: for who watches it from elsewhere."""

from __future__ import annotations

import time

from last_e.events import Progress


class Moves:
    """Since when it has made no step. Tests at the end of an epoch count as well, as long as one hears of them."""

    def __init__(self) -> None:
        self._step, self._since = -1, time.monotonic()

    def hear(self, event: Progress) -> None:
        """What the trainer says of where it is."""
        if event.step != self._step or event.phase != "train":
            self._step, self._since = event.step, time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """So long; at first since the attempt began."""
        return round(time.monotonic() - self._since, 1)
