"""Clips that can be looked at in a report."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from last_e.predictions import Predictions


def clips_of(predictions: Predictions) -> list[dict[str, Any]]:
    """Each with truth, prediction and confidence, the worst mistakes first; ``joints`` for the page's script, in base64."""
    names = predictions.about.classes
    return [
        {
            "clip": predictions.clip[look.row],
            "true": names[predictions.label[look.row]],
            "said": names[predictions.said[look.row]],
            "right": predictions.label[look.row] == predictions.said[look.row],
            "confidence": round(predictions.confidence[look.row], 4),
            "people": look.people,
            "frames": look.frames,
            "fps": look.fps,
            "joints": b64encode(joints).decode(),
        }
        for look, joints in zip(predictions.about.shown, predictions.joints)
    ]
