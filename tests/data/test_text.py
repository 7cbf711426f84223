"""Text normalization and the two tokenizations."""

import unicodedata
from dataclasses import asdict

import pytest

from colld_fairseq.data.text import (
    FORMER_KEY,
    TextCodec,
    TextNormalizer,
    load_text_codec,
    read_vocabulary_config,
)
from colld_fairseq.errors import ConfigError


@pytest.mark.parametrize(
    "text,expected",
    [
        ("  a\u00a0b\t c\u3000d\n", "a b c d"),  # every kind of space
        ("e\u0301te\u0301", "été"),  # NFC
        ("\ufeffab\u200bc \u202bשלום\u202c\u200f", "abc שלום"),  # invisible controls
        ("می\u200cخواهم", "می\u200cخواهم"),  # the Persian joiner is kept
        ("Straße, OK!", "Straße, OK!"),  # nothing else changes by default
    ],
)
def test_default_normalization(text, expected):
    assert TextNormalizer()(text) == expected


def test_lower_case_stays_composed():
    assert TextNormalizer(lowercase=True)("ÉTÉ Straße ΟΔΟΣ") == "été straße οδος"
    assert unicodedata.is_normalized("NFC", TextNormalizer(lowercase=True)("İ"))


@pytest.mark.parametrize(
    "text,expected",
    [
        ("Hello, “world”! (well-known)", "Hello world well known"),
        ("L’été, dit-il: 'c'est là'", "L'été dit il c'est là"),
        ("¿Qué? — ¡Sí!", "Qué Sí"),
        ("你好,世界。", "你好 世界"),
        ("שלום, עולם؟", "שלום עולם"),
        ("नमस्ते, दुनिया।", "नमस्ते दुनिया"),  # combining marks are no punctuation
        ("5 $ + 3 %", "5 $ + 3"),
        ("...", ""),
    ],
)
def test_punctuation_removal(text, expected):
    assert TextNormalizer(remove_punctuation=True)(text) == expected


def test_normalization_is_idempotent():
    for text in ("L’été, “dit-il”…", "İSTANBUL — ﬁn", "e\u0301\u0323 x", "a|b ▁c"):
        once = TextNormalizer(lowercase=True, remove_punctuation=True)(text)
        assert TextNormalizer(lowercase=True, remove_punctuation=True)(once) == once


def test_character_codec_round_trip():
    codec = TextCodec("char")
    assert codec.encode("ab c") == ["a", "b", "|", "c"]
    for text in ("où est l'été", "שלום עולם", "नमस्ते दुनिया", "ωndω ngá", "你好"):
        assert codec.decode(codec.encode(text)) == codec.decode(" ".join(codec.encode(text))) == text
    assert codec.encode("  ") == [] and codec.decode([]) == ""


def test_character_codec_agrees_with_fairseq_post_processing():
    from fairseq.data.data_utils import post_process

    codec = TextCodec("char", TextNormalizer(lowercase=True))
    tokens = " ".join(codec.encode("Le | Chat|Noir"))
    assert post_process(tokens, codec.post_process) == codec.clean("Le | Chat|Noir") == "le chat noir"


def test_normalizer_is_stored_and_read_back():
    normalizer = TextNormalizer(lowercase=True, remove_punctuation=True)
    assert TextNormalizer.from_config(asdict(normalizer)) == normalizer
    assert TextNormalizer.from_config(None) == TextNormalizer()
    with pytest.raises(ConfigError, match="stem_words"):
        TextNormalizer.from_config({"stem_words": True})


def test_codec_from_config(tmp_path):
    codec = load_text_codec({"text_normalization": {"lowercase": True}}, tmp_path)
    assert codec.kind == "char" and codec.encode("A B") == ["a", "|", "b"]
    with pytest.raises(ConfigError, match="sentencepiece model not found.*colld vocab"):
        load_text_codec({"bpe_tokenizer": {"bpe": "sentencepiece", "sentencepiece_model": "spm.model"}}, tmp_path / "c")
    with pytest.raises(ConfigError, match="gpt2"):
        load_text_codec({"bpe_tokenizer": {"bpe": "gpt2"}}, tmp_path)
    with pytest.raises(ConfigError, match="words"):
        TextCodec("words")


def test_vocabularies_of_the_former_spelling_are_read(tmp_path):
    (tmp_path / "config.yaml").write_text(f"vocab_filename: dict.txt\n{FORMER_KEY}: {{lowercase: true}}\n")
    assert read_vocabulary_config(tmp_path)["text_normalization"] == {"lowercase": True}
