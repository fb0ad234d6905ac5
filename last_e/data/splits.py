"""Which clips train and which test."""

from __future__ import annotations

import torch
from torch import Tensor

from last_e.data.clips import Clips

IRDS_TEST_SUBJECTS = (102, 104, 106, 302, 304, 306)
NTU60_TRAIN_PERFORMERS = (1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38)
NTU120_TRAIN_PERFORMERS = (
    *NTU60_TRAIN_PERFORMERS,
    *(45, 46, 47, 49, 50, *range(52, 60), 70, 74, 78, *range(80, 87), 89, *range(91, 96), 97, 98, 100, 103),
)
NTU60_TRAIN_CAMERAS = (2, 3)


def train_mask(clips: Clips, dataset: str, split_type: str) -> Tensor:
    """(N,) bool: True where a clip trains; everything else tests.

    NTU: Shahroudy et al., CVPR 2016 (xsub, xview); Liu et al., TPAMI 2019 (ntu120's xsub, xset).
    """
    if (dataset, split_type) == ("irds", "xsub"):
        return ~_any_of(clips.performer, IRDS_TEST_SUBJECTS)
    if (dataset, split_type) == ("ntu60", "xsub"):
        return _any_of(clips.performer, NTU60_TRAIN_PERFORMERS)
    if (dataset, split_type) == ("ntu60", "xview"):
        return _any_of(clips.camera, NTU60_TRAIN_CAMERAS)
    if (dataset, split_type) == ("ntu120", "xsub"):
        return _any_of(clips.performer, NTU120_TRAIN_PERFORMERS)
    if (dataset, split_type) == ("ntu120", "xset"):
        return clips.setup % 2 == 0
    if (dataset, split_type) == ("synthetic", "xsub"):
        return clips.performer % 3 != 0
    raise ValueError(f"no split {split_type} of {dataset}")


def _any_of(values: Tensor, members: tuple[int, ...]) -> Tensor:
    return torch.isin(values, torch.tensor(members))
