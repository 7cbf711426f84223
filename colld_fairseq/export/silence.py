"""The silence behind an utterance as its student was trained with it, made inside the graph.

Clients of Whisper know the utterance's own log-mels, and fill up as they like: with zeros to some length, or with the
log-mels of silence to 30 s. What they filled up is recognized, left out, and replaced by what `data.log_mel` gives.
"""

import torch
from torch import Tensor, nn

from colld_fairseq.data.log_mel import FRAMES_PER_SECOND
from colld_fairseq.modules.input_config import InputConfig

RANGE = 2.0  # below the loudest value log-mels are cut off: 8 of base 10, divided by 4
SILENCE = -1.5  # log-mel of 1e-10, the least power there is: (-10 + 4) / 4


class TrainedSilence(nn.Module):
    """Log-mels [1, T, bins] of a client -> [1, T', bins] with tail and least length of `config`.

    Args:
        fill: "zeros" where the client fills up with zeros, "floor" where it does with the least of its values.
    """

    def __init__(self, config: InputConfig, fill: str) -> None:
        super().__init__()
        self.fill = fill
        seconds = (config.tail_seconds, config.least_seconds, config.window_seconds)
        self.tail, self.least, self.window = (round(value * FRAMES_PER_SECOND) for value in seconds)

    def forward(self, mel: Tensor) -> Tensor:
        floor = (mel.amax(dim=(1, 2), keepdim=True) - RANGE).clamp(min=SILENCE)
        spoken = (mel != 0 if self.fill == "zeros" else mel > floor + 1e-4).any(dim=2)  # [1, T]
        positions = torch.arange(1, mel.size(1) + 1)
        frames = (spoken.long() * positions).amax(dim=1)  # the last one with something in it
        silence = floor.expand(-1, 2 * self.window, mel.size(2))
        filled = torch.where((positions <= frames)[None, :, None], mel, floor)
        return torch.cat((filled, silence), dim=1)[:, : self.length(frames)[0]]

    def length(self, frames: Tensor) -> Tensor:
        """Log-mel frames with their silence, of so many without; both int64 [B]."""
        encoded = torch.div(frames + 1, 2, rounding_mode="floor") + self.tail
        encoded = encoded.clamp(min=self.least, max=self.window)
        return 2 * encoded + (encoded < self.window).long()
