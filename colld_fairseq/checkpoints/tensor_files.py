"""Tensors in files that may be larger than memory: their shapes at once, their values a few at a time."""

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.checkpoints.files import read_torch
from colld_fairseq.errors import CheckpointError


class TensorFiles:
    """The state dict in a file of `torch.save`, or in shards of it that are cut along the first axis.

    Files are mapped into memory while something is read from them and no longer: what was read of a mapped file counts
    as memory of the process as long as the mapping lasts.

    Attributes:
        paths: the files, in order.
        shapes: name -> the complete tensor on the meta device, which has shape and dtype alone.
        others: what the first file holds beside its state dict.

    Raises CheckpointError: a file cannot be read, holds what is no tensor, or does not go with the others.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        states, others = zip(*map(_open, self.paths))
        self.others: Dict[str, Any] = others[0]
        for path, state in zip(self.paths, states):
            alone = sorted(state.keys() - states[0].keys())
            if alone:
                first = self.paths[0].name
                raise CheckpointError(f"{path}: {alone[0]} is not in {first}; are these shards of one file?")
        self.shapes = {name: self._complete(name, [s[name] for s in states if name in s]) for name in states[0]}

    def _complete(self, name: str, parts: List[Tensor]) -> Tensor:
        first = parts[0]
        if any(part.shape[1:] != first.shape[1:] or part.dtype != first.dtype for part in parts):
            shapes = ", ".join(str(list(part.shape)) for part in parts)
            raise CheckpointError(f"{self.paths[0].parent}: the shards of {name} do not go together: {shapes}")
        shape = (sum(len(part) for part in parts), *first.shape[1:]) if first.dim() else ()
        return torch.empty(shape, dtype=first.dtype, device="meta")

    def read(self, names: Sequence[str]) -> Dict[str, Tensor]:
        """These tensors, in memory of their own."""
        parts: Dict[str, List[Tensor]] = {name: [] for name in names}
        for path in self.paths:
            state, _ = _open(path)
            for name in names:
                if name in state:
                    parts[name].append(state[name].clone(memory_format=torch.contiguous_format))
        return {name: _joined(tensors) for name, tensors in parts.items()}


def _open(path: Path) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """State dict and the rest of a file: the state dict is what it calls "model", or all of it."""
    content = read_torch(path)
    state, others = content, {}
    if isinstance(content.get("model"), dict):
        state = content["model"]
        others = {key: value for key, value in content.items() if key != "model"}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: {name} is a {type(value).__name__}, not a tensor; is it a file of weights?")
    if not state:
        raise CheckpointError(f"{path}: holds no weights")
    return state, others


def _joined(parts: List[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 or not parts[0].dim() else torch.cat(parts)
