"""Whisper's encoder and decoder as the graphs of sherpa-onnx's slot `whisper` and of onnx-asr's type `whisper`."""

from typing import Tuple

import torch
from torch import Tensor, nn

from colld_fairseq.export.attention_graphs import CrossProjections, DecoderSteps, Frames, Rules, score_bias
from colld_fairseq.export.silence import WINDOW, ZEROS, TrainedSilence
from colld_fairseq.modules.encoder import StudentEncoder


class SherpaEncoder(nn.Module):
    """mel [1, bins, T] -> keys and values [L, 1, F, D] of the decoder's layers."""

    def __init__(self, student: StudentEncoder, decoder: nn.Module) -> None:
        super().__init__()
        self.silence = TrainedSilence(student.config.input, ZEROS)
        self.student, self.cross = student, CrossProjections(decoder)

    def forward(self, mel: Tensor) -> Tuple[Tensor, Tensor]:
        keys, values = self.cross(self.student(self.silence(mel.transpose(1, 2))[0]).x)
        return torch.stack(keys), torch.stack(values)


class SherpaDecoder(nn.Module):
    """tokens [1, U], caches [L, 1, P, D] whose first `offset` [1] rows hold something, keys and values of the encoder
    [L, 1, F, D] -> logits [1, U, V], caches [L, 1, offset + U, D].

    The client begins with caches of full length, and hands back what it was given: they need not stay that long.
    """

    def __init__(self, decoder: nn.Module, rules: Rules) -> None:
        super().__init__()
        self.steps = DecoderSteps(decoder, rules)

    def forward(
        self, tokens: Tensor, self_keys: Tensor, self_values: Tensor, keys: Tensor, values: Tensor, offset: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        past = self._past(offset, self_keys.size(2))
        self_keys, self_values = self_keys[:, :, :past], self_values[:, :, :past]
        frames = Frames(keys.unbind(0), values.unbind(0))
        logits, new_keys, new_values = self.steps(tokens, self_keys.unbind(0), self_values.unbind(0), frames)
        return logits, torch.stack(new_keys), torch.stack(new_values)

    def _past(self, offset: Tensor, most: int):
        if not torch.compiler.is_exporting():
            return offset[0]
        past = offset[0].item()  # torch.export wants to know within which limits
        torch._check(past >= 0)
        torch._check(past <= most)
        return past


class OnnxAsrEncoder(nn.Module):
    """input_features [N, bins, T], of windows of 30 s -> [N, F, 2 L D + 1]: keys of the decoder's layers, their values,
    and what is added to scores (-inf on padding).

    The client hands it on as it is, so that the decoder need not make keys and values anew with every token.
    """

    def __init__(self, student: StudentEncoder, decoder: nn.Module) -> None:
        super().__init__()
        self.silence = TrainedSilence(student.config.input, WINDOW)
        self.student, self.cross = student, CrossProjections(decoder)

    def forward(self, mel: Tensor) -> Tensor:
        output = self.student(*self.silence(mel.transpose(1, 2)))
        keys, values = self.cross(output.x)
        bias = score_bias(output.lengths, output.x)
        return torch.cat((*keys, *values, bias[:, 0, 0, :, None]), dim=2)


class OnnxAsrDecoder(nn.Module):
    """input_ids [N, U], the encoder's [N, F, 2 L D + 1], whether the caches [N, L, P, D] hold something -> logits
    [N, U, V], caches [N, L, P + U, D]. Without, the client gives caches of N = 0 and P = 0."""

    def __init__(self, decoder: nn.Module, rules: Rules) -> None:
        super().__init__()
        self.steps = DecoderSteps(decoder, rules)
        self.size, self.width = len(self.steps.layers), self.steps.width

    def forward(
        self, tokens: Tensor, encoded: Tensor, use_cache: Tensor, self_keys: Tensor, self_values: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        *parts, bias = encoded.split([self.width] * (2 * self.size) + [1], dim=2)
        frames = Frames(parts[: self.size], parts[self.size :], bias.transpose(1, 2)[:, None])
        # The client's first caches have no row at all; use_cache is not needed, but has to be an input.
        shape = (tokens.size(0), self.size, self_keys.size(2), self.width)
        keys, values = (cache.reshape(shape).unbind(1) for cache in (self_keys, self_values))
        logits, keys, values = self.steps(tokens, keys, values, frames)
        logits = logits + 0.0 * use_cache.to(logits.dtype)
        return logits, torch.stack(keys, dim=1), torch.stack(values, dim=1)
