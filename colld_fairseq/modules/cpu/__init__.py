"""Kernels for the CPU: other ways to the same numbers, all behind one switch.

Each stands in for torch operators where `use_cpu_kernels` says so, and nowhere else; `plain_operators` turns all of
them (or some) off. How many times as long HuBERT Base takes without each, by `benchmarks/cpu_kernels.py --clock cpu` on
a busy machine, on 10 s, on 1 s, and on a padded batch: extractor 1.10 on 10 s; positions 1.12, 1.09, 1.12; packing 1.37
(padded batch); cached weights 1.04, 1.42. The front-end alone takes 2.4 times as long without the extractor on the
padded batch, and 2.1 times in a training step on 5 + 3 s.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import FrozenSet, Iterator

import torch
from torch import Tensor

#: name -> what it stands in for.
KERNELS = {
    "extractor": "the waveform front-end's convolutions, group norm and GELU, in blocks of time (extractor.py)",
    "positions": "the long position convolution, as a product of spectra (spectral_conv.py)",
    "packing": "Transformer blocks on padded batches, without the padding (packing.py)",
}
_off: ContextVar[FrozenSet[str]] = ContextVar("cpu_kernels_off", default=frozenset())


@contextmanager
def plain_operators(*names: str) -> Iterator[None]:
    """Inside, modules use the operators of their formulas: to count their arithmetic, or to compare.

    names: the kernels to turn off; none given = all.
    """
    token = _off.set(_off.get() | frozenset(names or KERNELS))
    try:
        yield
    finally:
        _off.reset(token)


def use_cpu_kernels(name: str, x: Tensor) -> bool:
    """Whether the kernel `name` may work on `x`.

    The kernels are written for the CPU in full precision and would be of no use in a traced or exported graph.
    """
    return (
        name not in _off.get()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
