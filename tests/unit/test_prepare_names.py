"""NTU's names, and the published lists and counts."""

from __future__ import annotations

import numpy as np

from last_e.prepare.names import NtuName, broken, read_name
from last_e.splits import OFFICIAL, trains


def test_the_lists_of_broken_recordings_are_the_published_ones():
    assert (len(broken("ntu60")), len(broken("ntu120"))) == (302, 535)
    assert broken("ntu60") < broken("ntu120")
    assert all(str(read_name(name)) == name for name in broken("ntu120"))


def test_the_official_counts_follow_from_the_list_and_the_published_totals():
    """56,880 recordings: 40,320 and 16,560 of xsub (Shahroudy et al.), a third from each camera."""
    names = [read_name(name) for name in broken("ntu60")]
    columns = [np.array([getattr(name, key) for name in names]) for key in ("performer", "camera", "setup")]
    for split, (train, test) in (("xsub", (40_320, 16_560)), ("xview", (37_920, 18_960))):
        out = int(trains("ntu60", split, *columns).sum())
        assert OFFICIAL["ntu60", split] == (train - out, test - (302 - out))
    assert {sum(OFFICIAL["ntu120", split]) for split in ("xsub", "xset")} == {114_480 - 535}


def test_names_are_taken_apart_and_put_together():
    name = read_name("a/b/S017C003P040R002A060.skeleton")
    assert name == NtuName(17, 3, 40, 2, 60)
    assert str(name) == "S017C003P040R002A060"
    for other in ("", "S1C1P1R1A1", "S017C003P040R002A060x", "xS017C003P040R002A060", "S017C003P040R002"):
        assert read_name(other) is None
    assert not NtuName(0, 1, 1, 1, 1).belongs_to("ntu60")
