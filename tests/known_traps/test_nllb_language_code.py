"""NLLB's tokenizers once wrote the language behind a text, now before it, and that of the source unless told otherwise.

A decoder needs </s>, then the target's language, then the text and </s>, whatever the tokenizer does by itself.
"""

import json

import pretrained
import pytest

from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary


@pytest.mark.parametrize("legacy", [False, True])
def test_position_of_the_language(legacy, tmp_path):
    pretrained.write_nllb(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "legacy_behaviour": legacy, "src_lang": "spa_Latn"}))
    vocab = PretrainedVocabulary(tmp_path)
    target = vocab.encode("please enter", append_eos=True)
    assert not set(target.tolist()) & vocab.language_ids and int(target[-1]) == vocab.dictionary.eos()
    end = vocab.dictionary.eos()
    assert vocab.prefix("spa_Latn", "rus_Cyrl") == [end, vocab.dictionary.index("rus_Cyrl")]
