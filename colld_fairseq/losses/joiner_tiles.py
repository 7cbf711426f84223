"""The last layers of a transducer's joiner on some nodes of the lattice at a time.

Logits of a node (t, u) are `weight @ activation(frames[t] + symbols[u]) + bias`. Of a whole lattice they are its T * (U
+ 1) times V; of a *tile*, a rectangle of frames and symbols, as many as a budget of memory allows. Whoever goes through
the tiles keeps what it needs of a tile's logits and computes them again for their gradient, which becomes one of
frames, symbols, weight and bias at once.
"""

from typing import Callable, Iterator, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

MEGABYTE = 10**6


class JoinerParts(NamedTuple):
    """A joiner and what it joins, in place of the logits of all pairs.

    frames `[B, T, J]`, symbols `[B, U+1, J]`: projected outputs of encoder and predictor; weight `[V, J]`, bias `[V]`:
    of the output layer; activation: works element by element.
    """

    frames: Tensor
    symbols: Tensor
    weight: Tensor
    bias: Tensor
    activation: Callable[[Tensor], Tensor]

    def select(self, rows: Tensor) -> "JoinerParts":
        """Some utterances of the batch, `rows` bool or int64."""
        return self._replace(frames=self.frames[rows], symbols=self.symbols[rows])


def logit_dtype(inputs: Tensor, weight: Tensor) -> torch.dtype:
    """What an output layer computes in, as torch's linear layers do: autocast's type where that is on."""
    dtype, device = torch.promote_types(inputs.dtype, weight.dtype), inputs.device.type
    if dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return dtype


def tile_rows(budget_mb: float, vocabulary: int, width: int, dtype: torch.dtype, teacher: bool = False) -> int:
    """How many nodes a tile may have, at least one: their logits, what is made of those, and J values before them fit
    into a budget of `budget_mb` times 10^6 bytes. ValueError for a budget that is not above 0.

    teacher: its logits, and two copies of them, are beside the student's.
    """
    if not budget_mb > 0:
        raise ValueError(f"a budget of {budget_mb:g} MB for logits: must be above 0")
    exact = torch.promote_types(dtype, torch.float32)
    bytes_per_logit = dtype.itemsize + 3 * exact.itemsize * teacher
    if dtype != exact:  # the softmax, and the gradient rounded again
        bytes_per_logit += exact.itemsize + dtype.itemsize
    hidden = 4 * width * exact.itemsize  # sum, activation, and the gradients of both
    return max(int(budget_mb * MEGABYTE) // (vocabulary * bytes_per_logit + hidden), 1)


def rectangles(first: Sequence[int], end: Sequence[int], rows: int) -> Iterator[Tuple[slice, slice]]:
    """Tiles (frames, symbols) of at most `rows` nodes that cover symbols `first[t]` to `end[t]` of every frame t.

    Frames with nothing to cover have `first[t] >= end[t]`.
    """
    start = 0
    while start < len(first):
        low, high, stop = first[start], end[start], start + 1
        while stop < len(first):
            wider = min(low, first[stop]), max(high, end[stop])
            if (wider[1] - wider[0]) * (stop + 1 - start) > rows:
                break
            (low, high), stop = wider, stop + 1
        step = max(rows // (stop - start), 1)
        for symbol in range(low, high, step):
            yield slice(start, stop), slice(symbol, min(symbol + step, high))
        start = stop


class OutputLayer:
    """The joiner's last layer on some nodes at a time; adds up the gradients of its parameters.

    `grad_weight` and `grad_bias` are float32 at least. Only one tile's logits exist at any time, in the same memory.
    On a CPU, products in half precision are given zeros up to one of 16 sizes: oneDNN compiles code for every size,
    and keeps it for 1024 of them, about a megabyte each.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, dtype: torch.dtype, rows: int, needed: int, with_gradient: bool = False
    ):
        """rows: most nodes of a tile; needed: of the tiles that there are."""
        self.dtype, self.exact = dtype, torch.promote_types(dtype, torch.float32)
        self.weight, self.bias = weight.detach().to(dtype), bias.detach().to(dtype)
        few_sizes = dtype != self.exact and weight.device.type == "cpu"
        self.rows, self.step = rows, max(rows // 16, 1) if few_sizes else 1
        self.memory = self.weight.new_empty(self._size(min(rows, needed)), len(weight))
        if with_gradient:
            self.grad_weight = torch.zeros_like(weight, dtype=self.exact)
            self.grad_bias = torch.zeros_like(bias, dtype=self.exact)

    def logits(self, hidden: Tensor) -> Tensor:
        """`[R, J]` -> `[R, V]`, until the next call."""
        given = self._given(hidden)
        return torch.addmm(self.bias, given, self.weight.T, out=self.memory[: len(given)])[: len(hidden)]

    def softmax(self, logits: Tensor) -> Tensor:
        """Probabilities `[R, V]`, float32 at least, in the memory of the logits where that is their type."""
        return torch.softmax(logits, -1, dtype=self.exact, out=self._memory_of(logits))

    def log_softmax(self, logits: Tensor) -> Tensor:
        """As `softmax`, their logarithms."""
        return torch.log_softmax(logits, -1, dtype=self.exact, out=self._memory_of(logits))

    def backward(self, gradient: Tensor, hidden: Tensor) -> Tensor:
        """From the gradient of the logits `[R, V]` that were made of `hidden` to that of `hidden` `[R, J]`."""
        self.grad_bias.add_(gradient.sum(0))
        given, gradient = self._given(hidden), self._given(gradient)
        if self.dtype == self.exact:
            self.grad_weight.addmm_(gradient.T, given)
        else:
            self.grad_weight.add_(gradient.T @ given)
        return (gradient @ self.weight)[: len(hidden)]

    def _size(self, rows: int) -> int:
        return min(-(-rows // self.step) * self.step, self.rows)

    def _given(self, rows: Tensor) -> Tensor:
        """`[R, D]` as a product takes them: in its type, and followed by zeros."""
        size = self._size(len(rows))
        if size == len(rows):
            return rows.to(self.dtype)
        given = rows.new_zeros(size, rows.shape[1], dtype=self.dtype)
        given[: len(rows)] = rows
        return given

    def _memory_of(self, logits: Tensor):
        return logits if self.dtype == self.exact else None


def refuse_second_derivative() -> None:
    """Called by backward passes through tiles, which are not differentiable themselves."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a transducer loss in tiles has no second derivative: leave out create_graph=True, or compute the loss "
            "of the whole logits (transducer_loss, --logits-budget-mb 0)"
        )
