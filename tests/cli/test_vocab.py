"""`colld vocab`: dictionaries fairseq reads, and text that comes back as it went in."""

import argparse
import random

import pytest
import yaml

from colld_fairseq.cli import options, vocab
from colld_fairseq.data.text import load_text_codec
from colld_fairseq.data.vocabulary_making import make_vocabulary
from colld_fairseq.errors import ConfigError, ManifestError

HEADER = "id\taudio\tn_frames\ttgt_text\tsrc_lang\ttgt_lang\tsrc_text\n"
ROWS = [
    ("Le chat, l’été.", "fr", "fr", "x"),
    ("le chien", "fr", "fr", "y"),
    ("שלום עולם", "he", "he", ""),
    ("नमस्ते दुनिया", "hi", "hi", ""),
    ("a|b ▁ c", "en", "en", "z"),
    ("", "en", "en", ""),
]


def write_manifest(path, rows=ROWS):
    lines = [
        f"{path.stem}-{i}\ta{i}.wav\t16000\t{text}\t{src}\t{tgt}\t{src_text}\n"
        for i, (text, src, tgt, src_text) in enumerate(rows)
    ]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    return str(path)


def sentences(seed, count, letters):
    rng = random.Random(seed)
    words = ["".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(60)]
    return [" ".join(rng.choices(words, k=8)) for _ in range(count)]


def colld_vocab(*arguments):
    parser = argparse.ArgumentParser()
    options.vocab(parser.add_argument)
    return vocab.run(parser.parse_args([str(a) for a in arguments]))


def tokens_of(folder):
    return [line.rsplit(" ", 1)[0] for line in (folder / "dict.txt").read_text(encoding="utf-8").splitlines()]


def load(folder):
    from fairseq.data import Dictionary

    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return (
        Dictionary.load(str(folder / config["vocab_filename"])),
        load_text_codec(config, folder / "config.yaml"),
        config,
    )


def test_characters_by_frequency_with_tags(tmp_path, capsys):
    out = tmp_path / "made" / "vocab"
    assert colld_vocab("--manifest", write_manifest(tmp_path / "a.tsv"), "--out", out, "--lang-tags") == 0
    tokens = tokens_of(out)
    assert tokens[-4:] == ["<lang:en>", "<lang:fr>", "<lang:he>", "<lang:hi>"]
    counts = [int(line.rsplit(" ", 1)[1]) for line in (out / "dict.txt").read_text(encoding="utf-8").splitlines()]
    assert counts[:-4] == sorted(counts[:-4], reverse=True)
    assert dict(zip(tokens, counts))["|"] == 8 and dict(zip(tokens, counts))["<lang:en>"] == 2
    assert {"ש", "\u0947", "’", "L", "▁"} <= set(tokens)
    dictionary, codec, config = load(out)
    assert config["prepend_tgt_lang_tag"] is True and config["languages"] == ["en", "fr", "he", "hi"]
    assert len(dictionary) == len(tokens) + 4
    assert f"{len(dictionary)} tokens" in capsys.readouterr().out
    for text, *_ in ROWS:
        ids = dictionary.encode_line(" ".join(codec.encode(text)), add_if_not_exist=False, append_eos=False)
        assert dictionary.unk() not in ids
        assert dictionary.string(ids, config["post_process"]) == codec.clean(text)


def test_normalization_is_applied_and_stored(tmp_path):
    colld_vocab(
        "--manifest",
        write_manifest(tmp_path / "a.tsv"),
        "--out",
        tmp_path,
        "--lowercase",
        "--remove-punctuation",
    )
    assert not {"L", ",", ".", "’", "<lang:fr>"} & set(tokens_of(tmp_path)) and "'" in tokens_of(tmp_path)
    _, codec, config = load(tmp_path)
    assert config["text_normalization"] == {"lowercase": True, "remove_punctuation": True}
    assert codec.clean("Le chat, l’été.") == "le chat l'été"


def test_a_literal_word_boundary_is_reported_and_read_as_a_space(tmp_path, caplog):
    colld_vocab("--manifest", write_manifest(tmp_path / "a.tsv"), "--out", tmp_path)
    assert "1 sentences contain a literal '|'" in caplog.text
    assert load(tmp_path)[1].clean("a|b") == "a b"


def test_size_keeps_the_most_frequent_letters_and_always_the_boundary(tmp_path):
    manifest = write_manifest(tmp_path / "a.tsv", [("aaab", "", "", ""), ("aabc", "", "", "")])
    colld_vocab("--manifest", manifest, "--out", tmp_path, "--size", 2)
    assert tokens_of(tmp_path) == ["a", "|"]


def test_column_of_source_text(tmp_path):
    colld_vocab("--manifest", write_manifest(tmp_path / "a.tsv"), "--out", tmp_path, "--column", "src_text")
    assert sorted(tokens_of(tmp_path)) == ["x", "y", "z", "|"]


