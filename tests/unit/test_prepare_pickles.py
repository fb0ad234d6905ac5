"""Pickles of every protocol, and some that mean harm."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest

from last_e.datafile import DataError
from last_e.prepare.pickles import read_pickle
from tests.foreign_files import RECONSTRUCT, forged, names, original, pyskl, refused, shared


class Harm:
    def __init__(self, *what: object) -> None:
        self.what = what

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", range(6))
def test_containers_and_arrays_of_every_protocol_are_read(tmp_path, protocol):
    value = {
        "a": [1, 2.5, None, True, "text \u00e9", b"bytes\xff", (1, (2,))],
        "arrays": [
            np.arange(6, dtype=np.int16).reshape(2, 3),
            np.asfortranarray(np.eye(3, dtype=np.float32)),
            np.array(["ab"]),
        ],
        "numbers": [np.int64(7), np.float32(0.5), np.bool_(True)],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    again = read_pickle(path)
    assert again["a"] == value["a"]
    for a, b in zip(again["arrays"], value["arrays"]):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert again["numbers"] == value["numbers"]


def test_nothing_in_a_pickle_is_run(tmp_path):

    trace, path = tmp_path / "ran", tmp_path / "a.pkl"
    for harm in (
        Harm(Path.touch, (trace,)),
        Harm(os.system, (f"touch {trace}",)),
        Harm(subprocess.check_call, (["touch", str(trace)],)),
        Harm(eval, (f"open({str(trace)!r}, 'w')",)),
        Harm(getattr, ("", "join")),
        Harm(np.load, (str(trace),)),
    ):
        for value in (harm, [harm], {"annotations": [harm]}, np.array([harm], dtype=object)):
            path.write_bytes(pickle.dumps(value))
            with pytest.raises(DataError) as caught:
                read_pickle(path)
            assert "which could run code" in str(caught.value) or "allowed: arrays" in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1
    assert not trace.exists()


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(np.array([1, "a"], dtype=object)))
    with pytest.raises(DataError, match="allowed: arrays of numbers and texts"):
        read_pickle(path)


def test_a_pickle_cannot_ask_for_more_memory_than_it_has_bytes(tmp_path):
    import tracemalloc

    _reconstruct = np.empty(0).__reduce__()[0]  # its module has moved between versions

    path = tmp_path / "a.pkl"
    tracemalloc.start()
    for content in (
        b"\x80\x04B\xff\xff\xff\x7f",  # bytes, 2 GB
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little"),  # bytes, 1 TB
        b"\x80\x04\x95" + (2**40).to_bytes(8, "little"),  # a frame of 1 TB
        b"\x80\x04]r\xff\xff\xff\x7f.",  # place 2**31 - 1 of the memo
        pickle.dumps(Harm(_reconstruct, (np.ndarray, (10**9,), b"b"))),
    ):
        path.write_bytes(content)
        try:
            read_pickle(path)
        except DataError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_a_damaged_pickle_is_told_in_one_line(tmp_path):
    content = pyskl(tmp_path / "a.pkl").read_bytes()
    path = tmp_path / "b.pkl"
    for size in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError) as caught:
            read_pickle(path)
        assert len(str(caught.value).splitlines()) == 1
    for at in range(0, 1200, 13):
        changed = bytearray(content)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        try:
            read_pickle(path)
        except DataError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017


NESTED_KEY = b"\x80\x04}(K\x01" + b"\x85" * 200_000 + b"K\x01u."


DOUBLING_KEY = b"\x80\x04}(K\x01\x85" + b"2\x86" * 40 + b"K\x01u."


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(forged(np.ndarray, ((1,), "O", b"AAAAAAAA"))),
        pickle.dumps(forged(np.ndarray, ((200, 25, 3),))),
        pickle.dumps(forged(np.ndarray, ((10**7,), "i8", b"\0" * 8, 0, (0,)))),
        pickle.dumps(forged(np.dtype, ("S8",), (3, "|", None, None, None, 2**20, 1, 0))) + b"",
        pickle.dumps(forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (4,), np.dtype("f8"), False, b"short"))),
        pickle.dumps(forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (-1, -8), np.dtype("f8"), False, b"\0" * 64))),
        pickle.dumps(forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, [1]))),
        NESTED_KEY,
        DOUBLING_KEY,
        b"\x80\x05\x96" + (2**37).to_bytes(8, "little") + b"x.",
        pickle.dumps(np.ndarray),
    ],
)
def test_what_is_admitted_cannot_be_turned_against_us(tmp_path, content):
    path = tmp_path / "harm.pkl"
    path.write_bytes(content)
    try:
        value = read_pickle(path)
    except DataError:
        return
    assert isinstance(value, np.dtype)  # of what was asked for, not of the size that was forged
    assert value == np.dtype("S8")


def test_what_is_written_once_is_made_once(tmp_path):
    path = tmp_path / "shared.pkl"
    path.write_bytes(pickle.dumps(shared(40)))
    value = read_pickle(path)
    assert value[0] is value[1]


def test_arrays_of_the_other_byte_order_keep_their_numbers(tmp_path):
    path = tmp_path / "big.pkl"
    for dtype in (">f8", ">i4", ">U3"):
        array = np.arange(3).astype(dtype)
        path.write_bytes(pickle.dumps({"a": array, "one": array[1]}))
        again = read_pickle(path)
        assert again["a"].tolist() == array.tolist()
        assert again["one"] == array[1]


def test_lists_that_share_their_lists_are_no_names(tmp_path):
    """Their text would have 2 to the power of 60 brackets."""
    clips = [{"frame_dir": name, "label": 1, "keypoint": np.ones((1, 9, 25, 3))} for name in "ab"]
    path = pyskl(tmp_path / "a.pkl", known=False, annotations=clips, split={"xsub_train": ["a", shared(45)]})
    refused("pyskl", path, "neither names like NTU's nor a list of the clips that train")
    folder = original(tmp_path / "data")
    (folder / "train_label.pkl").write_bytes(pickle.dumps(([shared(45)] * 3, [0, 1, 2])))
    refused("npy", folder, "its names are no texts")


def test_an_empty_array_of_endless_shape_is_refused(tmp_path):
    endless = forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, (10**12, 0, 25, 3), np.dtype("f8"), False, b""))
    clips = [{"frame_dir": names()[0], "label": 1, "keypoint": endless}]
    refused("pyskl", pyskl(tmp_path / "a.pkl", annotations=clips), "an empty array of a shape that no recordings have")


def first_pairs(value):
    """An OrderedDict as Python 2 writes it."""
    return forged(OrderedDict, ([[key, item] for key, item in value.items()],))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", [OrderedDict, lambda value: defaultdict(list, value), Counter, first_pairs, lambda v: {**v}])
def test_mappings_of_every_kind_are_plain_ones(tmp_path, kind, protocol):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"split": kind({"a": [1, 2], "b": [3]})}, protocol))
    (found,) = read_pickle(path).values()
    assert (type(found), found) == (dict, {"a": [1, 2], "b": [3]})


@pytest.mark.parametrize("protocol", range(6))
def test_sets_and_memory_maps_of_every_protocol_are_read(tmp_path, protocol):
    mapped = np.memmap(tmp_path / "map", dtype="<f4", mode="w+", shape=(2, 3))
    mapped[:] = np.arange(6).reshape(2, 3)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"names": {"a", "b"}, "numbers": frozenset([1]), "map": mapped}, protocol))
    found = read_pickle(path)
    assert found["names"] == {"a", "b"}
    assert found["numbers"] == {1}
    assert (type(found["map"]), found["map"].tolist()) == (np.ndarray, [[0, 1, 2], [3, 4, 5]])


PYTHON_2 = b"""(dp0
S'split'
p1
c__builtin__
set
p2
((lp3
S'clip\\xe9'
p4
atp5
Rp6
sS'label'
p7
cnumpy.core.multiarray
_reconstruct
p8
(cnumpy
ndarray
p9
(I0
tp10
S'b'
p11
tp12
Rp13
(I1
(I2
tp14
cnumpy
dtype
p15
(S'i8'
p16
I0
I1
tp17
Rp18
(I3
S'<'
p19
NNNI-1
I-1
I0
tp20
bI00
S'\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
p21
tp22
bs."""
"""Written by hand as Python 2.7 and numpy 1.16 write ``{"split": set(["clip\\xe9"]), "label": np.array([1, 2])}``."""


def test_what_python_2_has_written_is_read(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(PYTHON_2)
    found = read_pickle(path)
    assert found["split"] == {"clip\xe9"}
    assert found["label"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "content",
    [
        forged(OrderedDict, ([[[[]], 1]],)),
        forged(OrderedDict, ([1, 2],)),
        forged(OrderedDict, ("ab",)),
        forged(Counter, ({"a": 1}, {"b": 2})),
        forged(set, ("ab",)),
        forged(frozenset, ([[1]],)),
        forged(list, ("ab",)),
        forged(np.memmap, ("/etc/passwd",)),
        {"a": list},
        {"a": np.memmap},
        forged(OrderedDict, (), {"update": 1}),
    ],
)
def test_what_is_admitted_for_mappings_makes_nothing_else(tmp_path, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(DataError) as caught:
        read_pickle(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", [dict, OrderedDict, set])
def test_numbers_as_keys_that_python_hashes_alike_are_refused(tmp_path, kind, protocol):
    """Each of them would be compared with all before it, so that a small file of them hangs."""
    numbers = [sys.hash_info.modulus * number for number in range(1, 5)]
    content = set(numbers) if kind is set else kind.fromkeys(numbers)
    (tmp_path / "alike.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(DataError, match="whole numbers as keys that are larger than any clip's"):
        read_pickle(tmp_path / "alike.pkl")


def test_numbers_as_keys_may_be_as_large_as_they_stay_apart(tmp_path):
    content = {sys.hash_info.modulus - 1: "most", 1 - sys.hash_info.modulus: "least", True: "yes", 0.5: "half"}
    (tmp_path / "apart.pkl").write_bytes(pickle.dumps(content))
    assert read_pickle(tmp_path / "apart.pkl") == content
