"""Pickles of other projects, read without trusting them: plain containers, numbers, texts and numpy arrays, nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from last_e.datafile import DataError
from last_e.text import one_line


def read_pickle(path: Path) -> Any:
    """What a pickle holds.

    Raises:
        DataError: it cannot be read, is damaged, or holds something that could run code.
    """
    try:
        with path.open("rb") as file:
            return _Plain(_Bounded(file, path.stat().st_size), encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", missing=True) from None
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: {one_line(error)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can fail anywhere; whatever it is, it is this file's fault
        raise DataError(f"{path}: damaged or no pickle ({type(error).__name__}: {one_line(error)})") from None


class _Bounded:
    """A file of which nobody can ask more than it holds: a damaged length must not reserve memory."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.size - self.file.tell():
            raise pickle.UnpicklingError("cut short, or damaged")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline()


class _Plain(pickle._Unpickler):  # the one in C reserves memory for whatever place in its memo a file names
    """Admits only what arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        admitted = _ADMITTED.get((module.replace("numpy._core.", "numpy.core."), name))
        if admitted is None:
            raise pickle.UnpicklingError(
                f"holds {module}.{name}, which could run code; allowed are plain containers and numpy arrays"
            )
        return admitted


def _array(*_: Any) -> Any:
    """An empty array that takes its content from what follows, as numpy pickles it; of whatever size the pickle asks for."""
    return np.ndarray((0,), np.int8)


def _dtype(text: Any, *_: Any) -> np.dtype[Any]:
    if not isinstance(text, str) or np.dtype(text).hasobject:
        raise pickle.UnpicklingError(f"holds an array of {text!r}; allowed are arrays of numbers and texts")
    return np.dtype(text)


def _scalar(dtype: Any, content: Any) -> Any:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("holds a number that numpy did not write")
    return np.frombuffer(content, dtype, count=1)[0]


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _encode(text: Any, encoding: Any) -> bytes:
    """How old pickles write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"holds bytes in {encoding!r}")
    return bytes(text, "latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}
