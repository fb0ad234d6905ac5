"""How fast ``.skeleton`` files are read, against a straightforward line parser, on one core.

    python benchmarks/parse_skeleton.py

Files of 60 to 110 frames made from IRDS recordings, with one person and with two, in NTU's layout and with its digits. Each
reader reads all of them from disk, in turns, several times; what counts is the best turn of each.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from last_e.environment import cpu_name
from last_e.prepare.people import choose_people
from last_e.prepare.skeleton import parse, parse_carefully
from tests.ntu_files import motion, one_person, text_of, two_people

FILES, TURNS = 60, 7


def line_parser(path: Path) -> list[Any]:
    """The usual one: a line after the other, every value of it to a number, the first three kept."""
    with path.open() as file:
        frames = []
        for _ in range(int(file.readline())):
            bodies = []
            for _ in range(int(file.readline())):
                ident = file.readline().split()[0]
                count = int(file.readline())
                joints = [[float(value) for value in file.readline().split()][:3] for _ in range(count)]
                bodies.append((ident, np.array(joints)))
            frames.append(bodies)
    return frames


def lean_line_parser(path: Path) -> list[Any]:
    """The same, converting no value that is not kept."""
    with path.open() as file:
        frames = []
        for _ in range(int(file.readline())):
            bodies = []
            for _ in range(int(file.readline())):
                ident = file.readline().split()[0]
                count = int(file.readline())
                joints = [[float(value) for value in file.readline().split(maxsplit=3)[:3]] for _ in range(count)]
                bodies.append((ident, np.array(joints)))
            frames.append(bodies)
    return frames


READERS: dict[str, Callable[[Path], object]] = {
    "lastrun, fast": lambda path: parse(path.read_bytes()),
    "lastrun, fast, and the choice of people": lambda path: choose_people(parse(path.read_bytes())),
    "lastrun, careful": lambda path: parse_carefully(path.read_bytes()),
    "line parser": line_parser,
    "line parser, lean": lean_line_parser,
}


def main() -> None:
    """Measure and print."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number in range(FILES):
            length = 60 + number % 51
            walk, other = (motion(at, length) + random.uniform(-5e-4, 5e-4, (length, 25, 3)) for at in (number, number + 100))
            paths.append(Path(folder) / f"{number}.skeleton")
            paths[-1].write_bytes(text_of(one_person(walk) if number % 5 else two_people(walk, other)))
        for path in paths:
            expected = np.concatenate([joints for bodies in line_parser(path) for _, joints in bodies]).reshape(-1, 25, 3)
            assert np.array_equal(parse(path.read_bytes()).joints, expected), "the readers differ"
        best = dict.fromkeys(READERS, float("inf"))
        for _ in range(TURNS):
            for name, reader in READERS.items():
                begin = time.process_time()
                for path in paths:
                    reader(path)
                best[name] = min(best[name], (time.process_time() - begin) / FILES)
        size = sum(path.stat().st_size for path in paths) / FILES
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "numba"))
    print(f"{cpu_name()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}")
    print(f"{FILES} files of {size / 1e3:.0f} kB on average, best of {TURNS} turns, processor time of one core\n")
    for name, seconds in best.items():
        print(f"{name:<40}  {seconds * 1e3:7.3f} ms  {1 / seconds:7,.0f} files/s  {size / seconds / 1e6:6.0f} MB/s")
    fast = best["lastrun, fast"]
    print(f"\nfast against the line parser: {best['line parser'] / fast:.1f} times")
    print(f"fast against the lean one: {best['line parser, lean'] / fast:.1f} times")


if __name__ == "__main__":
    main()
