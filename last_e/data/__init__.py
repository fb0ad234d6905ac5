"""Skeleton clips: files, splits, preparation, batches."""

from typing import TYPE_CHECKING, Any

from last_e.data.clips import Clips
from last_e.data.datasets import load_clips
from last_e.data.files import read_clips, write_clips
from last_e.datafile import DataError

if TYPE_CHECKING:
    from last_e.prepare.foreign import import_file as import_file
    from last_e.prepare.ntu import prepare_ntu as prepare_ntu
    from last_e.prepare.synth import synthesize as synthesize

_PREPARE = {"import_file": "foreign", "prepare_ntu": "ntu", "synthesize": "synth"}
__all__ = ["Clips", "DataError", "import_file", "load_clips", "prepare_ntu", "read_clips", "synthesize", "write_clips"]


def __getattr__(name: str) -> Any:
    """What prepares data is loaded when it is asked for: training needs none of it."""
    if name not in _PREPARE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"last_e.prepare.{_PREPARE[name]}"), name)
