"""Scripts of benchmarks/ are modules here, as they are to each other: pythonpath in pyproject.toml."""

import pytest
import torch


@pytest.fixture(autouse=True)
def torch_as_it_was():
    """They set the threads, and one the precision of convolutions."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = tf32
