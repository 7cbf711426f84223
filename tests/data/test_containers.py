"""Files are read to their end or refused, whatever their headers say. All made with soundfile and bytes."""

import io
import struct
import zipfile

import numpy as np
import pytest
import soundfile

from colld_fairseq.data.audio import audio_info, find_zip_members, read_audio
from colld_fairseq.errors import AudioError

RATE = 16000
NOISE = np.random.default_rng(0).normal(scale=0.1, size=40001)  # does not compress: every cut hurts
ID3 = b"ID3\3\0\0\0\0\1\0" + bytes(128)
ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<III", 2000, 4000, 1) + bytes(12 + 3968) + b"APETAGEX" + struct.pack("<II", 2000, 4000)
APE += bytes(16)
CHUNK = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"


def encode(container, subtype="PCM_16", samples=NOISE, rate=RATE, **how):
    data = io.BytesIO()
    soundfile.write(data, samples, rate, format=container, subtype=subtype, **how)
    return data.getvalue()


def lengths(tmp_path, data):
    """What audio_info promises and read_audio gives: of a file, and the same of a member of a zip archive."""
    (tmp_path / "a.bin").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.bin", data)
    read = []
    for path in (str(tmp_path / "a.bin"), find_zip_members(str(tmp_path / "a.zip"))["a.bin"]):
        read.append((audio_info(path).num_samples, len(read_audio(path))))
    assert read[0] == read[1]
    return read[0]


def assert_refused(tmp_path, data, match):
    with pytest.raises(AudioError, match=rf"a\.bin: .*{match}"):
        lengths(tmp_path, data)


# -- the length in the header ----------------------------------------------------------------------------------------
# container -> the bytes before its length, how it is written, and what the length counts beside the samples
HEADERS = {
    "WAV": (b"data", "<I", 0),
    "WAVEX": (b"data", "<I", 0),
    "RF64": (b"ds64" + bytes((28, 0, 0, 0)), "<8xq", 0),
    "W64": (bytes.fromhex("64617461f3acd3118cd100c04f8edb8a"), "<q", 24),
    "AIFF": (b"SSND", ">I", 8),
    "AU": (b".snd\0\0\0\x18", ">I", 0),
    "CAF": (b"data", ">q", 4),
    "SVX": (b"BODY", ">I", 0),
}


def with_length(container, length, samples=NOISE):
    data = bytearray(encode(container, samples=samples))
    marker, kind, _ = HEADERS[container]
    at = data.index(marker) + len(marker) + struct.calcsize(kind) - struct.calcsize(kind[0] + kind[-1])
    struct.pack_into(kind[0] + kind[-1], data, at, length)
    return bytes(data)


UNKNOWN = [0, 0x7FFFF000, 0x80000000, 0x7FFFFFFF, 0x7FFFF024, 0xFFFFFFFF, -1]


@pytest.mark.parametrize("container", HEADERS)
@pytest.mark.parametrize("length", UNKNOWN)
def test_length_that_was_not_known(tmp_path, container, length):
    """As pipes, interrupted recorders and streams leave it: all of the audio is read, and its samples are right."""
    if HEADERS[container][1].endswith("I"):
        length %= 1 << 32
    data = with_length(container, length)
    assert lengths(tmp_path, data) == (40001, 40001)
    assert np.abs(read_audio(str(tmp_path / "a.bin")) - NOISE).max() < 1e-4


@pytest.mark.parametrize("container", HEADERS)
def test_length_that_is_wrong(tmp_path, container):
    length = 80002 + HEADERS[container][2]
    assert lengths(tmp_path, with_length(container, length)) == (40001, 40001)
    assert_refused(tmp_path, with_length(container, length - 40000), "4000.*bytes follow the")
    assert_refused(tmp_path, with_length(container, length + 1000), "truncated")


def test_length_of_the_whole_wav_file_does_not_matter(tmp_path):
    data = bytearray(encode("WAV"))
    for length in (0, 100, 0x7FFFF024, 0xFFFFFFFF):
        struct.pack_into("<I", data, 4, length)
        assert lengths(tmp_path, bytes(data)) == (40001, 40001)


@pytest.mark.parametrize("behind", [CHUNK, CHUNK + bytes(999), bytes(5000), ID3V1, b"ab", b"id3 \2\0\0\0ab" + CHUNK])
def test_what_may_follow_a_wav(tmp_path, behind):
    assert lengths(tmp_path, encode("WAV") + behind) == (40001, 40001)
    assert lengths(tmp_path, encode("WAV", "PCM_U8") + behind) == (40001, 40001)


def test_wav_of_no_samples(tmp_path):
    for data in (with_length("WAV", 0, NOISE[:0]), with_length("WAV", 0, NOISE[:0]) + CHUNK):
        assert_refused(tmp_path, data, "no samples")


@pytest.mark.parametrize("second", ["WAV", "AIFF", "FLAC", "OGG"])
def test_files_behind_each_other(tmp_path, second):
    subtype = "VORBIS" if second == "OGG" else "PCM_16"
    for first in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST"):
        assert_refused(tmp_path, encode(first) + encode(second, subtype), "bytes follow the")
    assert_refused(tmp_path, encode("OGG", "VORBIS") + encode("WAV"), "no Ogg page")


