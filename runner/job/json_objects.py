"""JSON objects in a store, and what each kind has to look like."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

from runner.errors import DamagedObjectError
from runner.store.protocol import Store

MOST_BYTES = 4 << 20
T = TypeVar("T")


def read_as(kind: type[T], data: bytes) -> T:
    """The bytes of an object as one of a kind.

    Raises:
        pydantic.ValidationError: it is none, or no JSON.
    """
    form = _form(kind)  # type: ignore[arg-type]  # every class can be hashed
    found: T = form.validate_json(data, strict=True)
    return found


@cache
def _form(kind: Any) -> TypeAdapter[Any]:
    """Made when the first of a kind is read: it takes a while."""
    return TypeAdapter(kind)


def read(store: Store, key: str) -> bytes:
    """The bytes of the object under a key.

    Raises:
        MissingKeyError: there is none.
        DamagedObjectError: they are too many.
    """
    return store.get(key, MOST_BYTES)


def read_json(store: Store, key: str) -> dict[str, Any]:
    """The object under a key.

    Raises:
        MissingKeyError: there is none.
        DamagedObjectError: it is no JSON object.
    """
    try:
        values = json.loads(read(store, key))
    except (ValueError, RecursionError):
        raise DamagedObjectError(f"{store.uri}: {key} is damaged: it is not JSON") from None
    if not isinstance(values, dict):
        raise DamagedObjectError(f"{store.uri}: {key} is damaged: it is not a JSON object")
    return values


def dump(value: dict[str, Any]) -> bytes:
    """The bytes of an object."""
    return (json.dumps(value, indent=1) + "\n").encode()
