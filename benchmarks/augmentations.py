"""What each of `training.augmentations` adds to a batch, and what all of them add to a step of nano on a CPU.

    python benchmarks/augmentations.py [--rounds 6]

Batches of 32 clips of irds, 64 frames. Measured is the processor's time of one thread, the least of the rounds, in which the
augmentations take turns: so whoever else uses the machine matters little. Exit code 1: all of them together take a tenth of a
step or more.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from datetime import date

import torch

from last_e.config import TrainConfig
from last_e.data.augment import mirror_of
from last_e.data.batches import TrainBatches
from last_e.data.files import read_irds
from last_e.known import mirrored_classes
from last_e.layers import resolve
from last_e.model.network import LastE
from last_e.optim import build_optimizer
from last_e.precision import choose_precision
from last_e.reading import set_layer
from last_e.state import State
from last_e.step import train_step

EACH = {
    "none": (),
    "mirror": ("mirror=0.5",),
    "motion": ("motion=0.7",),
    "limbs": ("limbs=0.1",),
    "pose": ("pose=0.1",),
    "lean": ("lean=10",),
    "drift": ("drift=0.3",),
    "rotation": ("rotation=45",),
    "noise": ("noise=0.03",),
    "speed": ("speed=0.5",),
    "mask_joints": ("mask_joints=0.1",),
    "mask_frames": ("mask_frames=0.3",),
    "mixup": ("mixup=0.2",),
}
EACH["all"] = tuple(word for words in EACH.values() for word in words)
BATCHES = 5


def settings(words: tuple[str, ...]) -> TrainConfig:
    """Nano on irds, with these augmentations."""
    said = ["dataset=irds", "model=nano", *(f"training.augmentations.{word}" for word in words)]
    layer, problems = set_layer(said)
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


def seconds(what: Callable[[], object]) -> float:
    """Of this thread's processor."""
    begin = time.thread_time()
    what()
    return time.thread_time() - begin


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    clips, index = read_irds(), torch.arange(832)
    plain, mirror = settings(()), mirror_of(read_irds().skeleton, 9, mirrored_classes("irds"))
    blocks = (plain.model.channels[-1], sum(plain.model.num_blocks))
    made = {
        name: TrainBatches(clips, index, settings(words).training, None, blocks, mirror=mirror) for name, words in EACH.items()
    }
    model = LastE(plain.model, 9)
    state = State(model, build_optimizer(model, plain.training), torch.amp.GradScaler("cpu", enabled=False))
    precision = choose_precision(plain, torch.device("cpu"))
    batch = next(made["none"].epoch(0))
    least, step = dict.fromkeys(made, float("inf")), float("inf")
    for _ in range(rounds):
        for name, batches in made.items():
            coming = batches.epoch(0)
            next(coming)
            for _ in range(BATCHES):
                least[name] = min(least[name], seconds(lambda coming=coming: next(coming)))
        step = min(step, seconds(lambda: train_step(state, batch, 0.01, plain, precision)))
    print(f"{date.today()}, {platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(f"a step of nano without making its batch: {1000 * step:.1f} ms")
    for name, took in least.items():
        added = took - least["none"]
        print(
            f"{name:12} {1000 * took:6.2f} ms a batch, {1000 * added:+5.2f} ms, {added / (step + least['none']):+.1%} of a step"
        )
    return int(least["all"] - least["none"] >= 0.1 * (step + least["none"]))


if __name__ == "__main__":
    sys.exit(main())
