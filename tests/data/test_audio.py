import io
import os
import zipfile

import numpy as np
import pytest
import soundfile

from colld_fairseq.data.audio import (
    audio_info,
    find_zip_members,
    read_audio,
    resampled_length,
    split_zip_spec,
)
from colld_fairseq.errors import AudioError

FORMATS = {
    "tone.wav": ("WAV", "PCM_16"),
    "tone.flac": ("FLAC", "PCM_16"),
    "tone.ogg": ("OGG", "VORBIS"),
    "tone.opus": ("OGG", "OPUS"),
    "tone.mp3": ("MP3", "MPEG_LAYER_III"),
}


def tone(seconds=0.5, rate=16000, hz=440.0):
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def encode(samples, rate=16000, kind="tone.wav"):
    data = io.BytesIO()
    container, subtype = FORMATS[kind]
    soundfile.write(data, samples, rate, format=container, subtype=subtype)
    return data.getvalue()


def save(path, data):
    path.write_bytes(data)
    return str(path)


def peak_hz(waveform, rate=16000):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 1 << 17))
    return np.argmax(spectrum) * rate / (1 << 17)


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(tmp_path, kind):
    original = tone()
    path = save(tmp_path / kind, encode(original, kind=kind))
    waveform = read_audio(path)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert audio_info(path) == (len(waveform), 16000, 1)
    assert abs(len(waveform) - len(original)) <= (1152 * 2 if kind == "tone.mp3" else 0)
    assert abs(peak_hz(waveform) - 440) < 2
    assert 0.28 < np.abs(waveform[2000:-2000]).max() < 0.32
    if kind in ("tone.wav", "tone.flac"):
        assert np.abs(waveform - original).max() < 1e-4


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("length", [5, 4001, 17777])
def test_resampling_and_length(tmp_path, rate, length):
    path = save(tmp_path / "tone.wav", encode(tone(3, rate)[:length], rate))
    waveform = read_audio(path)
    assert audio_info(path).num_samples == len(waveform) == resampled_length(length, rate, 16000)
    assert abs(len(waveform) - length * 16000 / rate) <= 0.5
    if length > 10000:
        assert abs(peak_hz(waveform) - 440) < 2
        assert 0.29 < np.abs(waveform[500:-500]).max() < 0.31


def test_channels_are_averaged(tmp_path):
    left, right = tone(hz=300), tone(hz=500)
    path = save(tmp_path / "tone.wav", encode(np.stack([left, right], axis=1)))
    assert np.abs(read_audio(path) - (left + right) / 2).max() < 1e-4
    stereo = save(tmp_path / "44k.wav", encode(np.stack([tone(rate=44100), -tone(rate=44100)], axis=1), 44100))
    assert audio_info(stereo) == (8000, 44100, 2)
    assert np.abs(read_audio(stereo)).max() < 1e-4


@pytest.mark.parametrize("kind", FORMATS)
def test_segments(tmp_path, kind):
    """As fairseq's raw-audio manifests name them: offset and length in samples."""
    path = save(tmp_path / kind, encode(tone(1), 16000, kind))
    whole = read_audio(path)
    for start, length in ((0, 10), (1234, 5000), (15000, len(whole) - 15000)):
        assert np.array_equal(read_audio(f"{path}:{start}:{length}"), whole[start : start + length])
        assert audio_info(f"{path}:{start}:{length}") == (length, 16000, 1)
    for start, length in ((15000, 5000), (len(whole), 1), (5, 0), (10**30, 5)):
        for read in (read_audio, audio_info):
            with pytest.raises(AudioError, match=f"{start}:{length}: the segment is not inside its file.*16000 Hz"):
                read(f"{path}:{start}:{length}")


def test_segments_count_samples_of_the_file(tmp_path):
    left, right = tone(2, 44100, 300), tone(2, 44100, 600)
    path = save(tmp_path / "a.wav", encode(np.concatenate((left, right)), 44100))
    assert audio_info(f"{path}:88200:44100").num_samples == 16000
    assert abs(peak_hz(read_audio(f"{path}:88200:44100")) - 600) < 2


