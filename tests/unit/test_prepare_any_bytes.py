"""Pickles, ``.npz`` and prepared files with any bytes in them: the fuzzer's finds, and a few hundred new ones."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.check_files import CHECKS, seeds

FOUND = sorted((Path(__file__).parents[1] / "fuzz" / "corpus_files").glob("*/*"))

EDITS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 3), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Overwritten, inserted, deleted and cut here and there."""
    for place, how, new in edits:
        at = place % (len(data) + 1)
        if how == 0:
            data = data[:at] + new + data[at + len(new) :]
        elif how == 1:
            data = data[:at] + new + data[at:]
        elif how == 2:
            data = data[:at] + data[at + len(new) :]
        else:
            data = data[: max(at, len(data) // 2)]
    return data


@pytest.mark.parametrize("kind", CHECKS)
def test_the_seeds_are_good(kind: str, tmp_path: Path) -> None:
    for number, seed in enumerate(seeds(kind, tmp_path)):
        folder = tmp_path / str(number)
        folder.mkdir()
        CHECKS[kind](seed, folder)
    if kind == "prepared":
        assert len(list(tmp_path.glob("*/a.html"))) == 3, "those that are meant to be whole"


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}/{path.name[:12]}")
def test_what_the_fuzzer_has_found_stays_mended(path: Path, tmp_path: Path) -> None:
    CHECKS[path.parent.name](path.read_bytes(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHECKS)
def test_any_change_to_a_file_is_read_or_told(kind: str, tmp_path: Path) -> None:
    good = seeds(kind, tmp_path)

    @settings(max_examples=150, derandomize=True, deadline=None, database=None)
    @given(st.sampled_from(good), EDITS)
    def changed(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
        with TemporaryDirectory(dir=tmp_path) as folder:
            CHECKS[kind](edited(seed, edits), Path(folder))

    changed()
