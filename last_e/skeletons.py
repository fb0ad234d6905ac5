"""Skeletons: joints with names, the bones between them, and what a body is centred, turned and measured by. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from last_e.joints import BONES

MOST_JOINTS = 512
PLAYER = Path(__file__).with_suffix(".js")
"""What draws a moving skeleton on a page."""

PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=PRINTABLE)]
Joint = Annotated[int, Field(ge=0, lt=MOST_JOINTS)]
Pair = tuple[Joint, Joint]


class Skeleton(BaseModel):
    """What a set's joints are. Numbers are places in ``joints``, 0-based."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    joints: Annotated[tuple[Name, ...], Field(min_length=2, max_length=MOST_JOINTS)]
    """Their names."""
    bones: Annotated[tuple[Pair, ...], Field(max_length=8 * MOST_JOINTS)]
    """Two joints each, in any order: of a bone the one nearer to the centre is the other's parent."""
    centre: Joint = 0
    """The joint that a clip is moved to the origin by, and the root of the bones."""
    pairs: Annotated[tuple[Pair, ...], Field(max_length=MOST_JOINTS)] = ()
    """Left and right: the first of them, the shoulders of a body, is what a clip is turned by."""
    torso: Pair | None = None
    """Two joints whose mean distance becomes 1; default: the centre and the farther end of its first bone."""

    @model_validator(mode="after")
    def _agrees(self) -> Skeleton:
        if wrong := list(self._wrong()):
            raise ValueError("; ".join(wrong))
        return self

    def _wrong(self) -> Iterator[str]:
        count = len(self.joints)
        if twice := sorted({name for name in self.joints if self.joints.count(name) > 1}):
            yield f"joints named twice: {', '.join(twice)}"
        named = {"bones": self.bones, "pairs": self.pairs, "torso": () if self.torso is None else (self.torso,)}
        for what, pairs in {**named, "centre": ((self.centre, self.centre),)}.items():
            if far := sorted({joint for pair in pairs for joint in pair if joint >= count}):
                yield f"{what}: no joint {', '.join(map(str, far))}: there are {count}, from 0"
                return
            if what != "centre" and any(a == b for a, b in pairs):
                yield f"{what}: a joint with itself"
        if loose := [self.joints[joint] for joint in range(count) if self._way[joint] is None]:
            yield f"no way along bones from the centre ({self.joints[self.centre]}) to {', '.join(loose)}"

    @cached_property
    def _way(self) -> list[int | None]:
        """Each joint's parent, None where no bone leads to it; the centre is its own."""
        parents: list[int | None] = [None] * len(self.joints)
        parents[self.centre] = self.centre
        reached = [self.centre]
        for joint in reached:
            for bone in self.bones:
                other = bone[0] if bone[1] == joint else bone[1] if bone[0] == joint else None
                if other is not None and parents[other] is None:
                    parents[other] = joint
                    reached.append(other)
        return parents

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """Parent of each joint; the centre is its own."""
        return tuple(parent for parent in self._way if parent is not None)

    @property
    def has_sides(self) -> bool:
        """Whether it can be mirrored: it has pairs, and no joint is in two of them."""
        paired = [joint for pair in self.pairs for joint in pair]
        return 0 < len(paired) == len(set(paired))

    @property
    def measure(self) -> Pair:
        """The two joints whose mean distance becomes 1."""
        return self.torso or (self.centre, next(child for child, parent in enumerate(self.parents)
                                                if parent == self.centre and child != parent))  # fmt: skip


def _named(names: str, bones: Iterable[tuple[str, str]], centre: str, torso: tuple[str, str]) -> Skeleton:
    """A skeleton by names; its pairs are those that begin with left and right, the shoulders first."""
    joints = names.split()
    at = {name: number for number, name in enumerate(joints)}
    left = sorted((name for name in joints if name.startswith("left_")), key=lambda name: name != "left_shoulder")
    return Skeleton(
        joints=tuple(joints),
        bones=tuple((at[a], at[b]) for a, b in bones),
        centre=at[centre],
        pairs=tuple((at[name], at["right" + name[4:]]) for name in left),
        torso=(at[torso[0]], at[torso[1]]),
    )


def _chain(*names: str) -> list[tuple[str, str]]:
    """Bones from the first of some joints to the last."""
    return [(child, parent) for parent, child in pairwise(names)]