def test_a_file_comes_before_a_segment(tmp_path):
    path = save(tmp_path / "a.wav", encode(tone(1)))
    assert len(read_audio(f"{path}:10:20")) == 20
    save(tmp_path / "a.wav:10:20", encode(tone(0.25)))
    assert len(read_audio(f"{path}:10:20")) == 4000
    with pytest.raises(AudioError, match="b.wav:10:20: cannot be read.*No such file"):
        read_audio(str(tmp_path / "b.wav:10:20"))


def test_zip_members(tmp_path):
    archive = tmp_path / "with:colon.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        for index, kind in enumerate(FORMATS):
            member = zipfile.ZipInfo(f"дир/{kind}")
            member.extra = b"\xfe\xca\x04\x00abcd" * index  # the directory's extra field need not equal the local one
            out.writestr(member, encode(tone(hz=300 + 50 * index), kind=kind))
        out.writestr("empty/", b"")
    specs = find_zip_members(str(archive))
    assert list(specs) == [f"дир/{kind}" for kind in FORMATS]
    for index, spec in enumerate(specs.values()):
        assert abs(peak_hz(read_audio(spec)) - (300 + 50 * index)) < 2
        assert audio_info(spec).num_samples == len(read_audio(spec))


def test_zip_spec_parsing():
    assert split_zip_spec("/a/b.zip:12:34") == ("/a/b.zip", 12, 34)
    assert split_zip_spec("C:x.zip:1:2.zip:3:4") == ("C:x.zip:1:2.zip", 3, 4)
    assert split_zip_spec("/a/2015-09:08:11.wav") is None
    assert split_zip_spec("/a/rec:08:11") is None


def test_colons_in_file_names(tmp_path):
    assert len(read_audio(save(tmp_path / "2015:09:08.wav", encode(tone())))) == 8000


