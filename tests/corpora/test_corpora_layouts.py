"""Every layout's miniature becomes manifests whose rows and audio are what was laid down; nothing goes silently."""

import csv

import numpy as np
import pytest
import soundfile
from miniatures import MINIATURES, RATE

from colld_fairseq.cli import main as colld
from colld_fairseq.cli.options import LAYOUTS as CHOICES
from colld_fairseq.corpora.layouts import LAYOUTS
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.checks import check_manifest
from colld_fairseq.data.manifest import read_manifest


@pytest.fixture(params=MINIATURES)
def laid_down(request, tmp_path):
    layout, make = MINIATURES[request.param]
    return layout, make(tmp_path / "corpus")


def prepare(layout, miniature, out, *more):
    return colld(
        ["prepare", layout, str(miniature.folder), "--out", str(out), "--workers", "1", *miniature.options, *more]
    )


def left_out(out):
    with open(out / "left_out.tsv", encoding="utf-8") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


def sound_of(expected):
    waveform, rate = soundfile.read(expected.file, dtype="float32")
    assert rate in (RATE, 48000)
    return waveform[expected.start : expected.end] if rate == RATE else read_audio(str(expected.file))


def check(out, miniature, tolerance=1e-6):  # mp3 is not decoded to the last bit
    assert {path.name for path in out.glob("*.tsv")} == {*miniature.rows, "left_out.tsv"}
    for name, expected in miniature.rows.items():
        manifest = read_manifest(str(out / name))
        rows = [manifest.row(index) for index in range(len(manifest))]
        key = lambda row: row[0]  # noqa: E731
        seen = [(row.id, row.tgt_text, row.src_lang, row.tgt_lang, row.speaker) for row in rows]
        assert sorted(seen, key=key) == sorted((tuple(one[:5]) for one in expected), key=key), name
        for row, one in zip(sorted(rows, key=key), sorted(expected, key=key), strict=True):
            waveform = sound_of(one)
            assert row.n_samples == len(waveform) == len(read_audio(row.audio)), row.id
            assert np.abs(read_audio(row.audio) - waveform).max() <= tolerance, row.id
        assert not check_manifest(str(out / name), decode=True).findings


def test_manifests_say_what_was_laid_down(laid_down, tmp_path, capsys):
    layout, miniature = laid_down
    assert prepare(layout, miniature, tmp_path / "data", "--max-bad", "1") == 0
    check(tmp_path / "data", miniature)
    assert sorted(row["kind"] for row in left_out(tmp_path / "data")) == miniature.left_out
    output = capsys.readouterr().out
    assert f"{len(miniature.left_out)} left out: " in output
    assert all(kind in output for kind in miniature.left_out)


def test_packed_audio_is_the_same(laid_down, tmp_path):
    layout, miniature = laid_down
    assert prepare(layout, miniature, tmp_path / "data", "--max-bad", "1", "--zip") == 0
    check(tmp_path / "data", miniature, tolerance=0.5 / 32768)
    (tmp_path / "data").rename(tmp_path / "moved")  # audio and manifests can be moved together
    check(tmp_path / "moved", miniature, tolerance=0.5 / 32768)


def test_too_many_faults_are_named_and_nothing_is_written(laid_down, tmp_path, capsys):
    layout, miniature = laid_down
    faults = [kind for kind in miniature.left_out if not kind.startswith("marked")]
    assert prepare(layout, miniature, tmp_path / "data") == (2 if len(faults) > 1 else 0)
    if len(faults) > 1:
        assert "more than the 1 that --max-bad allows:\n  " in capsys.readouterr().err
        assert not list((tmp_path / "data").glob("*.tsv"))


def test_every_layout_has_a_miniature_and_can_be_named():
    assert {layout for layout, _ in MINIATURES.values()} == set(LAYOUTS) == set(CHOICES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_layout(layout, tmp_path, capsys):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "README").write_text("Here is no corpus.")
    assert colld(["prepare", layout, str(tmp_path / "corpus"), "--out", str(tmp_path / "data")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "corpus") in message and "give the folder of the corpus as it was unpacked" in message
    assert colld(["prepare", layout, str(tmp_path / "none"), "--out", str(tmp_path / "data")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
