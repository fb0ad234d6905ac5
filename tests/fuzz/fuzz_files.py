"""Look for bytes that break the readers of pickles, ``.npz`` and prepared files (atheris; not among the dependencies).

    pip install atheris
    PYTHONPATH=. python tests/fuzz/fuzz_files.py pickle|npz|prepared CORPUS -max_total_time=300 -max_len=20000

What is found and mended stays in ``corpus_files``; the tests read all of it.
"""

from __future__ import annotations

import sys
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["last_e.prepare", "pickle", "zipfile"]):
    from tests.fuzz.check_files import CHECKS, seeds

MOST_MEMORY = 64 * 2**20


def main() -> None:
    kind, corpus = sys.argv.pop(1), Path(sys.argv[1])
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    warnings.simplefilter("error")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(kind, folder)):
        (corpus / f"seed-{number}").write_bytes(content)

    def one_input(data: bytes) -> None:
        tracemalloc.start()
        try:
            CHECKS[kind](data, folder)
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        finally:
            tracemalloc.stop()

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
