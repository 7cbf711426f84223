"""fairseq's TokenBlockDataset, which trains language models, asks for `np.compat.long`: numpy 2 has no such thing."""

import torch
from fairseq.data import TokenBlockDataset

import colld_fairseq  # noqa: F401


def test_sentences_become_blocks():
    sentences = [torch.tensor([5, 6, 2]), torch.tensor([7, 2])]
    blocks = TokenBlockDataset(sentences, [3, 2], None, pad=1, eos=2, break_mode="eos", include_targets=True)
    source, target, _ = blocks[1]
    assert source.tolist() == [2, 7] and target.tolist() == [7, 2]
