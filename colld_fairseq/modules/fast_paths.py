"""When a module may leave torch's own operator for a faster way to the same numbers on a CPU."""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Iterator

import torch
from torch import Tensor

_allowed: ContextVar[bool] = ContextVar("fast_paths_allowed", default=True)


@contextmanager
def plain_operators() -> Iterator[None]:
    """Inside, modules use the operators of their formulas: to count their arithmetic, or to compare."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def fast_path(x: Tensor) -> bool:
    """Whether ``x`` may take a module's fast path.

    These are written for the CPU in full precision and would be of no use in a traced or exported graph.
    """
    return (
        _allowed.get()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
