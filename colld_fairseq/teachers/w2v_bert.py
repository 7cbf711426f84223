"""w2v-BERT 2.0 (Barrault et al. 2023) as transformers has it: stacked filterbanks, Conformer, 50 Hz."""

from typing import Any, Dict

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.constants import NUM_BINS
from colld_fairseq.data.fbank import fbank_length, log_mel_fbank
from colld_fairseq.modules.hooks import FeatureTap
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.teachers.base import Teacher

FBANK_RATE_HZ = 100.0
VARIANCE_FLOOR = 1e-7  # added to the variance by SeamlessM4TFeatureExtractor


def normalized_fbank(waveform: np.ndarray) -> np.ndarray:
    """Kaldi filterbank [T, 80] of a waveform [N], each bin at mean 0 and unbiased variance 1."""
    features = log_mel_fbank(waveform, NUM_BINS)
    variance = features.var(axis=0, ddof=1, keepdims=True)
    return (features - features.mean(axis=0, keepdims=True)) / np.sqrt(variance + VARIANCE_FLOOR)


class W2vBertTeacher(Teacher):
    """Features of the Conformer; "ffn" is the second feed-forward module, before its factor 1/2.

    Filterbanks are computed on the CPU, one utterance at a time (kaldi-native-fbank).
    """

    def __init__(self, model: nn.Module, **description: Any):
        self.stack = model.config.feature_projection_input_dim // NUM_BINS
        super().__init__(model, width=model.config.hidden_size, frame_rate_hz=FBANK_RATE_HZ / self.stack, **description)
        self.feature_tap = FeatureTap(self.module.encoder.layers, self.layers, self.kind, lambda block: block.ffn2)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return fbank_length(lengths) // self.stack

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        frames = self.output_lengths(lengths)
        inputs = self._inputs(waveforms, lengths, int(frames.max()))
        mask = None
        if int(frames.min()) < inputs.size(1):
            mask = ~lengths_to_padding_mask(frames)
        hidden = self.module.feature_projection(inputs)[0]
        self.module.encoder(hidden, attention_mask=mask)
        return self.feature_tap.take()

    def _inputs(self, waveforms: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """Stacked filterbanks [B, T, 80 * stack]; a trailing incomplete stack is dropped."""
        inputs = waveforms.new_zeros(len(waveforms), longest, NUM_BINS * self.stack, device="cpu")
        for row, waveform, length in zip(inputs, waveforms.cpu(), lengths.tolist()):
            features = torch.from_numpy(normalized_fbank(waveform[:length].numpy()))
            size = len(features) // self.stack
            row[:size] = features[: size * self.stack].reshape(size, -1)
        return inputs.to(device=waveforms.device, dtype=self.dtype)
