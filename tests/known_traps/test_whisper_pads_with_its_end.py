"""Whisper's padding is its end of text. fairseq never writes padding, and trains nothing where a target is padding."""

import pretrained
import pytest
import torch
from fairseq.data import data_utils

from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary
from colld_fairseq.models.pretrained_decoder import PretrainedDecoder


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return PretrainedVocabulary(pretrained.write_whisper(tmp_path_factory.mktemp("whisper")))


def test_the_end_is_no_padding_here(vocab):
    assert vocab.config["pad_token_id"] == vocab.config["eos_token_id"] == vocab.dictionary.eos()
    assert vocab.dictionary.pad() != vocab.dictionary.eos()
    assert vocab.dictionary.pad() in vocab.never_written  # so nothing is lost by not writing it


def test_targets_keep_their_ends(vocab):
    targets = [vocab.encode(text, append_eos=True) for text in ("please", "please enter your password")]
    batch = data_utils.collate_tokens(targets, vocab.dictionary.pad(), vocab.dictionary.eos())
    assert (batch == vocab.dictionary.eos()).sum(1).tolist() == [1, 1]
    assert (batch != vocab.dictionary.pad()).sum(1).tolist() == [len(target) for target in targets]


def test_padding_after_a_target_changes_nothing_before_it(vocab):
    torch.manual_seed(1)
    decoder = PretrainedDecoder(vocab).eval()
    prefix = torch.tensor([vocab.prefix("en", "en")])
    encoder_out = {
        "encoder_out": [torch.randn(9, 1, 32)],
        "encoder_padding_mask": [torch.zeros(1, 9, dtype=torch.bool)],
        "prefix_tokens": [prefix],
    }
    tokens = torch.tensor([[vocab.dictionary.eos(), 50, 60, 70]])
    padded = torch.cat((tokens, torch.full((1, 3), vocab.dictionary.pad())), dim=1)
    short, long = decoder(tokens, encoder_out)[0], decoder(padded, encoder_out)[0]
    assert torch.allclose(short, long[:, :4], atol=1e-5)
