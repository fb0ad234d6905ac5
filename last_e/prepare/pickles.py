"""Pickles of other projects, read without trusting them: plain containers, numbers, texts and numpy arrays, nothing else.

Nothing of numpy's is ever handed to a pickle: what it may name are markers and values of our own, which are checked and turned
into arrays when the pickle has been read.
"""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from last_e.datafile import DataError
from last_e.prepare.archives import beginning_of
from last_e.text import one_line, shown
from last_e.whole import regular_file

MOST_DEPTH = 50
MOST_OF_NOTHING = 1_000_000
"""The largest side of an array that has no content, and so no size that would bound it."""
_KINDS = "biufcSU"
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))


class _RefusedError(pickle.UnpicklingError):
    """What is wrong in words of our own; those of Python's are of its inner places."""


class _CutShortError(_RefusedError):
    """Not a pickle that nobody meant, but one that is damaged."""


def read_pickle(path: Path) -> Any:
    """What a pickle holds.

    Raises:
        DataError: it cannot be read, is damaged, or holds something that could run code.
    """
    try:
        with regular_file(path) as file:
            return _resolved(_Plain(_Bounded(file, path.stat().st_size), encoding="latin1").load(), 0, {})
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", missing=True) from None
    except _RefusedError as error:
        raise DataError(f"{path}: {one_line(error)}", other=not isinstance(error, _CutShortError)) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can fail anywhere; whatever it is, it is this file's fault
        other = beginning_of(path)[:1] not in (b"", b"\x80")  # Python has begun them so for twenty years
        why = f"it begins with {beginning_of(path)[:12]!r}" if other else f"{type(error).__name__}: {one_line(error)}"
        raise DataError(f"{path}: damaged or no pickle ({why})", other=other) from None


class _Bounded:
    """A file of which nobody can ask more than it holds: a damaged length must not reserve memory."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.size - self.file.tell():
            raise _CutShortError("cut short, or damaged")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline()


class _DType:
    """An element type as a pickle describes it; numpy's own never meets a pickle, which could change it under an array."""

    def __init__(self, text: Any, *_: Any) -> None:
        if not isinstance(text, str) or len(text) > 16:
            raise _RefusedError("holds an array of an odd type")
        self.text, self.order = text, "="

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, element size, alignment, flags, ...)
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _RefusedError("holds an array of records")
        if state[1] not in ("<", ">", "|", "="):
            raise _RefusedError("holds an array of an odd byte order")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        """The type of numpy's that is meant."""
        found = np.dtype(self.text)
        if found.kind not in _KINDS or found.itemsize == 0:
            raise _RefusedError(f"holds an array of {self.text!r}; allowed: arrays of numbers and texts")
        return found if self.order == "|" else found.newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    """An array as a pickle describes it."""

    def __init__(self, *_: Any) -> None:
        self.shape: Any = None
        self.dtype: Any = None
        self.content: Any = b""
        self.fortran = False

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _RefusedError("holds an array that numpy did not write")
        _, self.shape, self.dtype, self.fortran, self.content = state

    def numpy(self) -> np.ndarray[Any, Any]:
        """The array: of numbers or texts, and as large as its content says, or not at all."""
        if not isinstance(self.dtype, _DType) or not isinstance(self.shape, tuple):
            raise _RefusedError("holds an array that numpy did not write")
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content
        if not isinstance(content, (bytes, bytearray)) or not all(type(n) is int and n >= 0 for n in self.shape):
            raise _RefusedError("holds an array of objects; allowed: arrays of numbers and texts")
        dtype = self.dtype.numpy()
        if not content and max(self.shape, default=0) > MOST_OF_NOTHING:
            raise _RefusedError("holds an empty array of a shape that no recordings have")
        if len(self.shape) > 8 or math.prod(self.shape) * dtype.itemsize != len(content):
            raise _RefusedError("holds an array whose size is not what it says")
        found = np.frombuffer(content, dtype).reshape(self.shape, order="F" if self.fortran else "C")
        return found.astype(dtype.newbyteorder("="))


def _array(*_: Any) -> _Array:
    """numpy's ``_reconstruct``: the content follows."""
    return _Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _scalar(dtype: Any, content: Any) -> Any:
    array = _Array()
    array.__setstate__((1, (1,), dtype, False, content))
    return array.numpy()[0]


