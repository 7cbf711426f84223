"""Whisper's English-only models have the tokens of languages and tasks as well, one id lower, and are told neither."""

import json

import pretrained
import pytest

from colld_fairseq.data.decoder_prefix import is_multilingual
from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary
from colld_fairseq.errors import ConfigError


def test_prefix_without_language_and_task(tmp_path):
    pretrained.write_whisper(tmp_path, multilingual=False)
    vocab = PretrainedVocabulary(tmp_path)
    assert "<|en|>" in vocab.dictionary.indices  # what one might go by
    tokens = [vocab.dictionary[index] for index in vocab.prefix("", "en")]
    assert tokens == ["<|startoftranscript|>", "<|notimestamps|>"]
    assert vocab.prefix_size == 2 and not vocab.uses_tags
    assert vocab.tags(None, "", 2, "cpu").tolist() == [vocab.prefix("en", "en")] * 2
    with pytest.raises(ConfigError, match="from 'es' into 'en': this Whisper knows English only"):
        vocab.prefix("es", "en")


@pytest.mark.parametrize(
    "size, generation, expected",
    [
        (51864, {}, False),  # older directories say nothing of it
        (51865, {}, True),
        (51866, {}, True),
        (51864, {"is_multilingual": True}, True),
        (51865, {"is_multilingual": False}, False),
        (51864, {"lang_to_id": {"<|en|>": 50259}}, True),
    ],
)
def test_what_tells_them_apart(size, generation, expected):
    assert is_multilingual({"vocab_size": size}, generation) == expected


def test_ids_are_looked_up_and_not_counted(tmp_path):
    """A multilingual id used with an English tokenizer would be the token beside it."""
    pretrained.write_whisper(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<|notimestamps|>"]
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"its tokenizer has no <\|notimestamps\|>"):
        PretrainedVocabulary(tmp_path)
