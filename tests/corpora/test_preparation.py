"""What `colld prepare` does whatever the layout: splits, languages, normalization, resuming, nothing overwritten."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import soundfile
from commands import REPOSITORY, environment
from miniatures import (
    CV_HEADER,
    MINIATURES,
    RATE,
    cv_row,
    fleurs,
    hub_dataset,
    kaldi,
    librispeech,
    must_c,
    sound,
    write,
)

from colld_fairseq.cli import main as colld
from colld_fairseq.corpora.normalization import normalized
from colld_fairseq.corpora.request import parse_splits
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.errors import ConfigError


def prepare(layout, folder, out, *more):
    return colld(["prepare", layout, str(folder), "--out", str(out), *map(str, more)])


def common_voice(root, count=6, **languages):
    """languages: code -> a sentence."""
    for language, sentence in languages.items():
        names = [sound(root / language / f"clips/{language}_{i}.wav", seed=i).name for i in range(count)]
        write(root / language / "train.tsv", CV_HEADER, *(cv_row("s", name, sentence, language) for name in names))
    return root


def rows_of(path):
    manifest = read_manifest(str(path))
    return [manifest.row(index) for index in range(len(manifest))]


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_splits_are_joined_and_renamed(tmp_path):
    librispeech(tmp_path / "libri")
    splits = "train=train-clean-100,dev-other"
    assert prepare("librispeech", tmp_path / "libri", tmp_path / "data", "--splits", splits, "--max-bad", 1) == 0
    names = [row.id for row in rows_of(tmp_path / "data/train.tsv")]
    assert names == ["84-121-0000", "19-198-0000", "19-198-0001"]
    assert parse_splits("train=a,b,dev=c") == {"a": "train", "b": "train", "c": "dev"}
    assert parse_splits("a,b") == {"a": "a", "b": "b"}
    assert parse_splits("a, x = b,c, y=d=e") == {"a": "a", "b": "x", "c": "x", "d=e": "y"}
    for wrong in ("a,a", "x=a,y=a", "a/b", "x=a,x=b", "x,x=a", "x=,a", "a,=b"):
        with pytest.raises(ConfigError, match="--splits"):
            parse_splits(wrong)


def test_splits_with_and_without_a_name_as_the_page_has_them(tmp_path, capsys):
    page = (REPOSITORY / "docs/own_corpus.md").read_text()
    (splits,) = re.findall(r"^colld prepare must-c .* --splits (\S+)$", page, re.MULTILINE)
    assert parse_splits(splits) == {"train": "train", "dev": "dev", "tst-COMMON": "test"}
    corpus = must_c(tmp_path / "mustc").folder
    assert prepare("must-c", corpus, tmp_path / "data", "--splits", splits, "--max-bad", 1) == 2
    assert "no split 'dev'; it has the splits train, tst-COMMON and the languages en" in capsys.readouterr().err
    there = splits.replace("dev,", "")
    assert prepare("must-c", corpus, tmp_path / "data", "--splits", there, "--max-bad", 1) == 0
    assert [row.id for row in rows_of(tmp_path / "data/test.tsv")] == ["en-de-ted_9_0"]


@pytest.mark.parametrize("name", MINIATURES)
def test_splits_and_languages_that_are_not_all_there(name, tmp_path, capsys):
    """In every layout, though others that are asked for are there; before any audio is opened."""
    layout, make = MINIATURES[name]
    miniature, out = make(tmp_path / "corpus"), tmp_path / "data"
    splits = sorted({re.sub(r"(_asr|_st)?\.tsv$", "", manifest) for manifest in miniature.rows})
    languages = sorted({row.source for rows in miniature.rows.values() for row in rows})
    assert prepare(layout, miniature.folder, out, *miniature.options, "--splits", f"{splits[0]},nowhere,no=where") == 2
    told = capsys.readouterr().err
    assert (
        "no split 'nowhere', 'where'; it has the splits " in told
        and told.endswith("correct --splits\n")
        or ("--languages" in miniature.options and told.endswith("correct --splits or --languages\n"))
    )
    assert all(split in told.split("it has the splits ")[1] for split in splits)
    assert prepare(layout, miniature.folder, out, *miniature.options, "--languages", f"{languages[0]},tlh,xx") == 2
    told = capsys.readouterr().err
    if "--languages" in miniature.options:  # where the files say none
        assert f"no language '{languages[0]}', 'tlh', 'xx'; " in told and "no file says the language" in told
    else:
        assert "no language 'tlh', 'xx'; it has " in told and f"languages {', '.join(languages)}: correct" in told
    assert not out.exists()


def test_a_split_that_is_there_but_empty(tmp_path, capsys):
    sound(tmp_path / "corpus/a.wav")
    (
        write(tmp_path / "corpus/train.csv", "path,text,lang", "a.wav,A,de"),
        write(tmp_path / "corpus/dev.csv", "path,text"),
    )
    for options in ([], ["--languages", "de"]):
        words = [*options, "--splits", "train,valid=dev"]
        assert prepare("table", tmp_path / "corpus", tmp_path / "data", *words) == 2
        assert "the split 'dev' has nothing that can be used" in capsys.readouterr().err
    assert prepare("table", tmp_path / "corpus", tmp_path / "data") == 0


def test_languages_under_both_their_names(tmp_path):
    miniature = fleurs(tmp_path / "fleurs")
    words = ["--languages", "de_de,zh", "--max-bad", 1]
    assert prepare("fleurs", miniature.folder, tmp_path / "data", *words) == 0
    assert {row.src_lang for row in rows_of(tmp_path / "data/train.tsv")} == {"de"}


def test_translations_and_files_beside_audio_that_are_not_there(tmp_path, capsys):
    corpus = must_c(tmp_path / "mustc").folder
    assert prepare("must-c", corpus, tmp_path / "data", "--translate-into", "de,fr,it") == 2
    assert "no translation into 'fr', 'it'; it has those into: de; correct" in capsys.readouterr().err
    radio = sound(tmp_path / "radio/a.wav").parent
    write(radio / "a.txt", "A")
    assert prepare("folder", radio, tmp_path / "data", "--columns", "text=words") == 2
    assert "no audio has a file NAME.words beside it, as --columns text=words says" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_what_is_not_there_is_told_with_what_is(tmp_path, capsys):
    librispeech(tmp_path / "libri")
    assert prepare("librispeech", tmp_path / "libri", tmp_path / "data", "--splits", "test-clean") == 2
    assert "it has the splits dev-other, train-clean-100" in capsys.readouterr().err
    common_voice(tmp_path / "cv", de="Ja", fr="Oui")
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", "--languages", "it") == 2
    assert "the languages de, fr" in capsys.readouterr().err
    write(tmp_path / "cv/covost_v2.de_en.tsv", "path\ttranslation\tsplit\tclient_id")
    assert prepare("common-voice", tmp_path / "cv/de", tmp_path / "data", "--translate-into", "en") == 2
    assert "validated.tsv: is missing, and has the sentences of CoVoST 2" in capsys.readouterr().err
    (tmp_path / "cv/de/validated.tsv").write_text((tmp_path / "cv/de/train.tsv").read_text())
    assert prepare("common-voice", tmp_path / "cv/de", tmp_path / "data", "--translate-into", "en") == 2
    assert prepare("common-voice", tmp_path / "cv/de", tmp_path / "data", "--translate-into", "tr") == 2
    assert "covost_v2.de_tr.tsv: no such table of CoVoST 2" in capsys.readouterr().err


def test_an_option_that_would_do_nothing(tmp_path, capsys):
    assert prepare("librispeech", tmp_path, tmp_path / "data", "--translate-into", "de") == 2
    assert "--translate-into says nothing about librispeech" in capsys.readouterr().err
    for layout, use in (("folder", "audio"), ("lhotse", "text"), ("table", "txt")):
        write(tmp_path / "a.csv", "path,text"), write(tmp_path / "b.csv", "path,text", "a.wav,A")
        assert prepare(layout, tmp_path, tmp_path / "data", "--columns", f"{use}=x") == 2
        assert f"--columns {use}=x: " in capsys.readouterr().err


def test_columns_that_could_be_several_things_or_none(tmp_path, capsys):
    sound(tmp_path / "a.wav")
    table = write(tmp_path / "train.csv", "recording,text,sentence", "a.wav,A,B")
    assert prepare("table", table, tmp_path / "data") == 2
    assert "text and sentence could both be the text; say --columns text=NAME" in capsys.readouterr().err
    assert prepare("table", table, tmp_path / "data", "--columns", "text=sentence") == 2
    assert "no column with audio among recording, text, sentence" in capsys.readouterr().err
    assert prepare("table", table, tmp_path / "data", "--columns", "text=sentence,audio=recordings") == 2
    assert "no column 'recordings'" in capsys.readouterr().err
    assert prepare("table", table, tmp_path / "data", "--columns", "text=sentence,audio=recording") == 0
    assert [row.tgt_text for row in rows_of(tmp_path / "data/train.tsv")] == ["B"]


def test_tables_of_spreadsheets(tmp_path):
    """Semicolons, and names of columns as people write them."""
    sound(tmp_path / "a.wav")
    write(tmp_path / "train.csv", "Path;Text;Translation_en;Language", 'a.wav;"Ja; doch, ""so""";Yes;de')
    assert prepare("table", tmp_path, tmp_path / "data", "--translate-into", "en") == 0
    asr, st = rows_of(tmp_path / "data/train.tsv")
    assert (asr.tgt_text, asr.tgt_lang) == ('Ja; doch, "so"', "de") and (st.tgt_text, st.tgt_lang) == ("Yes", "en")


