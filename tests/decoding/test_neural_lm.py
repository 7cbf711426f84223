"""fairseq language models in the searches: against the model on the whole text, and against rescoring of everything."""

import math
from argparse import Namespace

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models import lstm_lm, transformer_lm
from test_ctc import enumerate_hypotheses, random_log_probs
from test_transducer_search import Network, all_hypotheses, batch, ranked, scorer

from colld_fairseq.decoding.ctc import prefix_beam_search
from colld_fairseq.decoding.neural_lm import NeuralLm
from colld_fairseq.decoding.transducer_beam import BeamSearch
from colld_fairseq.errors import ConfigError

TRANSFORMER = dict(decoder_layers=2, decoder_embed_dim=8, decoder_ffn_embed_dim=16, decoder_attention_heads=2)
LSTM = dict(decoder_layers=2, decoder_embed_dim=6, decoder_hidden_size=8, decoder_out_embed_dim=6, residuals=False)
MODELS = {
    "transformer": TRANSFORMER,
    "learned positions": dict(TRANSFORMER, decoder_learned_pos=True),
    "adaptive softmax": dict(TRANSFORMER, adaptive_softmax_cutoff="5,6"),
    "lstm": LSTM,
}


def dictionary_of(*symbols):
    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    return dictionary


def language_model(name, symbols="abcd", longest=20, **more):
    """Built as fairseq's task builds it, with weights large enough to prefer something."""
    torch.manual_seed(0)
    dictionary = dictionary_of(*symbols)
    task = Namespace(dictionary=dictionary, source_dictionary=dictionary, target_dictionary=dictionary)
    args = Namespace(tokens_per_sample=longest, criterion="cross_entropy", **MODELS[name], **more)
    if name == "lstm":
        lstm_lm.base_architecture(args)
        model = lstm_lm.LSTMLanguageModel.build_model(args, task)
    else:
        transformer_lm.base_lm_architecture(args)
        model = transformer_lm.TransformerLanguageModel.build_model(args, task)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    return model.double().eval()


@pytest.fixture(params=MODELS)
def model(request):
    return language_model(request.param)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def log_prob_of(model, text):
    """ln p of `text </s>` by one pass over the whole text, and of `text` alone."""
    tokens = torch.tensor([[2, *text]])
    log_probs = model.get_normalized_probs(model(tokens), log_probs=True)[0]
    steps = log_probs.gather(1, torch.tensor([*text, 2])[:, None])[:, 0]
    return float(steps.sum()), float(steps[:-1].sum())


def walk(lm, text):
    """(state after the text, ln p of the text)"""
    state, total = lm.start(), 0.0
    for token in text:
        state, log_prob, units = lm.score(state, token)
        assert units == 1
        total += log_prob
    return state, total


def test_token_by_token_is_the_whole_text(model):
    """Hypotheses of many lengths under way at once; each continues where its own history ended."""
    lm = NeuralLm(model, dictionary_of(*"abcd"))
    hypotheses = [(4,), (5, 6, 4), (), (5, 6, 7, 7, 4, 5), (5, 6), (7, 4, 4)]
    states, totals = [lm.start() for _ in hypotheses], [0.0] * len(hypotheses)
    for u in range(max(map(len, hypotheses)) + 1):
        lm.prepare(states)
        for i, text in enumerate(hypotheses):
            if u < len(text):
                states[i], log_prob, _ = lm.score(states[i], text[u])
                totals[i] += log_prob
    for text, state, total in zip(hypotheses, states, totals):
        with_end, without = log_prob_of(model, text)
        assert total == pytest.approx(without, abs=1e-5)
        assert total + lm.finish(state)[0] == pytest.approx(with_end, abs=1e-5)
        assert walk(lm, text)[1] == pytest.approx(without, abs=1e-5)  # without being prepared


def test_prefixes_run_once_and_together(model, monkeypatch):
    lm = NeuralLm(model, dictionary_of(*"abcd"))
    sizes = []
    forward = model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda x, **kwargs: sizes.append(len(x)) or forward(x, **kwargs))
    states = [walk(lm, text)[0] for text in ((4,), (5,), (6,))]
    assert sizes == [1]  # the empty prefix, shared
    lm.prepare(states + states[:1])
    lm.prepare(states)
    assert sizes == [1, 3]
    lm.prepare([lm.score(state, 4)[0] for state in states])
    assert sizes == [1, 3, 3]


