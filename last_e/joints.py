"""The 25 joints of Kinect v2 / NTU RGB+D and the bones between them. Torch-free."""

from __future__ import annotations

NUM_JOINTS = 25
BONES = (
    (1, 0), (20, 1), (2, 20), (3, 2),  # spine, neck, head
    (4, 20), (5, 4), (6, 5), (7, 6), (21, 7), (22, 6),  # left arm
    (8, 20), (9, 8), (10, 9), (11, 10), (23, 11), (24, 10),  # right arm
    (12, 0), (13, 12), (14, 13), (15, 14),  # left leg
    (16, 0), (17, 16), (18, 17), (19, 18),  # right leg
)  # fmt: skip
"""(child, parent) of every bone, Kinect v2 / NTU joint order, 0-based. Joint 0, the spine base, is the root."""

PARENTS = [dict(BONES).get(joint, joint) for joint in range(NUM_JOINTS)]
"""Parent of each joint; the root is its own."""

STANDING = (
    (0, 0, 0), (0, 0.3, 0), (0, 0.08, 0), (0, 0.15, 0),  # spine base, spine mid, neck, head
    (-0.18, -0.05, 0), (0, -0.28, 0), (0, -0.25, 0), (0, -0.08, 0),  # left arm
    (0.18, -0.05, 0), (0, -0.28, 0), (0, -0.25, 0), (0, -0.08, 0),  # right arm
    (-0.1, -0.05, 0), (0, -0.4, 0), (0, -0.4, 0), (0, -0.05, 0.12),  # left leg
    (0.1, -0.05, 0), (0, -0.4, 0), (0, -0.4, 0), (0, -0.05, 0.12),  # right leg
    (0, 0.22, 0), (0, -0.07, 0), (0.04, -0.04, 0), (0, -0.07, 0), (-0.04, -0.04, 0),  # spine shoulder, hands
)  # fmt: skip
"""A standing person of made-up motion, metres, spine base at the origin: offset of each joint from its parent."""


def depth(joint: int) -> int:
    """Number of bones between a joint and the root."""
    return 0 if joint == 0 else 1 + depth(PARENTS[joint])


FROM_ROOT = tuple(sorted(range(1, NUM_JOINTS), key=depth))
"""Every joint but the root, each after its parent."""
