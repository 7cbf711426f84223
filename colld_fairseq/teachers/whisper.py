"""The encoder of Whisper (Radford et al. 2022) as a teacher, without computing 30 s of silence for each utterance.

Whisper was trained on windows padded to 30 s. Here an utterance costs its own length and half a second: log-mel,
positions and attention cover the utterance and 25 frames of the silence that follows it. Up to the first block
this equals the padded computation; above, it differs by what the blocks would have taken from the rest of the
silence. On an utterance of 29.5 to 30 s both are the same. Measured with the encoder of Whisper base on 24 real
prompts of 0.6 to 8 s in five languages, against the result padded to 30 s (mean over utterances; norm of the
difference over the norm of the padded result, and cosine of frames):

    block                   1      2      3      4      5      6
    relative difference   0.08   0.13   0.16   0.29   0.31   0.34
    the same, no tail     0.10   0.15   0.21   1.34   0.97   0.82
    cosine               0.996  0.991  0.986  0.970  0.962  0.951
    the same, no tail    0.994  0.987  0.979  0.954  0.943  0.917

From block 4 on single frames of silence carry values in the hundreds (attention sinks). Without any silence
the model puts them into the speech, where they would dominate a regression loss: hence the tail.

Utterances longer than 30 s are processed in consecutive windows of 30 s and joined.
"""

import itertools
from dataclasses import replace
from typing import Any, Dict, List, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from colld_fairseq.checkpoints.encoder import EncoderCheckpoint
from colld_fairseq.data.log_mel import (
    FRAMES_PER_SECOND,
    HOP,
    WhisperInput,
    speech_frames,
)
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.teachers.base import Teacher


class WhisperTeacher(Teacher):
    """Features at 50 Hz: an utterance of N samples gives ceil(floor(N / 160) / 2) frames.

    The frames of some silence after an utterance are attended to as well, and given as features where `set_silence` was
    called: for students that are to have the same. The layer after the last block is the encoder's output, after its
    norm.
    """

    def __init__(self, checkpoint: EncoderCheckpoint, **description: Any):
        config = checkpoint.config
        super().__init__(
            checkpoint.build(min(max(description["layers"]), config.layers), description.get("dtype", torch.float32)),
            num_layers=config.layers,
            width=config.embed_dim,
            frame_rate_hz=float(FRAMES_PER_SECOND),
            has_output=True,
            **description,
        )
        self.set_silence(config.input)
        self.keep_silence = False

    def set_silence(self, given: InputConfig) -> None:
        own = self.module.config.input
        seconds = {name: min(getattr(given, name), own.window_seconds) for name in ("tail_seconds", "least_seconds")}
        self.input = WhisperInput(replace(own, **seconds))
        self.max_samples, self.keep_silence = self.input.log_mel.max_samples, True

    def output_lengths(self, lengths: Tensor) -> Tensor:
        full = lengths // self.max_samples
        return full * self.input.window + self._window_frames(lengths % self.max_samples)

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        if waveforms.size(1) <= self.max_samples:
            return self._extract_windows(waveforms, lengths)
        pieces, piece_lengths, counts = self._cut(waveforms, lengths)
        features = self._extract_windows(pieces, piece_lengths)
        return {layer: self._join(value, piece_lengths, counts) for layer, value in features.items()}

    def _extract_windows(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        """Layer -> [B, T, D] of waveforms [B, N] that fit in one window."""
        log_mel_lengths = self.input.lengths(lengths)
        longest, window = int(log_mel_lengths.max()), 2 * self.input.window
        needed = max(longest, min(window, waveforms.size(1) // HOP + 3))
        source = self.input.log_mel(waveforms, needed)[:, :longest].to(self.dtype)
        features = self.module(source, log_mel_lengths, layers=self.layers, kind=self.kind).features
        frames = int(self._window_frames(lengths).max())
        return {layer: value[:, :frames] for layer, value in features.items()}

    def _window_frames(self, lengths: Tensor) -> Tensor:
        """Frames given for utterances of `lengths` samples, none for those of nothing."""
        speech = speech_frames(lengths)
        return self.input.frames(lengths) * (speech > 0) if self.keep_silence else speech

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
        valid = [window[:size] for window, size in zip(features, self._window_frames(piece_lengths).tolist())]
        utterances = [torch.cat(valid[end - count : end]) for count, end in zip(counts, itertools.accumulate(counts))]
        return nn.utils.rnn.pad_sequence(utterances, batch_first=True)
