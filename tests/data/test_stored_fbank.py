"""Filterbanks stored by fairseq's own functions: read as fairseq's dataset reads them, and refused where broken."""

import io
import shutil
import zipfile
from pathlib import Path

import fairseq_layouts
import numpy as np
import pytest
import synthetic
from fairseq.data.audio.audio_utils import get_features_or_waveform

from colld_fairseq.data.audio import find_zip_members, read_audio
from colld_fairseq.data.checks import check_manifest
from colld_fairseq.data.datasets import DatasetOptions, SpeechDataset
from colld_fairseq.data.fbank import fbank_length, fbank_samples, log_mel_fbank
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import read_manifest, require_waveforms
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.data.rows import PathRows
from colld_fairseq.data.stored_fbank import is_stored_fbank, read_stored_fbank, stored_shape
from colld_fairseq.data.utterances import read_ahead
from colld_fairseq.errors import AudioError, ManifestError
from colld_fairseq.modules.input_config import InputConfig

HEADER = "id\taudio\tn_frames\ttgt_text\n"


def dataset_of(rows, normalization="none", **options):
    if options.get("train"):
        options["epoch_rows"] = lambda epoch: np.arange(len(rows))
    return SpeechDataset(rows, StudentInput(InputConfig(normalization=normalization)), DatasetOptions(**options))


def test_rows_hold_what_fairseq_reads(fairseq_data):
    rows, theirs = read_manifest(str(fairseq_data / "dev.tsv")), fairseq_layouts.fairseq_dataset(fairseq_data, "dev")
    assert len(rows) == len(theirs) == 10 and rows.stored_fbank.all() and rows.row(3).kind == "fbank"
    ours = dataset_of(rows)
    for index, path in enumerate(theirs.audio_paths):
        expected = get_features_or_waveform(path)
        assert np.array_equal(ours[index]["source"], expected) and expected.dtype == np.float32
        assert ours[index]["seconds"] == rows.n_samples[index] / 16000 == (len(expected) * 160 + 240) / 16000
        assert fbank_length(int(rows.n_samples[index])) == theirs.n_frames[index]


def test_stored_and_computed_filterbanks_are_one_input(fairseq_data):
    """So a student distilled on waveforms reads stored filterbanks."""
    rows = read_manifest(str(fairseq_data / "dev.tsv"))
    waveform = synthetic.make_utterances("dev", 10, 1)[4].waveform.astype(np.float32)
    for normalization in ("none", "utterance"):
        student_input = StudentInput(InputConfig(normalization=normalization))
        stored = dataset_of(rows, normalization)[4]["source"]
        assert np.allclose(stored, student_input(waveform), atol=1e-4)


def test_lengths_of_filterbanks_in_samples():
    frames = np.arange(2000)
    samples = fbank_samples(frames)
    assert samples[0] == 0 and samples[1] == 400 and samples[100] == 400 + 99 * 160
    assert np.array_equal(fbank_length(samples), frames) and np.array_equal(fbank_length(samples[1:] - 1), frames[:-1])
    assert len(log_mel_fbank(np.zeros(int(samples[37]), dtype=np.float32))) == 37


def test_crops_are_of_frames(fairseq_data):
    rows = read_manifest(str(fairseq_data / "dev.tsv"))
    whole = dataset_of(rows)[0]["source"]
    limit = fbank_samples(20) + 100  # 20 frames fit, 21 do not
    start, drawn = dataset_of(rows, max_samples=limit), dataset_of(rows, max_samples=limit, train=True)
    assert np.array_equal(start[0]["source"], whole[:20]) and start[0]["seconds"] == fbank_samples(20) / 16000
    windows = np.lib.stride_tricks.sliding_window_view(whole, 20, axis=0).transpose(0, 2, 1)
    assert (windows == drawn[0]["source"]).all((1, 2)).any() and not np.array_equal(drawn[0]["source"], whole[:20])
    assert start.sizes.max() == limit


