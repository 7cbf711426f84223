"""Adapters: small layers behind the blocks of a frozen encoder, one set per language (Bapna and Firat 2019)."""

import copy
from typing import Any, Sequence, Tuple

from torch import Tensor, nn

from colld_fairseq.modules.encoder import StudentEncoder


class Adapter(nn.Module):
    """x + up(relu(down(norm(x)))), [..., D] through a bottleneck of `inner`; nothing is added before training."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(self.layer_norm(x)).relu())


class AdaptedBlock(nn.Module):
    """A block of an encoder with an adapter behind it, of whole utterances and in streams."""

    def __init__(self, block: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.block, self.adapter = block, adapter

    def forward(self, *given: Any) -> Tuple[Tensor, Tensor]:
        x, ffn = self.block(*given)
        return self.adapter(x), ffn

    def step(self, *given: Any) -> Tuple[Tensor, Any]:
        x, memory = self.block.step(*given)
        return self.adapter(x), memory


def adapted(student: StudentEncoder, adapters: Sequence[Adapter], last: Sequence[nn.Module] = ()) -> StudentEncoder:
    """The encoder with an adapter behind each block, and blocks `last` in place of as many last ones; it shares all
    other weights and the choice of context with `student`, which stays as it is."""
    blocks = [*student.blocks[: len(student.blocks) - len(last)], *last]
    other = copy.copy(student)
    other._modules = dict(student._modules)
    other.blocks = nn.ModuleList(AdaptedBlock(block, one) for block, one in zip(blocks, adapters))
    return other.train(student.training)
