"""A clip before and after each augmentation, as a page that plays all of them side by side.

``python -m last_e.before_after``: which clip comes as JSON on standard input, the result goes out as a JSON line.
"""

from __future__ import annotations

import html
import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from last_e import rng
from last_e.config import AugmentationsConfig, TrainConfig, TrainingConfig
from last_e.data.augment import mirror_of
from last_e.data.batches import rows_of
from last_e.data.clips import Clips
from last_e.data.shown import augmented, still
from last_e.datafile import DataError, output_path
from last_e.known import mirrored_classes
from last_e.layers import resolve
from last_e.prepare.inspect import One, clip_of, drawn_with
from last_e.refusal import refusal
from last_e.skeletons import PLAYER
from last_e.whole import whole_file

TEMPLATE = Path(__file__).with_suffix(".html")
SHOWN: dict[str, dict[str, Any]] = {
    "mirror": {"mirror": 1.0},
    "motion": {"motion": 1.0, "motion_range": [0.3, 0.3]},
    "limbs": {"limbs": 0.2},
    "pose": {"pose": 0.1},
    "lean": {"lean": 20.0},
    "drift": {"drift": 1.0},
    "rotation": {"rotation": 90.0},
    "noise": {"noise": 0.04},
    "speed": {"speed": 0.7},
    "mask_joints": {"mask_joints": 0.2},
    "mask_frames": {"mask_frames": 0.7},
}
"""As strong as it takes to be seen. ``mixup`` is no picture: nobody moves like two at a time."""


def write_page(path: Path, clip: str, out: Path, seed: int = 0) -> str:
    """Write the page of a clip of a prepared file; returns the clip's name.

    Raises:
        DataError: there is no such clip, or the file is damaged.
    """
    out = output_path(out, path, example="clip.html")
    one = clip_of(path, clip)
    told = {"shown": shown(one, seed), "drawn": drawn_with(one.own)}
    page = TEMPLATE.read_text(encoding="utf-8").replace("__FRAMES__", str(_recipe({}, seed).input_frames))
    page = page.replace("__PLAYER__", PLAYER.read_text(encoding="utf-8").rstrip()).replace("__TITLE__", html.escape(one.title))
    out.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(told, separators=(",", ":")).replace("<", "\\u003c")  # no name of a class ends the script
    with whole_file(out) as part:
        part.write_text(page.replace("__DATA__", data), encoding="utf-8")
    return one.name


def shown(one: One, seed: int) -> list[dict[str, Any]]:
    """For each picture its ``name``, ``what`` it is, and its ``joints`` (M, T, V, 3), in thousandths of a torso."""
    own = one.own
    bodies, length = one.joints.shape[:2]
    rows, zero = torch.from_numpy(one.joints.reshape(-1, *one.joints.shape[2:])), torch.tensor([0])
    length_of, bodies_of, label_of = (torch.tensor([value]) for value in (length, bodies, one.label))
    clips = Clips(rows, length_of, bodies_of, label_of, zero, zero, zero, description=own)
    names = own.classes if own else tuple(f"A{number + 1:03}" for number in range(120))
    mirror = mirror_of(clips.skeleton, len(names), mirrored_classes(one.dataset, own))
    placement, (owner, body) = clips.placement, rows_of(bodies_of)

    def under(**more: Any) -> tuple[Tensor, Tensor]:
        return augmented(clips, placement, mirror, _recipe(more, seed), partial(rng.key_of, seed, 0), zero, zero, owner, body)

    frames = _recipe({}, seed).input_frames
    pictures = [("as it tests", "the middle 95% of it", still(clips, placement, zero, owner, body, frames))]
    pictures.append(("training.augment", "what the reference does alone", under()[0]))
    for name, values in SHOWN.items():
        said = ", ".join(f"{key}: {value}" for key, value in values.items())
        if name == "mirror" and mirror is None:
            continue
        joints, label = under(**values)
        changed = f"; its class becomes {names[int(label)]}" if int(label) != one.label else ""
        pictures.append((name, f"training.augmentations: {{{said}}}{changed}", joints))
    return [{"name": name, "what": what, "joints": (joints * 1000).round().int().tolist()} for name, what, joints in pictures]


def _recipe(more: dict[str, Any], seed: int) -> TrainingConfig:
    plain = resolve([], TrainConfig, detect=lambda: ("local", "")).config.training
    return plain.model_copy(update={"seed": seed, "augmentations": AugmentationsConfig(**more)})


def main() -> int:
    """Write and say which clip it was."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = json.load(sys.stdin)
    try:
        name = write_page(Path(asked["file"]), asked["clip"], Path(asked["page"]), asked["seed"])
    except (DataError, OSError, MemoryError) as error:
        print(json.dumps(refusal(error)), flush=True)
        return 1
    print(json.dumps({"result": {"clip": name}}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