def test_sentencepiece_ids_are_the_dictionary_s_and_text_comes_back(tmp_path):
    import sentencepiece

    transcripts = sentences(0, 80, "abcdéωשल\u0301") + ["ｆｕｌｌ ﬁ ½", "a|b ▁ c"]
    manifest = write_manifest(tmp_path / "a.tsv", [(text, "xx", "xx", "") for text in transcripts])
    colld_vocab("--manifest", manifest, "--kind", "sentencepiece", "--size", 60, "--out", tmp_path, "--lang-tags")
    dictionary, codec, config = load(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    assert len(dictionary) == 61 and processor.get_piece_size() == 60
    assert [dictionary[i] for i in range(60)] == [processor.id_to_piece(i) for i in range(60)]
    for text in transcripts:
        ids = dictionary.encode_line(" ".join(codec.encode(text)), add_if_not_exist=False, append_eos=False)
        assert dictionary.unk() not in ids
        assert dictionary.string(ids, config["post_process"]) == codec.clean(text)
    assert codec.clean("▁x▁▁y") == "x y" == codec.decode(codec.encode("▁x▁▁y"))


def test_character_coverage_leaves_out_the_rarest(tmp_path):
    transcripts = [*sentences(0, 80, "abcd"), "abcd ω"]
    manifest = write_manifest(tmp_path / "a.tsv", [(text, "xx", "xx", "") for text in transcripts])
    for coverage, known in ((1, True), (0.99, False)):
        folder = tmp_path / str(coverage)
        options = ["--manifest", manifest, "--kind", "sentencepiece", "--size", 30, "--out", folder]
        colld_vocab(*options, "--character-coverage", coverage)
        assert any("ω" in token for token in tokens_of(folder)) == known


@pytest.mark.parametrize("kind", ["char", "sentencepiece"])
def test_the_same_input_gives_the_same_bytes(tmp_path, kind):
    manifest = write_manifest(tmp_path / "a.tsv", [(text, "xx", "xx", "") for text in sentences(1, 50, "abcdefgh")])
    for name in ("first", "second"):
        temperature = ["--temperature", 3] if kind == "sentencepiece" else []
        colld_vocab("--manifest", manifest, "--kind", kind, "--size", 40, *temperature, "--out", tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    expected = ["config.yaml", "dict.txt"] + (["spm.model", "spm.vocab"] if kind == "sentencepiece" else [])
    assert files == expected  # and no temporary file
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_temperature_favors_the_small_language(tmp_path):
    large = write_manifest(tmp_path / "a.tsv", [(text, "aa", "aa", "") for text in sentences(2, 300, "abcdef")])
    small = write_manifest(tmp_path / "b.tsv", [(text, "bb", "bb", "") for text in sentences(3, 12, "uvwxyz")])
    long_pieces = {}
    for temperature in (1, 100):
        out = tmp_path / str(temperature)
        colld_vocab(
            "--manifest",
            f"{large},{small}",
            "--kind",
            "sentencepiece",
            "--size",
            80,
            "--out",
            out,
            "--temperature",
            temperature,
        )
        long_pieces[temperature] = sum(len(t) > 2 and set(t[1:]) <= set("uvwxyz") for t in tokens_of(out))
    assert long_pieces[100] > long_pieces[1]


@pytest.mark.parametrize(
    "option", [("--size", 9), ("--temperature", 2), ("--character-coverage", 0.9), ("--lowercase",), ("--lang-tags",)]
)
def test_a_vocabulary_grows_with_its_own_settings(option, tmp_path):
    manifest = ["--manifest", write_manifest(tmp_path / "a.tsv")]
    with pytest.raises(ConfigError, match="keeps the settings of the old vocabulary"):
        colld_vocab(*manifest, "--extend", tmp_path / "old", "--out", tmp_path / "new", *option)


def test_another_s_config_yaml_is_not_replaced(tmp_path):
    """fairseq's scripts write one that says how filterbanks are treated, too."""
    manifest, out = write_manifest(tmp_path / "a.tsv"), tmp_path / "data"
    out.mkdir()
    (out / "config.yaml").write_text("input_feat_per_channel: 80\nvocab_filename: dict.txt\n")
    with pytest.raises(ConfigError, match="config.yaml that `colld vocab` did not make"):
        colld_vocab("--manifest", manifest, "--out", out)
    assert [path.name for path in out.iterdir()] == ["config.yaml"]
    (out / "config.yaml").unlink()
    for _ in range(2):  # its own it replaces
        colld_vocab("--manifest", manifest, "--out", out)


def test_errors_name_the_remedy(tmp_path):
    rows = [(text, "xx", "", "") for text in sentences(4, 20, "abcdef")]
    manifest = write_manifest(tmp_path / "a.tsv", rows)
    with pytest.raises(ConfigError, match="cannot make 5000 pieces from 20 sentences.*--size"):
        colld_vocab("--manifest", manifest, "--kind", "sentencepiece", "--size", 5000, "--out", tmp_path)
    with pytest.raises(ManifestError, match="--lang-tags needs the column tgt_lang"):
        colld_vocab("--manifest", manifest, "--out", tmp_path, "--lang-tags")
    with pytest.raises(ManifestError, match="no text in the column src_text"):
        colld_vocab("--manifest", manifest, "--out", tmp_path, "--column", "src_text")
    for option in ("--temperature", 2), ("--character-coverage", 0.9):
        with pytest.raises(ConfigError, match="are about pieces: give --kind sentencepiece"):
            colld_vocab("--manifest", manifest, *option, "--out", tmp_path)
    with pytest.raises(ConfigError, match="--temperature 0.5: must be a finite number at least 1"):
        make_vocabulary([manifest], tmp_path, "sentencepiece", temperature=0.5)
    assert not (tmp_path / "dict.txt").exists()
