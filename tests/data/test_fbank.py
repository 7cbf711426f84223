import time

import numpy as np
import pytest
import torch

from colld_fairseq.data.fbank import GlobalCmvn, fbank_length, log_mel_fbank, utterance_cmvn
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.online_fbank import OnlineFbank
from colld_fairseq.errors import AudioError
from colld_fairseq.modules.input_config import InputConfig


def speech_like(seconds=1.0, seed=0):
    rng = np.random.default_rng(seed)
    time_axis = np.arange(int(16000 * seconds)) / 16000
    voice = sum(np.sin(2 * np.pi * 130 * k * time_axis) / k for k in range(1, 20))
    return (0.05 * voice * (1 + np.sin(8 * time_axis)) + 0.003 * rng.normal(size=len(time_axis)) + 0.01).astype(
        np.float32
    )


def mirrored(samples, index):
    """The sample at an index that may lie beyond the ends, where the utterance is mirrored (the last one doubled)."""
    period = index % (2 * len(samples))
    return samples[min(period, 2 * len(samples) - 1 - period)]


def framed(samples, snip_edges):
    """[T, 400]: within the utterance, or centered in each 10 ms of it."""
    if snip_edges:
        return np.stack([samples[i : i + 400] for i in range(0, len(samples) - 399, 160)])
    centers = range(80, len(samples) + 1, 160)
    return np.array([[mirrored(samples, center + k) for k in range(-200, 200)] for center in centers])


def kaldi_fbank(waveform, num_bins=80, scale=32768, high_freq=8000.0, snip_edges=True):
    """Kaldi's compute-fbank-feats --dither=0 written out in float64 (feature-window.cc, mel-computations.cc)."""
    frames = framed(waveform.astype(np.float64) * scale, snip_edges)
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frames, 512)) ** 2

    def mel(hz):
        return 1127.0 * np.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(20.0), mel(high_freq), num_bins + 2)
    bins = mel(np.arange(256) * 16000 / 512)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0, np.minimum(rising, falling))
    return np.log(np.maximum(power[:, :256] @ weights.T, np.finfo(np.float32).eps))


@pytest.mark.parametrize("num_bins", [80, 40])
def test_equals_kaldi_written_out(num_bins):
    waveform = speech_like()
    ours = log_mel_fbank(waveform, num_bins)
    expected = kaldi_fbank(waveform, num_bins)
    assert ours.dtype == np.float32 and ours.shape == expected.shape == (98, num_bins)
    assert np.abs(ours - expected).max() < 2e-3
    assert expected.std() > 1  # the comparison is not one of constants


ICEFALL = dict(scale=1, high_freq=7600.0, snip_edges=False)


@pytest.mark.parametrize("samples", [16_000, 15_999, 401, 200, 80])
def test_equals_icefall_written_out(samples):
    """Its frames at both ends are those of the utterance mirrored there, as often as it takes."""
    waveform = speech_like()[:samples]
    ours, expected = log_mel_fbank(waveform, variant="icefall"), kaldi_fbank(waveform, **ICEFALL)
    assert ours.shape == expected.shape == ((samples + 80) // 160, 80)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    assert samples < 400 or np.abs(ours[:-2] - log_mel_fbank(waveform)[: len(ours) - 2]).max() > 1


def test_icefall_of_noise_in_the_last_bit_is_its_energy_floor():
    """Without the scale of 16 bits it counts as silence, in the low bins."""
    noise = np.random.default_rng(5).integers(-1, 2, 16_000).astype(np.float32) / 32768
    floor = np.log(np.finfo(np.float32).eps)
    ours, expected = log_mel_fbank(noise, variant="icefall"), kaldi_fbank(noise, **ICEFALL)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)
    assert np.isclose(ours[:, :30], floor, atol=1e-5).mean() > 0.99
    assert log_mel_fbank(noise).min() > floor + 5


@pytest.mark.parametrize("variant, framed_samples", [("kaldi", range(400, 2001)), ("icefall", range(80, 2001))])
def test_frames_of_every_short_length(variant, framed_samples):
    """As many as are computed, and none where no frame fits."""
    waveform, lengths = speech_like(), np.arange(2001)
    counts = [len(log_mel_fbank(waveform[:samples], num_bins=4, variant=variant)) for samples in lengths]
    assert counts == fbank_length(lengths, variant).tolist()
    assert counts == StudentInput(InputConfig(fbank=variant)).lengths(torch.from_numpy(lengths)).tolist()
    assert [samples for samples in lengths if counts[samples]] == list(framed_samples)


def test_silence_is_finite_and_repeats_are_equal():
    silence = log_mel_fbank(np.zeros(1600, dtype=np.float32))
    assert np.isfinite(silence).all() and np.allclose(silence, np.log(np.finfo(np.float32).eps))
    assert np.array_equal(log_mel_fbank(speech_like()), log_mel_fbank(speech_like()))
    assert np.array_equal(log_mel_fbank(speech_like().astype(np.float64)), log_mel_fbank(speech_like()))


def test_length_is_that_of_kaldi():
    """Every length of a whole frame shift, some long ones, and utterances too short for a frame."""
    waveform = speech_like(25.0)
    for num_samples in [0, 1, 399, *range(400, 722), 15_999, 16_000, 16_001, 399_999, 400_000]:
        assert log_mel_fbank(waveform[:num_samples]).shape == (fbank_length(num_samples), 80), num_samples


def test_length_of_arrays():
    assert fbank_length(np.array([0, 400, 16000])).tolist() == [0, 1, 98]


def test_only_mono():
    with pytest.raises(AudioError, match=r"\(2, 800\)"):
        log_mel_fbank(np.zeros((2, 800), dtype=np.float32))


