"""JSON an element at a time gives what Python's own reader gives of the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from last_e.datafile import DataError
from last_e.prepare import json_stream
from last_e.prepare.json_stream import elements

RECORDS = [
    {"name": "a", "joints": [[[1, -2.5e-3], [None, 123456789012345678901234567890]]], "on": True},
    {"name": 'Jörg "x" \\ \U0001f600 ]', "deep": {"clips": [1, 2], "off": False}},
    [],
    {},
    "text",
    17,
    -0.0,
    None,
]


@pytest.fixture(params=[1, 7, 1 << 16], ids=lambda size: f"pieces of {size}")
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_stream, "_PIECE", request.param)
    return int(request.param)


def written(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "a.json"
    path.write_text(text, encoding)
    return path


@pytest.mark.parametrize("ascii_alone", [True, False], ids=["escaped", "as it is"])
def test_elements_are_what_the_whole_holds(tmp_path: Path, piece: int, ascii_alone: bool) -> None:
    text = json.dumps(RECORDS, ensure_ascii=ascii_alone, indent=1)
    assert list(elements(written(tmp_path, text, "utf-8-sig"))) == [("", one) for one in RECORDS]
    whole = {"fps": 30, "clips": RECORDS, "empty": [], "about": {"clips": [3]}, "last": 1.5}
    found = list(elements(written(tmp_path, json.dumps(whole, ensure_ascii=ascii_alone) + "\n"), "clips", "empty"))
    assert found == [("fps", 30), *(("clips", one) for one in RECORDS), ("about", {"clips": [3]}), ("last", 1.5)]
    assert list(elements(written(tmp_path, " 12345 "))) == [("", 12345)]
    assert list(elements(written(tmp_path, "[]"))) == list(elements(written(tmp_path, "{ }"))) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "line 1: Expecting value"),
        ("[1,\n2", "line 2: expecting ',' or ']'"),
        ("[1,\n2 3]", "line 2: expecting ',' or ']'"),
        ("[1,\n\n tru]", "line 3: Expecting value"),
        ('["a', "line 1: Unterminated string"),
        ('{"a": 1, b: 2}', "line 1: a name in quotes is missing"),
        ('{"a" 1}', "line 1: expecting ':'"),
        ("[1]\n[2]", "line 2: something behind its end"),
        (f"[1,\n{'7' * 5000}]", "line 2: a whole number of more than 4300 digits"),
        ("[" * 100_000, "nested too deep|Expecting value"),
    ],
    ids=range(10),
)
def test_what_is_no_json_is_told_with_its_line(tmp_path: Path, piece: int, text: str, why: str) -> None:
    with pytest.raises(DataError, match=f"a.json: no JSON: .*({why})"):
        list(elements(written(tmp_path, text)))


def test_what_is_read_is_no_more_than_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake far behind is not met before what stands in front of it was given."""
    some = ", ".join(json.dumps(number) for number in range(100_000))
    items = elements(written(tmp_path, f"[{some}, nothing]"))
    assert [next(items)[1] for _ in range(50_000)] == list(range(50_000))
    with pytest.raises(DataError, match="Expecting value"):
        list(items)
    monkeypatch.setattr(json_stream, "MOST_CHARACTERS", 1 << 17)
    with pytest.raises(DataError, match="an element of more than"):
        list(elements(written(tmp_path, '["' + "a" * (1 << 19) + '"]')))
    with pytest.raises(DataError, match="cannot be read"):
        list(elements(written(tmp_path, "[1]").with_name("nowhere.json")))
