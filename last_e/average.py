"""The exponential moving average of a network's weights (``training.ema``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Average:
    """A mean over the weights and running statistics that training goes through, the newest counting most.

    After the n-th good step it becomes d mean + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)): in the beginning less is
    kept, so that random first weights are soon forgotten (as TensorFlow's ExponentialMovingAverage does with ``num_updates``).
    All of it stays on the device, and a skipped step changes nothing.

    Args:
        weights: what is trained, by name, changed in place; whole numbers are not averaged.
        decay: the most that is kept, below 1.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self._all, self._decay = weights, decay
        self._now = {name: tensor.detach() for name, tensor in weights.items() if tensor.is_floating_point()}
        self._mean = {name: tensor.clone() for name, tensor in self._now.items()}
        self._lists = list(self._now.values()), list(self._mean.values())
        self._steps = torch.zeros((), dtype=torch.float64, device=self._lists[0][0].device)

    def add(self, good: Tensor) -> None:
        """The weights after a step, if it was ``good``."""
        now, mean = self._lists
        self._steps += good
        kept = ((1 + self._steps) / (10 + self._steps)).clamp_max(self._decay)
        fresh = torch.where(good, 1 - kept, torch.zeros_like(kept)).float()
        difference = torch._foreach_sub(now, mean)
        torch._foreach_mul_(difference, fresh)
        torch._foreach_add_(mean, difference)

    @property
    def weights(self) -> dict[str, Tensor]:
        """All that a network loads, by name: what is averaged, and the rest as it is now."""
        return {name: self._mean.get(name, tensor) for name, tensor in self._all.items()}

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"ema_model": self.weights, "ema_steps": int(self._steps)}

    def restore(self, state: Mapping[str, Any]) -> bool:
        """The inverse of :meth:`to_dict`; False where there is none, so that it begins at the weights as they are.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, RuntimeError: it is of another network.
        """
        stored = state.get("ema_model")
        if stored is None:
            for name, tensor in self._now.items():
                self._mean[name].copy_(tensor)
            self._steps.zero_()
            return False
        if {name: tensor.shape for name, tensor in stored.items()} != {n: tensor.shape for n, tensor in self._all.items()}:
            raise ValueError("the average of the weights is of another model")
        for name, tensor in self._mean.items():
            tensor.copy_(stored[name])
        self._steps.fill_(int(state["ema_steps"]))
        return True