# -- truncated files -------------------------------------------------------------------------------------------------
WHOLE = {
    "wav": lambda: encode("WAV"),
    "float64": lambda: encode("WAV", "DOUBLE", np.stack([NOISE, NOISE], axis=1)),
    "adpcm": lambda: encode("WAV", "IMA_ADPCM"),
    "wavex": lambda: encode("WAVEX"),
    "rf64": lambda: encode("RF64"),
    "w64": lambda: encode("W64"),
    "aiff": lambda: encode("AIFF"),
    "au": lambda: encode("AU"),
    "caf": lambda: encode("CAF"),
    "alac": lambda: encode("CAF", "ALAC_16"),
    "svx": lambda: encode("SVX"),
    "sphere": lambda: encode("NIST"),
    "voc": lambda: encode("VOC"),
    "mat4": lambda: encode("MAT4"),
    "flac": lambda: encode("FLAC"),
    "flac24": lambda: encode("FLAC", "PCM_24", np.stack([NOISE, NOISE / 2], axis=1), 44100),
    "flac after a tag": lambda: ID3 + encode("FLAC"),
    "vorbis": lambda: encode("OGG", "VORBIS"),
    "opus": lambda: encode("OGG", "OPUS"),
    "mp3": lambda: encode("MP3", "MPEG_LAYER_III"),
    "mp3 with tags": lambda: ID3 + encode("MP3", "MPEG_LAYER_III"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_truncated_files(tmp_path, kind):
    data = WHOLE[kind]()
    expected, actual = lengths(tmp_path, data)
    assert expected == actual > 14000
    for cut in (50, len(data) // 3, len(data) // 2, len(data) - 4000, len(data) - 3):
        with pytest.raises(AudioError, match="a.bin"):
            lengths(tmp_path, data[:cut])


@pytest.mark.parametrize("kind", sorted(set(WHOLE) - {"voc", "mat4"}))
def test_headers_tell_truncation(tmp_path, kind):
    """`colld doctor --manifest` does not decode."""
    data = WHOLE[kind]()
    (tmp_path / "a.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="a.bin"):
        audio_info(str(tmp_path / "a.bin"))


# -- FLAC ------------------------------------------------------------------------------------------------------------
def with_total(data, total):
    at = data.index(b"fLaC") + 18
    (bits,) = struct.unpack_from(">Q", data, at)
    return data[:at] + struct.pack(">Q", bits >> 36 << 36 | total) + data[at + 8 :]


@pytest.mark.parametrize("total", [0, 100, 4096, 36864, 40000])
@pytest.mark.parametrize("kind", ["flac", "flac24", "flac after a tag"])
def test_flac_whose_header_promises_less(tmp_path, kind, total):
    data = WHOLE[kind]()
    assert lengths(tmp_path, with_total(data, total)) == lengths(tmp_path, data)
    assert lengths(tmp_path, with_total(data, total) + ID3V1) == lengths(tmp_path, data)
    for cut in (5, len(data) // 2):
        assert_refused(tmp_path, with_total(data, total)[:-cut], "truncated")


def test_flac_whose_header_promises_more(tmp_path):
    for total in (40002, 80002, (1 << 36) - 1):
        assert_refused(tmp_path, with_total(encode("FLAC"), total), "truncated")
    assert_refused(tmp_path, encode("FLAC") + encode("FLAC"), "several flac files")


def test_flac_damaged_in_the_middle(tmp_path):
    data = encode("FLAC")
    assert_refused(tmp_path, data[:30000] + bytes(100) + data[30100:], "cannot be decoded to the end")


# -- Ogg -------------------------------------------------------------------------------------------------------------
def pages(data):
    at, result = 0, []
    while at < len(data):
        count = data[at + 26]
        size = 27 + count + sum(data[at + 27 : at + 27 + count])
        result.append(data[at : at + size])
        at += size
    return result


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_cut_between_pages(tmp_path, subtype):
    all_pages = pages(encode("OGG", subtype, np.tile(NOISE, 5)))
    assert len(all_pages) > 6
    for count in range(1, len(all_pages)):
        assert_refused(tmp_path, b"".join(all_pages[:count]), "")
    for missing in range(2, len(all_pages) - 1):
        assert_refused(
            tmp_path, b"".join(all_pages[:missing] + all_pages[missing + 1 :]), f"page.* {missing} .*missing"
        )


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg(tmp_path, subtype):
    first = encode("OGG", subtype)
    second, stereo = encode("OGG", "VORBIS", NOISE[:24000], 48000), np.stack([NOISE, NOISE], axis=1)
    assert lengths(tmp_path, first + first) == (80002, 80002)
    assert lengths(tmp_path, first + second + encode("OGG", "OPUS", stereo)) == (88002, 88002)
    (tmp_path / "one").write_bytes(first)
    (tmp_path / "two").write_bytes(second)
    parts = [read_audio(str(tmp_path / name)) for name in ("one", "two")]
    lengths(tmp_path, first + second)
    assert np.array_equal(read_audio(str(tmp_path / "a.bin")), np.concatenate(parts))
    assert_refused(tmp_path, (first + second)[:-1], "truncated")
    assert_refused(tmp_path, first + b"".join(pages(second)[:-1]), "truncated")
    assert_refused(tmp_path, b"".join(pages(first)[:-1]) + second, "truncated")
    with pytest.raises(AudioError, match="a.bin:5:10: a segment of a file whose sampling rate changes"):
        lengths(tmp_path, first + second)
        read_audio(f"{tmp_path}/a.bin:5:10")


def test_segment_of_chained_ogg(tmp_path):
    lengths(tmp_path, encode("OGG", "VORBIS") + encode("OGG", "VORBIS", NOISE[::-1]))
    path = str(tmp_path / "a.bin")
    assert np.array_equal(read_audio(f"{path}:39000:3000"), read_audio(path)[39000:42000])


def test_multiplexed_ogg(tmp_path):
    """Two streams side by side are refused; beside what is no audio, the audio is read."""
    streams = [pages(encode("OGG", subtype)) for subtype in ("VORBIS", "OPUS")]
    assert_refused(
        tmp_path, b"".join(part[0] for part in streams) + b"".join(sum((p[1:] for p in streams), [])), "2 audio"
    )
    skeleton = bytearray(streams[1][0])
    at = skeleton.index(b"OpusHead")
    skeleton[at : at + 8] = b"fishead\0"
    whole = streams[0][0] + bytes(skeleton) + b"".join(streams[0][1:])
    assert lengths(tmp_path, whole) == (40001, 40001)


def test_tag_behind_ogg(tmp_path):
    assert lengths(tmp_path, encode("OGG", "OPUS") + ID3V1) == (40001, 40001)


# -- mp3 -------------------------------------------------------------------------------------------------------------
def mp3(rate, mode, channels, quality=0.4):
    samples = np.stack([NOISE] * channels, axis=1)
    return encode("MP3", "MPEG_LAYER_III", samples, rate, bitrate_mode=mode, compression_level=quality)


def without_header(data):
    """Without the first frame, which holds the Xing or Info header and no audio."""
    return data[data.index(data[:2], 4) :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate, channels", [(8000, 1), (16000, 1), (22050, 2), (44100, 1), (44100, 2), (48000, 2)])
def test_mp3(tmp_path, mode, rate, channels):
    data = mp3(rate, mode, channels)
    plain = without_header(data)
    frame = 1152 * RATE / rate
    whole = 40001 * RATE / rate
    for before in (b"", ID3, ID3 + ID3):
        for behind in (b"", ID3V1, APE, APE + ID3V1):
            promised, read = lengths(tmp_path, before + data + behind)
            assert promised == read and abs(read - whole) <= 1
            promised, read = lengths(tmp_path, before + plain + behind)
            assert promised == read and whole <= read < whole + 3 * frame  # with the encoder's delay and padding
    for cut in (plain[:-1], ID3 + plain[:-50], data[:-1], data[: len(data) // 2], ID3 + data[: -len(data) // 3]):
        assert_refused(tmp_path, cut, "truncated")


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_mp3_behind_mp3(tmp_path, mode):
    data, other = mp3(RATE, mode, 1), mp3(RATE, mode, 1, 0.1)
    for whole in (data + other, ID3 + data + ID3V1 + ID3 + other + APE, without_header(data) + without_header(other)):
        promised, read = lengths(tmp_path, whole)
        assert promised == read and 80002 <= read < 80002 + 7 * 1152
    assert_refused(tmp_path, (data + other)[:-1], "truncated")


def test_mp3_samples_are_right(tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(40000) / RATE)
    data = encode("MP3", "MPEG_LAYER_III", tone, bitrate_mode="VARIABLE")
    lengths(tmp_path, data)
    exact = read_audio(str(tmp_path / "a.bin"))
    lengths(tmp_path, without_header(data))
    plain = read_audio(str(tmp_path / "a.bin"))
    delay = 1105  # of encoder and decoder, which the header takes away
    assert np.abs(plain[delay + 2000 : delay + 38000] - exact[2000:38000]).max() < 1e-3


def test_mp3_of_a_recorded_broadcast(tmp_path):
    """Begins in the middle of a frame; the bits of its first frames may lie before that."""
    for quality in (0.1, 0.9):
        data = without_header(mp3(44100, "VARIABLE", 2, quality))
        promised, read = lengths(tmp_path, data[len(data) // 2 + 7 :])
        assert promised == read > 40001 * RATE / 44100 / 2 - 12 * 1152


def test_mp3_damaged_in_the_middle(tmp_path):
    data = without_header(mp3(RATE, "CONSTANT", 1))
    assert_refused(tmp_path, data[:5000] + bytes(3000) + data[8000:], "damaged")
    assert_refused(tmp_path, data + b"\1" * 5000, "damaged")
