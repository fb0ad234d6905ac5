"""What Triton's interpreter makes of the kernels of batches, against torch: prints a JSON object. To be run with
TRITON_INTERPRET=1, and with ``full`` for a case more."""

from __future__ import annotations

import json
import sys
from functools import partial
from unittest.mock import patch

import torch
import triton
import triton.language as tl
from torch import Tensor

from last_e import rng
from last_e.config import TrainConfig
from last_e.data import kernels, launches
from last_e.data.augment import mirror_of
from last_e.data.batches import Batch, TrainBatches
from last_e.data.clips import Clips
from last_e.data.synthetic import synthetic_clips
from last_e.described import Description
from last_e.layers import resolve
from last_e.reading import set_layer
from last_e.skeletons import COCO17

SEED, EPOCH = (1 << 62) + 12345, 70_000
INDEX = [0, 1, 7, 255, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 40) + 99, (1 << 62) + 3]
"""Of which some do not fit 32 bits."""
COLUMNS = 130
FRAMES = 7
"""So few that a row takes two programs, or one: each takes the interpreter half a second. Jobs have 16 at least."""


@triton.jit
def drawn(keys, index, bits, sums, columns, PURPOSE: tl.constexpr, C: tl.constexpr):
    """All bits of a line, and what is made of them for a sensor's noise."""
    row, column = tl.program_id(0), tl.arange(0, C)
    key = kernels.key_of(keys, PURPOSE)
    line = kernels.line_of(key, tl.load(index + row))
    found = kernels.random_bits(key, line, kernels.place_of(column))
    tl.store(bits + row * columns + column, found.to(tl.int64), mask=column < columns)
    tl.store(sums + row * columns + column, kernels.normal(key, line, column, columns), mask=column < columns)


def hashed() -> dict[str, int]:
    """How many numbers are not torch's to the bit, of several keys and places."""
    keys, index = rng.Keys(torch.device("cpu")), torch.tensor(INDEX)
    keys.set(SEED, EPOCH)
    found = {}
    for purpose in (rng.CROP, rng.JITTER, rng.DROPOUT):
        bits = torch.zeros(len(index), COLUMNS, dtype=torch.int64)
        sums = torch.zeros(len(index), COLUMNS)
        drawn[len(index),](keys.table, index, bits, sums, COLUMNS, PURPOSE=purpose, C=256)
        key = rng.key(SEED, purpose, EPOCH)
        assert int(bits.max()) > 1 << 31, "as large as they come"
        found[f"bits of {purpose}"] = int((bits != rng.random_bits(key, index, COLUMNS)).sum())
        found[f"noise of {purpose}"] = int((sums != rng.normal(key, index, COLUMNS)).sum())
    return found


def flat_clips() -> Clips:
    """Of two dimensions, other joints, up to three people; one has a frame, one has many."""
    length, bodies = torch.tensor([1, 250, 3, 40]), torch.tensor([1, 3, 1, 1])
    moves = torch.arange(int((length * bodies).sum()) * 51) * 7919 % 41  # little, so that it hardly counts where a frame lies
    joints = (moves.view(-1, 17, 3) + 30 * torch.arange(51).view(17, 3)).to(torch.int16)
    joints[..., 2] = 0
    zero = torch.zeros(4, dtype=torch.int64)
    told = Description(
        name="flat", classes=("a", "b", "c", "d"), skeleton=COCO17, people=3, units="pixels", splits={"all": "by hand"}
    )
    clips = Clips(joints, length, bodies, torch.arange(4), zero, zero, zero, description=told)
    clips.check(4, "made up")
    assert clips.is_flat
    return clips


def config_of(*words: str) -> TrainConfig:
    """Of ntu60, with these keys set."""
    layer, problems = set_layer(["dataset=ntu60", *words])
    return resolve([layer], TrainConfig, problems, detect=lambda: ("local", "")).config


def batches_of(clips: Clips, *words: str) -> dict[str, float]:
    """How far a step's batch by the kernels is from torch's: the largest difference of each part, relative to its largest
    number where that is more than 1."""
    config = config_of(*words)
    mirror = mirror_of(clips.skeleton, 60, ((0, 1), (2, 3)))
    recipe = config.training.model_copy(update={"input_frames": FRAMES})
    train = TrainBatches(clips, torch.arange(len(clips)), recipe, None, (37, 4), mirror=mirror)
    (piece,) = next(train.drafts(3))
    keys = rng.Keys(torch.device("cpu"))
    keys.set(config.training.seed, 3)
    torchs = train.make(piece, partial(rng.key_of, config.training.seed, 3))
    with patch.object(launches, "used_on", return_value=True):
        assert isinstance(train._keys(3), rng.Keys)
        own = train.make(piece, keys)
    assert own.streams["joint"].dtype == torch.float32
    assert own.streams["joint"].is_contiguous()
    assert (own.row_weight is None) == (torchs.row_weight is None)
    if config.training.augmentations.mirror is not None:
        flipped = own.label != clips.label[piece.clip]
        assert 0 < int(flipped.sum()) < len(flipped), "some are mirrored, and some are not"
    pairs = zip(parts(own), parts(torchs), strict=True)
    return {name: float((one - two).abs().max() / two.abs().max().clamp(min=1)) for (name, one), (_, two) in pairs}


def parts(batch: Batch) -> list[tuple[str, Tensor]]:
    """All that is in a batch."""
    assert batch.noise is not None
    found = [*batch.streams.items(), ("owner", batch.owner), ("label", batch.label), *zip(("dropout", "path"), batch.noise)]
    found += [] if batch.row_weight is None else [("weight", batch.row_weight)]
    return [*found, *([] if batch.mixed is None else zip(("other label", "share"), batch.mixed))]


def main() -> None:
    """All of it."""
    more = ("training.augmentations.mirror=0.5", "training.augmentations.rotation=170.0")
    all_of_it = tuple(f"training.augmentations.{name}={value}" for name, value in launches.TRIED.items())
    some = {
        "as in the reference": batches_of(synthetic_clips(6, 12), "training.batch_size=3"),
        "all that they know": batches_of(synthetic_clips(6, 12), "training.batch_size=4", *all_of_it),
        "one body each": batches_of(synthetic_clips(2, 8), "training.batch_size=2"),
        "flat and mixed": batches_of(flat_clips(), "training.batch_size=4", "training.augmentations.mixup=0.4", *all_of_it[1:]),
    }
    if "full" in sys.argv[1:]:
        some["mirrored and turned"] = batches_of(synthetic_clips(6, 12), "training.batch_size=4", *more)
    print(json.dumps({"hash": hashed(), "cases": some, "tried out": launches.differences(torch.device("cpu"))}))


if __name__ == "__main__":
    main()