def test_single_files_and_audio_in_one_manifest(fairseq_data, tmp_path):
    """Each row has its own unit; an audio archive beside one of filterbanks stays one."""
    source = read_manifest(str(fairseq_data / "dev.tsv")).row(0)
    features = read_stored_fbank(source.audio, 80)
    np.save(tmp_path / "a.npy", np.asfortranarray(features.astype(np.float64)))
    synthetic.write_corpus(tmp_path / "corpus", train=3)
    audio = read_manifest(str(tmp_path / "corpus" / "train.tsv"))
    lines = [f"a\ta.npy\t{len(features)}\tx", f"b\t{source.audio}\t{len(features)}\tx"]
    lines += [f"{row.id}\t{row.audio}\t{row.n_samples}\tx" for row in map(audio.row, range(3))]
    (tmp_path / "m.tsv").write_text(HEADER + "\n".join(lines) + "\n")
    rows = read_manifest(str(tmp_path / "m.tsv"))
    assert rows.stored_fbank.tolist() == [True, True, False, False, False] and rows.row(4).audio.count(":") == 2
    assert rows.n_samples.tolist() == [fbank_samples(len(features))] * 2 + audio.n_samples.tolist()
    dataset = dataset_of(rows)
    assert all(np.array_equal(dataset[index]["source"], features) for index in range(2))
    for index in range(3):
        expected = log_mel_fbank(read_audio(audio.audio_path(index)))
        assert np.array_equal(dataset[index + 2]["source"], expected)
    batch = dataset.collater([dataset[0], dataset[3]])
    assert batch["net_input"]["src_lengths"].tolist() == [len(features), fbank_length(int(audio.n_samples[1]))]


def test_an_audio_only_manifest_may_hold_filterbanks(fairseq_data, tmp_path):
    shutil.copy(fairseq_data / "fbank80.zip", tmp_path / "fbank80.ZIP")
    spec, *_ = find_zip_members(str(tmp_path / "fbank80.ZIP")).values()
    frames = stored_shape(spec)[0]
    (tmp_path / "m.tsv").write_text(f".\n{Path(spec).name}\t{frames}\nnowhere.zip:5:6\t7\n")
    rows = read_manifest(str(tmp_path / "m.tsv"))
    assert rows.stored_fbank.tolist() == [True, False] and rows.n_samples.tolist() == [fbank_samples(frames), 7]


def test_a_written_manifest_counts_frames_again(fairseq_data, tmp_path):
    rows = read_manifest(str(fairseq_data / "dev.tsv"))
    write_manifest(tmp_path / "copy.tsv", [rows.row(i) for i in range(len(rows))])
    copy = read_manifest(str(tmp_path / "copy.tsv"))
    assert [copy.row(i) for i in range(10)] == [rows.row(i) for i in range(10)]


def test_paths_named_one_by_one(fairseq_data):
    row = read_manifest(str(fairseq_data / "dev.tsv")).row(2)
    rows = PathRows([row.audio, str(fairseq_data / "flac.flac")], [0, 0])
    assert [rows.row(i).kind for i in range(2)] == ["fbank", "waveform"]


