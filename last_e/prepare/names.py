"""NTU RGB+D's recordings: their names, which data set they belong to, which are broken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from last_e.datafile import pointer

LISTS = Path(__file__).parent / "ntu"
_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class NtuSet:
    """What belongs to a data set."""

    setups: int
    actions: int
    broken: str
    """File with the names of the recordings that everybody leaves out."""


NTU_SETS = {
    "ntu60": NtuSet(17, 60, "missing_ntu60.txt"),
    "ntu120": NtuSet(32, 120, "missing_ntu120.txt"),
}


@dataclass(frozen=True)
class NtuName:
    """``SsssCcccPpppRrrrAaaa``, taken apart; everything is 1-based."""

    setup: int
    camera: int
    performer: int
    replication: int
    action: int

    def __str__(self) -> str:
        parts = zip("SCPRA", (self.setup, self.camera, self.performer, self.replication, self.action))
        return "".join(f"{letter}{number:03}" for letter, number in parts)

    def belongs_to(self, dataset: str) -> bool:
        """Whether a recording of this name is part of a data set."""
        limits = NTU_SETS[dataset]
        return 1 <= self.setup <= limits.setups and 1 <= self.action <= limits.actions


def read_name(text: str) -> NtuName | None:
    """The name in ``S001C002P003R002A013``, with or without folders and endings; None where it is another kind of name."""
    match = _NAME.fullmatch(text.rpartition("/")[2].split(".")[0])
    return None if match is None else NtuName(*map(int, match.groups()))


@cache
def broken(dataset: str) -> frozenset[str]:
    """Names of the recordings whose skeletons are missing or wrong (302 of ntu60, 535 of ntu120 with those)."""
    return frozenset((LISTS / NTU_SETS[dataset].broken).read_text().split())


def no_download(beginning: bytes) -> str | None:
    """What a file that begins so is, where a download has left it that went wrong."""
    if not beginning:
        return "an empty file; copy or download it again"
    if beginning.lstrip()[:1] == b"<":
        return "a web page, perhaps one that asks to log in; download it in a browser"
    return pointer(beginning)
