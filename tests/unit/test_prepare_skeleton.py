"""The readers of ``.skeleton`` files: the fast one against the careful one, and both against everything a file can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from last_e.prepare import skeleton
from last_e.prepare.scan import scan
from last_e.prepare.skeleton import SkeletonError, parse, parse_carefully
from tests.fuzz.check import attempt, check, same
from tests.ntu_files import ANNA, BERT, GHOST, motion, one_person, text_of, two_people

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())
WALK = motion(3, 20)


def scene():
    """Two people, one of whom comes and goes, and frames with nobody."""
    frames = two_people(WALK, motion(40, 20))
    frames[4] = []
    frames[9] = frames[9][:1]
    return frames


def test_what_was_written_is_read():
    frames = scene()
    found = parse(text_of(frames))
    assert found.frames == 20
    assert found.body.tolist() == [ident for bodies in frames for ident, _ in bodies]
    assert found.frame.tolist() == [number for number, bodies in enumerate(frames) for _ in bodies]
    written = [[float(f"{value:.7g}") for value in points.ravel()] for bodies in frames for _, points in bodies]
    np.testing.assert_array_equal(found.joints.reshape(-1, 75), written)


def test_the_fast_reader_reads_the_usual_layout_and_agrees_with_the_careful_one():
    for ending in ("\n", "\r\n"):
        data = text_of(scene(), ending=ending)
        assert scan(data) is not None, "numba is not installed, or the usual layout is not taken"
        assert scan(data.rstrip()) is not None, "without a line end at the end"
        same(parse(data), parse_carefully(data))


NUMBERS = ["0", "-0", "5", "-5", "0.5", "-0.5", ".5", "5.", "3.1415926535", "-0.2096431", "1.25E-05", "-9e-7", "1e+1", "2E1"]


@pytest.mark.parametrize("number", [*NUMBERS, "0.000000012345678", "123456789012345"])
def test_every_way_to_write_a_number_is_read_exactly(number):
    data = text_of(one_person(WALK[:1]))
    at = data.index(b"\n25\n") + 4
    data = data[:at] + number.encode() + data[data.index(b" ", at) :]
    found = scan(data)
    assert found is not None
    value = found[0][0, 0, 0]
    assert value == float(number)
    assert np.signbit(value) == number.startswith("-")


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.lists(st.floats(-40, 40, width=32), min_size=75, max_size=75))
@pytest.mark.slow
def test_every_float32_is_read_exactly(values):
    points = np.array(values, dtype=np.float32).reshape(25, 3)
    line = " 277.4419 191.8232 1036.233 519.1677 -0.2 0.05 0.96 -0.1 2\n"
    joints = "".join(" ".join(map(str, row)) + line for row in points)
    data = f"1\n1\n{ANNA} 0 1 1 1 1 0 0.02 0.05 2\n25\n{joints}".encode()
    np.testing.assert_array_equal(parse(data).joints[0], np.array([[float(str(x)) for x in row] for row in points]))


def test_without_numba_everything_is_read_carefully(monkeypatch):
    data = text_of(scene())
    fast = parse(data)
    monkeypatch.setattr("last_e.prepare.scan.COMPILED", False)
    assert scan(data) is None
    same(parse(data), fast)


def test_ids_that_a_float_could_not_tell_apart_stay_apart():
    assert float(ANNA) == float(ANNA + 1)
    found = parse(text_of([[(ANNA, WALK[0]), (ANNA + 1, WALK[1])]]))
    assert found.body.tolist() == [ANNA, ANNA + 1]


def test_unusual_white_space_is_read_carefully():
    data = text_of(scene())
    for odd in (data.replace(b" ", b"\t"), data.replace(b" ", b"  "), data + b"\n \n", data.replace(b" 2\n", b" 2 \n")):
        same(parse(odd), parse(data))


@pytest.mark.parametrize("where", ["everywhere", "after the id", "in exponents"])
def test_decimal_commas_are_read(where):
    data = text_of(scene())
    head, *rest = data.splitlines(keepends=True)
    changed = {
        "everywhere": data.replace(b".", b","),
        "after the id": head + b"".join(line.replace(b".", b",", 3) for line in rest),
        "in exponents": text_of([[(ANNA, WALK[0] * 1e-7)]] * 2).replace(b".", b","),
    }[where]
    same(parse(changed), parse(text_of([[(ANNA, WALK[0] * 1e-7)]] * 2) if where == "in exponents" else data))


def test_commas_that_may_mean_something_else_are_named():
    data = text_of([[(ANNA, WALK[0])]])
    x, y, z, *_ = data.split(b"\n")[4].split()
    for odd in (b"1,234.5", b"1.234,5", b"1,234,567", b",5", b"5,", b"1,,5"):
        assert "line 5: '" in told(data.replace(x, odd, 1))
    assert "line 5: 10 values where a joint has 12" in told(data.replace(b" ".join((x, y, z)), b",".join((x, y, z)), 1))


def test_an_id_below_zero_is_one_like_others():
    data = text_of(scene())
    found = parse(data.replace(b"\n%d " % ANNA, b"\n-1 "))
    assert found.body.tolist() == [-1 if one == ANNA else one for one in parse(data).body]


def told(data: bytes) -> str:
    with pytest.raises(SkeletonError) as caught:
        parse(data)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message == str(attempt(parse_carefully, data))
    return message


GOOD = text_of([[(ANNA, WALK[0]), (BERT, WALK[1])]] * 2)
BODY = b"72057594037931101 0"
WRONG = {
    "nothing": (b"", "an empty file; copy or download it again"),
    "blank": (b"\n\n \n", "an empty file"),
    "a web page": (b"\n<!DOCTYPE html>\n<html>Sign in</html>", "a web page, perhaps one that asks to log in"),
    "negative frames": (b"-1\n", "line 1: '-1' is no number of frames"),
    "frames as a fraction": (b"1.0\n0\n", "line 1: '1.0' is no number of frames"),
    "a million times too many frames": (
        b"999999999" + GOOD[1:],
        "line 112: the file ends where the number of bodies should stand",
    ),
    "a number of frames that fills memory": (b"9" * 5000 + GOOD[1:], "line 1: '9999"),
    "too few frames": (b"1" + GOOD[1:], "line 57: the file goes on after its last frame"),
    "negative bodies": (b"1\n-2\n", "line 2: '-2' is no number of bodies"),
    "too many bodies": (GOOD.replace(b"\n2\n", b"\n900000000\n", 1), "line 57: 1 values where a body has 10"),
    "24 joints": (GOOD.replace(b"\n25\n", b"\n24\n", 1), "line 4: 24 joints instead of 25"),
    "a billion joints": (GOOD.replace(b"\n25\n", b"\n999999999\n", 1), "line 4: 999999999 joints instead of 25"),
    "a rounded id": (
        GOOD.replace(BODY, b"7.2057594037931e16 0", 1),
        "line 3: '7.2057594037931e16' is no body id (a whole number; an export has rounded this one",
    ),
    "no id": (GOOD.replace(BODY, b"somebody 0", 1), "line 3: 'somebody' is no body id"),
    "an id of 30 digits": (GOOD.replace(BODY, b"7" * 30 + b" 0", 1), "line 3: '777777777777777777777777777777' is no body id"),
    "a word for a coordinate": (GOOD.replace(b"\n25\n", b"\n25\nleft ", 1), "line 5: 13 values where a joint has 12"),
    "text": (b"hello world\n", "line 1: 2 values where the number of frames has 1"),
    "zeros": (b"\0" * 100, "line 1: '\\x00"),
    "a zip file": (b"PK\x03\x04" + bytes(range(256)), "line 1"),
    "more after the end": (GOOD + b"\n1\n", "line 113: the file goes on after its last frame"),
    "one body twice in a frame": (
        text_of([[(ANNA, WALK[0]), (ANNA, WALK[1])]]),
        "frame 1: body 72057594037931101 is there twice",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told_with_its_line(wrong):
    data, expected = WRONG[wrong]
    assert expected in told(data)


def test_a_word_where_a_coordinate_should_stand_is_told():
    at = GOOD.index(b"\n25\n") + 4
    for word in (b"left", b"1_000", b"0x1", b"--1", b"1" * 1500, b"-", b".", b"-.", b"e5", b"1e", b"1e+"):
        data = GOOD[:at] + word + GOOD[GOOD.index(b" ", at) :]
        assert "line 5: '" in told(data)
        assert "are no three coordinates" in told(data)


def test_a_file_cut_short_anywhere_is_refused():
    for size in range(0, len(GOOD) - 2, 7):
        told(GOOD[:size])
    # Cut within the last value of the last line, nothing is missing that anybody could notice.
    assert parse(GOOD[:-1]).frames == 2


def test_a_line_with_too_few_values_is_refused_wherever_it_stands():
    lines = GOOD.split(b"\n")
    for number, line in enumerate(lines):
        if b" " in line:
            told(b"\n".join([*lines[:number], line.rsplit(b" ", 1)[0], *lines[number + 1 :]]))


@pytest.mark.parametrize("ident", [10**digits for digits in range(16)])
def test_short_lines_are_read_fast_wherever_they_begin_in_memory(ident):
    data = f"1\n1\n{ident} 0 1 1 1 1 0 0 0 2\n25\n".encode() + b"0 1 2 0 0 0 0 0 0 0 0 2\n" * 25
    found = scan(data)
    assert found is not None
    assert found[0].tolist() == [[[0, 1, 2]] * 25]
    assert found[2].tolist() == [ident]


def test_lines_too_short_to_be_any_overrun_nothing():
    """So short that there are more bodies than there is room for: without the guard, memory is written that is not ours."""
    told(b"1\n3000\n" + (b"7 \n25\n" + b"0 0 0 \n" * 25) * 3000)


def test_numbers_that_are_none_are_read_for_what_they_are():
    at = GOOD.index(b"\n25\n") + 4
    for word in (b"nan", b"NaN", b"inf", b"-Infinity", b"1e999"):
        value = parse(GOOD[:at] + word + GOOD[GOOD.index(b" ", at) :]).joints[0, 0, 0]
        assert not np.isfinite(value)


def test_a_file_too_large_for_a_recording_is_not_read(monkeypatch):
    monkeypatch.setattr(skeleton, "MAX_BYTES", len(GOOD) - 1)
    with pytest.raises(SkeletonError, match="no recording is"):
        parse(GOOD)


def test_memory_hangs_on_the_size_of_the_file_not_on_what_it_claims():
    import tracemalloc

    claims = [b"999999999\n" + b"999999999\n" * 50, b"9\n900000000\n" + GOOD[4:], b"1\n1\n" + BODY]
    tracemalloc.start()
    for data in claims:
        attempt(parse, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name[:12])
def test_what_the_fuzzer_has_found_stays_mended(path):
    check(path.read_bytes())


def test_the_corpus_is_there():
    assert len(CORPUS) >= 16


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(st.data())
@pytest.mark.slow
def test_any_change_of_a_file_gives_a_recording_or_a_named_error(data):
    content = bytearray(data.draw(st.sampled_from(CORPUS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        until = at + data.draw(st.integers(0, 40))
        content[at:until] = data.draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"\n", b" ", b"25\n", b"-", b"nan", b"9" * 12]))
        )
    check(bytes(content))


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_recording_or_a_named_error(data):
    check(data)


def test_ghosts_are_kept_for_the_choice_of_people():
    found = parse(text_of([[(GHOST, WALK[0]), (ANNA, WALK[0]), (BERT, WALK[0])]]))
    assert found.body.tolist() == [GHOST, ANNA, BERT]
