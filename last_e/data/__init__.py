"""Skeleton clips: files, splits, preparation, batches."""

from last_e.data.clips import Clips, DataError
from last_e.data.datasets import load_clips
from last_e.data.files import read_clips, write_clips

__all__ = ["Clips", "DataError", "load_clips", "read_clips", "write_clips"]
