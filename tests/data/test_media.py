"""Containers that libsndfile does not read: samples, lengths, damage, and what to install."""

import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from colld_fairseq.data import media
from colld_fairseq.data.audio import audio_blocks, audio_info, audio_length, find_zip_members, read_audio
from colld_fairseq.errors import AudioError

av = pytest.importorskip("av")
RATE = 16000
KINDS = {
    "m4a": "aac",
    "mp4": "aac",
    "mov": "aac",
    "webm": "libopus",
    "mkv": "pcm_s16le",
    "avi": "pcm_s16le",
    "aac": "aac",
}


@pytest.fixture(params=["av", "ffmpeg"])
def decoder(request, monkeypatch):
    """Either of the two that there may be."""
    if request.param == "ffmpeg":
        if not shutil.which("ffmpeg"):
            pytest.skip("ffmpeg is not installed")
        monkeypatch.setattr(media.importlib.util, "find_spec", lambda name: None)


def sweep(seconds, rate, channels=1):
    """Samples int16 [N, channels], a rising tone, the second channel at half the loudness."""
    time = np.arange(int(seconds * rate)) / rate
    tone = 9000 * np.sin(2 * np.pi * (200 * time + 300 / seconds * time**2))
    return np.round(tone[:, None] * [1, 0.5][:channels]).astype(np.int16)


def encode(path, samples, rate, codec, video=False, **options):
    layout = "stereo" if samples.shape[1] == 2 else "mono"
    with av.open(str(path), "w", options=options) as container:
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if video:
            for _ in range(5):
                black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                container.mux(pictures.encode(black))
            container.mux(pictures.encode(None))
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def similarity(one, other):
    """Of the best shift up to 0.1 s: correlation of the middle."""
    middle, around = one[8000:24000], other[6400:25600]
    products = np.correlate(around, middle, mode="valid")
    energies = np.convolve(around.astype(float) ** 2, np.ones(len(middle)), mode="valid")
    return float((products / np.sqrt(energies * np.sum(middle.astype(float) ** 2))).max())


