"""A whole data set in memory: ragged, in int16 millimetres, real frames only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from last_e.data.placement import Placement, place
from last_e.datafile import DataError
from last_e.described import Description
from last_e.skeletons import NTU25, Skeleton

TENSORS = ("joints", "length", "bodies", "label", "performer", "camera", "setup")
"""What every prepared file holds: the fields of :class:`Clips` by name."""


@dataclass(frozen=True)
class Clips:
    """N clips of one body or several. The frames of a clip's first body, then of its second, are rows of ``joints``.

    All bodies of a clip have the clip's length; the first is the main one.
    """

    joints: Tensor
    """(rows, V, 3) int16, millimetres, x right, y up, z away from the camera; V = 25 but in sets that say otherwise."""
    length: Tensor
    """(N,) int64, frames of the clip."""
    bodies: Tensor
    """(N,) int64, 1 or 2; of own sets up to as many as they say."""
    label: Tensor
    """(N,) int64, class, 0-based."""
    performer: Tensor
    """(N,) int64."""
    camera: Tensor
    """(N,) int64."""
    setup: Tensor
    """(N,) int64."""
    own_splits: dict[str, Tensor] = field(default_factory=dict)
    """Splits that came with the clips, by name: (N,) bool, True where a clip trains."""
    validation: dict[str, Tensor] = field(default_factory=dict)
    """The part of a split that neither trains nor tests: (N,) bool."""
    description: Description | None = None
    """What an own set says of itself; None of those that are known here."""

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def start(self) -> Tensor:
        """(N,) int64, row of each clip's first frame."""
        rows = self.length * self.bodies
        return rows.cumsum(0) - rows

    @cached_property
    def bodies_on_host(self) -> Tensor:
        """:attr:`bodies` in the host's memory: how many rows a batch has is asked often."""
        return self.bodies.cpu()

    @cached_property
    def placement(self) -> Placement:
        """What centres, turns and scales each clip; measured once, in the host's memory, and taken along from there."""
        return place(self)

    @property
    def skeleton(self) -> Skeleton:
        """Whose joints they are."""
        return NTU25 if self.description is None else self.description.skeleton

    @property
    def people(self) -> int:
        """Most bodies of a clip."""
        return 2 if self.description is None else self.description.people

    @property
    def is_flat(self) -> bool:
        """Whether they have two dimensions: z is always 0."""
        return self.description is not None and self.description.is_flat

    @property
    def nbytes(self) -> int:
        """How much memory they take."""
        return sum(getattr(self, name).nbytes for name in TENSORS)

    def to(self, device: torch.device) -> Clips:
        """The same on ``device``; the splits, which only the host asks for, stay where they are."""
        if self.joints.device.type == device.type:
            return self
        there = replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})
        vars(there).update(placement=self.placement.to(device), bodies_on_host=self.bodies_on_host)
        return there

    def check(self, num_classes: int, source: str) -> None:
        """See that the parts agree.

        Raises:
            DataError: with all that is wrong, in one line.
        """
        wrong = []
        joints = len(self.skeleton.joints)
        if self.joints.dtype != torch.int16 or self.joints.dim() != 3 or self.joints.shape[1:] != (joints, 3):
            wrong.append(f"joints are {self.joints.dtype} {tuple(self.joints.shape)}, not int16 (rows, {joints}, 3)")
        per_clip = {name: getattr(self, name) for name in TENSORS if name != "joints"}
        bad = [f"{k} is {t.dtype} {tuple(t.shape)}" for k, t in per_clip.items() if t.dtype != torch.int64 or t.dim() != 1]
        if bad:
            wrong.append(f"{', '.join(bad)}, not int64 (clips,)")
        elif len({len(tensor) for tensor in per_clip.values()}) != 1:
            wrong.append("the lists of clips differ in length: " + ", ".join(f"{k} {len(v)}" for k, v in per_clip.items()))
        elif len(self) == 0:
            wrong.append("it holds no clips")
        else:
            if not ((self.bodies >= 1) & (self.bodies <= self.people)).all():
                wrong.append(
                    "a clip has neither one body nor two"
                    if self.people == 2
                    else f"a clip has no body, or more than {self.people}"
                )
            if not (self.length >= 1).all():
                wrong.append("a clip has no frames")
            if self.joints.dim() and int((self.length * self.bodies).sum()) != len(self.joints):
                rows = int((self.length * self.bodies).sum())
                wrong.append(f"{len(self.joints)} rows of joints, but the clips' lengths add up to {rows}")
            if not ((self.label >= 0) & (self.label < num_classes)).all():
                wrong.append(f"labels from {int(self.label.min())} to {int(self.label.max())}, not 0 to {num_classes - 1}")
        for name, mask in [*self.own_splits.items(), *self.validation.items()]:
            if mask.dtype != torch.bool or mask.shape != self.label.shape:
                wrong.append(f"the split {name} is {mask.dtype} {tuple(mask.shape)}, not one truth value for each clip")
        if wrong:
            raise DataError(f"{source}: damaged or not a file of this kind: {'; '.join(wrong)}")

    def fingerprint(self) -> str:
        """sha256 of everything that training can see: the same clips give the same text, whatever file they came in."""
        digest = hashlib.sha256()
        tensors = {name: getattr(self, name) for name in TENSORS}
        tensors.update({f"train.{name}": mask for name, mask in sorted(self.own_splits.items())})
        tensors.update({f"validation.{name}": mask for name, mask in sorted(self.validation.items())})
        if self.description is not None:
            digest.update(self.description.learned().encode())
        for name, tensor in tensors.items():
            tensor = tensor.contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(memoryview(tensor.numpy()).cast("B"))
        return digest.hexdigest()
