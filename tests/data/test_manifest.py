import csv
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest

from colld_fairseq.data import manifest as manifest_module
from colld_fairseq.data.manifest import Row, join_manifests, read_manifest
from colld_fairseq.errors import ManifestError

HEADER = "id\taudio\tn_frames\ttgt_text\n"
SAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "samples"


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_audio_only(tmp_path):
    path = write(tmp_path / "train.tsv", "/data/root\na/1.flac\t16000\nb.zip:7:99\t0\n")
    manifest = read_manifest(path)
    assert not manifest.has_text and len(manifest) == 2
    assert manifest.n_samples.dtype == np.int64 and manifest.n_samples.tolist() == [16000, 0]
    assert manifest.row(0) == Row(id="a/1.flac", audio="/data/root/a/1.flac", n_samples=16000, line=2)
    assert manifest.row(-1).audio == "/data/root/b.zip:7:99"
    assert manifest.where(1) == f"{path}:3"
    with pytest.raises(IndexError):
        manifest.row(2)


def test_roots(tmp_path):
    relative = write(tmp_path / "relative.tsv", "wavs\n1.wav\t5\n")
    assert read_manifest(relative).audio_path(0) == str(tmp_path / "wavs" / "1.wav")
    assert read_manifest(relative, audio_root="/other").audio_path(0) == "/other/1.wav"
    text = write(tmp_path / "text.tsv", HEADER + "a\t1.wav\t5\tx\nb\t/abs/2.wav\t5\tx\n")
    assert read_manifest(text).audio_path(0) == str(tmp_path / "1.wav")
    assert read_manifest(text, audio_root="/other").audio_path(0) == "/other/1.wav"
    assert read_manifest(text, audio_root="/other").audio_path(1) == "/abs/2.wav"


def test_home_folder_as_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    manifest = write(tmp_path / "a.tsv", "~/data\n1.wav\t5\n")
    assert read_manifest(manifest).audio_path(0) == str(tmp_path / "home" / "data" / "1.wav")
    assert read_manifest(manifest, audio_root="~/b").audio_path(0) == str(tmp_path / "home" / "b" / "1.wav")


@pytest.mark.parametrize("folder", ["#1", "id,audio", "{a}"])
def test_odd_folders_as_root(tmp_path, folder):
    (tmp_path / folder).mkdir()
    manifest = write(tmp_path / "a.tsv", f"{folder}\n1.wav\t5\n")
    assert read_manifest(manifest).audio_path(0) == str(tmp_path / folder / "1.wav")


def test_speech_to_text_columns_in_any_order(tmp_path):
    content = (
        "tgt_text\tnote\tsrc_lang\tid\tn_frames\taudio\n"
        'He said "no\tignored\tde\tu1\t320\tx.wav\n'
        "שלום \u200fעולם\t\tmdw\tu2\t640\ty.wav\n"
    )
    manifest = read_manifest(write(tmp_path / "m.tsv", content))
    assert manifest.has_text and "note" not in manifest.table.column_names
    first = manifest.row(0)
    assert first.tgt_text == 'He said "no' and first.src_lang == "de" and first.tgt_lang == "" and first.line == 2
    assert manifest.row(1).tgt_text == "שלום \u200fעולם"
    codes, names = manifest.codes("src_lang")
    assert [names[code] for code in codes] == ["de", "mdw"]
    assert manifest.codes("tgt_lang")[1] == [""] and manifest.codes("corpus")[1] == ["m"]
    with pytest.raises(ManifestError, match="tgt_text"):
        manifest.codes("tgt_text")


