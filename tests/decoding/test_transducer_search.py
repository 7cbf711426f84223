"""Transducer searches against a step-by-step loop, against all hypotheses enumerated, and against one another."""

import copy
import functools
import itertools
import math

import pytest
import torch
from graves_search import graves_beam_search

from colld_fairseq.decoding.transducer import GreedySearch, Scorer
from colld_fairseq.decoding.transducer_beam import BeamSearch
from colld_fairseq.errors import ColldError
from colld_fairseq.modules.transducer import Joiner, LstmPredictor, StatelessPredictor

BLANK, PAD, WIDTH = 0, 1, 8


class Network:
    """Predictor and joiner with weights large enough to prefer something; frames are already projected."""

    def __init__(self, kind="lstm", seed=0, vocabulary=6, blank_bias=0.0):
        torch.manual_seed(seed)
        if kind == "lstm":
            self.predictor = LstmPredictor(vocabulary, WIDTH, 1, 0.0, BLANK, PAD).double().eval()
        else:
            self.predictor = StatelessPredictor(vocabulary, WIDTH, 2, 0.0, BLANK, PAD).double().eval()
        self.joiner = Joiner(1, WIDTH, WIDTH, vocabulary, "tanh").double()
        for parameter in (*self.predictor.parameters(), *self.joiner.parameters()):
            parameter.data.mul_(3)
        self.joiner.output.bias.data[BLANK] += blank_bias

    def start(self, rows, tags=None):
        return self.extend(self.predictor.start_tokens(rows), self.predictor.start(rows, tags))

    def extend(self, tokens, state):
        output, state = self.predictor.step(tokens, state)
        return self.joiner.predictor_projection(output), state

    def join(self, frames, symbols):
        return self.joiner(frames, symbols)


def scorer(*networks, **options):
    return Scorer(networks, [WIDTH] * len(networks), BLANK, **{"never_emitted": [PAD], **options})


