"""The manifest maker of examples/colld, on small copies of the corpora's layouts."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from colld_fairseq.data.manifest import read_manifest
from examples.colld import make_manifests


@pytest.fixture
def corpus(tmp_path):
    """A Common Voice folder `de` with two readable utterances and a broken one."""
    utterances = tmp_path / "de" / "clips"
    utterances.mkdir(parents=True)
    for name, rate in (("a", 16000), ("b", 48000)):
        soundfile.write(utterances / f"{name}.mp3", 0.1 * np.random.default_rng(0).standard_normal(rate), rate)
    (utterances / "c.mp3").write_bytes(b"no audio")
    rows = 's1\ta.mp3\tSagt "er"  doch\ns2\tb.mp3\tJa\ns2\tc.mp3\tNein\n'
    for name in ("train", "validated"):
        (tmp_path / "de" / f"{name}.tsv").write_text("client_id\tpath\tsentence\n" + rows, encoding="utf-8")
    return tmp_path / "de"


def test_common_voice(corpus, tmp_path, capsys):
    make_manifests.main(["commonvoice", str(corpus), "train", str(tmp_path / "train.tsv")])
    manifest = read_manifest(str(tmp_path / "train.tsv"))
    assert len(manifest) == 2 and "1 audio files could not be read" in capsys.readouterr().err
    row = manifest.row(0)
    assert (row.id, row.tgt_text, row.src_text) == ("a-de", 'Sagt "er" doch', 'Sagt "er" doch')
    assert Path(row.audio).is_file() and row.audio.endswith("de/clips/a.mp3")
    assert (row.speaker, row.src_lang, row.tgt_lang) == ("s1", "de", "de")
    assert manifest.n_samples.tolist() == pytest.approx([16000, 16000], abs=2400)  # mp3 pads to whole frames


def test_covost(corpus, tmp_path):
    table = "path\ttranslation\tsplit\tclient_id\n"
    table += "a.mp3\tHe does say\ttrain\ts1\nb.mp3\tYes\ttrain_covost\ts2\na.mp3\tno\tdev\ts1\nz.mp3\tlost\ttrain\ts3\n"
    translations = tmp_path / "covost_v2.de_en.tsv"
    translations.write_text(table, encoding="utf-8")
    make_manifests.main(["covost", str(corpus), str(translations), "train", str(tmp_path / "st.tsv")])
    manifest = read_manifest(str(tmp_path / "st.tsv"))
    rows = [manifest.row(i) for i in range(len(manifest))]
    assert [(row.id, row.tgt_text, row.src_text) for row in rows] == [
        ("a-en", "He does say", 'Sagt "er" doch'),
        ("b-en", "Yes", "Ja"),
    ]
    assert {(row.src_lang, row.tgt_lang) for row in rows} == {("de", "en")}


def test_audio_folder(corpus, tmp_path, capsys):
    (corpus / "clips" / "tab\t.mp3").write_bytes((corpus / "clips" / "a.mp3").read_bytes())  # no manifest can hold it
    (corpus / "clips" / os.fsdecode(b"caf\xe9.mp3")).write_bytes((corpus / "clips" / "a.mp3").read_bytes())
    make_manifests.main(["audio", str(corpus), str(tmp_path / "audio.tsv")])
    manifest = read_manifest(str(tmp_path / "audio.tsv"))
    assert [manifest.row(i).id for i in range(len(manifest))] == ["clips/a.mp3", "clips/b.mp3"]
    assert (tmp_path / "audio.tsv").read_text().splitlines()[0] == str(corpus)
    assert "3 audio files could not be read" in capsys.readouterr().err


def test_librispeech(tmp_path):
    for subset, name, text in (("train-clean-100", "19-198", "YES"), ("dev-clean", "84-1", "WELL NO")):
        chapter = tmp_path / subset / name.replace("-", "/")
        chapter.mkdir(parents=True)
        (chapter / f"{name}.trans.txt").write_text(f"{name}-0000 {text}\n{name}-0001 LOST\n")
        soundfile.write(chapter / f"{name}-0000.flac", 0.1 * np.ones(8000), 16000)
    out = tmp_path / "both.tsv"
    make_manifests.main(["librispeech", str(tmp_path), "dev-clean,train-clean-100", str(out)])
    manifest = read_manifest(str(out))
    rows = [manifest.row(i) for i in range(len(manifest))]  # ...-0001 has no file
    assert [(row.tgt_text, row.src_text, row.n_samples) for row in rows] == [
        ("WELL NO", "WELL NO", 8000),
        ("YES", "YES", 8000),
    ]
    assert (rows[1].speaker, rows[1].src_lang, rows[1].tgt_lang) == ("19", "en", "en")
    assert rows[1].audio == str(tmp_path / "train-clean-100/19/198/19-198-0000.flac")
    with pytest.raises(SystemExit, match="train-clean-360"):
        make_manifests.main(["librispeech", str(tmp_path), "train-clean-360", str(out)])
