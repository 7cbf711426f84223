"""fairseq 0.12's --no-repeat-ngram-size blocks nothing without its CUDA extension, which no wheel has."""

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.ngram_repeat_block import NGramRepeatBlock

from colld_fairseq.decoding.attention import NGramBlocker

BUFFER = torch.tensor([[2, 7, 5, 7, 1, 1, 1, 1]])  # start, 7 5 7 so far, and padding up to the longest hypothesis


@pytest.mark.parametrize("size, blocked", [(1, [5, 7]), (2, [5]), (3, [])])
def test_ngrams_that_were_written(size, blocked):
    plain, ours = torch.zeros(1, 9), torch.zeros(1, 9)
    NGramRepeatBlock(size, use_extension=False)(BUFFER, plain, 1, 1, 3)
    ours = NGramBlocker(size)(BUFFER, ours, 1, 1, 3)
    assert ours[0].isinf().nonzero().flatten().tolist() == blocked
    if size < 3:  # as long as this fails, the class of ours is needed
        assert not plain.isinf().any()


def test_a_loop_is_broken(finetuning):
    from argparse import Namespace

    shape = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "40"]
    run = finetuning(*shape, arch="student_s2t")
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    sample = dataset.collater([dataset[0]])

    def written(**options):
        generator = run.task.build_generator([run.model], Namespace(beam=1, max_len_a=0, max_len_b=12, **options))
        (n_best,) = run.task.inference_step(generator, [run.model], sample)
        return n_best[0]["tokens"].tolist()

    def bigrams(tokens):
        return list(zip(tokens, tokens[1:]))

    assert isinstance(run.task.target_dictionary, Dictionary)
    looped, free = bigrams(written()), bigrams(written(no_repeat_ngram_size=2))
    assert len(looped) > len(set(looped)) and len(free) == len(set(free))
