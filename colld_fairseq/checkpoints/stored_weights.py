"""Weights that stay in their files until they are asked for: of a large encoder only what is needed is read."""

import re
from collections.abc import Mapping
from typing import Dict, Iterator, List, Optional, Protocol, Sequence, Tuple

import torch
from torch import Tensor

StateDict = Dict[str, Tensor]
Sources = Mapping[str, Sequence[Optional[str]]]
BLOCK = re.compile(r"(?!front_end\.)(.*\.)?(blocks|layers)\.\d+\.")  # of an encoder, in whatever names


class Tensors(Protocol):
    """Tensors in files, see `tensor_files`."""

    @property
    def shapes(self) -> StateDict:
        """Name -> the tensor on the meta device, which has shape and dtype alone."""

    def read(self, names: Sequence[str], dtype: Optional[torch.dtype] = None) -> StateDict:
        """These tensors, in memory of their own; in the files' precision, or in `dtype`."""


class StoredWeights(Mapping):
    """A state dict whose values are read when they are asked for, a block at a time.

    The block that was read last is kept: go through the names in their order, and write into no value.

    Args:
        files: what they are read from.
        shapes: name -> tensor on the meta device, or a tensor that is in no file.
        sources: name -> the names in the files of what is joined along its first axis; None stands for zeros. A name
            that is not there is the same in the files.
    """

    def __init__(self, files: Tensors, shapes: StateDict, sources: Optional[Sources] = None) -> None:
        self.files, self.sources = files, sources or {}
        self._blocks: Dict[str, List[str]] = {}
        for name in shapes:
            self._blocks.setdefault(block_of(name), []).append(name)
        self.shapes = {name: shapes[name] for names in self._blocks.values() for name in names}
        self._last: Tuple[Optional[str], StateDict] = (None, {})

    def __getitem__(self, name: str) -> Tensor:
        block = block_of(name)
        if name in self.shapes and block != self._last[0]:
            self._last = (None, {})  # before there is another one
            self._last = (block, self._read(block))
        return self._last[1][name]

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def in_turn(self, dtype: Optional[torch.dtype] = None) -> Iterator[Tuple[str, Tensor]]:
        """Names and values, one block after another, in memory that is the caller's alone."""
        for block in self._blocks:
            yield from self._read(block, dtype).items()

    def _read(self, block: str, dtype: Optional[torch.dtype] = None) -> StateDict:
        names = self._blocks[block]
        values = self.files.read([part for name in names for part in self._parts(name) if part], dtype)
        return {name: self._joined(name, values, dtype) for name in names}

    def _joined(self, name: str, values: StateDict, dtype: Optional[torch.dtype]) -> Tensor:
        """One of our weights; takes what it is made of out of `values`."""
        expected, sources = self.shapes[name], self._parts(name)
        dtype = dtype or expected.dtype
        if not expected.is_meta:
            return expected.to(dtype, copy=True)
        if len(sources) == 1 and sources[0]:
            return values.pop(sources[0]).reshape(expected.shape)
        rows = len(expected) // len(sources)
        zeros = torch.zeros((rows, *expected.shape[1:]), dtype=dtype)
        return torch.cat([values.pop(source) if source else zeros for source in sources])

    def _parts(self, name: str) -> Sequence[Optional[str]]:
        if not self.shapes[name].is_meta:
            return ()
        return self.sources.get(name, (name,))


def block_of(name: str) -> str:
    """What the names of a block's weights begin with; "" of those outside the blocks."""
    match = BLOCK.match(name)
    return match[0] if match else ""


def shapes_of(weights: Mapping) -> Mapping:
    """Name -> a tensor of this shape and dtype, for which nothing is read."""
    return weights.shapes if isinstance(weights, StoredWeights) else weights
