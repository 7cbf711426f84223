"""A Whisper student as the two graphs of sherpa-onnx's slot `whisper`, and of onnx-asr's type `whisper`."""

from typing import Tuple

import torch
from torch import Tensor, nn

from colld_fairseq.export.attention_graphs import CrossProjections, DecoderSteps, Frames, Rules
from colld_fairseq.export.silence import TrainedSilence


class SherpaEncoder(nn.Module):
    """mel [1, bins, T] -> keys and values [L, 1, F, D] of the decoder's layers."""

    def __init__(self, student: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.silence = TrainedSilence(student.config.input, fill="zeros")
        self.student, self.cross = student, CrossProjections(decoder)

    def forward(self, mel: Tensor) -> Tuple[Tensor, Tensor]:
        keys, values = self.cross(self.student(self.silence(mel.transpose(1, 2))).x)
        return torch.stack(keys), torch.stack(values)


class SherpaDecoder(nn.Module):
    """tokens [1, U], caches [L, 1, P, D] whose first `offset` [1] rows hold something, keys and values of the encoder
    [L, 1, F, D] -> logits [1, U, V], caches [L, 1, offset + U, D].

    The client begins with caches of full length, and hands back what it was given: they need not stay that long."""

    def __init__(self, decoder: nn.Module, rules: Rules) -> None:
        super().__init__()
        self.steps = DecoderSteps(decoder, rules)

    def forward(
        self, tokens: Tensor, self_keys: Tensor, self_values: Tensor, keys: Tensor, values: Tensor, offset: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        self_keys, self_values = self_keys[:, :, : offset[0]], self_values[:, :, : offset[0]]
        frames = Frames(keys.unbind(0), values.unbind(0))
        logits, new_keys, new_values = self.steps(tokens, self_keys.unbind(0), self_values.unbind(0), frames)
        return logits, torch.stack(new_keys), torch.stack(new_values)
