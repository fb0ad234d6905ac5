"""An ONNX model with weights and activations of eight bits, by onnxruntime's own quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from last_e.data.clips import Clips
from last_e.described import Description
from last_e.export.clips import given
from last_e.export.network import INPUTS

FILE = "model.int8.onnx"
MOST_CLIPS = 128
"""That say in which range activations lie."""
_TYPES = ["Conv", "Gemm"]
"""Convolutions and the classifier: of the rest, what centres and resamples a clip does not bear it."""


def quantize(path: Path, out: Path, clips: Clips, description: Description, index: Tensor) -> None:
    """Write ``out``, the model of ``path`` with int8 weights (by channel) and uint8 activations; the clips
    ``index`` show in which range these are."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Tensor] = iter(torch.split(index, 1))

        def get_next(self) -> dict[str, Any] | None:
            piece = next(self._left, None)
            if piece is None:
                return None
            return {name: tensor.numpy() for name, tensor in zip(INPUTS, given(clips, description, piece))}

    with TemporaryDirectory(prefix="lastrun-int8-") as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_TYPES,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
