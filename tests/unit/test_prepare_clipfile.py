"""Prepared files, read."""

from __future__ import annotations

import pytest
import torch

from last_e.data import Clips
from last_e.data.splits import train_mask
from last_e.datafile import DataError
from last_e.prepare.clipfile import read_columns
from tests.ntu_prepare import prepare


def test_a_damaged_file_is_told_in_one_line(tree, tmp_path):
    path = tmp_path / "out"
    prepare(tree, path)
    content = path.read_bytes()
    for size in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError) as caught:
            read_columns(path)
        assert len(str(caught.value).splitlines()) == 1
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read_columns(path)


def test_a_file_that_brings_its_own_split_trains_by_it_and_by_no_other():
    two = torch.ones(2, dtype=torch.int64)
    joints = torch.zeros(2, 25, 3, dtype=torch.int16)
    plain = Clips(joints, two, two, two * 0, two, two, two)
    own = Clips(joints, two, two, two * 0, two, two, two, own_splits={"xsub": torch.tensor([False, True])})
    assert train_mask(own, "ntu60", "xsub").tolist() == [False, True]
    with pytest.raises(DataError, match="knows only xsub"):
        train_mask(own, "ntu60", "xview")
    assert own.fingerprint() != plain.fingerprint()
    bad = Clips(joints, two, two, two * 0, two, two, two, own_splits={"xsub": torch.tensor([1, 0])})
    with pytest.raises(DataError, match="split xsub"):
        bad.check(1, "here")
