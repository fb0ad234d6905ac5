"""Skeleton clips: files, splits, preparation, batches."""

from typing import TYPE_CHECKING, Any

from last_e.datafile import DataError

if TYPE_CHECKING:
    from last_e.data.clips import Clips as Clips
    from last_e.data.datasets import load_clips as load_clips
    from last_e.data.files import read_clips as read_clips
    from last_e.data.files import write_clips as write_clips
    from last_e.prepare.foreign import import_file as import_file
    from last_e.prepare.ntu import prepare_ntu as prepare_ntu
    from last_e.prepare.own import OwnClip as OwnClip
    from last_e.prepare.own import Split as Split
    from last_e.prepare.own import write_dataset as write_dataset
    from last_e.prepare.synth import synthesize as synthesize
    from last_e.skeletons import Skeleton as Skeleton

_WHERE = {
    "Clips": "data.clips",
    "OwnClip": "prepare.own",
    "Skeleton": "skeletons",
    "Split": "prepare.own",
    "import_file": "prepare.foreign",
    "load_clips": "data.datasets",
    "prepare_ntu": "prepare.ntu",
    "read_clips": "data.files",
    "synthesize": "prepare.synth",
    "write_clips": "data.files",
    "write_dataset": "prepare.own",
}
__all__ = ["DataError", *_WHERE]


def __getattr__(name: str) -> Any:
    """Each is loaded when it is asked for: training needs nothing of what prepares data, and that needs no torch."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"last_e.{_WHERE[name]}"), name)
