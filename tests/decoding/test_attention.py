"""What fairseq's generator finds, as hypotheses (its search itself: tests/end_to_end, tests/cli/test_transcribe.py)."""

from types import SimpleNamespace

import pytest
import torch

from colld_fairseq.decoding.attention import AttentionDecoder

EOS, TAG = 2, 9


def generated(tokens, scores, score):
    return {"tokens": torch.tensor(tokens), "positional_scores": torch.tensor(scores), "score": torch.tensor(score)}


@pytest.mark.parametrize("tags", [None, torch.tensor([TAG])])
def test_tags_and_end_of_sentence_are_no_tokens_but_the_end_has_its_probability(tags):
    head, score = ([], []) if tags is None else ([TAG], [-7.0])
    lists = [
        generated([*head, 5, 6, EOS], [*score, -1.0, -0.5, -0.25], -0.4),
        generated([*head, EOS], [*score, -3.0], -0.9),
        generated([*head, 7, EOS], [*score, -4.0, -1.0], -1.2),
    ]
    asked = []

    def generate(models, sample, prefix_tokens):
        asked.append((sample["net_input"]["src_lengths"].tolist(), prefix_tokens))
        return [lists]

    generator = SimpleNamespace(generate=generate, eos=EOS, symbols_to_strip_from_output={EOS, TAG})
    ((best, empty),) = AttentionDecoder(generator, nbest=2).decode([], torch.zeros(1, 3), torch.tensor([3]), tags)
    assert (best.tokens, best.token_scores, best.frames) == ([5, 6], [-1.0, -0.5], [])
    assert best.log_prob == pytest.approx(-1.75) and best.score == pytest.approx(-0.4)
    assert best.mean_log_prob == pytest.approx(-1.75 / 2)
    assert (empty.tokens, empty.log_prob) == ([], pytest.approx(-3.0))
    lengths, prefix = asked[0]
    assert lengths == [3] and (prefix is None if tags is None else prefix.tolist() == [[TAG]])
