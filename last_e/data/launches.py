"""Batches by the kernels of :mod:`last_e.data.kernels`, as operations of torch (``torch.ops.lastrun``): on GPUs where they were
found right, for recipes that they know.

n clips of a batch, r rows (a clip's bodies one after the other), T frames, V joints, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from last_e.config import AugmentationsConfig, TrainingConfig
from last_e.data import transform
from last_e.data.augment import MOTION_RANGE, Mirror, mirror_of, sides, table
from last_e.data.clips import Clips
from last_e.data.placement import Placement
from last_e.data.shown import TorchRows
from last_e.data.synthetic import synthetic_clips
from last_e.model.agreed import Agreed
from last_e.model.launches import defined
from last_e.model.network import Noise
from last_e.rng import Keys

POINTS = 128
"""Of a row that a program does."""
COLUMNS = 256
"""Of noise that it draws at a time."""
ALLOWED = 1e-4
"""Torsos that a coordinate may be from torch's, on a GPU that is tried out; so labels and the like have to be the same."""
TRIED: dict[str, Any] = {
    **{"mirror": 0.5, "motion": 0.7, "limbs": 0.2, "pose": 0.1, "lean": 20.0, "drift": 0.2, "rotation": 180.0, "speed": 0.4},
    **{"mask_joints": 0.3, "noise": 0.03},
}
"""All augmentations that the kernels know, as they are tried out; a recipe that asks for less leaves out some of it."""
KNOWN = {*TRIED, "motion_range", "motion_from", "mixup"}
"""Of ``training.augmentations``; but not ``motion_from: mean``, for which all frames are made before one is."""


@cache
def ops() -> Any:
    """The operations.

    Raises:
        Exception: there is no Triton here, or none that works.
    """
    from last_e.data import kernels

    return defined({kernels: _OPS})


def used_for(clips: Clips, recipe: TrainingConfig) -> bool:
    """Whether the kernels make a recipe's batches of clips where these are."""
    more = recipe.augmentations
    known = more.motion_from != "mean" and all(value is None or name in KNOWN for name, value in more)
    return used_on(clips.joints.device) and recipe.augment and known


AGREED = Agreed()
"""Of batches."""
used_on = AGREED.used_on


def try_out(device: torch.device) -> str | None:
    """Have a GPU make a batch with the kernels and with torch, and use them from then on where both agree.

    Returns:
        None, or why they are not used.
    """
    return AGREED.try_out(device, lambda: {name: value for name, value in differences(device).items() if not value <= ALLOWED})


def differences(device: torch.device) -> dict[str, float]:
    """How far a small batch is from torch's there, by the reference's recipe and with all augmentations: the largest difference
    of each of its parts."""
    here = synthetic_clips(4, 12)
    clip, keys, mirror = torch.arange(1, 5), Keys(device), mirror_of(here.skeleton, 4, ((0, 1),))
    owner = torch.repeat_interleave(torch.arange(len(clip)), here.bodies_on_host[clip])
    body = torch.cat([torch.arange(many) for many in here.bodies_on_host[clip].tolist()])
    rows = [one.to(device) for one in (clip + (3 << 40), clip, owner, body)]
    clips = here.to(device)
    keys.set(5, 1)
    found: dict[str, float] = {}
    for how, asked in (("", dict[str, Any]()), (", augmented", TRIED)):
        more: dict[str, Any] = {"input_frames": 11, "augment": True, "augmentations": AugmentationsConfig(**asked)}
        recipe = TrainingConfig.model_construct(**more)
        own = KernelRows(clips, clips.placement, mirror, recipe, keys, *rows)
        torchs = TorchRows(clips, clips.placement, mirror, recipe, keys, *rows)
        pairs: dict[str, tuple[Any, Any]] = {name: (one, torchs.streams()[name]) for name, one in own.streams().items()}
        label, weights, noise = own.others((300, 5))
        labels, its_weights, its_noise = torchs.others((300, 5))
        pairs |= {
            "joints": (own.joints(), torchs.joints()),
            "label": (label, labels),
            "weight of a row": (weights, its_weights),
        }
        pairs |= {"dropout": (noise.dropout, its_noise.dropout), "drop path": (noise.path, its_noise.path)}
        found |= {f"{name}{how}": float((one - two).abs().max()) for name, (one, two) in pairs.items()}
    return found


