"""Audio in any form that people hold: the same waveform, or one line that says what is wanted."""

import numpy as np
import pytest
import soxr
import torch

from colld_fairseq.data.waveform import as_waveform
from colld_fairseq.errors import AudioError

SAMPLES = np.round(np.random.default_rng(0).uniform(-0.9, 0.9, 400) * 128).astype(np.int64)  # exact in 8 bits
WAVEFORM = (SAMPLES / 128).astype(np.float32)


@pytest.mark.parametrize(
    "audio",
    [
        WAVEFORM,
        WAVEFORM.astype(np.float64),
        WAVEFORM.astype(np.float16),
        WAVEFORM.tolist(),
        tuple(WAVEFORM.tolist()),
        WAVEFORM[None],
        WAVEFORM[:, None],
        [WAVEFORM.tolist()],
        SAMPLES.astype(np.int8),
        (SAMPLES + 128).astype(np.uint8),
        (SAMPLES * 256).astype(np.int16),
        (SAMPLES * 256).astype(">i2"),
        (SAMPLES << 24).astype(np.int32),
        torch.from_numpy(WAVEFORM),
        torch.from_numpy(WAVEFORM).to(torch.bfloat16),
        torch.from_numpy(WAVEFORM)[None].requires_grad_(),
        torch.from_numpy((SAMPLES * 256).astype(np.int16)),
        np.repeat(WAVEFORM, 2)[::2],
    ],
)
def test_the_same_waveform(audio):
    waveform = as_waveform(audio)
    assert waveform.dtype == np.float32 and waveform.flags["C_CONTIGUOUS"]
    assert np.array_equal(waveform, WAVEFORM)


@pytest.mark.parametrize("audio", [[], np.zeros(0), np.zeros((1, 0), np.int16), torch.zeros(0), [[]]])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_nothing_is_an_empty_waveform(audio, rate):
    assert as_waveform(audio, rate).shape == (0,)


@pytest.mark.parametrize("rate", [8000, 44100, np.int64(48000)])
def test_other_rates_are_resampled_as_files_are(rate):
    assert np.array_equal(as_waveform(WAVEFORM.tolist(), rate), soxr.resample(WAVEFORM, int(rate), 16000, quality="HQ"))


@pytest.mark.parametrize(
    "audio, rate, message",
    [
        (np.zeros((2, 100)), 16000, r"shape \(2, 100\).*average several channels"),
        (np.float32(0.5), 16000, r"shape \(\)"),
        (SAMPLES, 16000, "int64, whose full scale is not known"),
        (SAMPLES > 0, 16000, "type bool"),
        ("a.wav", 16000, r"shape \(\)"),
        ([[0.1, 0.2], [0.3]], 16000, "no array of samples"),
        ([0.1, float("nan")], 16000, "NaN or infinite"),
        (WAVEFORM, 0, "sample_rate 0"),
        (WAVEFORM, 16000.5, "sample_rate 16000.5"),
        (WAVEFORM, None, "sample_rate None"),
    ],
)
def test_anything_else_is_an_error_in_one_line(audio, rate, message):
    with pytest.raises(AudioError, match=message) as caught:
        as_waveform(audio, rate)
    assert "\n" not in str(caught.value)
