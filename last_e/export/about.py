"""What an export says of itself, as ``lastrun.json`` and inside of the model's file, and its card for people."""

from __future__ import annotations

from typing import Any

from last_e.config import TrainConfig
from last_e.described import IN_THE_IMAGE, Description
from last_e.manifest import Manifest

FORMAT = "lastrun-model-1"
ABOUT = "lastrun.json"
CARD = "README.md"
KEY = "lastrun"
"""Of a model file's own metadata, where it has any."""

_LICENCES = {
    "irds": "CC BY 4.0: name A. Miron, N. Sadawi, W. Ismail, H. Hussain, C. Grosan, IntelliRehabDS, Data 2021, 6(5), 46",
    "ntu60": "given by its owners to researchers alone, under the agreement that they sign",
    "ntu120": "given by its owners to researchers alone, under the agreement that they sign",
    "synthetic": "made up by lastrun",
}


def about_model(
    config: TrainConfig, description: Description, manifest: Manifest, name: str, licence: str, parameters: int
) -> dict[str, Any]:
    """All that is known before anything is exported."""
    flat = description.is_flat
    sides = "x to the right, y down" if flat else "x to the right, y up, z away from the camera"
    return {
        "format": FORMAT,
        "name": name,
        "variant": config.model.variant,
        "parameters": parameters,
        "licence": licence or "not stated",
        "classes": list(description.classes),
        "skeleton": description.skeleton.model_dump(mode="json"),
        "units": description.units,
        "fps": description.fps,
        "people": description.people,
        "input_frames": config.training.input_frames,
        "network": config.model.model_dump(mode="json", exclude={"init", "init_sha256", "freeze"}),
        "inputs": {
            "keypoints": {
                "type": "float32",
                "shape": ["batch", 2 if flat else 3, "frames", len(description.skeleton.joints), "people"],
                "what": f"{sides}, in {_unit(description.units)}; joints as in skeleton.joints, the main person first",
            },
            "frames": {"type": "int64", "shape": ["batch"], "what": "of the clip; behind it is anything finite"},
            "people": {"type": "int64", "shape": ["batch"], "what": "of the clip; behind them is anything finite"},
        },
        "outputs": {
            "logits": {
                "type": "float32",
                "shape": ["batch", len(description.classes)],
                "what": "mean over the people; softmax gives probabilities",
            }
        },
        "inside": [
            "centred on the centre joint of the main person's first frame"
            + ("" if flat or not description.skeleton.pairs else ", turned so that the first pair lies along x")
            + ", divided by the mean length of the torso (0.05 m at least)",
            f"the middle 95% of the clip, resampled linearly to {config.training.input_frames} frames",
            "velocity (to the next frame) and bone (joint minus parent) beside the joints",
            "each person on their own, then the mean of their logits",
        ],
        "beside": [
            "which people are in a clip, and who is the main one",
            "frames in which nobody is seen are cut; a joint that is not seen moves on a straight line between two sightings, "
            "stands before the first and after the last, and lies where its parent is if it is never seen",
        ],
        "data": {
            "name": description.name,
            "split": config.split_type,
            "source": description.source,
            "licence": _LICENCES.get(config.dataset, "not known to lastrun: ask whoever has recorded it"),
        },
        "recipe": {
            key: getattr(config.training, key) for key in ("epochs", "batch_size", "gradient_accumulation_steps", "lr", "seed")
        },
        "checkpoint": {
            "step": manifest.step,
            "epoch": manifest.epoch,
            "test_top1": manifest.test_top1,
            "validation_top1": manifest.validation_top1,
        },
    }


def _unit(units: str) -> str:
    return "parts of the image's width" if units == "image" else "pixels" if units in IN_THE_IMAGE else units
