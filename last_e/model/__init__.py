"""The network: ``build_model`` and what it is made of."""

from last_e.model.build import build_model
from last_e.model.network import LastE, Noise, receptive_field

__all__ = ["LastE", "Noise", "build_model", "receptive_field"]
