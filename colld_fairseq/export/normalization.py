"""What `data.inputs.StudentInput` does to features and waveforms, as part of a graph: masked, in single precision.

Values are first moved by the utterance's first one: a mean of large numbers would lose in single precision what is
small between them, and a channel that never changes (digital silence) would not come out as 0.
"""

from typing import Optional

import torch
from torch import Tensor, nn

from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.modules.lengths import lengths_to_padding_mask

STD_FLOOR = 1e-5  # of filterbanks, as in data/fbank.py


class UtteranceNormalization(nn.Module):
    """Mean 0 and variance 1 over the valid frames (or samples) of each utterance, per channel.

    Args:
        variance_floor: added to the variance (waveforms); None = deviations are STD_FLOOR at least (filterbanks).
    """

    def __init__(self, variance_floor: Optional[float] = None) -> None:
        super().__init__()
        self.variance_floor = variance_floor

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """[B, T, ...] and lengths [B] (None: nothing is padded) -> [B, T, ...]; padding is 0."""
        x = x - x[:, :1]
        if lengths is None:
            x = x - x.mean(1, keepdim=True)
            return x * self._scale(x.square().mean(1, keepdim=True))
        valid = (~lengths_to_padding_mask(lengths, x.size(1))).to(x.dtype)
        count = lengths.clamp(min=1).to(x.dtype)[:, None]
        if x.dim() == 3:
            valid, count = valid.unsqueeze(-1), count.unsqueeze(-1)
        x = (x - (x * valid).sum(1, keepdim=True) / count) * valid
        return x * self._scale(x.square().sum(1, keepdim=True) / count)

    def _scale(self, variance: Tensor) -> Tensor:
        if self.variance_floor is None:
            return 1.0 / variance.sqrt().clamp(min=STD_FLOOR)
        return torch.rsqrt(variance + self.variance_floor)


class CorpusNormalization(nn.Module):
    """Filterbanks with the statistics of a corpus: mean and deviation of each bin."""

    def __init__(self, config: InputConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(config.mean))
        self.register_buffer("scale", 1.0 / torch.tensor(config.std, dtype=torch.float64).clamp(min=STD_FLOOR).float())

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """[B, T, bins] -> [B, T, bins]."""
        return (x - self.mean) * self.scale


class Unchanged(nn.Module):
    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        return x


def normalization_of(config: InputConfig) -> nn.Module:
    """What makes the encoder's input of plain filterbanks [B, T, bins] or samples [B, N]."""
    if config.normalization == "corpus":
        return CorpusNormalization(config)
    if config.normalization == "none":
        return Unchanged()
    return UtteranceNormalization(config.variance_floor if config.kind == "waveform" else None)


class AfterClient(nn.Module):
    """Samples that a client has given mean 0 and variance v / (v + CLIENT_FLOOR), v that of the utterance, as an
    encoder takes them that was trained with another floor under its variance."""

    CLIENT_FLOOR = 1e-5

    def __init__(self, variance_floor: float) -> None:
        super().__init__()
        self.share = variance_floor / self.CLIENT_FLOOR

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """[B, N] -> [B, N]; nothing may be padded."""
        variance = x.square().mean(1, keepdim=True)
        # sqrt((v + client's floor) / (v + ours)), with v / (v + client's floor) = variance
        return x * torch.rsqrt(variance + self.share * (1.0 - variance))
