"""Which clips train and which test, by the people, cameras and setups of the recordings. Torch-free."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from last_e.counts import OFFICIAL as OFFICIAL

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

IRDS_TEST_SUBJECTS = (102, 104, 106, 302, 304, 306)
NTU60_TRAIN_PERFORMERS = (1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38)
NTU120_TRAIN_PERFORMERS = (
    *NTU60_TRAIN_PERFORMERS,
    *(45, 46, 47, 49, 50, *range(52, 60), 70, 74, 78, *range(80, 87), 89, *range(91, 96), 97, 98, 100, 103),
)
NTU60_TRAIN_CAMERAS = (2, 3)

SPLITS = {"irds": ("xsub",), "ntu60": ("xsub", "xview"), "ntu120": ("xsub", "xset"), "synthetic": ("xsub",)}
"""The splits of each data set."""


def trains(dataset: str, split_type: str, performer: Ints, camera: Ints, setup: Ints) -> Bools:
    """(N,) bool: True where a clip trains; everything else tests.

    NTU: Shahroudy et al., CVPR 2016 (xsub, xview); Liu et al., TPAMI 2019 (ntu120's xsub, xset).

    Raises:
        ValueError: the data set has no such split.
    """
    mask: Any
    if (dataset, split_type) == ("irds", "xsub"):
        mask = ~np.isin(performer, IRDS_TEST_SUBJECTS)
    elif (dataset, split_type) == ("ntu60", "xsub"):
        mask = np.isin(performer, NTU60_TRAIN_PERFORMERS)
    elif (dataset, split_type) == ("ntu60", "xview"):
        mask = np.isin(camera, NTU60_TRAIN_CAMERAS)
    elif (dataset, split_type) == ("ntu120", "xsub"):
        mask = np.isin(performer, NTU120_TRAIN_PERFORMERS)
    elif (dataset, split_type) == ("ntu120", "xset"):
        mask = setup % 2 == 0
    elif (dataset, split_type) == ("synthetic", "xsub"):
        mask = performer % 3 != 0
    else:
        raise ValueError(f"no split {split_type} of {dataset}")
    return np.asarray(mask, dtype=np.bool_)
