"""What a prepared file says of itself: its classes, skeleton, people and splits, so that a job needs nothing but the file.

It stands as JSON under ``description`` in the file's metadata. Torch-free, and free of numpy.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from last_e.problems import show
from last_e.skeletons import PRINTABLE, Skeleton

DESCRIPTION = "description"
"""Key of the metadata."""
MOST_PEOPLE = 16
SUFFIX = ".safetensors"
"""How a data set's name ends that is a file."""
FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9 ._+=-]*\.safetensors$"
"""What such a file may be called."""

UNITS = {"metres": 1000.0, "centimetres": 10.0, "millimetres": 1.0, "pixels": 4.0, "image": 2000.0}
"""How many of a file's whole numbers are one of a unit. ``image``: its width, or height, is 1."""
IN_THE_IMAGE = ("pixels", "image")
"""Units of two dimensions: y goes down, and the third number is always 0."""

ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)]
ClassNumber = Annotated[int, Field(ge=0, lt=100_000)]
SET_NAME = r"^[A-Za-z0-9_][A-Za-z0-9 ._+=-]*$"
SetName = Annotated[str, Field(max_length=100, pattern=SET_NAME)]
SPLIT_NAME = r"^[a-z0-9][a-z0-9_-]*$"
SplitName = Annotated[str, Field(max_length=40, pattern=SPLIT_NAME)]


def is_own(dataset: Any) -> bool:
    """Whether a data set's name is that of a file, wherever it lies."""
    return isinstance(dataset, str) and dataset.partition("?")[0].endswith(SUFFIX)


def name_of(place: str) -> str:
    """An own set's name in a job, from its path or URI."""
    return place.partition("?")[0].rpartition("/")[2]


class Description(BaseModel):
    """An own data set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: SetName
    """What people call it."""
    classes: Annotated[tuple[ClassName, ...], Field(min_length=2, max_length=100_000)]
    """Names of the classes, in the order of their numbers."""
    skeleton: Skeleton
    people: Annotated[int, Field(ge=1, le=MOST_PEOPLE)] = 1
    """Most people of a clip."""
    fps: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 30.0
    """Frames a second."""
    units: Literal["metres", "centimetres", "millimetres", "pixels", "image"] = "metres"
    splits: Annotated[dict[SplitName, str], Field(min_length=1, max_length=100)]
    """What each split is made by, in words; the first is used where a job names none."""
    source: Annotated[str, Field(max_length=2000)] = ""
    """Where it comes from."""
    mirrored: Annotated[tuple[tuple[ClassNumber, ClassNumber], ...], Field(max_length=100_000)] | None = None
    """Classes that change places when left and right do, in pairs; none do where it is empty; None: it does not say."""

    @model_validator(mode="after")
    def _agrees(self) -> Description:
        if len(set(self.classes)) < len(self.classes):
            twice = sorted(name for name, times in Counter(self.classes).items() if times > 1)
            raise ValueError(f"classes named twice: {', '.join(twice[:5])}")
        paired = [number for pair in self.mirrored or () for number in pair]
        if len(set(paired)) < len(paired) or any(number >= len(self.classes) for number in paired):
            raise ValueError(f"mirrored: pairs of two classes each, 0 to {len(self.classes) - 1}, each class once at most")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not said stands nowhere: files of sets that say nothing of mirrors stay what they were."""
        values: dict[str, Any] = plain(self)
        if self.mirrored is None:
            values.pop("mirrored", None)
        return values

    @property
    def is_flat(self) -> bool:
        """Whether it has two dimensions."""
        return self.units in IN_THE_IMAGE

    def to_json(self) -> str:
        """As it stands in a file."""
        return json.dumps(self.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))

    def learned(self) -> str:
        """What of it decides what is learned; the rest is for people."""
        return json.dumps(
            self.model_dump(mode="json", include={"classes", "skeleton", "people", "units", "mirrored"}), sort_keys=True
        )


def described(metadata: Mapping[str, Any]) -> Description | None:
    """What a file's metadata say of it; None where they say nothing, as of NTU's.

    Raises:
        ValueError: they say what cannot be, in one line.
    """
    text = metadata.get(DESCRIPTION)
    if text is None:
        return None
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"its description is no such thing: {in_a_line(error)}") from None


def in_a_line(error: ValidationError) -> str:
    """All that a description has wrong."""
    told = [
        (place, what if allowed is None else f"found {what}; allowed: {allowed}") for place, what, allowed in wrong_in(error)
    ]
    return "; ".join(f"{place}: {what}" if place else what for place, what in told)


def wrong_in(error: ValidationError) -> list[tuple[str, str, str | None]]:
    """What a description has wrong, ten at the most: where, what was found, and what is allowed in its place; None where what
    was found says so itself."""
    told: list[tuple[str, str, str | None]] = []
    for item in error.errors(include_url=False)[:10]:
        place, kind, bounds = ".".join(map(str, item["loc"])).removesuffix(".[key]"), item["type"], item.get("ctx", {})
        if kind in ("value_error", "json_invalid"):
            told.append((place, re.sub(r"^Value error, |^Invalid ", "", item["msg"]), None))
        elif kind in ("missing", "extra_forbidden"):
            what = ("nothing", "a value, for it is needed") if kind == "missing" else ("an unknown key", "known keys only")
            told.append((place, *what))
        else:
            words = _PATTERNS.get(bounds.get("pattern", ""), "") or _ALLOWED.get(
                kind, "another value; docs/own-data.md says which"
            )
            told.append((place, show(item["input"]), words.format_map({key: str(value) for key, value in bounds.items()})))
    return told


_PATTERNS = {
    PRINTABLE: "text of characters that can be shown, on one line",
    SET_NAME: "letters, digits, spaces and ._+=-, the first a letter, a digit or _",
    SPLIT_NAME: "small letters, digits, _ and -, the first a letter or a digit",
}
_ALLOWED = {
    "literal_error": "{expected}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number of at most {le}",
    "finite_number": "a number that is finite",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type"), "a mapping"),
    "string_type": "text",
}
"""What is allowed where pydantic says that a value is of this type of mistake."""


def content(description: Description, data_sha256: str, tensors: Mapping[str, Any]) -> str:
    """What stands for a set in a job: another clip, class, joint or split, and it is another text. ``tensors`` is what the
    file's header says of each: the sha256 is of bytes alone, which under other names are another set."""
    named = json.dumps(tensors, sort_keys=True)
    return hashlib.sha256(f"{data_sha256}\n{description.learned()}\n{named}".encode()).hexdigest()
