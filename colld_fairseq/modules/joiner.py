"""Joint networks of neural transducers: encoder frame and predictor output to scores of the next symbol."""

from typing import List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.errors import ConfigError

ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu}


class Joiner(nn.Module):
    """Additive joiner: z = W_o act(W_e h + b_e + W_p g) + b_o.

    The two projections are computed by themselves, once per frame and once per symbol, not once for every pair of them.
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, width: int, vocabulary_size: int, activation: str):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(f"joiner activation {activation!r} is not known; choose one of {list(ACTIVATIONS)}")
        self.encoder_projection = nn.Linear(encoder_dim, width)
        self.predictor_projection = nn.Linear(predictor_dim, width, bias=False)
        self.activation = ACTIVATIONS[activation]
        self.output = nn.Linear(width, vocabulary_size)

    def forward(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """Projected frames and symbols [..., J], broadcast against each other -> logits [..., V]."""
        return self.output(self.activation(frames + symbols))

    def lattice(self, frames: Tensor, symbols: Tensor, frame_lengths: List[int], label_lengths: List[int]) -> Tensor:
        """Logits of all pairs of a frame and a symbol, packed: [sum_b T_b * (U_b + 1), V], nothing of padding.

        frames [B, T, J] and symbols [B, U+1, J] are projected. One utterance after the other, frame by frame.
        """
        hidden = [
            (frames[b, :t, None] + symbols[b, None, : u + 1]).flatten(0, 1)
            for b, (t, u) in enumerate(zip(frame_lengths, label_lengths))
        ]
        return self.output(self.activation(torch.cat(hidden)))

    def pruned(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """Logits [B, T, S, V] of projected frames [B, T, J] and the S projected symbols of each, [B, T, S, J]."""
        return self(frames[:, : symbols.size(1), None], symbols)


class SimpleJoiner(nn.Module):
    """Two projections to the vocabulary whose sum, am_t + lm_u, is a joiner that costs no lattice of logits.

    Used only in training, to find the pruned range in which a pruned loss evaluates the real joiner
    (`losses.transducer_pruned`).
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, vocabulary_size: int):
        super().__init__()
        self.am = nn.Linear(encoder_dim, vocabulary_size)
        self.lm = nn.Linear(predictor_dim, vocabulary_size)

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tuple[Tensor, Tensor]:
        """Encoder [B, T, D] and predictor [B, U+1, D'] outputs -> am [B, T, V] and lm [B, U+1, V]."""
        return self.am(encoded), self.lm(predicted)