def test_folders_of_whatever_can_be_read(tmp_path):
    """AIFF, Sphere, ... and what PyAV reads; a text beside one, and no audio in another."""
    endings = {"aiff": "AIFF", "au": "AU", "caf": "CAF", "sph": "NIST", "w64": "W64", "oga": "OGG"}
    (tmp_path / "radio").mkdir()
    for ending, kind in endings.items():
        soundfile.write(tmp_path / f"radio/{ending}.{ending}", np.zeros(16000), 16000, format=kind)
    (tmp_path / "radio/notes.pdf").write_bytes(b"no audio")
    (tmp_path / "radio/damaged.m4a").write_bytes(b"\0\0\0\x1cftypM4A ")
    options = ("--max-bad", 1)
    assert prepare("folder", tmp_path / "radio", tmp_path / "data", *options) == 0
    manifest = read_manifest(str(tmp_path / "data/train.tsv"))
    assert sorted(manifest.ids) == sorted(f"{ending}.{ending}" for ending in endings)
    assert set(manifest.n_samples) == {16000}
    assert "damaged" in (tmp_path / "data/left_out.tsv").read_text()


def test_translations_that_are_punctuation_alone_make_no_rows(tmp_path):
    sound(tmp_path / "a.wav")
    write(tmp_path / "train.csv", "path,text,translation_en,language", "a.wav,Ja,...,de", "b.wav,So,Yes,de")
    sound(tmp_path / "b.wav")
    options = ("--translate-into", "en", "--remove-punctuation")
    assert prepare("table", tmp_path, tmp_path / "data", *options) == 0
    assert [(row.tgt_text, row.tgt_lang) for row in rows_of(tmp_path / "data/train.tsv")] == [
        ("Ja", "de"),
        ("So", "de"),
        ("Yes", "en"),
    ]


