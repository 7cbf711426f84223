import numpy as np
import pytest
import soundfile
import yaml

from colld_fairseq.data.checks import REMEDIES, check_manifest, load_tokens, load_warnings, text_findings
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import ConfigError

HEADER = "id\taudio\tn_frames\ttgt_text\tsrc_lang\ttgt_lang\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with ok.wav (8000 samples), 44k.wav (1 s), nan.wav, cut.wav and text.wav."""
    tone = 0.1 * np.sin(np.arange(44100) / 9)
    soundfile.write(tmp_path / "ok.wav", tone[:8000], 16000)
    soundfile.write(tmp_path / "44k.wav", tone, 44100)
    soundfile.write(tmp_path / "nan.wav", np.where(np.arange(8000) == 5, np.nan, tone[:8000]), 16000, subtype="FLOAT")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "ok.wav").read_bytes()[:4000])
    (tmp_path / "text.wav").write_text("words " * 100)
    return tmp_path


def manifest(folder, *rows, name="m.tsv"):
    """Rows "audio n_frames text languages", with ids r2, r3, ... after their lines."""
    path = folder / name
    lines = [f"r{i}\t" + "\t".join(row) + "\n" for i, row in enumerate(rows, start=2)]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    return str(path)


def kinds_and_lines(report):
    return [(finding.kind, finding.line) for finding in report.findings]


def test_clean_manifest(folder):
    path = manifest(folder, ("ok.wav", "8000", "guten Tag", "de", "de"), ("44k.wav", "16000", "‏مرحبا", "ar", "pt-BR"))
    report = check_manifest(path, decode=True)
    assert kinds_and_lines(report) == [] and not report.has_errors
    assert report.rows == 2 and report.seconds == 1.5
    assert report.seconds_by_language == {"de>de": 0.5, "ar>pt-BR": 1.0}


def test_audio_findings(folder):
    text = ("x", "de", "de")
    path = manifest(
        folder,
        ("ok.wav", "8000", *text),
        ("gone.wav", "8000", *text),
        ("text.wav", "8000", *text),
        ("cut.wav", "8000", *text),
        ("ok.wav", "50", *text),
        ("44k.wav", "44100", *text),
        ("ok.wav", "9599", *text),
        ("ok.wav", "9601", *text),
        ("nan.wav", "8000", *text),
        ("ok.wav", "0", *text),
    )
    expected = [
        ("empty utterance", 11),
        ("missing audio", 3),
        ("unreadable audio", 4),
        ("unreadable audio", 5),
        ("wrong duration", 6),
        ("wrong duration", 7),
        ("wrong duration", 9),
    ]
    report = check_manifest(path)
    assert kinds_and_lines(report) == expected and report.has_errors
    details = {finding.line: finding.detail for finding in report.findings}
    assert "No such file" in details[3] and "truncated" in details[5]
    assert "filterbank frames" in details[6] and "44100 Hz" in details[7]
    assert "8000 samples" in details[9] and "n_frames is 9601" in details[9]
    assert all(f.id == f"r{f.line}" for f in report.findings)
    decoded = check_manifest(path, decode=True)
    assert kinds_and_lines(decoded) == expected + [("unreadable audio", 10)]
    assert "NaN" in decoded.findings[-1].detail
    assert ("wrong duration", 8) in kinds_and_lines(check_manifest(path, tolerance=0.01))


def test_audio_whose_header_does_not_help(folder):
    """Segments, an mp3 without a length, one file behind another, flac from a pipe: by their true lengths."""
    text = ("x", "de", "de")
    tone = 0.1 * np.sin(np.arange(48000) / 9)
    soundfile.write(folder / "a.mp3", tone, 16000, bitrate_mode="VARIABLE")
    data = (folder / "a.mp3").read_bytes()
    (folder / "a.mp3").write_bytes(data[data.index(data[:2], 4) :])
    soundfile.write(folder / "a.flac", tone, 16000)
    data = bytearray((folder / "a.flac").read_bytes())
    data[21:26] = bytes((data[21] & 0xF0, 0, 0, 0, 0))  # the number of samples
    (folder / "a.flac").write_bytes(data)
    (folder / "two.wav").write_bytes((folder / "ok.wav").read_bytes() * 2)
    path = manifest(
        folder,
        ("44k.wav:4410:22050", "8000", *text),
        ("ok.wav:7000:2000", "2000", *text),
        ("a.mp3", "48500", *text),
        ("a.flac", "48000", *text),
        ("two.wav", "8000", *text),
    )
    for decode in (False, True):
        report = check_manifest(path, decode=decode)
        assert kinds_and_lines(report) == [("unreadable audio", 3), ("unreadable audio", 6)]
        assert "not inside its file, which has 8000 samples" in report.findings[0].detail
        assert "several files in one" in report.findings[1].detail


