"""fairseq's S2TDataConfig.standardize_audio is a method read as a value: waveforms are normalized whatever it says."""

import numpy as np
import torch

from colld_fairseq.data.audio import read_audio


def waveform_of(run, corpus):
    run.task.load_dataset("test")
    return run.task.dataset("test")[0]["source"], read_audio(str(corpus / "test-0.wav"))


def test_waveform_is_left_alone_unless_asked(distillation, corpus):
    source, expected = waveform_of(distillation("--front-end", "waveform"), corpus)
    assert np.array_equal(source, expected)


def test_waveform_is_normalized_when_asked(distillation, corpus):
    source, raw = waveform_of(distillation("--front-end", "waveform", "--normalize-waveform"), corpus)
    expected = torch.nn.functional.layer_norm(torch.from_numpy(raw), raw.shape)
    assert torch.allclose(torch.from_numpy(source), expected, atol=1e-4) and not np.allclose(source, raw, atol=1e-2)