@pytest.mark.parametrize("how", [[], ["--name", "mine"]])
def test_a_folder_of_tables_takes_its_own_manifests(how, tmp_path):
    """They are no tables of the corpus the second time, nor is the list of what was left out."""
    sound(tmp_path / "a.wav")
    write(tmp_path / "training.csv", "path,text,language", "a.wav,Ja,de", "a.wav,,de")
    made = []
    for _ in range(2):
        assert prepare("table", tmp_path, tmp_path, *how) == 0
        made.append({path.name: path.read_text() for path in tmp_path.glob("*.tsv")})
    assert made[0] == made[1] and len(made[0]) == 2


def test_a_vocabulary_that_cannot_be_written_is_told_first(tmp_path, capsys):
    table = interviews(tmp_path / "corpus")
    write(tmp_path / "data/config.yaml", "input_feat_per_channel: 80")
    assert prepare("table", table, tmp_path / "data", "--vocab-kind", "char") == 2
    assert "config.yaml that `colld vocab` did not make" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["config.yaml"]


def test_tables_without_a_row_and_lists(tmp_path, capsys):
    table = write(tmp_path / "empty.csv", "path,text")
    assert prepare("table", table, tmp_path / "data") == 2
    assert "empty.csv: no utterance; " in capsys.readouterr().err
    listed = write(tmp_path / "all.jsonl", '[{"audio": "a.wav", "text": "Ja"},', '{"audio": "b.wav", "text": "Nein"}]')
    assert prepare("table", listed, tmp_path / "data") == 2
    assert "all.jsonl:1: is one JSON list, not an object on each line" in capsys.readouterr().err