@cache
def depth(parents: tuple[int, ...]) -> int:
    """Most bones from a joint to the root, which is its own parent."""
    most = 0
    for joint in range(len(parents)):
        at, bones = joint, 0
        while parents[at] != at:
            at, bones = parents[at], bones + 1
        most = max(most, bones)
    return most


class KernelRows:
    """Rows of augmented clips, made by the kernels: what :class:`last_e.data.shown.TorchRows` has of the same.

    Args:
        clips: the data set, on the device.
        placement: of each of its clips.
        mirror: what changes places in a mirror.
        recipe: ``training``, with ``augment``, whose augmentations the kernels know.
        keys: of the epoch.
        position: (n,) where in the epoch's order clips stand.
        clip: (n,) which of the data set they are.
        owner: (r,) which of the n clips a row is of.
        body: (r,) which of its bodies.
    """

    def __init__(
        self,
        clips: Clips,
        placement: Placement,
        mirror: Mirror | None,
        recipe: TrainingConfig,
        keys: Keys,
        position: Tensor,
        clip: Tensor,
        owner: Tensor,
        body: Tensor,
    ) -> None:
        more, device, skeleton = recipe.augmentations, clips.joints.device, clips.skeleton
        swapped = classes = None
        self._clips, self._chance = clips, 0.0
        if more.mirror is not None and mirror is not None:
            self._chance, swapped, classes = more.mirror, table(mirror.joints, device), table(mirror.classes, device)
        self._classes = classes
        self._rows = keys.table, position, clip, owner
        low, high = more.motion_range or MOTION_RANGE
        most = transform.MAX_ANGLE if more.rotation is None else more.rotation * torch.pi / 180
        amounts = (
            *(most, transform.JITTER_METRES if more.noise is None else more.noise, self._chance),
            *(more.motion or 0.0, low, high - low, more.limbs or 0.0, more.pose or 0.0, (more.lean or 0.0) * torch.pi / 180),
            *(more.drift or 0.0, more.speed or 0.0, more.mask_joints or 0.0),
        )
        self._seen = (
            *(body, clips.joints, clips.start, clips.length, placement.origin, placement.turn),
            *(transform.parents(device, skeleton.parents), sides(skeleton, device), swapped),
            *(recipe.input_frames, max(2, clips.people), depth(skeleton.parents), amounts, clips.is_flat),
        )

    def streams(self) -> dict[str, Tensor]:
        """Joint, velocity and bone, each (r, 3, T, V)."""
        return dict(zip(("joint", "velocity", "bone"), ops().streams(*self._rows, *self._seen)))

    def joints(self) -> Tensor:
        """(r, T, V, 3)."""
        made: Tensor = ops().shown(*self._rows, *self._seen)
        return made

    def labels(self) -> Tensor:
        """(n,), as they are in a mirror."""
        return self._others(0, 0)[0]

    def others(self, noise: tuple[int, int]) -> tuple[Tensor, Tensor | None, Noise]:
        """Labels (n,); one over the number of bodies of each row's clip (r,), None where each has one; so many columns of
        dropout and drop path."""
        label, weight, *drawn = self._others(*noise)
        return label, weight if len(weight) else None, Noise(*drawn)

    def _others(self, *noise: int) -> tuple[Tensor, ...]:
        clip, owner = self._rows[2:]
        given = self._clips.bodies, self._clips.label, self._classes, len(owner) > len(clip), *noise, self._chance
        made: tuple[Tensor, ...] = ops().others(*self._rows, *given)
        return made


# --- each operation: what comes out of it, and its launch --------------------------------------------------------------------

_ROWS = "Tensor keys, Tensor position, Tensor clip, Tensor owner"
_SEEN = (
    "Tensor body, Tensor joints, Tensor start, Tensor length, Tensor origin, Tensor turn, Tensor parents, Tensor sides, "
    "Tensor? swapped, int frames, int people, int depth, float[] amounts, bool flat"
)


