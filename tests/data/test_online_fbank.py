"""Filterbanks of a stream are those of the whole utterance."""

import numpy as np
import pytest

from colld_fairseq.data.fbank import VARIANTS, GlobalCmvn, log_mel_fbank
from colld_fairseq.data.online_fbank import OnlineFbank
from colld_fairseq.errors import AudioError


def noise(samples):
    return (0.1 * np.random.default_rng(3).standard_normal(samples)).astype(np.float32)


def pieces(waveform, longest):
    generator = np.random.default_rng(longest)
    at = 0
    while at < len(waveform):
        size = int(generator.integers(0, longest + 1))
        yield waveform[at : at + size]
        at += size


@pytest.mark.parametrize("longest", [1, 159, 161, 1000, 40000])
@pytest.mark.parametrize("samples", [0, 79, 80, 399, 400, 401, 9999])
@pytest.mark.parametrize("variant", VARIANTS)
def test_pieces_of_any_size(longest, samples, variant):
    waveform, online = noise(samples), OnlineFbank(variant=variant)
    frames = [online.accept(piece) for piece in pieces(waveform, longest)]
    frames.append(online.finish())
    assert not (variant == "kaldi" and len(frames[-1]))
    expected = log_mel_fbank(waveform, variant=variant)
    np.testing.assert_array_equal(np.concatenate(frames), expected)
    assert online.frames == len(expected)


def test_a_frame_is_there_as_soon_as_its_samples_are():
    online = OnlineFbank()
    assert [len(online.accept(noise(n))) for n in (399, 1, 159, 1, 320, 0)] == [0, 1, 0, 1, 2, 0]


def test_frames_of_icefall_reach_beyond_both_ends():
    online = OnlineFbank(variant="icefall")
    assert [len(online.accept(noise(n))) for n in (279, 1, 159, 1, 320)] == [0, 1, 0, 1, 2]
    assert len(online.finish()) == 1  # 760 samples


@pytest.mark.parametrize("variant", VARIANTS)
def test_normalized_frame_by_frame(variant):
    waveform = noise(8000)
    fbank = log_mel_fbank(waveform, variant=variant)
    statistics = GlobalCmvn.fit([fbank])
    online = OnlineFbank(statistics, variant=variant)
    frames = np.concatenate([*(online.accept(piece) for piece in pieces(waveform, 500)), online.finish()])
    np.testing.assert_array_equal(frames, statistics(fbank))


def test_samples_of_16_bits():
    integers = (noise(3000) * 20000).astype(np.int16)
    np.testing.assert_allclose(
        OnlineFbank().accept(integers), log_mel_fbank(integers.astype(np.float32) / 32768), atol=1e-5
    )
    with pytest.raises(AudioError, match="int32"):
        OnlineFbank().accept(integers.astype(np.int32))
    with pytest.raises(AudioError, match="mono"):
        OnlineFbank().accept(noise(800).reshape(2, 400))


def test_frames_that_were_handed_out_are_forgotten():
    """The extractor keeps what was not popped: a stream of hours would fill the memory."""
    online, forgotten = OnlineFbank(), 0
    for piece in pieces(noise(16000), 700):
        online.accept(piece)
        for frame in range(forgotten, online.frames):
            with pytest.raises(RuntimeError, match="removed"):
                online._extractor.get_frame(frame)
        forgotten = online.frames
    assert forgotten == 98
