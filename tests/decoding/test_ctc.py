"""CTC search against enumeration of every alignment."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from colld_fairseq.decoding.ctc import align_labels, greedy_ctc, prefix_beam_search
from colld_fairseq.errors import ColldError


def collapse(path, blank):
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def enumerate_hypotheses(log_probs, blank):
    """{hypothesis: (ln p summed over all alignments, ln p of the best alignment)} of log_probs [T, V]."""
    sums, best = defaultdict(float), defaultdict(lambda: -math.inf)
    frames, vocabulary = log_probs.shape
    for path in itertools.product(range(vocabulary), repeat=frames):
        score = sum(float(log_probs[t, token]) for t, token in enumerate(path))
        labels = collapse(path, blank)
        sums[labels] += math.exp(score)
        best[labels] = max(best[labels], score)
    return {labels: (math.log(p), best[labels]) for labels, p in sums.items() if p > 0}


def random_log_probs(batch, frames, vocabulary, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, frames, vocabulary, generator=generator, dtype=torch.float64)
    return logits.log_softmax(-1)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("frames,vocabulary", [(1, 3), (4, 3), (6, 3), (4, 4)])
def test_wide_beam_gives_the_exact_probability_of_every_hypothesis(frames, vocabulary, blank):
    log_probs = random_log_probs(1, frames, vocabulary)
    expected = enumerate_hypotheses(log_probs[0], blank)
    hypotheses = prefix_beam_search(log_probs, torch.tensor([frames]), blank, beam=5000, nbest=5000)[0]
    assert {tuple(h.tokens): h.score for h in hypotheses} == pytest.approx(
        {k: v[0] for k, v in expected.items()}, abs=1e-9
    )
    assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
    for hypothesis in hypotheses:
        best_path = expected[tuple(hypothesis.tokens)][1]
        assert hypothesis.log_prob == pytest.approx(best_path, abs=1e-9)
        if hypothesis.tokens:
            assert sum(hypothesis.token_scores) == pytest.approx(best_path, abs=1e-9)
        assert hypothesis.frames == sorted(hypothesis.frames)


def test_narrow_beam_finds_the_best_hypothesis_where_greedy_does_not():
    # Two frames: blank 0.6, "a" 0.4. Best path: empty (0.36); best hypothesis: "a" (0.64).
    log_probs = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]], dtype=torch.float64).log()
    lengths = torch.tensor([2])
    assert greedy_ctc(log_probs, lengths)[0].tokens == []
    best = prefix_beam_search(log_probs, lengths, beam=2)[0][0]
    assert best.tokens == [1] and best.score == pytest.approx(math.log(0.64))


def test_a_prefix_that_leaves_the_beam_and_returns_is_still_one_hypothesis():
    # Narrow beams over many random cases: no hypothesis may come twice, and no score may exceed the exact one.
    for seed in range(12):
        log_probs = random_log_probs(1, 7, 3, scale=1.0, seed=seed)
        exact = enumerate_hypotheses(log_probs[0], 0)
        for beam in (2, 3, 5):
            hypotheses = prefix_beam_search(log_probs, torch.tensor([7]), beam=beam, nbest=beam)[0]
            labels = [tuple(h.tokens) for h in hypotheses]
            assert len(set(labels)) == len(labels) == beam
            assert all(h.score <= exact[tuple(h.tokens)][0] + 1e-9 for h in hypotheses)


def test_few_tokens_per_frame_still_finds_peaked_hypotheses():
    log_probs = random_log_probs(4, 30, 50, scale=6.0)
    lengths = torch.full((4,), 30)
    wide = prefix_beam_search(log_probs, lengths, beam=20, beam_size_token=50)
    few = prefix_beam_search(log_probs, lengths, beam=20, beam_size_token=8)
    assert [h[0].tokens for h in wide] == [h[0].tokens for h in few]
    assert [h[0].score for h in wide] == pytest.approx([h[0].score for h in few], abs=0.02)
    one = prefix_beam_search(log_probs, lengths, beam=20, beam_size_token=1)
    assert [h[0].score for h in one] != [h[0].score for h in few]


def test_greedy_is_the_best_path_with_its_score_and_frames():
    path = [0, 0, 3, 3, 0, 3, 1, 1, 2, 0]
    log_probs = torch.full((1, len(path), 4), 0.1, dtype=torch.float64)
    log_probs[0, torch.arange(len(path)), torch.tensor(path)] = 0.7
    hypothesis = greedy_ctc(log_probs.log(), torch.tensor([len(path)]))[0]
    assert hypothesis.tokens == [3, 3, 1, 2]
    assert hypothesis.frames == [2, 5, 6, 8]
    assert hypothesis.score == pytest.approx(10 * math.log(0.7))
    assert hypothesis.token_scores == pytest.approx([n * math.log(0.7) for n in (5, 1, 2, 2)])


@pytest.mark.parametrize("decode", [greedy_ctc, lambda x, n: [h[0] for h in prefix_beam_search(x, n, beam=4)]])
def test_results_do_not_depend_on_batch_order_or_padding(decode):
    lengths = torch.tensor([9, 3, 12, 0, 1])
    log_probs = random_log_probs(5, 12, 6)
    for i, n in enumerate(lengths):
        log_probs[i, n:] = float("nan")  # what is in the padding must never be looked at
    together = decode(log_probs, lengths)
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = decode(log_probs[order], lengths[order])
    for position, i in enumerate(order.tolist()):
        alone = decode(log_probs[i : i + 1, : int(lengths[i])], lengths[i : i + 1])[0]
        assert together[i] == alone == shuffled[position]
    assert together[3].tokens == [] and together[3].score == 0


def test_alignment_is_the_best_path_of_the_hypothesis():
    log_probs = random_log_probs(1, 6, 3, seed=5)[0]
    paths = defaultdict(list)
    for path in itertools.product(range(3), repeat=6):
        paths[collapse(path, 0)].append((sum(float(log_probs[t, k]) for t, k in enumerate(path)), path))
    for labels, candidates in paths.items():
        score, path = max(candidates)
        starts, ends, path_scores = align_labels(log_probs.numpy(), list(labels), 0)
        assert path_scores.sum() == pytest.approx(score)
        previous = (0,) + path[:-1]
        assert starts == [t for t in range(6) if path[t] != 0 and (t == 0 or path[t] != previous[t])]
        follows = path[1:] + (0,)
        assert ends == [t + 1 for t in range(6) if path[t] != 0 and (t == 5 or path[t] != follows[t])]


def test_alignment_that_does_not_fit_is_an_error():
    with pytest.raises(ColldError, match="2 tokens need at least 3 frames, there are 2"):
        align_labels(np.zeros((2, 3)), [1, 1], 0)


@pytest.mark.parametrize("tied", [[1, 2], [1, 3], [2, 3], [1, 2, 3]])
def test_tokens_as_probable_as_the_last_one_considered_are_considered_too(tied):
    """Whatever their ids: a cut by rank would depend on the order in which a machine sorts equals."""
    probabilities = torch.full((1, 1, 5), 0.01, dtype=torch.float64)
    probabilities[..., 0], probabilities[..., 4] = 0.05, 0.3
    probabilities[..., tied] = 0.2
    hypotheses = prefix_beam_search(probabilities.log(), torch.tensor([1]), beam=9, nbest=9, beam_size_token=2)[0]
    assert [h.tokens for h in hypotheses] == [[4], *([token] for token in tied), []]


class TokenBigram:
    """A language model over tokens with a table of ln p(next | last); row 0 is the start, column 0 the
    end."""

    def __init__(self, table):
        self.table = table

    def start(self):
        return 0

    def prepare(self, states):
        pass

    def score(self, state, token):
        return token, float(self.table[state, token]), 1

    def finish(self, state):
        return float(self.table[state, 0]), 0


def test_fusion_ranks_by_the_sum_of_all_scores():
    log_probs = random_log_probs(1, 5, 3, seed=3)
    table = np.log(np.array([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]]))
    lm = TokenBigram(table)
    expected = {}
    for labels, (ctc, _) in enumerate_hypotheses(log_probs[0], 0).items():
        chain = [0, *labels, 0]
        lm_score = sum(table[a, b] for a, b in zip(chain, chain[1:]))
        expected[labels] = ctc + 0.7 * lm_score + 0.3 * len(labels)
    hypotheses = prefix_beam_search(
        log_probs, torch.tensor([5]), beam=500, nbest=500, lm=lm, lm_weight=0.7, length_bonus=0.3
    )[0]
    assert {tuple(h.tokens): h.score for h in hypotheses} == pytest.approx(expected, abs=1e-9)
    for hypothesis in hypotheses[:3]:
        chain = [0, *hypothesis.tokens, 0]
        assert hypothesis.lm_score == pytest.approx(sum(table[a, b] for a, b in zip(chain, chain[1:])))


def test_length_bonus_without_language_model_counts_tokens():
    log_probs = random_log_probs(1, 6, 3, seed=1)
    plain = {tuple(h.tokens): h.score for h in prefix_beam_search(log_probs, torch.tensor([6]), beam=500, nbest=500)[0]}
    scored = prefix_beam_search(log_probs, torch.tensor([6]), beam=500, nbest=500, length_bonus=2.0)[0]
    assert {tuple(h.tokens): h.score for h in scored} == pytest.approx({k: v + 2.0 * len(k) for k, v in plain.items()})
    assert len(scored[0].tokens) > len(max(plain, key=plain.get))


def test_unusable_input_is_named():
    log_probs = random_log_probs(2, 4, 3)
    with pytest.raises(ColldError, match="utterance 1 of the batch: length 5"):
        greedy_ctc(log_probs, torch.tensor([4, 5]))
    log_probs[1, 2, 0] = float("nan")
    with pytest.raises(ColldError, match="utterance 1 .* NaN"):
        greedy_ctc(log_probs, torch.tensor([4, 4]))
    with pytest.raises(ColldError, match="utterance 1 .* NaN"):
        prefix_beam_search(log_probs, torch.tensor([4, 4]))
    with pytest.raises(ColldError, match="must be at least 1"):
        prefix_beam_search(log_probs[:1], torch.tensor([4]), beam=0)
    with pytest.raises(ColldError, match="every token of some frame is -inf"):
        prefix_beam_search(torch.full((1, 2, 3), -math.inf), torch.tensor([2]))
