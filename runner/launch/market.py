"""Which machines can be had through which launcher, and which of them are paid for now."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from runner.errors import LastrunError
from runner.launch.protocol import Cloud, Market, Offer, Rented
from runner.launch.settle import launcher_class
from runner.launchers import LAUNCHERS

T = TypeVar("T")


def offers() -> dict[str, list[Offer] | LastrunError]:
    """What can be had now by launcher, or what is missing to use it; all that can tell are asked side by side."""
    return _told({name: kind.offers for name, kind in _classes().items() if isinstance(kind, Market)})


def rented() -> dict[str, list[Rented] | LastrunError]:
    """What is paid for now by launcher, or why that cannot be told."""
    return _told({name: kind.rented for name, kind in _classes().items() if isinstance(kind, Cloud)})


def _classes() -> dict[str, Any]:
    return {name: launcher_class(name) for name in LAUNCHERS}


def _told(calls: dict[str, Callable[[], list[T]]]) -> dict[str, list[T] | LastrunError]:
    def answer(call: Callable[[], list[T]]) -> list[T] | LastrunError:
        try:
            return call()
        except LastrunError as error:
            return error

    with ThreadPoolExecutor(max(1, len(calls))) as pool:
        return dict(zip(calls, pool.map(answer, calls.values())))
