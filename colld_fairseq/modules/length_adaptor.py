"""Shortens the encoder's output for an attention decoder."""

from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.modules.lengths import lengths_to_padding_mask


class LengthAdaptor(nn.Module):
    """A projection to the decoder's width, then `layers` strided convolutions, each of which halves the frame rate.

    Each is Conv1d (kernel 3, stride 2, padding 1) to twice the width and a GLU, as in multilingual S2T with wav2vec 2.0
    encoders (Li et al. 2021, 2010.12829). Padded frames are zeroed before each, so that padding reaches no valid frame.
    """

    def __init__(self, in_dim: int, out_dim: int, layers: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_dim)
        self.project = nn.Linear(in_dim, out_dim)
        self.convs = nn.ModuleList(nn.Conv1d(out_dim, 2 * out_dim, 3, stride=2, padding=1) for _ in range(layers))

    def forward(self, x: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """x [B, T, D_in], lengths [B] -> [B, T', D_out], lengths [B]."""
        x = self.project(self.norm(x))
        for conv in self.convs:
            x = x.masked_fill(lengths_to_padding_mask(lengths, x.size(1)).unsqueeze(-1), 0.0)
            x = F.glu(conv(x.transpose(1, 2)), dim=1).transpose(1, 2)
            lengths = torch.div(lengths + 1, 2, rounding_mode="floor")
        return x, lengths
