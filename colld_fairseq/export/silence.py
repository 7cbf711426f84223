"""The silence behind an utterance as its student was trained with it, made inside the graph.

Clients of Whisper know the utterance's own log-mels, and fill up as they like: with zeros to some length, or with the
log-mels of silence to 30 s. What they filled up is recognized, left out, and replaced by what `data.log_mel` gives.
"""

from dataclasses import dataclass
from typing import Tuple

import torch
from torch import Tensor, nn

from colld_fairseq.data.log_mel import FRAMES_PER_SECOND
from colld_fairseq.modules.input_config import InputConfig

RANGE = 2.0  # below the loudest value log-mels are cut off: 8 of base 10, divided by 4
SILENCE = -1.5  # log-mel of 1e-10, the least power there is: (-10 + 4) / 4


@dataclass(frozen=True)
class Filling:
    """How a client fills up.

    Attributes:
        zeros: with zeros; else with silence, whose log-mels are the least of all.
        further: log-mel frames with something in them of an utterance of N samples, beyond N // 160.
    """

    zeros: bool
    further: int


ZEROS = Filling(zeros=True, further=1)  # with the half frame that the client is given before the utterance
WINDOW = Filling(zeros=False, further=2)  # frames that reach beyond its end


class TrainedSilence(nn.Module):
    """Log-mels of a client, [N, T, bins] -> with tail and least length of `config` [N, T', bins], lengths [N]."""

    def __init__(self, config: InputConfig, filling: Filling) -> None:
        super().__init__()
        self.filling = filling
        seconds = (config.tail_seconds, config.least_seconds, config.window_seconds)
        self.tail, self.least, self.window = (round(value * FRAMES_PER_SECOND) for value in seconds)

    def forward(self, mel: Tensor) -> Tuple[Tensor, Tensor]:
        floor = (mel.amax(dim=(1, 2), keepdim=True) - RANGE).clamp(min=SILENCE)
        # Not the floor: of several utterances onnx-asr cuts all off below the loudest one's maximum.
        something = mel != 0 if self.filling.zeros else mel > mel.amin(dim=(1, 2), keepdim=True) + 1e-4
        positions = torch.arange(1, mel.size(1) + 1, device=mel.device)
        frames = (something.any(dim=2).long() * positions).amax(dim=1)
        filled = torch.where((positions[None] <= frames[:, None])[:, :, None], mel, floor)
        lengths = self.lengths(frames)
        silence = floor.expand(-1, 2 * self.window, mel.size(2))
        return torch.cat((filled, silence), dim=1)[:, : self._longest(lengths)], lengths

    def lengths(self, frames: Tensor) -> Tensor:
        """Log-mel frames with their silence, of so many with something in them; both int64 [N]."""
        spoken = torch.div((frames - self.filling.further + 1).clamp(min=0), 2, rounding_mode="floor")
        encoded = (spoken + self.tail).clamp(min=max(self.least, 1), max=self.window)
        return 2 * encoded + (encoded < self.window).long()

    def _longest(self, lengths: Tensor):
        if not torch.compiler.is_exporting():
            return lengths.max()
        longest = lengths.max().item()  # torch.export wants to know within which limits
        torch._check(longest >= 2)
        torch._check(longest <= 2 * self.window)
        return longest
