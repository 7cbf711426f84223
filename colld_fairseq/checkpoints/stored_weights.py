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

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """Copies the tensors of these names, each into one of as many values, in its shape and precision."""


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
        """A block's weights, each where it will stay: temporary ones would leave holes in memory."""
        values = {name: self._empty(name, dtype) for name in self._blocks[block]}
        targets = {}
        for name, value in values.items():
            parts = self._parts(name)
            targets.update(zip(parts, value.chunk(len(parts)) if len(parts) > 1 else [value]))
        targets.pop(None, None)
        self.files.fill(targets)
        return values

    def _empty(self, name: str, dtype: Optional[torch.dtype]) -> Tensor:
        """With the value, where that is in no file."""
        expected = self.shapes[name]
        dtype = dtype or expected.dtype
        if not expected.is_meta:
            return expected.to(dtype, copy=True)
        return (torch.zeros if None in self._parts(name) else torch.empty)(expected.shape, dtype=dtype)

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
