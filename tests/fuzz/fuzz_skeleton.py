"""Look for bytes that break the reader of ``.skeleton`` files, guided by coverage (atheris; not among the dependencies).

    pip install atheris
    NUMBA_DISABLE_JIT=1 PYTHONPATH=. python tests/fuzz/fuzz_skeleton.py tests/fuzz/corpus -max_total_time=600 -max_len=9000

Without the compiler the fast reader runs as Python, so that its branches count as coverage and reading behind the end of the
text is an IndexError. What is found and mended stays in ``corpus``; the tests read all of it with both readers.
"""

from __future__ import annotations

import sys
import tracemalloc

import atheris

with atheris.instrument_imports(include=["last_e.prepare"]):
    from tests.fuzz.check import check

MOST_MEMORY = 64 * 2**20


def one_input(data: bytes) -> None:
    tracemalloc.start()
    try:
        check(data)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