def _encode(text: Any, encoding: Any) -> bytes:
    """How old pickles write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"holds bytes in {encoding!r}")
    return text.encode("latin1")


def _mapping(*arguments: Any) -> dict[Any, Any]:
    """An OrderedDict, a defaultdict or a Counter, as the plain mapping that it is: what it should give for a key that is not
    there is dropped; older Pythons hand over all pairs at once."""
    content = [one for one in arguments if not isinstance(one, _Named) and one is not None]
    if len(content) > 1 or not all(isinstance(one, (dict, list)) for one in content):
        raise _RefusedError("holds a mapping that Python did not write")
    pairs: Any = (content or [[]])[0]
    pairs = list(pairs.items()) if isinstance(pairs, dict) else pairs
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise _RefusedError("holds a mapping that Python did not write")
    _plain_keys(key for key, _ in pairs)
    return dict(pairs)


def _set(*content: Any) -> frozenset[Any]:
    """A set as older protocols write it."""
    if len(content) > 1 or not all(isinstance(one, (list, tuple)) for one in content):
        raise _RefusedError("holds a set that Python did not write")
    members = [member for one in content for member in one]
    _plain_keys(members)
    return frozenset(members)


class _Named:
    """What a pickle gets for a name: it can be called as the pickle calls it, and nothing else."""

    __slots__ = ("call",)
    call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "call", call)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _RefusedError("changes what it names")

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


def _not_called(*_: Any) -> Any:
    raise _RefusedError("makes an array or a default in a way that nobody does")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Named(_array),
    ("numpy.core.multiarray", "scalar"): _Named(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Named(_from_buffer),
    ("numpy", "ndarray"): _Named(_not_called),
    ("numpy", "memmap"): _Named(_not_called),
    ("numpy.core.memmap", "memmap"): _Named(_not_called),
    ("numpy", "dtype"): _Named(_DType),
    ("_codecs", "encode"): _Named(_encode),
    **{("collections", name): _Named(_mapping) for name in ("OrderedDict", "defaultdict", "Counter")},
    **{("builtins", name): _Named(_set) for name in ("set", "frozenset")},
    **{("builtins", name): _Named(_not_called) for name in ("list", "dict", "int", "float", "str")},  # of defaultdicts
}


# The one in C reserves memory for whatever place in its memo a file names. (No types tell of this one's methods.)
_Unpickler: Any = pickle._Unpickler


class _Plain(_Unpickler):  # type: ignore[misc]
    """Admits only what arrays are made of."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        plain = "builtins" if module == "__builtin__" else module.replace("numpy._core.", "numpy.core.")  # Python 2, numpy 2
        admitted = _ADMITTED.get((plain, name))
        if admitted is None:
            raise _RefusedError(
                f"holds {module}.{name}, which could run code; allowed: plain containers and numpy arrays, so write it anew "
                "from these"
            )
        return admitted

    def load_build(self) -> None:
        """Only what was made here takes a state, and in its own way."""
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, (_Array, _DType)):
            raise _RefusedError("gives a state to what takes none")
        target.__setstate__(state)

    def load_bytearray8(self) -> None:
        """Its length is read before anything is reserved for it."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_setitem(self) -> None:
        _plain_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _plain_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        _plain_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self) -> None:
        _plain_keys(self.stack)
        super().load_additems()

    def load_frozenset(self) -> None:
        _plain_keys(self.stack)
        super().load_frozenset()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def _plain_keys(keys: Iterable[Any]) -> None:
    """A key that is a tuple of tuples of tuples can take hours to hash. Whole numbers that differ by a multiple of Python's
    modulus have the same hash, so each is compared with all before it: no two below it are alike but -1 and -2."""
    for key in keys:
        if not isinstance(key, _PLAIN_KEYS):
            raise _RefusedError("has keys that are no plain numbers or texts")
        if isinstance(key, int) and abs(key) >= sys.hash_info.modulus:
            raise _RefusedError("has whole numbers as keys that are larger than any clip's")


def _resolved(value: Any, depth: int, done: dict[int, Any]) -> Any:
    """The value with arrays in the places where they are described; what stands in several places is made once."""
    if depth > MOST_DEPTH:
        raise _RefusedError("nested too deep")
    if isinstance(value, _Named):
        raise _RefusedError("holds a name instead of a value")
    if isinstance(value, (_Array, _DType, dict, list, tuple)):
        if id(value) not in done:
            done[id(value)] = _made(value, depth, done)
        return done[id(value)]
    return value


def _made(value: Any, depth: int, done: dict[int, Any]) -> Any:
    if isinstance(value, (_Array, _DType)):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _resolved(item, depth + 1, done) for key, item in value.items()}
    return type(value)(_resolved(item, depth + 1, done) for item in value)


def are_names(names: Sequence[Any]) -> bool:
    """Whether all are texts or numbers of clips. Of anything else nobody knows how long its text is: lists in lists that share
    theirs have an endless one, and Python writes no number of 5,000 digits."""
    return all(isinstance(name, str) or (isinstance(name, (int, np.integer)) and abs(int(name)) < 1 << 63) for name in names)


def found_instead(content: Any) -> str:
    """What is there instead, in a few words."""
    if isinstance(content, dict):
        keys = ", ".join(f"{shown(key)} ({_kind(value)})" for key, value in list(content.items())[:9])
        return f"found {keys or 'an empty mapping'}"
    if isinstance(content, (list, tuple)):
        kinds = dict.fromkeys(type(one).__name__ for one in content[:1000])
        return f"found {type(content).__name__} of {len(content)}" + (f" ({', '.join(list(kinds)[:4])})" if kinds else "")
    return f"found {_kind(content)}"


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