@pytest.mark.parametrize(
    "spec, stored", [("a.npy", True), ("a.NPY", False), ("a.zip:99999999999999999999:5", None), ("a.zip:9:5", None)]
)
def test_what_paths_say(spec, stored, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    assert is_stored_fbank(str(tmp_path / spec)) is stored


def npy(array, **how):
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return buffer.getvalue()


def good():
    return np.random.default_rng(1).normal(10, 3, (50, 80)).astype(np.float32)


def with_nan():
    features = good()
    features[3, 5] = np.nan
    return features


def later_version():
    data = bytearray(npy(good()))
    data[6] = 9
    return bytes(data)


def claims_more():
    """The header of a billion frames before the values of fifty."""
    return npy(good()).replace(b"(50, 80), }" + b" " * 8, b"(5000000000, 80), }")


BROKEN = {
    "truncated": (lambda: npy(good())[:-1000], r"truncated, 15000 bytes where an array of shape \(50, 80\) has 16000"),
    "too long": (lambda: npy(good()) + b"x", "followed by something else"),
    "huge": (claims_more, r"truncated, 16000 bytes where an array of shape \(5000000000, 80\)"),
    "object array": (lambda: npy(np.array([[1.0, None]], dtype=object), allow_pickle=True), "pickled Python objects"),
    "waveform": (lambda: npy(np.zeros(16000, dtype=np.float32)), r"float32 of shape \(16000,\), but filterbanks are"),
    "integers": (lambda: npy(np.zeros((50, 80), dtype=np.int64)), "int64"),
    "records": (lambda: npy(np.zeros((5, 80), dtype=[("a", "f4")])), "floats"),
    "bins": (lambda: npy(good()[:, :40]), "40 bins, but 80 are wanted"),
    "NaN": (lambda: npy(with_nan()), "1 of 4000 values are NaN or infinite"),
    "empty": (lambda: npy(good()[:0]), "no frames"),
    "no header": (lambda: b"\x93NUMPY\x01\x00\xff", "header of the .npy array is damaged"),
    "other version": (later_version, "header of the .npy array is damaged"),
    "no array": (lambda: b"RIFF", "no .npy array"),
    "nothing": (lambda: b"", "no .npy array"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("zipped", [False, True])
def test_broken_arrays_are_refused_with_their_name(kind, zipped, tmp_path):
    make, message = BROKEN[kind]
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.npy", make())
        spec = find_zip_members(str(tmp_path / "a.zip"))["a.npy"]
    else:
        spec = str(tmp_path / "a.npy")
        (tmp_path / "a.npy").write_bytes(make())
    with pytest.raises(AudioError, match=message) as error:
        read_stored_fbank(spec, 80)
    assert str(error.value).startswith(spec) and ";" in str(error.value)


@pytest.mark.parametrize(
    "offset, length, message",
    [(1, 0, "no .npy array; no member of the archive lies there: write the manifest again from this archive"),
     (0, -8, "truncated.*no member of the archive lies there"), (0, 10**6, "the archive ends before")],
)  # fmt: skip
def test_wrong_offsets(offset, length, message, fairseq_data):
    path, start, size = read_manifest(str(fairseq_data / "dev.tsv")).row(1).audio.rsplit(":", 2)
    with pytest.raises(AudioError, match=message):
        read_stored_fbank(f"{path}:{int(start) + offset}:{int(size) + length}", 80)


def test_a_truncated_archive_and_a_missing_file(fairseq_data, tmp_path):
    whole = (fairseq_data / "fbank80.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])  # also the first row's member is gone
    text = (fairseq_data / "dev.tsv").read_text().replace(str(fairseq_data / "fbank80.zip"), "cut.zip")
    (tmp_path / "m.tsv").write_text(text + "z\tno.npy\t5" + "\tx" * 5 + "\n")
    rows = read_manifest(str(tmp_path / "m.tsv"))
    assert rows.stored_fbank.all()
    with pytest.raises(AudioError, match=r"no\.npy: cannot be read \(No such file"):
        read_stored_fbank(rows.audio_path(10), 80)
    messages = []
    for index in range(10):
        try:
            read_stored_fbank(rows.audio_path(index), 80)
        except AudioError as error:
            messages.append(str(error))
    assert messages and all("the archive ends before this member does" in message for message in messages)


def test_doctor_counts_frames(fairseq_data, tmp_path):
    assert not check_manifest(str(fairseq_data / "dev.tsv"), decode=True).has_errors
    content = (fairseq_data / "dev.tsv").read_text().splitlines()
    fields = content[3].split("\t")
    frames = fields[2]
    fields[2] = "9999"
    content[3] = "\t".join(fields)
    np.save(tmp_path / "nan.npy", with_nan())
    content.append("\t".join(["nan", str(tmp_path / "nan.npy"), "50", *fields[3:]]))
    (tmp_path / "m.tsv").write_text("\n".join(content) + "\n")
    (finding,) = check_manifest(str(tmp_path / "m.tsv")).findings
    assert (finding.kind, finding.line) == ("wrong duration", 4)
    assert f"{frames} frames, but n_frames is 9999" in finding.detail
    findings = check_manifest(str(tmp_path / "m.tsv"), decode=True).findings
    assert [finding.kind for finding in findings] == ["wrong duration", "unreadable audio"]


def test_who_needs_the_waveform_says_so(fairseq_data):
    rows = read_manifest(str(fairseq_data / "dev.tsv"))
    with pytest.raises(ManifestError, match=r"dev\.tsv:2: .*holds filterbanks, but the teacher needs the waveform"):
        require_waveforms(rows, "the teacher")
    with pytest.raises(ManifestError, match="name the audio itself"):
        next(read_ahead(rows, rows.ids, [np.arange(2)]))