def batch(lengths, seed=1, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    frames = 2 * torch.randn(len(lengths), max(lengths), width, generator=generator, dtype=torch.float64)
    return frames, torch.tensor(lengths)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def step_by_step(search, frames, tags, max_symbols, topology):
    """Greedy search of one utterance, a symbol at a time: tokens, frames, ln p of each token with blanks after it."""
    symbols, state = search.start(1, tags)
    tokens, places, scores, here, t, leading = [], [], [], 0, 0, 0.0
    while t < len(frames):
        log_probs = search.log_probs(frames[t], symbols[0])
        token = BLANK if here == max_symbols else int(log_probs.argmax())
        if token == BLANK:
            if tokens:
                scores[-1] += float(log_probs[BLANK])
            else:
                leading += float(log_probs[BLANK])
            t, here = t + 1, 0
            continue
        scores.append(float(log_probs[token]) + (0.0 if tokens else leading))
        tokens.append(token)
        places.append(t)
        symbols, state = search.extend(torch.tensor([token]), state)
        here += topology == "regular"
        t += topology == "modified"
    return tokens, places, scores, leading


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
@pytest.mark.parametrize("topology", ["regular", "modified"])
@pytest.mark.parametrize("max_symbols", [1, 2, 10])
def test_greedy_is_the_loop_over_symbols(kind, topology, max_symbols):
    search = scorer(Network(kind, blank_bias=2.0))
    frames, lengths = batch([37, 1, 0, 20, 9])
    tags = torch.tensor([3, 4, 3, 1, 5])
    hypotheses = [h for (h,) in GreedySearch(max_symbols, topology)(search, frames, lengths, tags)]
    assert sum(len(h.tokens) for h in hypotheses) > 5
    for i, length in enumerate(lengths.tolist()):
        expected = step_by_step(search, frames[i, :length], tags[i : i + 1], max_symbols, topology)
        assert (hypotheses[i].tokens, hypotheses[i].frames) == expected[:2]
        assert hypotheses[i].token_scores == pytest.approx(expected[2], abs=1e-5)
        assert hypotheses[i].score == pytest.approx(sum(expected[2]) if expected[2] else expected[3], abs=1e-5)


class Bigram:
    """A language model whose units are tokens."""

    table = torch.randn(7, 7, generator=torch.Generator().manual_seed(3)).log_softmax(-1).tolist()

    def start(self):
        return 6

    def prepare(self, states):
        pass

    def score(self, state, token):
        return token, self.table[state][token], 1

    def finish(self, state):
        return self.table[state][6], 0


def in_pieces(way, search, frames, lengths, tags, longest):
    """States after pieces of any length, 0 included, each utterance beside others than before."""
    generator = torch.Generator().manual_seed(7)
    states, left = way.start(search, len(lengths), tags).split(), lengths.tolist()
    while any(left):
        rows = [i for i in torch.randperm(len(left), generator=generator).tolist() if left[i]][:3]
        taken = [min(left[i], int(torch.randint(0, longest + 1, (), generator=generator))) for i in rows]
        pieces = torch.zeros(len(rows), max(taken), frames.size(2), dtype=frames.dtype)
        for row, (i, size) in enumerate(zip(rows, taken)):
            done = int(lengths[i]) - left[i]
            pieces[row, :size] = frames[i, done : done + size]
            left[i] -= size
        joined = type(states[0]).join([states[i] for i in rows])
        before = copy.deepcopy(way.n_best(joined))
        after = way.proceed(search, pieces, torch.tensor(taken), joined)
        assert way.n_best(joined) == before
        for i, state in zip(rows, after.split()):
            states[i] = state
    return states


FUSED = dict(lm=Bigram(), lm_weight=0.6, length_bonus=1.5)
WAYS = {
    "greedy": ("lstm", 2.0, GreedySearch(2)),
    "greedy, modified": ("stateless", 2.0, GreedySearch(2, "modified")),
    "beam": ("lstm", 1.0, BeamSearch(4, 4, 2)),
    "beam, wide": ("stateless", 0.0, BeamSearch(12, 12, 3)),
    "beam, modified": ("lstm", 2.0, BeamSearch(5, 5, topology="modified")),
    "beam, fused": ("stateless", 1.0, BeamSearch(4, 3, 2, **FUSED)),
    "beam, fused, modified": ("stateless", 3.0, BeamSearch(4, 3, topology="modified", **FUSED)),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("longest", [1, 8])
def test_pieces_give_what_all_frames_at_once_give(name, longest):
    kind, bias, way = WAYS[name]
    search, (frames, lengths) = scorer(Network(kind, blank_bias=bias)), batch([37, 1, 0, 20, 9])
    tags = torch.tensor([3, 4, 3, 1, 5])
    expected = way(search, frames, lengths, tags)
    assert max(len(h.tokens) for n_best in expected for h in n_best) > 5
    for state, length, whole in zip(in_pieces(way, search, frames, lengths, tags, longest), lengths, expected):
        (hypotheses,) = way.n_best(state)
        assert state.seen == [int(length)]
        assert [(h.tokens, h.frames) for h in hypotheses] == [(h.tokens, h.frames) for h in whole]
        for one, other in zip(hypotheses, whole):
            assert one.token_scores == pytest.approx(other.token_scores, abs=1e-5)
            scores = (one.score, one.log_prob, one.lm_score)
            assert scores == pytest.approx((other.score, other.log_prob, other.lm_score), abs=1e-5)


def test_memory_of_a_long_stream_is_bounded():
    """Between pieces: a few nodes of the tree, one predictor row per hypothesis, a language-model state a node."""
    search, (frames, lengths) = scorer(Network()), batch([400])
    way = BeamSearch(4, 4, 2, **FUSED)
    (state,), nodes = way.start(search, 1).split(), []
    for piece in frames.split(5, dim=1):
        (state,) = way.proceed(search, piece, torch.tensor([5]), state).split()
        (tree,) = state.trees
        tables = (tree.tokens, tree.children, tree.bonus, tree.lm_scores, tree.lm_states, tree._cache)
        assert all(table.keys() == tree.parents.keys() for table in tables)
        nodes.append(len(tree.parents))
        assert {len(table) for table in (state.predictions.symbols, *state.predictions.state)} == {4}
    (hypotheses,) = way.n_best(state)
    assert len(hypotheses[0].tokens) > 100
    assert max(nodes) <= 3 * 4
    (expected,) = way(search, frames, lengths)
    assert [(h.tokens, h.frames) for h in hypotheses] == [(h.tokens, h.frames) for h in expected]


SEARCHES = {
    "greedy": lambda n: GreedySearch(n),
    "beam": lambda n: BeamSearch(3, 3, n),
    "modified": lambda n: BeamSearch(3, 3, n, "modified"),
    "graves": lambda n: functools.partial(graves_beam_search, beam=3, nbest=3, max_symbols=n),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_results_do_not_depend_on_the_batch(name):
    search, (frames, lengths) = scorer(Network(blank_bias=4.0)), batch([8, 3, 6])
    tags = torch.tensor([3, 4, 3])
    way = SEARCHES[name](2)
    together = way(search, frames, lengths, tags)
    for i, length in enumerate(lengths.tolist()):
        alone = way(search, frames[i : i + 1, :length], lengths[i : i + 1], tags[i : i + 1])
        assert [h.tokens for h in alone[0]] == [h.tokens for h in together[i]]
        assert [h.frames for h in alone[0]] == [h.frames for h in together[i]]
        assert [h.score for h in alone[0]] == pytest.approx([h.score for h in together[i]], abs=1e-5)


def all_hypotheses(search, frames, longest, max_symbols, topology="regular"):
    """labels -> (ln p over all alignments, ln p of the best), by walking through every alignment."""
    totals, best = {}, {}

    def walk(t, labels, symbols, state, log_prob, here):
        if t == len(frames):
            totals.setdefault(labels, []).append(log_prob)
            best[labels] = max(best.get(labels, -math.inf), log_prob)
            return
        log_probs = search.log_probs(frames[t], symbols[0]).double()
        walk(t + 1, labels, symbols, state, log_prob + float(log_probs[BLANK]), 0)
        if len(labels) == longest or here == max_symbols:
            return
        for token in range(2, len(log_probs)):
            after = search.extend(torch.tensor([token]), state)
            ahead, count = (1, 0) if topology == "modified" else (0, here + 1)
            walk(t + ahead, (*labels, token), *after, log_prob + float(log_probs[token]), count)

    walk(0, (), *search.start(1), 0.0, 0)
    return {labels: float(torch.tensor(v).logsumexp(0)) for labels, v in totals.items()}, best


def ranked(totals):
    return sorted(totals.items(), key=lambda item: (-item[1], item[0]))


@pytest.mark.parametrize("topology, max_symbols", [("regular", 1), ("regular", 2), ("modified", 1)])
def test_beam_search_that_keeps_everything_is_exact(topology, max_symbols):
    search, (frames, lengths) = scorer(Network(vocabulary=4)), batch([3, 2])
    hypotheses = BeamSearch(10_000, 20, max_symbols, topology)(search, frames, lengths)
    for i, length in enumerate(lengths.tolist()):
        totals, best = all_hypotheses(search, frames[i, :length], 99, max_symbols, topology)
        expected = ranked(totals)[:20]
        assert [tuple(h.tokens) for h in hypotheses[i]] == [labels for labels, _ in expected]
        assert [h.score for h in hypotheses[i]] == pytest.approx([p for _, p in expected], abs=1e-5)
        for h in hypotheses[i]:
            assert h.log_prob == pytest.approx(best[tuple(h.tokens)], abs=1e-5)
            if h.tokens:
                assert sum(h.token_scores) == pytest.approx(best[tuple(h.tokens)], abs=1e-5)
                assert h.frames == sorted(h.frames) and len(h.frames) == len(h.tokens) == len(h.token_scores)


def test_graves_search_that_keeps_everything_is_exact():
    """Labels per frame are limited by a length no hypothesis of the comparison reaches."""
    search, (frames, lengths) = scorer(Network(vocabulary=4, blank_bias=4.0)), batch([2, 1])
    hypotheses = graves_beam_search(search, frames, lengths, beam=10_000, nbest=5, max_symbols=3)
    for i, length in enumerate(lengths.tolist()):
        totals, _ = all_hypotheses(search, frames[i, :length], 3, 3)
        expected = ranked(totals)[:5]
        assert all(len(labels) < 4 for labels, _ in expected)
        assert [tuple(h.tokens) for h in hypotheses[i]] == [labels for labels, _ in expected]
        assert [h.score for h in hypotheses[i]] == pytest.approx([p for _, p in expected], abs=1e-5)


@pytest.mark.parametrize("seed", range(2))
def test_graves_and_modified_search_agree_where_beams_are_wide(seed):
    search = scorer(Network(seed=seed, vocabulary=5, blank_bias=6.0))
    frames, lengths = batch([5, 4], seed=seed)
    fast = BeamSearch(20, max_symbols=4)(search, frames, lengths)
    slow = graves_beam_search(search, frames, lengths, beam=20, max_symbols=4)
    for (one,), (other,) in zip(fast, slow):
        assert one.tokens == other.tokens
        assert one.score == pytest.approx(other.score, abs=1e-3)


def test_beams_find_what_greedy_search_misses():
    """Over many utterances: never less probable than greedy's path, sometimes another hypothesis."""
    search, (frames, lengths) = scorer(Network(blank_bias=4.0)), batch([10] * 20)
    greedy = GreedySearch(3)(search, frames, lengths)
    beams = BeamSearch(8, max_symbols=3)(search, frames, lengths)
    assert all(b.score >= g.score - 1e-6 for (b,), (g,) in zip(beams, greedy))
    assert any(b.tokens != g.tokens for (b,), (g,) in zip(beams, greedy))


def test_shallow_fusion():
    search, (frames, lengths) = scorer(Network(vocabulary=4)), batch([3])
    lm, weight, bonus = Bigram(), 0.7, 0.4
    fused = dict(lm=lm, lm_weight=weight, length_bonus=bonus)
    (hypotheses,) = BeamSearch(10_000, 9, max_symbols=1, **fused)(search, frames, lengths)
    totals, best_paths = all_hypotheses(search, frames[0], 99, 1)
    expected = {}
    for labels, log_prob in totals.items():
        said = [6, *labels, 6]
        lm_score = sum(lm.table[a][b] for a, b in itertools.pairwise(said))
        expected[labels] = log_prob + weight * lm_score + bonus * len(labels)
    best = ranked(expected)[:9]
    assert [tuple(h.tokens) for h in hypotheses] == [labels for labels, _ in best]
    assert [h.score for h in hypotheses] == pytest.approx([p for _, p in best], abs=1e-5)
    assert hypotheses[0].log_prob == pytest.approx(best_paths[best[0][0]], abs=1e-5)
    assert best[0][0] != ranked(totals)[0][0]


@pytest.mark.parametrize("kind", ["lstm", "stateless"])
def test_ensemble_averages_probabilities(kind):
    one, other = Network(kind, 0), Network(kind, 1)
    frames, _ = batch([4], width=2 * WIDTH)
    symbols, state = scorer(one, other).start(1)
    symbols, _ = scorer(one, other).extend(torch.tensor([3]), state)
    hypotheses = scorer(one, other).log_probs(frames[0, 0], symbols[0])
    expected = 0.0
    for network, part in ((one, frames[0, 0, :WIDTH]), (other, frames[0, 0, WIDTH:])):
        own, _ = network.extend(torch.tensor([3]), network.start(1)[1])
        expected += network.join(part, own[0]).softmax(-1) / 2
    expected[PAD] = 0
    torch.testing.assert_close(hypotheses.exp(), expected.float())


def test_penalty_on_blanks_makes_texts_longer():
    frames, lengths = batch([20, 20])
    sizes = []
    for penalty in (-8.0, 0.0, 12.0):
        search = scorer(Network(blank_bias=4.0), blank_penalty=penalty)
        hypotheses = GreedySearch(2)(search, frames, lengths) + BeamSearch(max_symbols=2)(search, frames, lengths)
        sizes.append([len(h.tokens) for (h,) in hypotheses])
    assert all(a <= b <= c and a < c for a, b, c in zip(*sizes)), sizes


@pytest.mark.parametrize("name", SEARCHES)
def test_symbols_that_are_never_emitted(name):
    network, (frames, lengths) = Network(), batch([6, 5])
    network.joiner.output.bias[2] += 50
    search = Scorer([network], [WIDTH], BLANK, never_emitted=[PAD, 2])
    for n_best in SEARCHES[name](1)(search, frames, lengths):
        assert not {0, PAD, 2} & set(n_best[0].tokens)


def test_what_cannot_be_decoded():
    search, (frames, lengths) = scorer(Network()), batch([4, 4])
    for way in (GreedySearch, BeamSearch):
        with pytest.raises(ColldError, match="NaN"):
            way()(search, frames * torch.nan, lengths)
        with pytest.raises(ColldError, match="do not fit"):
            way()(search, frames, lengths + 1)
        with pytest.raises(ColldError, match="max_symbols"):
            way(max_symbols=0)(search, frames, lengths)
    for wrong in ("beam", "nbest", "beam_size_token"):
        with pytest.raises(ColldError, match=wrong):
            BeamSearch(**{wrong: 0})
