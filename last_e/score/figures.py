"""What the probabilities of clips tell of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of confidence, for the calibration error."""
DRAWS = 2000
FEWEST_PEOPLE = 5
"""Of fewer, drawing them anew says little."""
_SEED = 20_260_101


def figures(probabilities: NDArray[np.float64], label: NDArray[np.int64], people: NDArray[np.int64]) -> dict[str, Any]:
    """Everything that is told of n clips and C classes.

    Args:
        probabilities: (n, C), each row adds up to 1.
        label: (n,), the classes.
        people: (n,), who is in each clip.
    """
    clips, classes = probabilities.shape
    chosen = probabilities.argmax(1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (label, chosen), 1)
    there, said, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    recall, precision = _share(right, there), _share(right, said)
    low, high, of = _interval(chosen == label, people)
    return {
        "clips": clips,
        "classes": classes,
        "balanced_accuracy": float(np.nanmean(recall)),
        "calibration_error": calibration_error(probabilities, label),
        "interval": {"low": low, "high": high, "of": of, "draws": DRAWS},
        "per_class": [
            {
                "class": index,
                "clips": int(there[index]),
                "recall": _number(recall[index]),
                "precision": _number(precision[index]),
            }
            for index in range(classes)
        ],
        "confusion": confusion.tolist(),
    }


def calibration_error(probabilities: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """How far confidence lies from accuracy: the mean of the distance over bins of equal width, by the clips in each (the
    expected calibration error of Guo et al., On Calibration of Modern Neural Networks, 2017)."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == label
    number = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)  # bins are open below, closed above
    distance = np.bincount(number, right.astype(np.float64) - confidence, BINS)
    return float(np.abs(distance).sum() / len(label))


def _interval(right: NDArray[np.bool_], people: NDArray[np.int64]) -> tuple[float, float, str]:
    """The 95% interval of top-1 by the bootstrap's percentiles. Clips of one person are alike, so people are drawn anew where
    there are enough of them, else clips."""
    generator = np.random.default_rng(_SEED)
    who, number = np.unique(people, return_inverse=True)
    if len(who) >= FEWEST_PEOPLE:
        hits, clips = np.bincount(number, right), np.bincount(number)
        drawn = generator.multinomial(len(who), np.full(len(who), 1 / len(who)), DRAWS)
        scores, of = (drawn @ hits) / (drawn @ clips), "people"
    else:
        scores, of = generator.binomial(len(right), right.mean(), DRAWS) / len(right), "clips"
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high), of


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    shares = np.full(len(part), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
