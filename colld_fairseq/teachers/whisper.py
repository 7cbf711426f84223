"""The encoder of Whisper (Radford et al. 2022) as a teacher, without computing 30 s of silence for each utterance.

Whisper was trained on windows padded to 30 s. Here an utterance costs its own length and half a second: log-mel,
positions and attention cover the utterance and `TAIL` frames of the silence that follows it. Up to the first block
this equals the padded computation; above, it differs by what the blocks would have taken from the rest of the
silence. On an utterance of 29.5 to 30 s both are the same. Measured with the encoder of Whisper base on 24 real
prompts of 0.6 to 8 s in five languages, against the result padded to 30 s (mean over utterances; norm of the
difference over the norm of the padded result, and cosine of frames):

    block                   1      2      3      4      5      6
    relative difference   0.08   0.13   0.16   0.29   0.31   0.34
    the same, TAIL = 0    0.10   0.15   0.21   1.34   0.97   0.82
    cosine               0.996  0.991  0.986  0.970  0.962  0.951
    the same, TAIL = 0   0.994  0.987  0.979  0.954  0.943  0.917

From block 4 on single frames of silence carry values in the hundreds (attention sinks). Without any silence
the model puts them into the speech, where they would dominate a regression loss: hence the tail.

Utterances longer than 30 s are processed in consecutive windows of 30 s and joined.
"""

from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from colld_fairseq.modules.hooks import FeatureTap
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.teachers.base import Teacher, check_request
from colld_fairseq.teachers.huggingface import load_into

HOP = 160  # samples between mel frames
WINDOW = 400  # samples of one mel frame
SAMPLES_PER_FRAME = 2 * HOP  # the second convolution halves the 100 Hz mel rate
TAIL = 25  # frames of silence after the utterance, see above
PREFIXES = ("model.encoder.", "encoder.", "")


class LogMel(nn.Module):
    """Whisper's log-mel, batched: what WhisperFeatureExtractor gives for utterances padded to `max_samples`."""

    def __init__(self, num_bins: int, max_samples: int):
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.max_samples = max_samples
        filters = mel_filter_bank(
            num_frequency_bins=1 + WINDOW // 2,
            num_mel_filters=num_bins,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=16000,
            norm="slaney",
            mel_scale="slaney",
        )
        # plain attributes, so that they stay float32 whatever the dtype of the teacher
        self.filters = torch.from_numpy(filters).float().t().contiguous()
        self.window = torch.hann_window(WINDOW)

    def forward(self, waveforms: Tensor, num_frames: int) -> Tensor:
        """[B, bins, num_frames] from float32 waveforms [B, N], zero beyond each utterance, N <= max_samples.

        num_frames must reach 3 frames beyond the longest utterance, or to the end of the window: the dynamic range
        is cut at 8 below the loudest value of the utterance, so no frame that holds some of it may be left out.
        """
        if self.window.device != waveforms.device:
            self.window, self.filters = self.window.to(waveforms.device), self.filters.to(waveforms.device)
        total = min(self.max_samples, num_frames * HOP + WINDOW)
        waveforms = F.pad(waveforms, (0, total - waveforms.size(1)))
        spectrum = torch.stft(waveforms, WINDOW, HOP, window=self.window, return_complex=True)
        spectrum = torch.view_as_real(spectrum[..., :num_frames])
        mel = self.filters @ spectrum.square().sum(-1)
        log_mel = mel.clamp(min=1e-10).log10()
        floor = log_mel.amax(dim=(1, 2), keepdim=True) - 8.0
        return (torch.maximum(log_mel, floor) + 4.0) / 4.0


class WhisperTeacher(Teacher):
    """Features at 50 Hz: an utterance of N samples gives ceil(floor(N / 160) / 2) frames."""

    def __init__(self, encoder: nn.Module, max_frames: int, **description):
        super().__init__(encoder, frame_rate_hz=16000 / SAMPLES_PER_FRAME, **description)
        self.max_samples = max_frames * SAMPLES_PER_FRAME
        self.log_mel = LogMel(encoder.conv1.in_channels, self.max_samples)
        self.feature_tap = FeatureTap(encoder.layers, self.layers, self.kind, lambda block: block.fc2)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        full = lengths // self.max_samples
        return full * (self.max_samples // SAMPLES_PER_FRAME) + _window_frames(lengths % self.max_samples)

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        if waveforms.size(1) <= self.max_samples:
            return self._extract_windows(waveforms, lengths)
        pieces, piece_lengths, counts = self._cut(waveforms, lengths)
        features = self._extract_windows(pieces, piece_lengths)
        return {layer: self._join(value, piece_lengths, counts) for layer, value in features.items()}

    def _extract_windows(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        """Layer -> [B, T, D] of waveforms [B, N] that fit in one window."""
        encoder, frames = self.module, _window_frames(lengths)
        attended = (frames + TAIL).clamp(max=self.max_samples // SAMPLES_PER_FRAME)
        longest = int(attended.max())
        mel = self.log_mel(waveforms, min(self.max_samples // HOP, 2 * longest + 1)).to(self.dtype)
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        hidden = hidden[:, :longest] + encoder.embed_positions.weight[:longest]
        mask = None
        if int(attended.min()) < longest:
            mask = ~lengths_to_padding_mask(attended, longest)[:, None, None, :]
        for block in encoder.layers:
            hidden = block(hidden, mask)
        longest = int(frames.max())
        return {layer: value[:, :longest] for layer, value in self.feature_tap.take().items()}

    def _cut(self, waveforms: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor, List[int]]:
        """Windows [W, max_samples] of all utterances in order, their lengths [W], and how many each utterance has."""
        pieces, piece_lengths, counts = [], [], []
        for waveform, length in zip(waveforms, lengths.tolist()):
            starts = [s for s in range(0, length, self.max_samples) if length - s >= HOP]
            counts.append(len(starts))
            for start in starts:
                piece = waveform[start : start + self.max_samples]
                pieces.append(F.pad(piece, (0, self.max_samples - piece.numel())))
                piece_lengths.append(min(length - start, self.max_samples))
        return torch.stack(pieces), torch.tensor(piece_lengths, device=lengths.device), counts

    def _join(self, features: Tensor, piece_lengths: Tensor, counts: List[int]) -> Tensor:
        """[B, T, D] from the windows' features [W, T', D]."""
        valid = [window[:size] for window, size in zip(features, _window_frames(piece_lengths).tolist())]
        utterances = [torch.cat(valid[end - count : end]) for count, end in zip(counts, _running_sum(counts))]
        return nn.utils.rnn.pad_sequence(utterances, batch_first=True)


def _window_frames(lengths: Tensor) -> Tensor:
    return (lengths // HOP + 1) // 2


def _running_sum(counts: List[int]) -> List[int]:
    return torch.tensor(counts).cumsum(0).tolist()


def load_whisper(spec: str, config: Dict[str, Any], state: Dict[str, Tensor], **request: Any) -> WhisperTeacher:
    """The Whisper encoder of a config.json and the weights beside it; those of the decoder may be absent."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    settings = WhisperConfig.from_dict(config)
    num_layers = settings.encoder_layers
    settings.encoder_layers = max(1, *check_request(spec, request["layers"], request["kind"], num_layers))
    settings.encoder_layerdrop = 0.0
    settings._attn_implementation = "sdpa"
    encoder = WhisperEncoder(settings)  # its last norm is part of no layer's raw output, and is not run
    load_into(encoder, state, PREFIXES, spec)
    return WhisperTeacher(
        encoder, settings.max_source_positions, spec=spec, num_layers=num_layers, width=settings.d_model, **request
    )