def test_languages_are_chosen(tmp_path):
    common_voice(tmp_path / "cv", de="Ja", fr="Oui", it="Sì")
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", "--languages", "fr,it") == 0
    assert {row.src_lang for row in rows_of(tmp_path / "data/train.tsv")} == {"fr", "it"}
    record = json.loads((tmp_path / "data/prepared.json").read_text())
    total = record["manifests"]["train.tsv"]
    assert (total["utterances"], total["speakers"]) == (12, 1)
    assert total["languages"] == pytest.approx({"fr": 1.2, "it": 1.2}) and total["seconds"] == pytest.approx(2.4)


def test_text_is_normalized_for_its_language(tmp_path):
    common_voice(tmp_path / "cv", tr="IŞIK,  İzmir!", de="Süß — «I»")
    options = ("--lowercase", "--remove-punctuation")
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", *options) == 0
    assert {(row.src_lang, row.tgt_text) for row in rows_of(tmp_path / "data/train.tsv")} == {
        ("tr", "ışık izmir"),
        ("de", "süß i"),
    }
    assert normalized("I\u0307zmir IŞIK", "tr-TR", TextNormalizer(lowercase=True)) == "izmir ışık"
    assert normalized("IŞIK İ", "tr", TextNormalizer()) == "IŞIK İ"


def test_controls_are_no_text():
    plain = TextNormalizer()
    assert normalized("a\0b\x1b[0m c\x7f\td\n", "en", plain) == "ab[0m c d"
    assert normalized("\x93don\x92t\x94 \x85 \x81x", "en", plain) == "\u201cdon\u2019t\u201d \u2026 x"
    assert normalized("\0 \x1b", "en", plain) == ""


def test_segments_are_not_copied(tmp_path):
    miniature = kaldi(tmp_path / "kaldi")
    assert prepare("kaldi", miniature.folder, tmp_path / "data", "--max-bad", 1, "--languages", "en") == 0
    (first, _) = rows_of(tmp_path / "data/train.tsv")
    assert first.audio == f"{tmp_path}/kaldi/wavs/talk.wav:1600:4000"
    assert sum(path.stat().st_size for path in (tmp_path / "data").iterdir()) < 5000


def test_audio_alone_becomes_audio_only_manifests(tmp_path):
    for name in ("train/a.wav", "train/b.flac", "dev-x/c.ogg"):
        sound(tmp_path / "radio" / name)
    assert prepare("folder", tmp_path / "radio", tmp_path / "data") == 0
    manifest = read_manifest(str(tmp_path / "data/train.tsv"))
    assert manifest.ids == ["train/a.wav", "train/b.flac"] and not manifest.has_text
    assert (tmp_path / "data/train.tsv").read_text().splitlines()[0] == str(tmp_path / "radio")
    assert read_manifest(str(tmp_path / "data/dev-x.tsv")).ids == ["dev-x/c.ogg"]
    assert prepare("folder", tmp_path / "radio", tmp_path / "packed", "--zip") == 0
    packed = read_manifest(str(tmp_path / "packed/train.tsv"))
    assert (read_audio(packed.audio_path(0)) == read_audio(str(tmp_path / "radio/train/a.wav"))).all()


