"""What all unit tests share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: several threads, and several test processes at once, would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
