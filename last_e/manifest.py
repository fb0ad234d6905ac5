"""What makes a checkpoint whole: a manifest, written last, with the size and the sha256 of every file.

No manifest, no checkpoint. Torch-free, so that the job runner judges a checkpoint by the same code as the trainer.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"
FORMAT = 1


class DamagedCheckpoint(RuntimeError):
    """A checkpoint that is not what its manifest says, or has none."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds. ``files`` maps a name to its size in bytes and its sha256."""

    step: int
    epoch: int
    """Whole epochs behind it."""
    evaluated: bool
    """Whether the epoch that ends at this step has been evaluated (False also in mid-epoch)."""
    milestone: bool = False
    """Kept for good: the end of every ``save_interval``-th epoch, and of the last."""
    test_top1: float | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def order(self) -> tuple[int, bool]:
        """Later in training is larger."""
        return self.step, self.evaluated

    def to_json(self) -> str:
        """The text of the manifest file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read a manifest file.

        Raises:
            DamagedCheckpoint: it is no manifest of a format known here.
        """
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise DamagedCheckpoint(f"manifest of format {values['format']}; this version reads {FORMAT}")
            manifest = cls(**values)
            names_ok = all(name == Path(name).name and name not in ("", ".", "..") for name in manifest.files)
            top1_ok = manifest.test_top1 is None or (
                isinstance(manifest.test_top1, (int, float)) and math.isfinite(manifest.test_top1)
            )
            if not (isinstance(manifest.step, int) and isinstance(manifest.epoch, int) and manifest.files):
                raise ValueError
            if not (names_ok and top1_ok and all({"size", "sha256"} <= entry.keys() for entry in manifest.files.values())):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DamagedCheckpoint("the manifest is unreadable") from None
        return manifest


def describe_file(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as a manifest holds them."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
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
        return Manifest.from_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DamagedCheckpoint("it has no manifest: it was never finished") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedCheckpoint(f"the manifest cannot be read ({error})") from None


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder whose every file is what it says.

    Raises:
        DamagedCheckpoint: with the file at fault.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{name} is missing")
        size = path.stat().st_size
        if size != expected["size"]:
            raise DamagedCheckpoint(f"{name} has {size} bytes, not {expected['size']}")
        if sha256(path) != expected["sha256"]:
            raise DamagedCheckpoint(f"{name} is not what was written (sha256 differs)")
    return manifest


def to_keep(manifests: list[Manifest], keep_last: int) -> list[bool]:
    """Which checkpoints stay: the newest ``keep_last``, the milestones, and the best by test top-1 (the earliest of equals)."""
    newest = sorted(range(len(manifests)), key=lambda i: manifests[i].order)[-keep_last:]
    scores = [m.test_top1 if m.test_top1 is not None else -1.0 for m in manifests]
    best = min((i for i in range(len(manifests)) if scores[i] >= 0), key=lambda i: (-scores[i], manifests[i].order), default=-1)
    return [i in newest or i == best or manifest.milestone for i, manifest in enumerate(manifests)]
