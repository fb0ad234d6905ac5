"""The network with all that a clip goes through before it, in operations that other programs have, too.

N clips, C coordinates, L frames, V joints, M people, T frames of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from last_e.bench.plain import ChannelGate, PlainLastE
from last_e.data.transform import test_crop
from last_e.described import UNITS, Description
from last_e.model.network import LastE

INPUTS = ("keypoints", "frames", "people")
OUTPUT = "logits"


class Recogniser(nn.Module):
    """Keypoints to logits: what :mod:`last_e.data.transform` does to a clip in testing, then the network, then the mean over
    its people.

    Resampling is a product with weights that fall from 1 at a frame to 0 at its neighbours, which is linear interpolation; the
    clip is turned by the cosine and sine that the shoulders give. So there is neither an index that depends on the data nor an
    angle.

    Args:
        model: a trained network; it is copied.
        description: of the clips that it was trained with.
        frames: T.
    """

    grid: Tensor
    parents: Tensor
    scale: Tensor

    def __init__(self, model: LastE, description: Description, frames: int) -> None:
        super().__init__()
        self.network = PlainLastE(model.config, model.num_classes, model.skeleton)
        self.network.load_state_dict(model.state_dict())
        self.network.eval()
        _without_norms(self.network)
        with_stride = frames
        for stride in model.config.strides:
            with_stride = -(-with_stride // stride)
        for module in self.network.modules():
            if isinstance(module, ChannelGate) and module.hybrid:
                module.power = PowerByMatrix(with_stride)
        self.skeleton, self.is_flat = description.skeleton, description.is_flat
        begin, span = test_crop(torch.zeros(1, dtype=torch.int64))[0]
        unit = UNITS[description.units] / 1000
        scale = [unit, -unit] if self.is_flat else [unit] * 3  # in an image y goes down
        self.register_buffer("grid", begin + span * torch.linspace(0, 1, frames), persistent=False)
        self.register_buffer("parents", torch.tensor(self.skeleton.parents), persistent=False)
        self.register_buffer("scale", torch.tensor(scale)[:, None, None, None], persistent=False)
        self.eval()

    def forward(self, keypoints: Tensor, frames: Tensor, people: Tensor) -> Tensor:
        """``keypoints`` (N, C, L, V, M) float32, of which the first ``frames`` (N,) and ``people`` (N,) are the clip's, both
        int64; the rest is any finite number. Returns (N, classes)."""
        n, _, _, joints, bodies = keypoints.shape
        at = self._resampled(self._placed(keypoints * self.scale, frames), frames)
        joint = at.permute(0, 4, 2, 1, 3).reshape(n * bodies, 3, -1, joints)
        step = joint[:, :, 1:] - joint[:, :, :-1]
        velocity = torch.cat([step, torch.zeros_like(joint[:, :, :1])], dim=2)
        bone = joint - joint.index_select(3, self.parents)
        rows = self.network({"joint": joint, "velocity": velocity, "bone": bone})
        assert isinstance(rows, Tensor)
        share = (torch.arange(bodies) < people[:, None]).to(rows.dtype) / people[:, None]
        return (rows.view(n, bodies, -1) * share[:, :, None]).sum(dim=1)

    def _placed(self, x: Tensor, frames: Tensor) -> Tensor:
        """(N, C, L, V, M) metres -> (N, 3, L, V, M), centred, turned and scaled as :func:`last_e.data.placement.place` says."""
        if self.is_flat:
            x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
        x = x - x[:, :, :1, self.skeleton.centre, :1][:, :, :, None]
        low, high = self.skeleton.measure
        spine = (x[:, :, :, high, 0] - x[:, :, :, low, 0]).square().sum(dim=1).sqrt()
        theirs = (torch.arange(x.shape[2]) < frames[:, None]).to(x.dtype)
        x = x / ((spine * theirs).sum(dim=1) / frames).clamp(min=0.05)[:, None, None, None, None]
        if not self.skeleton.pairs or self.is_flat:
            return x
        left, right = self.skeleton.pairs[0]
        across = x[:, :, 0, right, 0] - x[:, :, 0, left, 0]
        length = (across[:, 0].square() + across[:, 2].square()).sqrt()
        upright = length == 0
        cos = torch.where(upright, 1.0, across[:, 0] / length)[:, None, None, None]
        sin = torch.where(upright, 0.0, across[:, 2] / length)[:, None, None, None]
        return torch.stack([cos * x[:, 0] + sin * x[:, 2], x[:, 1], cos * x[:, 2] - sin * x[:, 0]], dim=1)

    def _resampled(self, x: Tensor, frames: Tensor) -> Tensor:
        """(N, 3, L, V, M) -> (N, T, 3, V, M): the middle 95% of each clip at T moments."""
        n, _, length, joints, bodies = x.shape
        last = (frames - 1).to(x.dtype)[:, None]
        moment = torch.minimum(last * self.grid, last)
        weight = (1 - (moment[:, :, None] - torch.arange(length)).abs()).clamp(min=0)
        return torch.bmm(weight, x.permute(0, 2, 1, 3, 4).reshape(n, length, -1)).view(n, -1, 3, joints, bodies)


def _without_norms(network: nn.Module) -> None:
    """Put a norm into the convolution before it, or else a scale and a shift in its place: by their running statistics they are
    nothing more, and every format knows these."""
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for before, (name, child) in zip([None, *(child for _, child in children)], children):
            if not isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                continue
            if isinstance(parent, nn.Sequential) and isinstance(before, nn.Conv2d):
                fused = fuse_conv_bn_eval(before, child)
                parent[int(name) - 1], parent[int(name)] = fused, nn.Identity()
            else:
                setattr(parent, name, Affine(child))


class Affine(nn.Module):
    """A norm by its running statistics: x scale + shift, of each channel, (N, C) or (N, C, T, V)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias.detach() - norm.running_mean * scale
        sides = (-1, 1, 1) if isinstance(norm, nn.BatchNorm2d) else (-1,)
        self.register_buffer("scale", scale.view(sides), persistent=False)
        self.register_buffer("shift", shift.view(sides), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return x * self.scale + self.shift


class PowerByMatrix(nn.Module):
    """(N, C, T, V) -> |rfft over t|^2, (N, C, T // 2 + 1, V), as a product with the constant matrix of cosines and sines: of
    Fourier transforms ONNX's operator is not everywhere."""

    waves: Tensor

    def __init__(self, frames: int) -> None:
        super().__init__()
        angle = torch.arange(frames // 2 + 1).double()[:, None] * torch.arange(frames).double() * (2 * torch.pi / frames)
        self.register_buffer("waves", torch.cat([angle.cos(), angle.sin()]).float(), persistent=False)
        self.bins = frames // 2 + 1

    def forward(self, x: Tensor) -> Tensor:
        """Real parts and imaginary ones, squared and added."""
        parts = (self.waves @ x).square()
        return parts[:, :, : self.bins] + parts[:, :, self.bins :]