def test_compressed_zip_members(tmp_path):
    archive = str(tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("x.wav", encode(np.zeros(8000)))
    with zipfile.ZipFile(archive) as back:
        size = back.infolist()[0].compress_size
    with pytest.raises(AudioError, match=r"a\.zip: member 'x\.wav' is compressed; .*zip -0"):
        find_zip_members(archive)
    with pytest.raises(AudioError, match=r"'x\.wav' is compressed.*zip -0"):
        read_audio(f"{archive}:35:{size}")  # 30 bytes of header and 5 of name


def test_wrong_zip_addresses(tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("x.wav", encode(tone()))
        out.writestr("y.txt", "no audio")
    spec = find_zip_members(str(archive))
    with pytest.raises(AudioError, match="no member of the archive lies there"):
        read_audio(f"{archive}:3:100")
    with pytest.raises(AudioError, match="archive ends before"):
        read_audio(f"{archive}:{archive.stat().st_size - 5}:100")
    with pytest.raises(AudioError, match=r"'y\.txt' is no wav"):
        read_audio(spec["y.txt"])
    with pytest.raises(AudioError, match="no.zip.*cannot be read"):
        read_audio(str(tmp_path / "no.zip:1:2"))
    with pytest.raises(AudioError, match="cannot be read as a zip"):
        find_zip_members(save(tmp_path / "bad.zip", b"PK"))
    # a member whose name claims to be UTF-8 and is not
    latin = save(tmp_path / "latin.zip", archive.read_bytes().replace(b"x.wav", b"\xe9.wav"))
    data = bytearray((tmp_path / "latin.zip").read_bytes())
    data[data.index(b"PK\1\2") + 9] |= 8
    with pytest.raises(AudioError, match="latin.zip: cannot be read as a zip"):
        find_zip_members(save(tmp_path / "latin.zip", bytes(data)))
    with pytest.raises(AudioError, match="latin.zip.*not a readable zip"):
        read_audio(f"{latin}:3:50")
    with pytest.raises(AudioError, match="not a readable zip"):
        read_audio(save(tmp_path / "bad.zip", b"PK not a zip") + ":0:5")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
def test_truncated_files(tmp_path, kind, share):
    noise = np.random.default_rng(0).normal(scale=0.1, size=32000)  # does not compress: every cut hurts
    data = encode(noise, kind=kind)
    path = save(tmp_path / kind, data[: int(len(data) * share)])
    with pytest.raises(AudioError, match=kind):
        read_audio(path)


def test_bad_samples(tmp_path):
    path = str(tmp_path / "nan.wav")
    for value in (np.nan, np.inf):
        samples = tone()
        samples[77] = value
        soundfile.write(path, samples, 16000, subtype="FLOAT")
        with pytest.raises(AudioError, match=r"nan\.wav: 1 sample\(s\) are NaN or infinite"):
            read_audio(path)


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("value", [1e10, -1e20, 3e38])
def test_absurdly_large_samples(tmp_path, value, rate):
    """Finite, but resampling and filterbanks would make them infinite."""
    samples = np.stack([tone(), tone()], axis=1)
    samples[77] = value
    path = str(tmp_path / "loud.wav")
    soundfile.write(path, samples, rate, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"loud\.wav: .*(absurdly large|infinite)"):
        read_audio(path)


def test_float_samples_on_an_integer_scale_are_fine(tmp_path):
    path = str(tmp_path / "int.wav")
    soundfile.write(path, tone() * 2**31, 44100, subtype="FLOAT")
    assert np.isfinite(read_audio(path)).all()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize("channels, rate", [(1, 7333), (2, 96000), (8, 16000)])
def test_sample_types(tmp_path, subtype, channels, rate):
    samples = np.stack([tone(0.5, rate)] * channels, axis=1)
    path = str(tmp_path / "a.wav")
    soundfile.write(path, samples, rate, subtype=subtype)
    waveform = read_audio(path)
    assert audio_info(path) == (len(waveform), rate, channels)
    assert abs(peak_hz(waveform) - 440) < 3
    soundfile.write(path, samples[:1], rate, subtype=subtype)
    if rate > 2 * 16000:  # half a sample is none
        for read in (audio_info, read_audio):
            with pytest.raises(AudioError, match="no samples"):
                read(path)
    else:
        assert audio_info(path).num_samples == len(read_audio(path)) == round(16000 / rate)


FOREIGN = {
    "page.mp3": (b"<!DOCTYPE html><html>404</html>" * 9, "a web page"),
    "answer.wav": (b'{"error": "quota"}' * 9, "JSON"),
    "words.flac": (b"version https://git-lfs.github.com/spec/v1", "a text"),
    "zeros.ogg": (bytes(5000), "not recognised"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_are_no_audio(tmp_path, name):
    content, what = FOREIGN[name]
    with pytest.raises(AudioError, match=f"{name}: not audio that can be read .*{what}.*accepted are wav"):
        audio_info(save(tmp_path / name, content))


def test_names_that_are_not_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    with open(path, "wb") as handle:
        handle.write(encode(tone()))
    assert audio_info(path).num_samples == len(read_audio(path)) == 8000
    with open(path, "wb") as handle:
        handle.write(encode(tone())[:-5])
    with pytest.raises(AudioError, match=r"caf\\udce9\.wav: truncated") as caught:
        read_audio(path)
    str(caught.value).encode()  # can be printed


@pytest.mark.parametrize("address", ["https://x.org/a.wav", "/corpus/https://x.org/a.wav"])
def test_addresses_are_told(address):
    with pytest.raises(AudioError, match="cannot be read.*it is an address.*download it first"):
        audio_info(address)


def test_a_pipe_is_told():
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb"):
        with pytest.raises(AudioError, match=f"/dev/fd/{reading}: is a pipe or a device.*write it to one first"):
            audio_info(f"/dev/fd/{reading}")


def test_nothing_to_read(tmp_path):
    with pytest.raises(AudioError, match=r"zero\.wav: no samples"):
        read_audio(save(tmp_path / "zero.wav", encode(np.zeros(0))))
    with pytest.raises(AudioError, match=r"empty\.wav: the file is empty"):
        read_audio(save(tmp_path / "empty.wav", b""))
    with pytest.raises(AudioError, match=r"text\.wav: not audio"):
        read_audio(save(tmp_path / "text.wav", b"these are words, not samples" * 100))
    with pytest.raises(AudioError, match=r"missing\.wav: cannot be read \(No such file"):
        read_audio(str(tmp_path / "missing.wav"))
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio(str(tmp_path))