@pytest.mark.parametrize("rate, channels", [(16000, 1), (44100, 2)])
def test_lossless_tracks_are_read_to_the_sample(rate, channels, decoder, tmp_path):
    samples = sweep(2, rate, channels)
    path = encode(tmp_path / "a.mkv", samples, rate, "pcm_s16le")
    soundfile.write(tmp_path / "a.wav", samples, rate)
    expected = read_audio(str(tmp_path / "a.wav"))
    np.testing.assert_allclose(read_audio(path), expected, atol=1e-6)
    assert audio_info(path) == (len(expected), rate, channels)
    assert audio_length(path) == audio_length(str(tmp_path / "a.wav"))
    np.testing.assert_allclose(np.concatenate(list(audio_blocks(path))), expected, atol=2e-4)
    segment = f":{rate // 2}:{rate}"
    np.testing.assert_allclose(read_audio(path + segment), read_audio(str(tmp_path / "a.wav") + segment), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_have(kind, decoder, tmp_path):
    samples = sweep(2, 48000)
    path = encode(tmp_path / f"a.{kind}", samples, 48000, KINDS[kind], video=kind in ("mp4", "mov"))
    soundfile.write(tmp_path / "a.wav", samples, 48000)
    waveform, expected = read_audio(path), read_audio(str(tmp_path / "a.wav"))
    assert audio_info(path) == (len(waveform), 48000, 1)
    assert abs(len(waveform) - len(expected)) < 0.15 * RATE  # encoders pad
    assert similarity(expected, waveform) > 0.99


def test_blocks_are_small_and_decoded_as_they_are_asked_for(decoder, tmp_path, monkeypatch):
    path = encode(tmp_path / "a.m4a", sweep(20, RATE), RATE, "aac")
    monkeypatch.setattr(media, "_BUFFER", 1 << 16)
    blocks = [len(block) for block in audio_blocks(path)]
    assert max(blocks) < 2 * RATE and sum(blocks) == audio_info(path).num_samples == len(read_audio(path))


def test_a_segment_is_decoded_once_and_no_further_than_it_goes(decoder, tmp_path, monkeypatch):
    path = encode(tmp_path / "a.m4a", sweep(20, RATE), RATE, "aac")
    whole, plain, decoded = read_audio(path), media.Track.blocks, []

    def blocks(track):
        decoded.append(0)
        for block in plain(track):
            decoded[-1] += len(block)
            yield block

    monkeypatch.setattr(media.Track, "blocks", blocks)
    monkeypatch.setattr(media, "_BUFFER", 1 << 16)
    segment = f"{path}:{RATE}:{2 * RATE}"
    np.testing.assert_array_equal(read_audio(segment), whole[RATE : 3 * RATE])
    np.testing.assert_array_equal(np.concatenate(list(audio_blocks(segment))), whole[RATE : 3 * RATE])
    assert audio_info(segment) == (2 * RATE, RATE, 1)
    assert len(decoded) == 3 and max(decoded) < 6 * RATE
    for start, length in ((19 * RATE, 2 * RATE), (len(whole), 1), (5, 0)):
        for read in (read_audio, audio_info, lambda name: list(audio_blocks(name))):
            message = rf"{start}:{length}: the segment is not inside its file, which has {len(whole)} samples"
            with pytest.raises(AudioError, match=message):
                read(f"{path}:{start}:{length}")
    assert len(decoded) == 12


@pytest.mark.parametrize("rate, channels", [(0, 1), (500, 1), (2e9, 1), (RATE, 0)])
def test_rates_and_channels_of_no_recording(rate, channels, decoder, tmp_path):
    """In Matroska's elements SamplingFrequency and Channels."""
    content = Path(encode(tmp_path / "a.mkv", sweep(1, RATE), RATE, "pcm_s16le")).read_bytes()
    sound = b"\x9f\x81\x01\xb5\x88" + struct.pack(">d", RATE)
    assert content.count(sound) == 1
    damaged = b"\x9f\x81" + bytes([channels]) + b"\xb5\x88" + struct.pack(">d", rate)
    (tmp_path / "b.mkv").write_bytes(content.replace(sound, damaged))
    for read in (audio_info, read_audio):
        with pytest.raises(AudioError, match=r"b\.mkv: (a sampling rate of|cannot be decoded)"):
            read(str(tmp_path / "b.mkv"))


def test_members_of_archives(decoder, tmp_path):
    path = encode(tmp_path / "a.webm", sweep(1, 48000), 48000, "libopus")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.webm")
    member = find_zip_members(str(tmp_path / "a.zip"))["a.webm"]
    np.testing.assert_array_equal(read_audio(member), read_audio(path))


@pytest.mark.parametrize("kind, options", [("m4a", {"movflags": "faststart"}), ("m4a", {}), ("webm", {}), ("mkv", {})])
def test_truncated_files_are_named(kind, options, decoder, tmp_path):
    path = tmp_path / f"half.{kind}"
    encode(path, sweep(6, 48000), 48000, KINDS[kind], **options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=rf"half\.{kind}: (truncated|cannot be decoded)"):
        audio_info(str(path))
    with pytest.raises(AudioError, match=rf"half\.{kind}: "):
        list(audio_blocks(str(path)))


@pytest.mark.parametrize(
    "content",
    [b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(range(256)), b"\0\0\0\x1cftypM4A \0\0\2\0" + bytes(99)],
)
def test_damaged_files_are_named(content, decoder, tmp_path):
    path = tmp_path / "song.mp3"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"song\.mp3: "):
        audio_info(str(path))


def test_pictures_without_sound(decoder, tmp_path):
    path = str(tmp_path / "silent.mp4")
    with av.open(path, "w") as container:
        pictures = container.add_stream("mpeg4", rate=10)
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(pictures.encode(None))
    with pytest.raises(AudioError, match=r"silent\.mp4: no audio track"):
        audio_info(path)
