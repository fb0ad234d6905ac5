"""From a data set's name to its clips: embedded, generated, or a prepared file that is looked for."""

from __future__ import annotations

from last_e.config import TrainConfig
from last_e.data.clips import Clips
from last_e.data.files import read_clips, read_irds
from last_e.data.synthetic import synthetic_clips
from last_e.datafile import check_file, data_path
from last_e.described import is_own
from last_e.own_set import check_own, see_that_it_is_whole


def load_clips(config: TrainConfig) -> Clips:
    """The clips of the configured data set.

    Raises:
        DataError: the file is missing (the message says which, where, and how to make it) or damaged, or another set than the
            one that the job was made with.
    """
    path = data_path(config)
    if path is not None and is_own(config.dataset):
        check_file(config, path, check_own)
        see_that_it_is_whole(path)
    if path is not None:
        return read_clips(path, config.data.num_classes)
    return read_irds() if config.dataset == "irds" else synthetic_clips(config.data.num_classes)