def _sides(*names: str) -> list[tuple[str, str]]:
    """A chain on the left, and on the right; a name with a dot before it is of both."""
    return [bone for side in ("left_", "right_") for bone in _chain(*(n[1:] if n[0] == "." else side + n for n in names))]


_NTU = """
spine_base spine_mid neck head left_shoulder left_elbow left_wrist left_hand right_shoulder right_elbow right_wrist right_hand
left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot spine_shoulder left_hand_tip left_thumb
right_hand_tip right_thumb
"""
NTU25 = Skeleton(
    joints=tuple(_NTU.split()),
    bones=BONES,
    pairs=((4, 8), (5, 9), (6, 10), (7, 11), (12, 16), (13, 17), (14, 18), (15, 19), (21, 23), (22, 24)),
    torso=(0, 2),
)
"""Kinect v2, as in NTU RGB+D."""

KINECT20 = _named(
    "hip_centre spine shoulder_centre head left_shoulder left_elbow left_wrist left_hand right_shoulder right_elbow "
    "right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip right_knee right_ankle right_foot",
    [
        *_chain("hip_centre", "spine", "shoulder_centre", "head"),
        *_sides(".shoulder_centre", "shoulder", "elbow", "wrist", "hand"),
        *_sides(".hip_centre", "hip", "knee", "ankle", "foot"),
    ],
    "hip_centre",
    ("hip_centre", "shoulder_centre"),
)
"""Kinect v1, in the order of its SDK (MSR Action3D, UTKinect)."""

COCO17 = _named(
    "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
    "left_hip right_hip left_knee right_knee left_ankle right_ankle",
    [
        *_sides(".nose", "eye", "ear"),
        *_sides(".nose", "shoulder", "elbow", "wrist"),
        *_sides("shoulder", "hip", "knee", "ankle"),
    ],
    "nose",
    ("left_shoulder", "left_hip"),
)
"""COCO's keypoints: bones as pyskl ties them, for COCO's own are no tree."""

OPENPOSE18 = _named(
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee right_ankle "
    "left_hip left_knee left_ankle right_eye left_eye right_ear left_ear",
    [
        ("nose", "neck"),
        *_sides(".neck", "shoulder", "elbow", "wrist"),
        *_sides(".neck", "hip", "knee", "ankle"),
        *_sides(".nose", "eye", "ear"),
    ],
    "neck",
    ("neck", "left_hip"),
)
"""OpenPose's COCO model, as in Kinetics-Skeleton."""

OPENPOSE25 = _named(
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist mid_hip right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_big_toe left_small_toe left_heel "
    "right_big_toe right_small_toe right_heel",
    [
        *_chain("mid_hip", "neck", "nose"),
        *_sides(".neck", "shoulder", "elbow", "wrist"),
        *_sides(".mid_hip", "hip", "knee", "ankle", "big_toe", "small_toe"),
        *_sides("ankle", "heel"),
        *_sides(".nose", "eye", "ear"),
    ],
    "mid_hip",
    ("mid_hip", "neck"),
)
"""OpenPose's BODY_25."""

MEDIAPIPE33 = _named(
    "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear right_ear left_mouth "
    "right_mouth left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist left_pinky right_pinky "
    "left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle right_ankle left_heel "
    "right_heel left_foot_index right_foot_index",
    [
        *_sides(".nose", "eye_inner", "eye", "eye_outer", "ear"),
        *_sides(".nose", "mouth"),
        *_sides(".nose", "shoulder", "elbow", "wrist", "pinky"),
        *_sides("wrist", "index"),
        *_sides("wrist", "thumb"),
        *_sides("shoulder", "hip", "knee", "ankle", "heel"),
        *_sides("ankle", "foot_index"),
    ],
    "nose",
    ("left_shoulder", "left_hip"),
)
"""MediaPipe's pose landmarks: its own bones, with head and mouth tied to the nose, and the shoulders, too."""

LAYOUTS = {
    "ntu25": NTU25,
    "kinect25": NTU25,
    "kinect20": KINECT20,
    "coco17": COCO17,
    "openpose18": OPENPOSE18,
    "openpose25": OPENPOSE25,
    "mediapipe33": MEDIAPIPE33,
}
"""Skeletons that are known by a name."""