def test_text_findings(folder):
    path = manifest(
        folder,
        ("ok.wav", "8000", "fine \u200cیک\u200f", "de", "de"),
        ("ok.wav", "8000", " \u00a0", "de", "de"),
        ("ok.wav", "8000", "bell\x07", "de", "de"),
        ("ok.wav", "8000", "na\ufffdve", "de", "de"),
        ("ok.wav", "8000", "x", "German", "de"),
        ("ok.wav", "8000", "x", "de", ""),
        ("ok.wav", "8000", r"Er sagte: \"Ja\"", "de", "de"),
        ("ok.wav", "8000", r'a "b" c\d', "de", "de"),
    )
    report = check_manifest(path)
    expected = [
        ("empty text", 3),
        ("control characters", 4),
        ("control characters", 5),
        ("escaped quotes", 8),
        ("unknown language", 6),
        ("unknown language", 7),
    ]
    assert kinds_and_lines(report) == expected
    assert not report.has_errors  # these can be trained on
    assert "src_lang 'German'" in report.findings[4].detail
    strict = [f.line for f in text_findings(read_manifest(path), languages={"en", "German", ""})]
    assert strict == [3, 4, 5, 8, 2, 3, 4, 5, 7, 8, 9, 2, 3, 4, 5, 6, 8, 9]
    warnings = load_warnings(read_manifest(path))
    assert len(warnings) == 4 and "2 row(s) with control characters (line 4, 5)" in warnings[1]


def test_manifest_without_languages_or_text(folder):
    (folder / "audio.tsv").write_text(".\nok.wav\t8000\ngone.wav\t9\n")
    report = check_manifest(str(folder / "audio.tsv"), dictionary="not needed")
    assert kinds_and_lines(report) == [("missing audio", 3)] and report.seconds_by_language.keys() == {"(not given)"}


def test_duplicate_ids_are_all_listed(folder):
    rows = [("a", 2), ("b", 3), ("a", 4), ("c", 5), ("b", 6), ("a", 7)]
    path = folder / "m.tsv"
    path.write_text(HEADER + "".join(f"{name}\tok.wav\t8000\tx\tde\tde\n" for name, _ in rows))
    report = check_manifest(str(path))
    assert [(f.line, f.id, f.detail) for f in report.findings] == [
        (4, "a", "as on line 2"),
        (6, "b", "as on line 3"),
        (7, "a", "as on line 2"),
    ]


def test_one_missing_file_among_ten_thousand(folder):
    """By several processes, with progress, the order of the lines kept."""
    rows = [("gone.wav" if i == 7777 else "ok.wav", "8000", "x", "de", "de") for i in range(10_000)]
    progress = []
    report = check_manifest(manifest(folder, *rows), workers=2, on_progress=lambda *done: progress.append(done))
    assert [(f.kind, f.line, f.id) for f in report.findings] == [("missing audio", 7779, "r7779")]
    assert "gone.wav" in report.findings[0].detail
    assert progress[-1] == (10_000, 10_000) and progress == sorted(progress) and len(progress) > 100


def test_processes_find_what_one_finds(folder):
    audio = ["ok.wav", "gone.wav", "cut.wav", "44k.wav", "nan.wav"]
    path = manifest(folder, *[(audio[i % 5], "8000", "x", "de", "de") for i in range(200)])
    assert (
        kinds_and_lines(check_manifest(path, workers=3, decode=True))
        == kinds_and_lines(check_manifest(path, decode=True))
        != []
    )


def test_character_vocabulary(folder):
    (folder / "dict.txt").write_text("".join(f"{c} 1\n" for c in "|abcß"), encoding="utf-8")
    path = manifest(folder, ("ok.wav", "8000", "ab ca", "de", "de"), ("ok.wav", "8000", "aßxX x", "de", "de"))
    report = check_manifest(path, dictionary=str(folder / "dict.txt"))
    assert report.tokens == 11 and report.unknown_tokens == {"x": 2, "X": 1}
    assert report.oov_rate == pytest.approx(3 / 11)
    assert [(f.kind, f.line, f.detail) for f in report.findings] == [("out of vocabulary", 3, "'x' 'X'")]


def test_vocabulary_with_its_own_normalization(folder):
    (folder / "dict.txt").write_text("".join(f"{c} 1\n" for c in "|abx"), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump({"text_normalization": {"lowercase": True}}))
    path = manifest(folder, ("ok.wav", "8000", "AXbä", "de", "de"))
    report = check_manifest(path, dictionary=str(folder / "dict.txt"))
    assert report.unknown_tokens == {"ä": 1} and report.tokens == 4


def test_sentencepiece_vocabulary(folder):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = folder / "corpus.txt"
    corpus.write_text("der hund bellt\nder kater schläft\n" * 50, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spm"), vocab_size=28, model_type="bpe", minloglevel=2
    )
    pieces = [line.split("\t")[0] for line in (folder / "spm.vocab").read_text(encoding="utf-8").splitlines()][3:]
    (folder / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8")
    path = manifest(
        folder, ("ok.wav", "8000", "der hund schläft", "de", "de"), ("ok.wav", "8000", "der zug", "de", "de")
    )

    by_characters = check_manifest(path, dictionary=str(folder / "dict.txt"))
    assert by_characters.unknown_tokens == {"z": 1, "g": 1}

    config = {"bpe_tokenizer": {"bpe": "sentencepiece", "sentencepiece_model": "spm.model"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    by_pieces = check_manifest(path, dictionary=str(folder / "dict.txt"))
    assert set(by_pieces.unknown_tokens) == {"z", "g"} and by_pieces.tokens < by_characters.tokens
    assert [f.line for f in by_pieces.findings] == [3]


def test_missing_dictionary(tmp_path):
    with pytest.raises(ConfigError, match="none.txt: cannot be read.*colld vocab"):
        load_tokens(str(tmp_path / "none.txt"))


def test_every_kind_has_a_remedy():
    assert all(isinstance(is_error, bool) and remedy for is_error, remedy in REMEDIES.values())
