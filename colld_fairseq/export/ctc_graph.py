"""A CTC student as one graph: from filterbanks or samples to log-probabilities."""

from typing import Iterable, Optional, Tuple, Union

import torch
from torch import Tensor, nn

#: Added to the log-probability of what is never emitted: finite, so that no runtime makes NaN of it.
NEVER = -1e9


class CtcGraph(nn.Module):
    """Normalization, encoder and CTC layer; what decoding never emits is masked out.

    Args:
        model: a `CtcModel` in eval mode.
        normalization: see `export.normalization`.
        never_emitted: ids of symbols that no hypothesis may hold.
    """

    def __init__(self, model: nn.Module, normalization: nn.Module, never_emitted: Iterable[int]) -> None:
        super().__init__()
        self.model, self.normalization = model, normalization
        mask = torch.zeros(model.ctc.out_features)
        mask[list(never_emitted)] = NEVER
        self.register_buffer("mask", mask)

    def forward(self, source: Tensor, lengths: Optional[Tensor] = None) -> Union[Tensor, Tuple[Tensor, Tensor]]:
        """source: filterbanks [N, T, bins] or samples [N, T], not normalized; lengths int64 [N], None = no padding.

        Returns log-probabilities [N, T', V] and, where lengths were given, frames int64 [N].
        """
        log_probs, frames = self.model.get_ctc_log_probs(self.normalization(source, lengths), lengths)
        log_probs = log_probs + self.mask
        return log_probs if lengths is None else (log_probs, frames)