@pytest.mark.parametrize("topology", ["regular", "modified"])
@pytest.mark.parametrize("name", MODELS)
def test_fusion_is_rescoring_of_all_hypotheses(name, topology):
    """Two utterances of two lengths in one search that keeps everything."""
    symbols = "ab"
    lm = NeuralLm(language_model(name, symbols), dictionary_of(*symbols))
    network = Network(vocabulary=len(lm.model.decoder.dictionary))
    search, (frames, lengths) = scorer(network, never_emitted=[1, 2]), batch([3, 2])
    way = BeamSearch(10_000, 9, max_symbols=1, topology=topology, lm=lm, lm_weight=0.7, length_bonus=0.4)
    scores_found = way(search, frames, lengths)
    changed = 0
    for i, length in enumerate(lengths.tolist()):
        totals, _ = all_hypotheses(search, frames[i, :length], 99, 1, topology)
        totals = {labels: p for labels, p in totals.items() if p > -math.inf}
        expected = {
            labels: p + 0.7 * log_prob_of(lm.model, labels)[0] + 0.4 * len(labels) for labels, p in totals.items()
        }
        best = ranked(expected)[:9]
        assert [tuple(h.tokens) for h in scores_found[i]] == [labels for labels, _ in best]
        assert [h.score for h in scores_found[i]] == pytest.approx([p for _, p in best], abs=1e-4)
        assert [h.lm_score for h in scores_found[i]] == pytest.approx(
            [log_prob_of(lm.model, labels)[0] for labels, _ in best], abs=1e-4
        )
        changed += best[0][0] != ranked(totals)[0][0]
    assert changed


def test_fusion_in_ctc_search(model):
    lm = NeuralLm(model, dictionary_of(*"abcd"))
    log_probs = random_log_probs(1, 3, 8, seed=3)
    log_probs[..., 1:4] = -math.inf  # padding, </s>, <unk>
    scores_found = prefix_beam_search(log_probs, torch.tensor([3]), beam=500, nbest=500, lm=lm, lm_weight=0.7)[0]
    expected = {
        labels: ctc + 0.7 * log_prob_of(model, labels)[0]
        for labels, (ctc, _) in enumerate_hypotheses(log_probs[0], 0).items()
        if ctc > -math.inf
    }
    assert len(expected) > 50
    assert {tuple(h.tokens): h.score for h in scores_found} == pytest.approx(expected, abs=1e-4)


def test_results_do_not_depend_on_the_batch(model):
    lm = NeuralLm(model, dictionary_of(*"abcd"))
    search = scorer(Network(vocabulary=8, blank_bias=2.0), never_emitted=[1, 2, 3])
    frames, lengths = batch([9, 4, 7])
    way = BeamSearch(3, 2, max_symbols=2, lm=lm, lm_weight=0.1, length_bonus=3.0)
    together = way(search, frames, lengths)
    assert len({len(n_best[0].tokens) for n_best in together}) > 1
    for i, length in enumerate(lengths.tolist()):
        (alone,) = way(search, frames[i : i + 1, :length], lengths[i : i + 1])
        assert [h.tokens for h in alone] == [h.tokens for h in together[i]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[i]], abs=1e-4)


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_a_model_in_training_mode_is_asked_without_dropout(name):
    model = language_model(name, dropout=0.5, decoder_dropout_out=0.5).train()
    expected = log_prob_of(language_model(name), [4, 6, 5])[0]
    for _ in range(2):  # each has its own memory of prefixes
        lm = NeuralLm(model.train(), dictionary_of(*"abcd"))
        state, log_prob = walk(lm, [4, 6, 5])
        assert log_prob + lm.finish(state)[0] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_fused():
    model = language_model("transformer", longest=4)
    with pytest.raises(ConfigError, match="8 symbols.*not that of the recogniser.*9.*dict.txt"):
        NeuralLm(model, dictionary_of(*"abcde"))
    with pytest.raises(ConfigError, match="has 4 tokens, .* reads 3.*tokens-per-sample"):
        lm = NeuralLm(model, dictionary_of(*"abcd"))
        lm.finish(walk(lm, [4] * 4)[0])
    lm = NeuralLm(model, dictionary_of(*"abcd"))
    model.decoder.forward = lambda tokens, incremental_state: (torch.zeros(len(tokens), 1, 8), None)
    with pytest.raises(ConfigError, match="TransformerLanguageModel is not supported; .*lstm_lm"):
        lm.prepare([lm.start()])