def _streams_out(keys: Tensor, position: Tensor, clip: Tensor, owner: Tensor, *seen: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = len(owner), 3, seen[9], seen[1].shape[1]
    one, two, three = (seen[4].new_empty(shape) for _ in range(3))
    return one, two, three


def _streams(kernels: Any, *given: Any) -> None:
    *rows, velocity, bone = given
    _launched(kernels, *rows, velocity, bone, whole=True)


def _shown_out(keys: Tensor, position: Tensor, clip: Tensor, owner: Tensor, *seen: Any) -> Tensor:
    made: Tensor = seen[4].new_empty(len(owner), seen[9], seen[1].shape[1], 3)
    return made


def _shown(kernels: Any, *given: Any) -> None:
    joints = given[-1]
    _launched(kernels, *given, joints, joints, whole=False)


def _launched(
    kernels: Any,
    keys: Tensor,
    position: Tensor,
    clip: Tensor,
    owner: Tensor,
    body: Tensor,
    joints: Tensor,
    start: Tensor,
    length: Tensor,
    origin: Tensor,
    turn: Tensor,
    parents: Tensor,
    sides: Tensor,
    swapped: Tensor | None,
    frames: int,
    people: int,
    depth: int,
    amounts: Sequence[float],
    flat: bool,
    *out: Tensor,
    whole: bool,
) -> None:
    count = joints.shape[1]
    of_clips = joints, start, length, origin, turn, parents, sides, parents if swapped is None else swapped
    numbers = frames, count, people, depth, 1 / max(1, frames - 1), *amounts
    _, _, _, motion, _, _, limbs, pose, lean, drift, speed, mask = (amount > 0 for amount in amounts)
    how = {"MOTION": motion, "LIMBS": limbs, "POSE": pose, "LEAN": lean, "DRIFT": drift, "SPEED": speed, "MASK": mask}
    how |= {"MIRRORS": swapped is not None, "FLAT": flat, "STREAMS": whole}
    grid = len(owner), -(-frames * count // POINTS)
    kernels.streams[grid](keys, position, clip, owner, body, *of_clips, *out, *numbers, **how, B=POINTS)


def _others_out(
    keys: Tensor,
    position: Tensor,
    clip: Tensor,
    owner: Tensor,
    bodies: Tensor,
    labels: Tensor,
    swapped: Tensor | None,
    weighs: bool,
    width: int,
    paths: int,
    chance: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, floats = len(owner), torch.float32
    weight, dropout, drop_path = (
        owner.new_empty(shape, dtype=floats) for shape in ((rows * weighs,), (rows, width), (rows, paths))
    )
    return torch.empty_like(clip), weight, dropout, drop_path


def _others(
    kernels: Any,
    keys: Tensor,
    position: Tensor,
    clip: Tensor,
    owner: Tensor,
    bodies: Tensor,
    labels: Tensor,
    swapped: Tensor | None,
    weighs: bool,
    width: int,
    paths: int,
    chance: float,
    *out: Tensor,
) -> None:
    of_clips = bodies, labels, labels if swapped is None else swapped
    how = {"WEIGHS": weighs, "NOISE": width + paths > 0, "MIRRORS": swapped is not None, "W": COLUMNS}
    given = keys, position, clip, owner, *of_clips, *out, len(clip), width, paths, chance
    kernels.others[len(owner),](*given, **how)


_OPS: dict[str, tuple[str, Any, Any]] = {
    "streams": (f"({_ROWS}, {_SEEN}) -> (Tensor, Tensor, Tensor)", _streams, _streams_out),
    "shown": (f"({_ROWS}, {_SEEN}) -> Tensor", _shown, _shown_out),
    "others": (
        f"({_ROWS}, Tensor bodies, Tensor labels, Tensor? swapped, bool weighs, int width, int paths, float chance) -> "
        "(Tensor, Tensor, Tensor, Tensor)",
        _others,
        _others_out,
    ),
}
"""By name: its schema, its launch with what comes out of it, and what comes out of it."""
