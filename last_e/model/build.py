"""From a variant's name to a network."""

from __future__ import annotations

from typing import Any

from last_e.config import TrainConfig
from last_e.layers import resolve
from last_e.model.network import LastE
from last_e.problems import Origin
from last_e.reading import Entry, Layer
from last_e.skeletons import NTU25, Skeleton


def build_model(variant: str = "base_e_v3", num_classes: int = 60, skeleton: Skeleton = NTU25, **overrides: Any) -> LastE:
    """Build a variant (``base_e_v3`` or its alias ``base``), with single keys of its configuration overridden.

    Args:
        variant: ``nano``, ``small``, ``base`` or ``large``, with or without ``_e_v3``.
        num_classes: width of the classifier.
        skeleton: whose joints and bones, such as ``last_e.skeletons.COCO17``.
        overrides: keys of :class:`~last_e.config.ModelConfig`, for example ``dropout=0.4``.

    Raises:
        ConfigError: an unknown variant or key, or a value that is not allowed; all of them at once.
    """
    layer: Layer = {
        "model.variant": Entry(variant, Origin("build_model")),
        "data.num_classes": Entry(num_classes, Origin("build_model")),
    }
    layer.update({f"model.{key}": Entry(value, Origin("build_model")) for key, value in overrides.items()})
    config = resolve([layer], TrainConfig, detect=lambda: ("local", "")).config
    return LastE(config.model, config.data.num_classes, skeleton)