def test_names_that_no_manifest_can_hold(tmp_path, capsys):
    for name in ("a.wav", "tab\t.wav", os.fsdecode(b"caf\xe9.wav")):
        sound(tmp_path / "source.wav").rename(tmp_path / name)
        (tmp_path / "radio").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "radio" / name)
    assert prepare("folder", tmp_path / "radio", tmp_path / "data", "--max-bad", 1) == 0
    assert read_manifest(str(tmp_path / "data/train.tsv")).ids == ["a.wav"]
    assert "2 left out: 2 name that no manifest can hold" in capsys.readouterr().out


def test_vocabulary_along_with_the_manifests(tmp_path):
    common_voice(tmp_path / "cv", de="Ja", fr="Oui")
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", "--lowercase", "--vocab-kind", "char") == 0
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "again", "--lowercase") == 0
    manifest = str(tmp_path / "again/train.tsv")
    assert colld(["vocab", "--manifest", manifest, "--lowercase", "--lang-tags", "--out", str(tmp_path / "again")]) == 0
    for name in ("dict.txt", "config.yaml"):
        assert (tmp_path / "data" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_files_of_another_origin_are_not_overwritten(tmp_path, capsys):
    common_voice(tmp_path / "cv", de="Ja", fr="Oui")
    before = contents(tmp_path / "cv/de")
    assert prepare("common-voice", tmp_path / "cv/de", tmp_path / "cv/de") == 2
    assert "train.tsv is there and not made from" in capsys.readouterr().err
    assert contents(tmp_path / "cv/de") == before
    assert prepare("common-voice", tmp_path / "cv/de", tmp_path / "data") == 0
    assert prepare("common-voice", tmp_path / "cv/de", tmp_path / "data", "--lowercase") == 0  # its own are
    assert prepare("common-voice", tmp_path / "cv/fr", tmp_path / "data") == 2
    assert prepare("common-voice", tmp_path / "cv/fr", tmp_path / "data", "--name", "fr") == 0
    assert {row.tgt_text for row in rows_of(tmp_path / "data/train_fr.tsv")} == {"Oui"}
    assert {row.tgt_text for row in rows_of(tmp_path / "data/train.tsv")} == {"ja"}


def test_the_number_of_processes_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("colld_fairseq.corpora.preparation.PART", 2)
    common_voice(tmp_path / "cv", count=9, de="Ja")
    hub = hub_dataset(tmp_path / "hub").folder
    for layout, folder, parts in (("common-voice", tmp_path / "cv", 5), ("huggingface", hub, 3)):
        for workers in (1, 3):
            out = tmp_path / layout / str(workers)
            assert prepare(layout, folder, out, "--zip", "--workers", workers, "--max-bad", 1) == 0
            assert len(list((out / "audio").iterdir())) == parts
        assert contents(tmp_path / layout / "1") == contents(tmp_path / layout / "3")


def test_a_file_that_was_mended_is_tried_again(tmp_path, capsys):
    common_voice(tmp_path / "cv", de="Ja")
    for i in range(2):
        (tmp_path / f"cv/de/clips/de_{i}.wav").write_bytes(b"RIFF")
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data") == 2
    assert "2 of 6 utterances cannot be used" in capsys.readouterr().err
    for i in range(2):
        sound(tmp_path / f"cv/de/clips/de_{i}.wav", 0.3)
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data") == 0
    assert [row.n_samples for row in rows_of(tmp_path / "data/train.tsv")] == [4800, 4800, 3200, 3200, 3200, 3200]


@pytest.mark.parametrize("other, lost", [("train_asr", "train_asr.tsv"), ("left_out", "left_out.tsv")])
def test_splits_that_would_write_one_file_are_refused(other, lost, tmp_path, capsys):
    for name in ("train", other):
        sound(tmp_path / f"corpus/{name}.wav", 0.3)
        (tmp_path / f"corpus/{name}.csv").write_text(f"path,sentence,locale,translation_en\n{name}.wav,Ja,de,Yes\n")
    assert prepare("table", tmp_path / "corpus", tmp_path / "data", "--translate-into", "en") == 2
    assert f"would write {lost} twice" in capsys.readouterr().err and not (tmp_path / "data" / lost).exists()


@pytest.mark.parametrize("how", [[], ["--zip"]])
def test_audio_that_changed_while_a_run_was_stopped_is_opened_again(how, tmp_path, monkeypatch):
    """Audio that could be used before: neither its former length nor, packed, its former sound is kept."""
    monkeypatch.setattr("colld_fairseq.corpora.preparation.PART", 2)
    common_voice(tmp_path / "cv", de="Ja")
    (tmp_path / "cv/de/clips/de_4.wav").rename(tmp_path / "de_4.wav")
    (tmp_path / "cv/de/clips/de_5.wav").rename(tmp_path / "de_5.wav")
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", *how) == 2
    for name in ("de_4.wav", "de_5.wav"):
        (tmp_path / name).rename(tmp_path / f"cv/de/clips/{name}")
    new = sound(tmp_path / "cv/de/clips/de_1.wav", 0.3, seed=9)
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", *how) == 0
    row = rows_of(tmp_path / "data/train.tsv")[1]
    assert row.n_samples == 4800
    assert (read_audio(row.audio, RATE) == soundfile.read(new, dtype="float32")[0]).all()


def test_replaced_manifests_are_named(tmp_path, capsys):
    common_voice(tmp_path / "cv", de="Ja", fr="Oui")
    told = "train.tsv: other utterances than an earlier preparation of this corpus had"
    for languages, replaced in (("de", False), ("de", False), ("fr", True)):
        for more in ([], ["--zip", "--name", "packed"]):
            assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", "--languages", languages, *more) == 0
            said = capsys.readouterr().out
            assert (told.replace("train", "train_packed" if more else "train") in said) == replaced


def interviews(root):
    """A table with three splits and a translation."""
    names = [sound(root / f"{name}.wav").name for name in "abc"]
    splits = ("train", "dev", "test")
    rows = [f"{name},Ja,Yes,{split}" for name, split in zip(names, splits)]
    return write(root / "all.csv", "path,text,translation_en,split", *rows)


ALL = [f"{split}{suffix}.tsv" for split in ("train", "dev", "test") for suffix in ("", "_asr", "_st")]


@pytest.mark.parametrize("how", [[], ["--zip"]])
def test_manifests_of_an_earlier_preparation_do_not_stay(how, tmp_path, capsys):
    table, out = interviews(tmp_path / "corpus"), tmp_path / "data"
    words = ["--languages", "de", *how]
    assert prepare("table", table, out, *words, "--translate-into", "en") == 0
    assert prepare("table", table, out, *words, "--translate-into", "en", "--name", "pair") == 0
    (out / "mine.tsv").write_text("of another program")
    named = {name: content for name, content in contents(out).items() if "_pair" in name}
    assert "removed" not in capsys.readouterr().out
    assert prepare("table", table, out, *words, "--splits", "train,valid=test") == 0
    said = capsys.readouterr().out
    (gone,) = [line for line in said.replace("\n", " ").split("  ") if "not made by this one" in line]
    assert ", ".join(name for name in ALL if name != "train.tsv") in " ".join(gone.split())
    assert {name for name in contents(out) if name.endswith(".tsv")} == {
        *("train.tsv", "valid.tsv", "left_out.tsv", "mine.tsv"),
        *(name for name in named if name.endswith(".tsv")),
    }
    assert {name: contents(out)[name] for name in named} == named
    assert prepare("table", table, out, *words, "--splits", "train,valid=test") == 0
    assert "not made by this one" not in capsys.readouterr().out
    assert prepare("table", table, tmp_path / "alone", *words, "--splits", "train,valid=test") == 0
    assert (out / "prepared.json").read_bytes() == (tmp_path / "alone/prepared.json").read_bytes()


def test_a_column_of_translations_that_are_not_asked_for(tmp_path, capsys):
    table, out = interviews(tmp_path / "corpus"), tmp_path / "data"
    words = ["--languages", "de", "--columns", "translation_en=translation_en"]
    assert prepare("table", table, out, *words) == 2 and not out.exists()
    assert "give that, too, or leave the column out" in capsys.readouterr().err
    assert prepare("table", table, out, *words, "--translate-into", "en") == 0


def test_other_splits_of_the_same_kind_stay(tmp_path, capsys):
    table, out = interviews(tmp_path / "corpus"), tmp_path / "data"
    for split in ("train", "dev,test"):
        assert prepare("table", table, out, "--languages", "de", "--splits", split) == 0
    assert "removed" not in capsys.readouterr().out
    assert prepare("table", table, tmp_path / "alone", "--languages", "de") == 0
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    records = [json.loads((folder / "prepared.json").read_text()) for folder in (out, tmp_path / "alone")]
    assert records[0]["manifests"] == records[1]["manifests"]
    assert prepare("table", table, out, "--languages", "de", "--splits", "dev", "--lowercase") == 0
    assert {path.name for path in out.glob("t*.tsv")} == set() and (out / "dev.tsv").exists()


KILLED = """
import os, signal, sys
from colld_fairseq.corpora import preparation
write, left = preparation.write_manifest, [int(sys.argv.pop(1))]
def write_or_die(*how):
    left[0] -= 1
    return os.kill(os.getpid(), signal.SIGKILL) if left[0] < 0 else write(*how)
preparation.write_manifest = write_or_die
from colld_command import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("written", [0, 1])
def test_killed_among_its_manifests(written, tmp_path, capsys):
    """kill -9 before the first or second of two manifests: no former one is beside them, and a third preparation, with
    other options again, leaves what it makes alone."""
    table, out = interviews(tmp_path / "corpus"), tmp_path / "data"
    options = ["--languages", "de", "--workers", "1"]
    assert prepare("table", table, out, *options, "--translate-into", "en") == 0
    words = ["prepare", "table", str(table), "--out", str(out), *options, "--splits", "valid=dev,train=train"]
    done = subprocess.run(
        [sys.executable, "-c", "import colld_command\n" + KILLED, str(written), *words],
        env=environment(PYTHONPATH=str(REPOSITORY)), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert {path.name for path in out.glob("*.tsv")} == {"left_out.tsv", *["train.tsv", "valid.tsv"][:written]}
    assert json.loads((out / "prepared.json").read_text())["unfinished"]
    capsys.readouterr()
    third = [*options, "--splits", "test"]
    assert prepare("table", table, out, *third) == 0
    assert "train_asr.tsv" in capsys.readouterr().out
    assert prepare("table", table, tmp_path / "alone", *third) == 0
    assert contents(out) == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    "manifests", ['["train.tsv"]', '{"../kept.tsv": {}, "notes.txt": {}, "": {}, "sub/a.tsv": {}}']
)
def test_a_record_names_nothing_but_manifests_beside_it(manifests, tmp_path):
    table, out = interviews(tmp_path / "corpus"), tmp_path / "data"
    kept = [write(tmp_path / name, "kept") for name in ("kept.tsv", "data/notes.txt", "data/sub/a.tsv")]
    origin = f'"layout": "table", "folder": {json.dumps(str(table))}'
    (out / "prepared.json").write_text("{" + origin + f', "manifests": {manifests}' + "}")
    assert prepare("table", table, out, "--languages", "de") == 0
    assert all(path.read_text() == "kept\n" for path in kept)


def test_no_manifest_names_archives_that_were_replaced(tmp_path, capsys):
    """A second preparation of a corpus that grew is stopped half-way: the old manifests must not be read any more."""
    common_voice(tmp_path / "cv", de="Ja")
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", "--zip") == 0
    for i in range(6):
        (tmp_path / f"cv/de/clips/de_{i}.wav").write_bytes(b"RIFF")
    assert prepare("common-voice", tmp_path / "cv", tmp_path / "data", "--zip") == 2
    assert not (tmp_path / "data/train.tsv").exists()


def test_a_full_disk_is_one_line(tmp_path):
    common_voice(tmp_path / "cv", count=30, de="Ja")
    done = subprocess.run(
        [sys.executable, "-m", "colld_command", "prepare", "common-voice", "cv", "--out", "data", "--zip"],
        env=environment(PYTHONPATH=str(REPOSITORY)), cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "data/audio/00000.zip: File too large" in done.stderr
    assert not list((tmp_path / "data").rglob("*.tmp"))


PATIENT = """
import sys, time
from colld_fairseq.corpora import measuring, preparation
preparation.PART = 5
measure = measuring.measure
preparation.measure = lambda *part: (time.sleep(0.1), measure(*part))[1]
from colld_command import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [[], ["--zip", "--workers", "2"]])
def test_killed_in_the_middle_and_started_again(how, tmp_path):
    """kill -9 with some parts done: the second run does not open them again, and ends with what one run writes."""
    common_voice(tmp_path / "cv", count=60, de="Ja")
    (tmp_path / "cv/de/clips/de_3.wav").write_bytes(b"RIFF")
    words = ["prepare", "common-voice", str(tmp_path / "cv"), "--workers", "1", "--max-bad", "0.1", *how, "--out"]
    process = subprocess.Popen(
        [sys.executable, "-c", "import colld_command\n" + PATIENT, *words, str(tmp_path / "killed")],
        env=environment(PYTHONPATH=str(REPOSITORY)), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    journal = tmp_path / "killed/prepared.partial"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "killed").glob("*.tsv"))
    done = [
        json.loads(line)["part"] for line in journal.read_bytes().splitlines(keepends=True)[1:] if line[-1:] == b"\n"
    ]
    (tmp_path / "killed/.train.tsv.0123456789abcdef.tmp").touch()  # of a run killed while it wrote
    opened = tmp_path / "opened"
    again = PATIENT.replace("(time.sleep(0.1), ", f"(open({str(opened)!r}, 'a').write('part\\n'), ")
    for code, out in ((again, "killed"), (PATIENT.replace("0.1", "0"), "alone")):
        subprocess.run(
            [sys.executable, "-c", "import colld_command\n" + code, *words, str(tmp_path / out)],
            env=environment(PYTHONPATH=str(REPOSITORY)), check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    assert contents(tmp_path / "killed") == contents(tmp_path / "alone")
    assert opened.read_text().count("part") == 12 - len(done)
    assert len(rows_of(tmp_path / "killed/train.tsv")) == 59
    rows = rows_of(tmp_path / "killed/train.tsv")
    waveform, _ = soundfile.read(tmp_path / "cv/de/clips/de_4.wav", dtype="float32")
    assert (read_audio(next(row for row in rows if row.id == "de_4").audio, RATE) == waveform).all()


def test_a_journal_of_another_plan_begins_anew(tmp_path):
    common_voice(tmp_path / "cv", de="Ja")
    (tmp_path / "data").mkdir()
    for content in (b"", b"no journal", b'{"plan": "of another"}\n{"part": 0, "results": []}\n', b'{"plan": 1}\n[1]\n'):
        (tmp_path / "data/prepared.partial").write_bytes(content)
        assert prepare("common-voice", tmp_path / "cv", tmp_path / "data") == 0
        assert len(rows_of(tmp_path / "data/train.tsv")) == 6


def test_a_fleurs_that_is_still_packed_says_the_command_that_unpacks_it(tmp_path, capsys):
    whole = fleurs(tmp_path / "a corpus")
    audio = whole.folder / "data/en_us/audio"
    with tarfile.open(audio / "train.tar.gz", "w:gz") as archive:
        archive.add(audio / "train", arcname="train")
    shutil.rmtree(audio / "train")
    words = [
        "prepare",
        "fleurs",
        str(whole.folder),
        "--out",
        str(tmp_path / "data"),
        "--max-bad",
        "1",
        "--workers",
        "1",
    ]
    assert colld(words) == 2
    message = capsys.readouterr().err
    assert f"{audio / 'train.tar.gz'}: not unpacked yet" in message
    subprocess.run(["bash", "-c", message.split("unpack it with: ")[1]], check=True)
    assert colld(words) == 0
    assert "speakers" not in capsys.readouterr().out  # FLEURS names none
