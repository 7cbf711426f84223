"""What is computed from weights alone, cached until the weights change."""

from typing import Callable, Generic, Optional, Sequence, Tuple, TypeVar

import torch
from torch import Tensor

from colld_fairseq.compat import version_of

T = TypeVar("T")


class CachedFromWeights(Generic[T]):
    """The last result of a function of weights. Copies and files of it are empty."""

    def __init__(self) -> None:
        self._entry: Optional[Tuple[tuple, T]] = None

    def get(self, weights: Sequence[Tensor], make: Callable[[], T]) -> T:
        """`make()`, run without gradients, or its last result if `weights` are what they were then."""
        # Sums show what versions do not: edits through .data, and of tensors made in inference mode.
        state = tuple((w.data_ptr(), version_of(w), w.sum().item()) for w in weights)
        if self._entry is None or self._entry[0] != state:
            # Never an inference tensor: a later pass may need the gradient with respect to its input.
            with torch.inference_mode(False), torch.no_grad():
                self._entry = (state, make())
        return self._entry[1]

    def forget(self) -> None:
        self._entry = None

    def __getstate__(self) -> dict:
        return {"_entry": None}
