"""Functions as machine code, by numba, which keeps it on disk: beside their file, else in the user's cache folder.

What goes wrong with the files there costs time, never a result. numba may be missing; who can do without it asks :data:`THERE`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

try:
    import numba
    from numba.core.caching import FunctionCache
except Exception:  # it is not there, or does not fit this numpy, this system or another package
    numba = None

F = TypeVar("F", bound=Callable[..., Any])

THERE = numba is not None
"""Whether there is a numba to compile with. (With ``NUMBA_DISABLE_JIT`` it leaves functions as they are.)"""

_OPTIONS = {"nogil": True, "error_model": "numpy"}


def compiled(signature: str, function: F) -> F:
    """The function as machine code for this CPU and for arguments of these types, kept on disk where there is a place for it.

    It is read or made here and now: later, in a call, nothing could be done about a damaged file. What the function calls
    has to stand in the same file, since numba looks at that file's date alone to know whether what it keeps is still right.
    """
    try:
        return numba.njit([signature], cache=True, **_OPTIONS)(function)  # type: ignore[no-any-return]
    except Exception:  # nowhere to write, a full disk, or files that a crash left damaged, which numba trusts
        with contextlib.suppress(Exception):
            FunctionCache(function).flush()  # so that the next process writes them anew
        return numba.njit([signature], **_OPTIONS)(function)  # type: ignore[no-any-return]


def part(function: F) -> F:
    """For a function that others call: it becomes machine code along with each of them. Without numba, as it is."""
    return function if numba is None else numba.njit(error_model="numpy")(function)
