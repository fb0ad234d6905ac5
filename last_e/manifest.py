"""What makes a checkpoint whole: a manifest, written last, with the size and the sha256 of every file and of itself.

No manifest, no checkpoint. Torch-free, so that the job runner judges a checkpoint by the same code as the trainer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from last_e.config import Section
from last_e.whole import regular_file

MANIFEST = "MANIFEST.json"
NEW = ".new-"
"""How the temporary name of a checkpoint begins while it is written."""


class DamagedCheckpoint(RuntimeError):
    """A checkpoint that is not what its manifest says, or has none."""


MOST_STEPS = 10**12
MOST_FILE_BYTES = 1 << 30
"""A hundred times what the largest network's state takes."""
MOST_MANIFEST_BYTES = 1 << 16
MOST_CONFIG_BYTES = 1 << 20


class File(Section):
    """A file of a checkpoint."""

    size: int = Field(ge=0, le=MOST_FILE_BYTES)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]


class Manifest(Section):
    """What a checkpoint holds."""

    format: Literal[1] = 1
    step: int = Field(ge=0, le=MOST_STEPS)
    epoch: int = Field(ge=0, le=10**9, description="whole epochs behind it")
    evaluated: bool = Field(description="an epoch ends at this step and has been tested")
    milestone: bool = Field(False, description="kept for good: every save_interval-th epoch, and the last")
    test_top1: Annotated[float, Field(ge=0, le=1)] | None = None
    validation_top1: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="where a run has clips to validate")
    files: Annotated[dict[FileName, File], Field(max_length=16)] = Field({}, description="file name to size and sha256")

    @property
    def order(self) -> tuple[int, int, bool]:
        """Later in training is larger. Epochs first: after an allowed change of the batch, steps have another length."""
        return self.epoch, self.step, self.evaluated

    @property
    def top1(self) -> float | None:
        """By what the best is chosen: of the clips that validate, where there are some, else of those that test."""
        return self.test_top1 if self.validation_top1 is None else self.validation_top1

    def to_json(self) -> str:
        """The text of the manifest file: the fields and their own sha256."""
        # Left out where there is none, so that versions which do not know it read the rest.
        values = self.model_dump(mode="json", exclude={"validation_top1"} if self.validation_top1 is None else None)
        return json.dumps({**values, "sha256": _digest(values)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read a manifest file.

        Raises:
            DamagedCheckpoint: it is no manifest of a format known here, or a bit of it has changed.
        """
        try:
            values = json.loads(text)
            if values.pop("sha256") != _digest(values):
                raise DamagedCheckpoint("the manifest is not what was written (sha256 differs)")
            manifest = cls.model_validate(values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = "of another format" if isinstance(error, ValidationError) else "unreadable"
            raise DamagedCheckpoint(f"the manifest is {reason}") from None
        if not manifest.files:
            raise DamagedCheckpoint("the manifest names no files")
        return manifest


STANDS, NO_CHECKPOINT = "the last checkpoint stands", "there is no checkpoint yet: it will begin at step 0"
"""What is left of a run that was ended without saving."""


def describe_file(path: Path) -> File:
    """Size and sha256 of a file, as a manifest holds them."""
    return File(size=path.stat().st_size, sha256=sha256(path))


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with regular_file(path) as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder, its files not looked at.

    Raises:
        DamagedCheckpoint: there is none, or it is unreadable.
    """
    try:
        with regular_file(folder / MANIFEST) as file:
            return Manifest.from_json(file.read(MOST_MANIFEST_BYTES))  # a longer one is none
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedCheckpoint("it has no manifest: it was never finished") from None
    except OSError as error:
        raise DamagedCheckpoint(f"the manifest cannot be read ({error.strerror})") from None


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder whose every file is what it says.

    Raises:
        DamagedCheckpoint: with the file at fault.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected.size:
                raise DamagedCheckpoint(f"{name} has {size} bytes, not {expected.size}")
            if sha256(path) != expected.sha256:
                raise DamagedCheckpoint(f"{name} is not what was written (sha256 differs)")
        except FileNotFoundError:
            raise DamagedCheckpoint(f"{name} is missing") from None
        except OSError as error:
            raise DamagedCheckpoint(f"{name} cannot be read ({error.strerror})") from None
    return manifest


def newest_whole(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose bytes are what was written; a damaged one is skipped with a word."""
    for path, _ in reversed(listed(folder, say)):
        try:
            verify(path)
        except DamagedCheckpoint as error:
            say(f"skipping {path}: {error}")
            continue
        return path
    return None


def listed(folder: Path, say: Callable[[str], None]) -> list[tuple[Path, Manifest]]:
    """Checkpoints below a folder that have a readable manifest, oldest first, their files not checked.

    One that is whole but has not got its final name yet, because its writer was killed, is one of them.
    """
    found = []
    for path in [*folder.glob("step-*"), *folder.glob(f"{NEW}*")]:
        try:
            found.append((path, read_manifest(path)))
        except DamagedCheckpoint as error:
            if not path.name.startswith(NEW):  # one that is being written is no news
                say(f"skipping {path}: {error}")
    return sorted(found, key=lambda item: item[1].order)


def to_keep(manifests: list[Manifest], keep_last: int) -> list[bool]:
    """Which checkpoints stay: the newest ``keep_last``, the milestones, and the best by top-1 (the earliest of equals)."""
    newest = sorted(range(len(manifests)), key=lambda i: manifests[i].order)[-keep_last:]
    best = best_of(manifests)
    return [i in newest or manifest is best or manifest.milestone for i, manifest in enumerate(manifests)]


def best_of(manifests: list[Manifest]) -> Manifest | None:
    """The best by top-1, the earliest of equals: of those that were scored on clips of the same kind as the newest that was,
    for a run that goes on with ``data.validation`` begins to choose anew. None: none was scored."""
    scored = sorted((one for one in manifests if one.top1 is not None), key=lambda one: one.order)
    of_one_kind = [one for one in scored if (one.validation_top1 is None) == (scored[-1].validation_top1 is None)]
    return min(of_one_kind, key=lambda one: (-(one.top1 or 0), one.order), default=None)


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
