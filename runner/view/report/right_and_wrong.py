"""What a model is right and wrong in, from what it says of each clip. Plain Python: the runner alone has no numpy."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from last_e.predictions import Predictions

MOST_CLASSES = 200
"""In the table, the worst of them."""
MOST_PAIRS = 30
MOST_IN_MATRIX = 120
"""Of more classes the matrix shows those that are taken for others most."""
_SURE = 1.959964
"""Of the normal distribution 95% lie within so many deviations."""


def right_and_wrong(predictions: Predictions) -> dict[str, Any]:
    """Per class, the worst first; pairs, the most frequent first; and the matrix, for the page's script."""
    names = predictions.about.classes
    confusion = Counter(zip(predictions.label, predictions.said))
    there, said = Counter(predictions.label), Counter(predictions.said)
    classes: list[dict[str, Any]] = [
        {
            "name": names[one],
            "clips": clips,
            "right": confusion[one, one],
            "found": confusion[one, one] / clips,
            "precision": confusion[one, one] / said[one] if said[one] else None,
        }
        for one, clips in there.items()
    ]
    classes.sort(key=lambda row: (row["found"], -row["clips"], row["name"]))
    pairs = sorted(
        ((count, pair) for pair, count in confusion.items() if pair[0] != pair[1]), key=lambda one: (-one[0], one[1])
    )
    return {
        "epoch": predictions.about.epoch,
        "part": predictions.about.part,
        "clips": len(predictions.clip),
        "top1": predictions.about.top1,
        "classes": classes[:MOST_CLASSES],
        "all_classes": len(names),
        "with_clips": len(there),
        "pairs": [
            {"true": names[true], "said": names[other], "count": count, "of": there[true]}
            for count, (true, other) in pairs[:MOST_PAIRS]
        ],
        "more_pairs": max(0, len(pairs) - MOST_PAIRS),
        "in_matrix": min(len(set(there) | set(said)), MOST_IN_MATRIX),
        "matrix": _matrix(predictions, confusion, there, said),
    }


def _matrix(
    predictions: Predictions, confusion: Counter[tuple[int, int]], there: Counter[int], said: Counter[int]
) -> dict[str, Any]:
    """Classes in the order of their numbers, and of each pair that occurs [true, said, clips]."""
    worst = sorted(set(there) | set(said), key=lambda one: confusion[one, one] - there[one])[:MOST_IN_MATRIX]
    at = {one: place for place, one in enumerate(sorted(worst))}
    return {
        "names": [predictions.about.classes[one] for one in at],
        "clips": [there[one] for one in at],
        "cells": [[at[true], at[other], count] for (true, other), count in confusion.items() if true in at and other in at],
    }


def interval_of(predictions: Predictions) -> tuple[float, float]:
    """The 95% interval of top-1 by the number of clips (Wilson, Probable Inference, the Law of Succession, and Statistical
    Inference, 1927). Clips of one person are alike, so the truth is wider; ``lastrun evaluate`` draws people."""
    clips, share = len(predictions.clip), predictions.about.top1
    squared = _SURE**2 / clips
    middle = (share + squared / 2) / (1 + squared)
    reach = _SURE * math.sqrt(share * (1 - share) / clips + squared / (4 * clips)) / (1 + squared)
    return max(0.0, middle - reach), min(1.0, middle + reach)
