"""Filterbanks of a waveform that arrives piece by piece."""

from typing import Callable, Optional

import numpy as np

from colld_fairseq.data.fbank import NUM_BINS, SAMPLE_RATE, kaldi_extractor, kaldi_samples
from colld_fairseq.errors import AudioError


class OnlineFbank:
    """`log_mel_fbank` of one stream, frame for frame the same whatever the pieces.

    A frame is there once its 25 ms have arrived, or with `finish`. Only samples that a later frame needs are kept.

    Args:
        normalize: [T, bins] -> [T, bins], frame by frame (a GlobalCmvn); none by default.
        variant: of the filterbanks, one of `data.fbank.VARIANTS`.
    """

    def __init__(
        self,
        normalize: Optional[Callable[[np.ndarray], np.ndarray]] = None,
        num_bins: int = NUM_BINS,
        variant: str = "kaldi",
    ) -> None:
        self.normalize, self.num_bins, self.variant = normalize, num_bins, variant
        self.frames = 0  # handed out so far
        self._extractor = kaldi_extractor(num_bins, variant)

    def accept(self, waveform: np.ndarray) -> np.ndarray:
        """The frames that the next samples [N] (at 16 kHz: float in [-1, 1], or int16) complete, float32 [n, bins]."""
        if waveform.ndim != 1:
            raise AudioError(f"a stream takes mono samples [N], not an array of shape {waveform.shape}")
        if waveform.dtype == np.int16:
            waveform = waveform / np.float32(1 << 15)
        elif not np.issubdtype(waveform.dtype, np.floating):
            raise AudioError(f"a stream takes float or int16 samples, not {waveform.dtype}")
        if len(waveform):
            self._extractor.accept_waveform(SAMPLE_RATE, kaldi_samples(waveform, self.variant))
        return self._ready()

    def finish(self) -> np.ndarray:
        """No more samples will come: the frames that reach beyond the end, float32 [n, bins] ("kaldi" has none)."""
        self._extractor.input_finished()
        return self._ready()

    def _ready(self) -> np.ndarray:
        """Frames that are complete and not handed out yet, normalized."""
        ready = range(self.frames, self._extractor.num_frames_ready)
        frames = np.array([self._extractor.get_frame(i) for i in ready], dtype=np.float32).reshape(-1, self.num_bins)
        self._extractor.pop(len(ready))
        self.frames += len(ready)
        return frames if self.normalize is None or not len(ready) else self.normalize(frames)