def test_same_rows_as_csv_reader(tmp_path, monkeypatch):
    """Against Python's csv (fairseq's reader), over many small Arrow blocks, with characters that split naive
    readers."""
    monkeypatch.setattr(manifest_module, "_BLOCK_BYTES", 2048)
    rng = random.Random(0)
    letters = [
        '"',
        "'",
        ",",
        ";",
        " ",
        "\u2028",
        "\u0085",
        "\u00a0",
        "ß",
        "д",
        "ع",
        "😀",
        "a",
        "\\",
        "#",
        "\x0b",
    ]
    languages = ["de", "en", "fr", "ru", "mdw", "tk"]
    columns = ["id", "audio", "n_frames", "tgt_text", "speaker", "src_text", "src_lang", "tgt_lang"]
    path = tmp_path / "m.tsv"
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        out.write("\t".join(columns) + "\n")
        for i in range(500):
            values = ["".join(rng.choices(letters, k=rng.randrange(30))) for _ in range(3)]
            row = [f"u{i}", f"{i}.wav", str(i), *values] + rng.choices(languages[: 1 + i // 90], k=2)
            out.write("\t".join(row) + "\n")
    manifest = read_manifest(str(path))
    assert manifest.table.column("id").num_chunks > 5
    with open(path, encoding="utf-8", newline="\n") as handle:
        expected = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(manifest) == len(expected) == 500
    codes, names = manifest.codes("tgt_lang")
    for i, row in enumerate(expected):
        ours = manifest.row(i)
        assert [
            ours.id,
            str(ours.n_samples),
            ours.tgt_text,
            ours.speaker,
            ours.src_text,
            ours.src_lang,
            ours.tgt_lang,
        ] == [row[name] for name in columns if name != "audio"]
        assert names[codes[i]] == row["tgt_lang"]


def test_windows_line_ends_bom_and_blank_lines(tmp_path):
    plain = read_manifest(write(tmp_path / "a.tsv", HEADER + "a\t1.wav\t5\tü\nb\t2.wav\t6\ty\n"))
    content = "\ufeff" + (HEADER + "a\t1.wav\t5\tü\n\nb\t2.wav\t6\ty\n\n\n").replace("\n", "\r\n")
    windows = read_manifest(write(tmp_path / "b.tsv", content))
    assert [windows.row(i)[:-1] for i in range(2)] == [plain.row(i)[:-1] for i in range(2)]
    assert [windows.line(i) for i in range(2)] == [2, 4]
    assert read_manifest(write(tmp_path / "c.tsv", "\n".join(["/r", "", "a\t1", "", "", "b\t2"]))).line(1) == 6


@pytest.mark.parametrize(
    "content, message",
    [
        (HEADER + "a\t1.wav\t5\tone\ttwo\n", r":2: 1 row\(s\) do not have 4 .*line 2: 5 field.*tab"),
        (HEADER + "a\t1.wav\t5\tx\nb\t2.wav\n", r":3: .*line 3: 2 field"),
        ("/root\na.wav\t5\n\nb.wav\t5\tx\n", r":4: .*do not have 2"),
        (HEADER + "a\t1.wav\t5\tx\nb\t2.wav\t1.5\tx\n", r":3: n_frames is '1\.5'.*16 kHz"),
        (HEADER + "\na\t1.wav\t-5\tx\n", r":3: n_frames is '-5'"),
        (HEADER + "a\t1.wav\t\tx\n", r":2: n_frames is ''"),
        ("/root\na.wav\t5\nb.wav\tfive\n", r":3: n_samples is 'five'"),
        (HEADER + "a\t1.wav\t5\tx\nb\t1.wav\t5\tx\na\t3.wav\t5\tx\n", r":4: id 'a' is also on line 2"),
        ("/root\na.wav\t5\na.wav\t5\n", r":3: id 'a.wav' is also on line 2"),
        (HEADER + "a\t1.wav\t5\tx\n\t1.wav\t5\tx\n", r":3: the field 'id' is empty"),
        (HEADER + "a\t\t5\tx\n", r":2: the field 'audio' is empty"),
        ("id\taudio\ttgt_text\na\tb\tc\n", r":1: the header lacks the column\(s\) n_frames"),
        ("a.wav\t16000\nb.wav\t16000\n", r":1: the header lacks"),
        ("id\taudio\tn_frames\ttgt_text\tid\na\tb\t1\tc\td\n", r":1: .*id twice"),
        ("# a corpus\n" + HEADER + "a\t1.wav\t5\tx\n", ":1: the first line is a comment"),
        ("#id\taudio\tn_frames\ttgt_text\na\t1.wav\t5\tx\n", ":1: the first line is a comment"),
        (HEADER + "a\t1.wav\t5\tx\n# later\nb\t1.wav\t5\tx\n", ":3: .*cannot have comments"),
        ("/root\n# later\nb.wav\t5\n", ":2: .*cannot have comments"),
        ("id,audio,n_frames,tgt_text\na,1.wav,5,x\n", ":1: .*column names that no tab separates.*id audio"),
        ('"id";"audio";"n_frames";"tgt_text"\na;1.wav;5;x\n', ":1: .*column names that no tab separates"),
        ("id audio n_frames tgt_text\na 1.wav 5 x\n", ":1: .*column names that no tab separates"),
        ("/root\na.wav,16000\nb.wav,16000\n", ":2: .*something else than tabs"),
        ('{"audio_filepath": "a.wav"}\n{"audio_filepath": "b.wav"}\n', ":1: the first line is JSON"),
        (HEADER, "no rows"),
        ("/root", "no rows"),
        ("", ":1: the first line is empty"),
        ((HEADER + "a\t1.wav\t5\tx\n").encode() + b"b\t2.wav\t5\tna\xefve\n", r":3: byte 13 is not UTF-8"),
        (b"\xff\xfei\x00d\x00\n", r":1: not UTF-8"),
    ],
)
def test_errors_name_the_line(tmp_path, content, message):
    path = write(tmp_path / "bad.tsv", content)
    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(path)
    assert str(error.value).startswith(path)


def test_missing_file():
    with pytest.raises(ManifestError, match="/no/such.tsv: cannot be read"):
        read_manifest("/no/such.tsv")


def test_join(tmp_path):
    header = "id\taudio\tn_frames\ttgt_text\ttgt_lang\n"
    de = read_manifest(write(tmp_path / "de.tsv", header + "a\t1.wav\t5\tx\tde\nb\t2.wav\t6\ty\ten\n"))
    en = read_manifest(write(tmp_path / "en.tsv", header + "c\t3.wav\t7\tz\ten\n"))
    audio = read_manifest(write(tmp_path / "audio.tsv", "/r\nd.wav\t8\n"))
    joined = join_manifests([de, en, audio])
    assert len(joined) == 4 and joined.n_samples.tolist() == [5, 6, 7, 8] and not joined.has_text
    assert [joined.row(i) for i in range(4)] == [de.row(0), de.row(1), en.row(0), audio.row(0)]
    assert joined.row(-1) == audio.row(0)
    assert joined.where(2) == f"{tmp_path}/en.tsv:2"
    codes, names = joined.codes("tgt_lang")
    assert [names[code] for code in codes] == ["de", "en", "en", ""]
    codes, names = joined.codes("corpus")
    assert [names[code] for code in codes] == ["de", "de", "en", "audio"]
    with pytest.raises(IndexError):
        joined.row(4)
    with pytest.raises(ManifestError, match="no manifest"):
        join_manifests([])


def test_join_wants_one_audio_per_id(tmp_path):
    first = read_manifest(write(tmp_path / "1.tsv", HEADER + "a\t1.wav\t5\tein Satz\n"))
    same_audio = read_manifest(write(tmp_path / "2.tsv", HEADER + "a\t1.wav\t5\ta sentence\n"))
    other_audio = read_manifest(write(tmp_path / "3.tsv", HEADER + "b\t9.wav\t5\tx\na\t2.wav\t5\tx\n"))
    assert join_manifests([first, same_audio]).row(1).tgt_text == "a sentence"
    with pytest.raises(ManifestError, match=r"3\.tsv:3: id 'a' names other audio than at .*1\.tsv:2"):
        join_manifests([first, other_audio])


def test_pickles_for_loader_workers(tmp_path):
    manifest = read_manifest(write(tmp_path / "m.tsv", HEADER + "a\t1.wav\t5\tx\n\nb\t2.wav\t6\ty\n"))
    for copy in (
        pickle.loads(pickle.dumps(manifest)),
        pickle.loads(pickle.dumps(join_manifests([manifest]))),
    ):
        assert copy.row(1) == manifest.row(1) and copy.line(1) == 4


def test_hundred_thousand_rows_are_small_and_fast(tmp_path):
    """A tenth of the benchmark (benchmarks/manifest_loading.py): Python objects would take ten times the memory."""
    rows = 100_000
    body = "".join(f"corpus-{i:08d}\taudio.zip:{i}:{i}\t{i}\tguten Morgen, {i}\tde\ten\n" for i in range(rows))
    path = write(tmp_path / "big.tsv", "id\taudio\tn_frames\ttgt_text\tsrc_lang\ttgt_lang\n" + body)
    started = time.process_time()
    manifest = read_manifest(path)
    assert time.process_time() - started < 5.0
    assert len(manifest) == rows and manifest.row(rows - 1).tgt_text == f"guten Morgen, {rows - 1}"
    assert manifest.table.nbytes < 1.5 * len(body)


def test_samples_are_valid():
    text, audio = (read_manifest(str(SAMPLES / name)) for name in ("speech_to_text.tsv", "audio_only.tsv"))
    assert [text.audio_path(i) for i in range(4)] == [audio.audio_path(i) for i in range(4)]
    assert text.n_samples.tolist() == audio.n_samples.tolist()
