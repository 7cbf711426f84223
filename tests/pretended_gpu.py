"""A machine with a GPU, without one: torch says that it has it, and what is sent there goes to the second device.

    with pretended_gpu():
        colld(["transcribe", ...])  # on cuda, as by default where there is a GPU

For commands that run in this process, from files to files; `pytest --pretend-gpu` runs whole tests so. Those fail that
hand a model tensors of the CPU themselves, or expect what only the CPU has.
"""

import contextlib
from types import SimpleNamespace
from typing import Any, Iterator

import pytest
import torch
from fairseq import utils
from second_device import DEVICE, Factories, Operations, autocast_and_generator
from torch.utils._pytree import tree_map


class Number(int):
    """A GPU's number, which fairseq moves batches to and sorts weights by."""


MEMORY = 2**34
PROPERTIES = dict(name="none", major=8, minor=0, total_memory=MEMORY)
# What fairseq and this project ask torch.cuda for.
ANSWERS = {
    "is_available": True,
    "is_bf16_supported": True,
    "device_count": 1,
    "current_device": Number(DEVICE.index),
    "get_device_name": PROPERTIES["name"],
    "get_device_capability": (8, 0),
    "get_device_properties": SimpleNamespace(**PROPERTIES),
    "mem_get_info": (MEMORY, MEMORY),
    "memory_allocated": 0,
    "max_memory_allocated": 0,
    "memory_reserved": 0,
    "set_device": None,
    "synchronize": None,
    "empty_cache": None,
    "reset_peak_memory_stats": None,
    "reset_max_memory_allocated": None,
    "manual_seed": None,
    "manual_seed_all": None,
    "set_rng_state": None,
}


class Cuda(Factories):
    """`cuda` means the second device, whatever it is said to."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        args, kwargs = tree_map(there, (args, kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs)


def there(value: Any) -> Any:
    is_cuda = isinstance(value, torch.device) and value.type == "cuda"
    is_cuda = is_cuda or isinstance(value, str) and value.split(":")[0] == "cuda"
    return DEVICE if is_cuda or isinstance(value, Number) else value


class CudaEnvironment:
    """fairseq's, of a GPU that there is not."""

    name, major, minor, total_memory_in_GB = PROPERTIES["name"], 8, 0, MEMORY / 2**30

    @staticmethod
    def pretty_print_cuda_env_list(environments) -> None:
        pass


@contextlib.contextmanager
def pretended_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, autocast_and_generator():
        for name, answer in ANSWERS.items():
            patch.setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
        patch.setattr(torch.cuda, "get_rng_state", lambda *args: torch.get_rng_state())
        patch.setattr(torch.Tensor, "cuda", lambda tensor, *args, **kwargs: tensor.to(DEVICE))
        patch.setattr(torch.nn.Module, "cuda", lambda module, *args: module.to(DEVICE))
        patch.setattr(utils, "CudaEnvironment", CudaEnvironment)
        with Operations(), Cuda():
            yield
