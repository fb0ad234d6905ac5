"""Test loss, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from last_e.config import TrainConfig
from last_e.data.augment import Mirror, mirror_of, table
from last_e.data.batches import Batch, TestBatches, average_bodies
from last_e.data.transform import TEST_CROP
from last_e.datafile import DataError
from last_e.described import Description, is_own
from last_e.known import description_of, mirrored_classes, no_mirror
from last_e.model.folding import folded_once
from last_e.model.network import LastE
from last_e.precision import Precision
from last_e.predictions import write_predictions
from last_e.ranks.group import ALONE, Group


@dataclass(frozen=True)
class Views:
    """As what a clip is seen, each time anew; the probabilities are averaged."""

    crops: int = 1
    """Pieces spread evenly over it; 1 is the middle, as in training's tests."""
    mirror: Mirror | None = None
    """Each piece in a mirror, too."""

    @property
    def count(self) -> int:
        """How many there are."""
        return self.crops * (1 if self.mirror is None else 2)

    def each(self) -> Iterator[tuple[float | None, Mirror | None]]:
        """Where each begins, as a fraction of the clip (None: as in training's tests), and whether it is mirrored."""
        begins = [None] if self.crops == 1 else [(1 - TEST_CROP) * crop / (self.crops - 1) for crop in range(self.crops)]
        return product(begins, [None] if self.mirror is None else [None, self.mirror])


def of_view(probabilities: Tensor, mirror: Mirror | None) -> Tensor:
    """What a view says of the clip itself, (n, C): what it calls a class of one side in a mirror is that of the other."""
    return probabilities if mirror is None else probabilities[:, table(mirror.classes, probabilities.device)]


def mirror_for(config: TrainConfig, description: Description) -> Mirror:
    """What changes places in a mirror, of the data that a network was trained on.

    Raises:
        DataError: nobody knows.
    """
    pairs = mirrored_classes(config.dataset, description if is_own(config.dataset) else None)
    found = mirror_of(description.skeleton, len(description.classes), pairs)
    if found is None:
        raise DataError(no_mirror(config.dataset, description.skeleton), missing=True)
    return found


class Scores(NamedTuple):
    """Means over the test clips."""

    loss: float
    top1: float
    top5: float


def logits_of(model: LastE, batch: Batch, precision: Precision) -> Tensor:
    """(n, C) float32 for the clips of a batch on the model's device: of each the mean over its bodies."""
    with torch.autocast(batch.label.device.type, precision.dtype, enabled=precision.dtype is not None):
        logits = model(batch.streams)
    assert isinstance(logits, Tensor)
    return average_bodies(logits.float(), batch)


@torch.no_grad()
@folded_once()
def evaluate(
    model: LastE,
    batches: TestBatches,
    device: torch.device,
    precision: Precision,
    going_on: Callable[[int], bool],
    group: Group = ALONE,
    said: Tensor | None = None,
) -> Scores | None:
    """Score a model on the test clips; the logits of a clip are the mean over its bodies.

    Of a ``group`` each rank does its share of the batches, and all get the same scores. ``going_on`` is told the clips done
    here after each batch; when it answers False, to one of them, the result is None. ``said``, (N, 2) zeros on the device, is
    filled with the class that is said of each clip and its probability.
    """
    model.eval()
    rows = torch.zeros(len(batches), 4, dtype=torch.float64, device=device)  # of each batch: loss, hits, hits among 5, clips
    done, stopped = 0, False
    with torch.autocast(device.type, enabled=False):  # around all batches: weights in half precision are kept until its end
        for number, batch in zip(batches.share, batches):
            batch = batch.to(device)
            logits = logits_of(model, batch, precision)
            loss = F.cross_entropy(logits, batch.label, reduction="sum").double()
            among = logits.topk(min(5, logits.shape[1]), dim=1).indices
            ranked = among == batch.label[:, None]
            if said is not None:
                probability = logits.softmax(1).gather(1, among[:, :1])[:, 0]
                said[number * batches.batch_size :][: len(logits)] = torch.stack([among[:, 0].float(), probability], dim=1)
            rows[number] = torch.stack([loss, ranked[:, 0].sum(), ranked.sum(), torch.full_like(loss, len(ranked))])
            done += len(batch.label)
            if stopped := not going_on(done):
                break
    if group.agree(stopped):
        return None
    group.fill(rows)
    if said is not None:
        group.fill(said)
    loss_sum = hits = among_5 = clips = 0.0
    for row in rows.tolist():  # one after the other: from Python 3.12 on sum() rounds otherwise
        loss_sum, hits, among_5, clips = loss_sum + row[0], hits + row[1], among_5 + row[2], clips + row[3]
    return Scores(loss_sum / clips, hits / clips, among_5 / clips)


def keep_predictions(path: Path, epoch: int, part: str, of: TestBatches, said: Tensor, config: TrainConfig) -> None:
    """Write what an epoch ``said`` of each clip of a ``part`` (as of :func:`evaluate`), and some clips to look at."""
    clips, host = of.clips, said.cpu().numpy()

    def joints_of(number: int) -> Any:
        begin, length, bodies = (int(one[number]) for one in (clips.start, clips.length, clips.bodies))
        joints = clips.joints[begin : begin + length * bodies].cpu().numpy()
        return joints.reshape(bodies, length, *joints.shape[1:])

    labels = clips.label[of.index.to(clips.label.device)].cpu().numpy()
    numbers = {"clip": of.index.numpy(), "label": labels, "said": host[:, 0].astype("i4"), "confidence": host[:, 1]}
    description = clips.description or description_of(config.dataset, config.data.num_classes)
    write_predictions(path, epoch=epoch, part=part, description=description, numbers=numbers, joints_of=joints_of)
