"""JSON objects in a store."""

from __future__ import annotations

import json
from typing import Any

from runner.errors import DamagedObjectError
from runner.store.protocol import Store


def read_json(store: Store, key: str) -> dict[str, Any]:
    """The object under a key.

    Raises:
        MissingKeyError: there is none.
        DamagedObjectError: it is no JSON object.
    """
    try:
        values = json.loads(store.get(key))
    except (ValueError, RecursionError):
        raise DamagedObjectError(f"{store.uri}: {key} is damaged: it is not JSON") from None
    if not isinstance(values, dict):
        raise DamagedObjectError(f"{store.uri}: {key} is damaged: it is not a JSON object")
    return values


def dump(value: dict[str, Any]) -> bytes:
    """The bytes of an object."""
    return (json.dumps(value, indent=1) + "\n").encode()
