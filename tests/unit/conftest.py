"""What all unit tests share."""

import pytest
import torch
from hypothesis import configuration


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: several threads, and several test processes at once, would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _hypothesis_writes_below_the_tests_folder(tmp_path_factory):
    configuration.set_hypothesis_home_dir(tmp_path_factory.getbasetemp() / "hypothesis")
