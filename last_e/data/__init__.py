"""Skeleton clips: files, splits, preparation, batches."""

from last_e.data.clips import Clips
from last_e.data.datasets import load_clips
from last_e.data.files import read_clips, write_clips
from last_e.datafile import DataError

__all__ = ["Clips", "DataError", "load_clips", "read_clips", "write_clips"]
