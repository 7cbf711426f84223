"""Ways to run an encoder's blocks in training that change time and memory, and no result."""

from functools import cached_property
from typing import Any, Callable, Dict, Union

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def active(module: nn.Module) -> bool:
    """Whether it is in training and gradients are wanted."""
    return module.training and torch.is_grad_enabled()


class BlockRuns:
    """Calls a block; as it is, unless it is `active`.

    checkpointed: keep a block's input alone and compute what is inside again for the gradients (Chen et al. 2016, arXiv
        1604.06174), with the same dropout: a third more arithmetic, memory of one block instead of all.
    compiled: by torch.compile, in graphs that all blocks share; a few lengths may need another one. Its dropout draws
        other numbers.
    backend: of torch.compile.
    """

    def __init__(self, checkpointed: bool = False, compiled: bool = False, backend: Union[str, Callable] = "inductor"):
        self.checkpointed, self.compiled, self.backend = checkpointed, compiled, backend

    @cached_property
    def _run(self) -> Callable:
        """Compiled where it is first used: a model that only decodes does not even import the compiler."""
        return torch.compile(_run, dynamic=True, backend=self.backend) if self.compiled else _run

    def __call__(self, block: nn.Module, *arguments: Any) -> Any:
        if not active(block):
            return block(*arguments)
        if self.checkpointed:
            return checkpoint(self._run, block, *arguments, use_reentrant=False)
        return self._run(block, *arguments)

    def __deepcopy__(self, memo: Dict) -> "BlockRuns":
        return BlockRuns(self.checkpointed, self.compiled, self.backend)  # what is compiled cannot be copied


def _run(block: nn.Module, *arguments: Any) -> Any:
    return block(*arguments)
