"""Tokenizers read "</s>" or "<|en|>" in a text as the special tokens; in a transcript they are text."""

import pretrained
import pytest

from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary


@pytest.mark.parametrize(
    "family, text", [("whisper", "a <|endoftext|> b"), ("nllb", "a </s> b"), ("mbart50", "a </s> b")]
)
def test_text_stays_text(family, text, tmp_path):
    getattr(pretrained, f"write_{family}")(tmp_path)
    vocab = PretrainedVocabulary(tmp_path)
    ids = vocab.encode(text, append_eos=True).tolist()
    assert ids.count(vocab.dictionary.eos()) == 1 and ids[-1] == vocab.dictionary.eos()
    assert not set(ids[:-1]) & (vocab.never_written - vocab._suppressed("suppress_tokens"))
