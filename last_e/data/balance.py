"""Classes of unequal size: weights for the loss, and an order in which each is shown as often."""

from __future__ import annotations

import torch
from torch import Tensor

from last_e import rng
from last_e.config import TrainingConfig, named_weights


def weights_of(config: TrainingConfig, label: Tensor, classes: int, names: tuple[str, ...]) -> Tensor | None:
    """(classes,) float32: by how much a clip's loss counts, for the class it is of; None: every clip counts alike.

    ``balanced``: w_c = n / (K n_c), of n clips that train, n_c of them of class c, and K classes that have some. So each class
    weighs the same in all, and a clip 1 in the mean (King and Zeng, Logistic Regression in Rare Events Data, Political Analysis
    2001, section 4.2, with equal shares; the same as scikit-learn's ``balanced``).

    Args:
        config: the recipe.
        label: (n,) int64, of the clips that train.
        classes: how many there are.
        names: what they are called, where somebody says.
    """
    said = config.class_weights
    if said is None:
        return None
    if isinstance(said, str):
        count = torch.bincount(label, minlength=classes).double()
        there = count > 0
        return torch.where(there, len(label) / (int(there.sum()) * count.clamp_min(1)), torch.ones_like(count)).float()
    return torch.tensor(named_weights(said, classes, names), dtype=torch.float32)


def balanced_order(seed: int, epoch: int, label: Tensor) -> Tensor:
    """Which of n clips that train are shown in an epoch, and when: (n,) int64, a function of the seed and the epoch alone.

    Classes come in rounds, each in an order of its own; of a class its clips come in rounds, too: a small one is gone through
    several times, a large one in part, another one in each epoch (class-aware sampling: Shen, Lin and Huang, Relay
    Backpropagation for Effective Learning of Deep Convolutional Neural Networks, ECCV 2016, section 4.1).

    Args:
        seed: the run's.
        epoch: from 0.
        label: (n,) int64, their classes.
    """
    there = torch.bincount(label).nonzero()[:, 0]
    rounds = -(-len(label) // len(there))
    turn = _in_rounds(rng.key(seed, rng.CLASS_TURN, epoch), rounds, len(there))[: len(label)]
    order = torch.empty_like(turn)
    for number, one in enumerate(there.tolist()):
        at, mine = (turn == number).nonzero()[:, 0], (label == one).nonzero()[:, 0]
        passes = -(-len(at) // len(mine))
        key = rng.key(seed, rng.CLIP_TURN, epoch * len(there) + number)
        order[at] = mine[_in_rounds(key, passes, len(mine))[: len(at)]]
    return order


def _in_rounds(key: int, rounds: int, length: int) -> Tensor:
    """Numbers below ``length``, all of them ``rounds`` times, each round in a random order of its own."""
    drawn = rng.permutation(key, rounds * length)
    return drawn[torch.argsort(drawn // length, stable=True)] % length