def test_real_time_factor():
    waveform = speech_like(10)
    started = time.process_time()
    log_mel_fbank(waveform)
    assert (time.process_time() - started) / 10 < 0.02  # measured 0.002


def test_utterance_cmvn():
    features = utterance_cmvn(log_mel_fbank(speech_like()))
    assert features.dtype == np.float32
    assert np.abs(features.mean(axis=0)).max() < 1e-4 and np.abs(features.std(axis=0) - 1).max() < 1e-4
    assert np.array_equal(utterance_cmvn(np.full((5, 3), 7.0, dtype=np.float32)), np.zeros((5, 3)))
    assert utterance_cmvn(np.zeros((0, 3), dtype=np.float32)).shape == (0, 3)


def test_global_cmvn(tmp_path):
    parts = [log_mel_fbank(speech_like(seconds, seed)) for seed, seconds in enumerate((0.3, 0.01, 1.0))]
    cmvn = GlobalCmvn.fit(iter(parts))
    frames = np.concatenate(parts).astype(np.float64)
    assert np.allclose(cmvn.mean, frames.mean(axis=0), atol=1e-10)
    assert np.allclose(cmvn.std, frames.std(axis=0), atol=1e-10)
    cmvn.save(str(tmp_path / "cmvn.npz"))
    loaded = GlobalCmvn.load(str(tmp_path / "cmvn.npz"))
    assert np.array_equal(loaded(parts[0]), cmvn(parts[0])) and loaded(parts[0]).dtype == np.float32
    assert np.allclose(loaded(parts[0]), (parts[0] - frames.mean(axis=0)) / frames.std(axis=0), atol=1e-5)


def test_global_cmvn_is_exact_far_from_zero():
    rng = np.random.default_rng(0)
    parts = [1e6 + rng.normal(size=(50, 4)) for _ in range(4)]
    assert np.allclose(GlobalCmvn.fit(parts).std, np.concatenate(parts).std(axis=0), rtol=1e-6)


def test_global_cmvn_errors(tmp_path):
    with pytest.raises(AudioError, match="no frames"):
        GlobalCmvn.fit([np.zeros((0, 80))])
    with pytest.raises(AudioError, match="none.npz"):
        GlobalCmvn.load(str(tmp_path / "none.npz"))
    np.savez(tmp_path / "half.npz", mean=np.zeros(80))
    with pytest.raises(AudioError, match="half.npz"):
        GlobalCmvn.load(str(tmp_path / "half.npz"))


def test_global_cmvn_is_written_under_its_name_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "stats"  # numpy would append .npz
    GlobalCmvn(np.zeros(80), np.ones(80)).save(str(path))
    before = path.read_bytes()
    GlobalCmvn.load(str(path))

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError):
        GlobalCmvn(np.ones(80), np.ones(80)).save(str(path))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_statistics_are_named(tmp_path):
    good = tmp_path / "good.npz"
    GlobalCmvn(np.zeros(80), np.ones(80)).save(str(good))
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:-50])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_text("mean std")
    np.save(tmp_path / "array.npz.npy", np.zeros(80))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    for name in ("cut", "empty", "text", "array"):
        with pytest.raises(AudioError, match=f"{name}.npz: no CMVN statistics.*colld cmvn"):
            GlobalCmvn.load(str(tmp_path / f"{name}.npz"))
    GlobalCmvn(np.full(80, np.nan), np.ones(80)).save(str(tmp_path / "nan.npz"))
    with pytest.raises(AudioError, match="nan.npz.*not finite"):
        GlobalCmvn.load(str(tmp_path / "nan.npz"))


def test_global_cmvn_of_another_number_of_bins(tmp_path):
    path = str(tmp_path / "forty.npz")
    GlobalCmvn(np.zeros(40), np.ones(40)).save(path)
    assert len(GlobalCmvn.load(path, num_bins=40).mean) == 40
    with pytest.raises(AudioError, match=r"forty.npz.*\(40,\).*80 bins"):
        GlobalCmvn.load(path)


def test_statistics_say_which_filterbanks_they_are_of(tmp_path):
    path = str(tmp_path / "stats.npz")
    GlobalCmvn(np.zeros(80), np.ones(80)).save(path, "icefall")
    assert GlobalCmvn.load(path, variant="icefall").std[0] == 1
    with pytest.raises(AudioError, match="stats.npz: .* of icefall filterbanks, but kaldi ones.*cmvn --fbank kaldi"):
        GlobalCmvn.load(path)
    np.savez(path, mean=np.zeros(80), std=np.ones(80))  # as older versions and fairseq write them
    assert GlobalCmvn.load(path).std[0] == 1
    with pytest.raises(AudioError, match="stats.npz: .* of kaldi filterbanks, but icefall ones.*cmvn --fbank icefall"):
        GlobalCmvn.load(path, variant="icefall")
    np.savez(path, mean=np.zeros(80), std=np.ones(80), fbank="htk")
    with pytest.raises(AudioError, match="stats.npz: .* of 'htk' filterbanks, which are not one of"):
        GlobalCmvn.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e12, -1e30])
@pytest.mark.parametrize(
    "reader", [log_mel_fbank, OnlineFbank().accept, StudentInput(), StudentInput(InputConfig.waveforms(True))]
)
def test_samples_that_would_make_nan(reader, value):
    """Whoever gives a waveform of an utterance or of a stream is told, before it becomes NaN."""
    waveform = np.zeros(800, dtype=np.float32)
    reader(waveform)
    waveform[700] = value
    with pytest.raises(AudioError, match=r"waveform: 1 sample\(s\) are (NaN or infinite|absurdly large)"):
        reader(waveform)
