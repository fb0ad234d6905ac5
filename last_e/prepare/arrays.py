"""numpy's files of other projects, a row at a time: they hold tens of gigabytes, and may claim any size."""

from __future__ import annotations

import io
import math
import operator
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from last_e.datafile import DataError
from last_e.prepare.clipfile import MOST_CLASSES, Array
from last_e.text import one_line
from last_e.whole import regular_file

MOST_CLIP_BYTES = 16 * 2**20
"""Of one clip as it stands in a file: 14,000 frames of two people in float64. NTU's longest has 300."""
MOST_CLIPS = 1_000_000
MOST_HEADER_BYTES = 1 << 16
"""Of an array's file."""


class Header(NamedTuple):
    """How an array lies in its file."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


class Rows(NamedTuple):
    """An array along its first side."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    each: Iterator[Array]
    """Its rows, ``shape[0]`` of them, as they are read."""


def read_header(file: IO[bytes], what: str) -> Header:
    """What the beginning of an array's file says; the file then stands at its content.

    Raises:
        DataError: it is none, or says what no numpy writes.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise ValueError(f"numpy has no version {version} of its format")
        begin = file.read(2 if version == (1, 0) else 4)
        length = int.from_bytes(begin, "little")
        if length > MOST_HEADER_BYTES:  # numpy would read all of it first
            raise ValueError(f"its header has {length:,} bytes")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(io.BytesIO(begin + file.read(length)))
        shape = tuple(map(operator.index, shape))
        if min(shape, default=0) < 0:
            raise ValueError("its shape is negative")
    except Exception as error:  # a header is a Python expression, and fails in as many ways
        raise DataError(f"{what} is damaged or no array ({one_line(error)})") from None
    return Header(shape, by_columns, dtype)


@contextmanager
def array_in_zip(archive: zipfile.ZipFile, name: str, what: str) -> Iterator[Rows]:
    """The rows of an array inside of a ``.npz``, which are unpacked as they are read.

    Raises:
        KeyError: it is not in there.
        DataError: it is damaged, too large, or no numbers by rows.
    """
    with archive.open(f"{name}.npy") as file:
        header = read_header(file, what)
        if header.by_columns and len(header.shape) > 1:  # the first row would be whole when the last byte is unpacked
            why = "lies by columns (in Fortran's order), where no clip can be read alone"
            raise DataError(f"{what} {why}; write it anew from np.ascontiguousarray(...)", other=True)
        yield _rows(file, header, what)


@contextmanager
def array_in_file(path: Path) -> Iterator[Rows]:
    """The rows of a ``.npy`` file.

    Raises:
        DataError: it is missing, damaged, too large, or no numbers.
    """
    try:
        with regular_file(path) as file:
            header = read_header(file, str(path))
            begin = file.tell()
            values = math.prod(list(header.shape))
            if values * header.dtype.itemsize > path.stat().st_size - begin:
                raise DataError(f"{path}: damaged: it is shorter than its shape {header.shape} says")
            rows = _rows(file, header, str(path))
            if header.by_columns and values:  # a row lies all over the file, so the system finds its pages
                mapped = np.memmap(file, header.dtype, "r", begin, header.shape, "F")
                rows = rows._replace(each=iter(mapped))
            yield rows
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", missing=True) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _rows(file: IO[bytes], header: Header, what: str) -> Rows:
    """An array's rows, after it was seen that it has some and none too large."""
    shape, _, dtype = header
    if dtype.kind not in "fiubU" or not shape or not dtype.itemsize:
        raise DataError(f"{what} is {dtype} {shape}; allowed: numbers in rows", other=True)
    size = math.prod(shape[1:]) * dtype.itemsize
    if shape[0] > MOST_CLIPS or size > MOST_CLIP_BYTES:
        most = f"{MOST_CLIPS:,} clips of {MOST_CLIP_BYTES // 2**20} MiB each"
        raise DataError(f"{what} has the shape {shape}, which no recordings have; allowed: at most {most}")

    def each() -> Iterator[Array]:
        for _ in range(shape[0]):
            row = file.read(size)
            if len(row) != size:
                raise DataError(f"{what} is cut short")
            yield np.frombuffer(row, dtype).reshape(shape[1:])

    return Rows(shape, dtype, each())


def labels_in(rows: Iterable[Array], what: str) -> list[int]:
    """Classes: a whole number in each row, or a 1 in its place among zeros.

    Raises:
        DataError: a row is neither, or names a class that cannot be.
    """
    labels = []
    for row in rows:
        if row.dtype.kind not in "fiub" or row.ndim > 1 or row.size > MOST_CLASSES:
            raise DataError(
                f"{what} is {row.dtype} {('N', *row.shape)}; allowed: numbers of classes (N,), or one-hot rows", other=True
            )
        if row.size == 1:
            number = row.reshape(-1)[0]
            if row.dtype.kind == "b" or not float(number).is_integer():
                raise DataError(f"{what} holds {number!s}, which is no number of a class", other=True)
            labels.append(int(number))
        elif np.count_nonzero(row) != 1:
            raise DataError(f"{what} is not one-hot (one 1 in each row, at most {MOST_CLASSES:,} wide)", other=True)
        else:
            labels.append(int(row.argmax()))
    return checked_labels(labels, what)


def checked_labels(labels: Sequence[int], what: str) -> list[int]:
    """Labels that classes can have.

    Raises:
        DataError: one is none.
    """
    if min(labels, default=0) < 0 or max(labels, default=0) >= MOST_CLASSES:
        raise DataError(f"{what}: a label is negative, or {MOST_CLASSES:,} or more: no class has such a number", other=True)
    return list(labels)
