"""Training steps with all kernels, those of batches among them, by Triton's interpreter, the last of them recorded and played;
and by torch alone, as they come. Prints a JSON object. To be run with TRITON_INTERPRET=1."""

from __future__ import annotations

import json
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from last_e import graphs, rng
from last_e.data import launches
from last_e.data.batches import TrainBatches
from last_e.data.clips import Clips
from last_e.described import Description
from last_e.model import LastE, fused_cuda, whole
from last_e.optim import build_optimizer
from last_e.precision import Precision
from last_e.skeletons import Skeleton
from last_e.state import State
from last_e.step import train_step
from tests.kernels.batches import config_of
from tests.tape import TapeCapture

SMALL = (
    *("model.stem_channels=8", "model.channels=[8,8,8]", "model.num_blocks=[1,1,1]", "model.strides=[2,2,1]"),
    "training.batch_size=2",
)
PLAIN = Precision(None, False, "")
STEPS = 2


def few_joints() -> Clips:
    """Of four joints, so that less is to be interpreted; one body each, so that all steps have as many rows."""
    skeleton = Skeleton(joints=("root", "neck", "left", "right"), bones=((0, 1), (1, 2), (1, 3)), pairs=((2, 3),))
    told = Description(name="few", classes=("a", "b"), skeleton=skeleton, splits={"all": "by hand"})
    moves = torch.arange(6 * 20 * 12) * 7919 % 301
    joints = (moves.view(-1, 4, 3) + 200 * torch.arange(12).view(4, 3)).to(torch.int16)
    one, number = torch.ones(6, dtype=torch.int64), torch.arange(6)
    return Clips(joints, 20 * one, one, number % 2, number, one, one, description=told)


def trained(by_kernels: bool) -> tuple[list[float], list[Tensor], int]:
    """The loss of each step, the weights at the end, and how many steps were recorded."""
    config = config_of("model.variant=nano", *SMALL)
    torch.manual_seed(0)
    clips = few_joints()
    model = LastE(config.model, 6, clips.skeleton)
    state = State(model, build_optimizer(model, config.training), torch.amp.GradScaler("cpu", enabled=False))
    state.keep_rate_on_device()
    train = TrainBatches(clips, torch.arange(len(clips)), config.training, None, model.noise_shape)
    record = graphs.Graphs(state, train, config, PLAIN, TapeCapture(), print)
    losses = []
    with (
        patch.object(launches, "used_on", return_value=by_kernels),
        patch.object(fused_cuda, "used_on", return_value=by_kernels),
    ):
        for number, pieces in zip(range(STEPS), train.drafts(0)):
            if by_kernels:
                record.step(pieces, 0, 0.05 / (1 + number))
            else:
                key = partial(rng.key_of, config.training.seed, 0)
                train_step(state, [train.make(piece, key) for piece in pieces], 0.05 / (1 + number), config, PLAIN)
            losses.append(state.counters.read().loss)
    return losses, [parameter.detach().clone() for parameter in state.parameters], record.count


def main() -> None:
    """Both, and a step of another network in fp16, against float64."""
    with patch.object(graphs, "WARM_UP", 1):
        losses, weights, count = trained(by_kernels=True)
    torchs, by_torch, _ = trained(by_kernels=False)
    apart = torch.stack([(one - other).abs().max() for one, other in zip(weights, by_torch, strict=True)])
    told = {"graphs": count, "losses": [losses, torchs], "from torch": float(apart.max())}
    base, cpu = config_of("model.variant=base", *SMALL), torch.device("cpu")
    with patch.object(fused_cuda, "used_on", return_value=True):
        half = whole.differences(cpu, base, torch.float16, few_joints().skeleton, rows=4)
    print(json.dumps(told | {"in half precision": half}))


if __name__ == "__main__":
    main()
