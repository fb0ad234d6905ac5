"""The learning rate as a pure function of time: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from last_e.config import TrainingConfig


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """Learning rate at a fractional ``epoch`` in [0, epochs]: epoch 2 and a half of a 100-step epoch is step 250.

    - ``constant``: ``lr``.
    - ``multistep``: ``lr`` times ``gamma`` for each milestone passed.
    - ``cosine_warmup``: half a cosine from ``lr`` at the end of the warm-up to ``min_lr`` at ``epochs``
      (Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5 with one cycle).
    - ``cosine_warmup_restart``: the same in cycles of ``restart_epochs``, each ``restart_mult`` times as long.

    All but ``constant`` rise linearly from ``warmup_start_lr`` at epoch 0 to ``lr`` at ``warmup_epochs``; with
    ``warmup_epochs: 0`` there is no warm-up, and a run that is no longer than its warm-up ends in it.
    """
    if config.scheduler == "constant":
        return config.lr
    if epoch < config.warmup_epochs:
        return config.warmup_start_lr + (config.lr - config.warmup_start_lr) * epoch / config.warmup_epochs
    if config.scheduler == "multistep":
        return config.lr * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    done = epoch - config.warmup_epochs
    if config.scheduler == "cosine_warmup_restart":
        done, length = _cycle(done, config.restart_epochs, config.restart_mult)
    else:
        length = config.epochs - config.warmup_epochs
    if length <= 0:
        return config.lr
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done / length)))


def _cycle(done: float, length: float, mult: float) -> tuple[float, float]:
    """Time since the last restart and the length of the cycle it lies in."""
    if mult == 1:
        return done % length, length
    while done >= length:
        done, length = done - length, length * mult
    return done, length
