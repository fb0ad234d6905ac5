"""Test loss, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from last_e.data.batches import TestBatches, average_bodies
from last_e.model.network import LastE
from last_e.precision import Precision


class Scores(NamedTuple):
    """Means over the test clips."""

    loss: float
    top1: float
    top5: float


@torch.no_grad()
def evaluate(
    model: LastE, batches: TestBatches, device: torch.device, precision: Precision, going_on: Callable[[int], bool]
) -> Scores | None:
    """Score a model on the test clips; the logits of a clip are the mean over its bodies.

    ``going_on`` is told the clips done after each batch; when it answers False, the result is None.
    """
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    hits = torch.zeros(2, dtype=torch.int64, device=device)
    done = 0
    for batch in batches:
        batch = batch.to(device)
        with torch.autocast(device.type, precision.dtype, enabled=precision.dtype is not None):
            logits = model(batch.streams)
        assert isinstance(logits, torch.Tensor)
        logits = average_bodies(logits.float(), batch)
        loss += F.cross_entropy(logits, batch.label, reduction="sum").double()
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.label[:, None]
        hits += torch.stack([ranked[:, 0].sum(), ranked.sum()])
        done += len(batch.label)
        if not going_on(done):
            return None
    return Scores(float(loss) / done, int(hits[0]) / done, int(hits[1]) / done)
