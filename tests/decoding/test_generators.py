"""Decoders behind the interface that fairseq-generate uses."""

import math

import pytest
import torch
from torch import nn

from colld_fairseq.decoding.ctc import CtcDecoder, greedy_ctc, prefix_beam_search
from colld_fairseq.decoding.generators import FairseqGenerator
from colld_fairseq.decoding.transducer import GreedySearch, TransducerDecoder
from colld_fairseq.errors import ColldError


def ctc(beam=1, nbest=1, blank=0, stripped=(), pad=1, eos=2, **options):
    """A generator whose tokens are blank, padding, end of sentence and labels."""
    return FairseqGenerator(CtcDecoder(blank, [pad, eos], beam, nbest, **options), eos, stripped)


class Model(nn.Module):
    """Log-probabilities are a projection of the input, so that they are known to the test."""

    def __init__(self, seed=0, vocabulary=9, extra_frames=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(3 * torch.randn(4, vocabulary, generator=generator))
        self.extra_frames = extra_frames
        self.modes = []

    def get_ctc_log_probs(self, src_tokens, src_lengths):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return (src_tokens @ self.weight).log_softmax(-1), src_lengths + self.extra_frames


def make_sample(lengths=(7, 4, 9), seed=1):
    lengths = torch.tensor(lengths)
    source = torch.randn(len(lengths), int(lengths.max()), 4, generator=torch.Generator().manual_seed(seed))
    return {"id": torch.arange(len(lengths)), "net_input": {"src_tokens": source, "src_lengths": lengths}}


def flat(n_best):
    return [
        [(h["tokens"].tolist(), h["score"], h["positional_scores"].tolist()) for h in hypotheses]
        for hypotheses in n_best
    ]


@pytest.mark.parametrize("beam,nbest", [(1, 1), (5, 3)])
def test_n_best_lists_have_the_fields_fairseq_generate_reads(beam, nbest):
    n_best = ctc(beam, nbest).generate([Model()], make_sample())
    assert [len(hypotheses) for hypotheses in n_best] == [nbest] * 3
    for hypotheses in n_best:
        assert [h["score"] for h in hypotheses] == sorted((h["score"] for h in hypotheses), reverse=True)
        for h in hypotheses:
            assert h["tokens"].dtype == torch.int64 and h["positional_scores"].dtype == torch.float32
            assert int(h["tokens"][-1]) == 2
            assert len(h["tokens"]) - 1 == len(h["positional_scores"]) == len(h["frames"])
            assert h["attention"] is None and len(h["alignment"]) == 0
            h["positional_scores"].div_(math.log(2))  # as fairseq-generate does


def test_scores_can_be_divided_in_place_without_changing_the_next_call():
    generator, models, sample = ctc(3, 2), [Model()], make_sample()
    first = generator.generate(models, sample)
    before = flat(first)
    first[0][0]["positional_scores"].div_(math.log(2))
    assert flat(generator.generate(models, sample)) == before


@pytest.mark.parametrize("beam", [1, 4])
def test_results_do_not_depend_on_batch_size(beam):
    generator, models, sample = ctc(beam, beam), [Model()], make_sample()
    together = flat(generator.generate(models, sample))
    for i, n in enumerate(sample["net_input"]["src_lengths"].tolist()):
        alone = {
            "net_input": {
                "src_tokens": sample["net_input"]["src_tokens"][i : i + 1, :n],
                "src_lengths": torch.tensor([n]),
            }
        }
        (single,) = flat(generator.generate(models, alone))
        assert [h[0] for h in single] == [h[0] for h in together[i]]
        assert [h[1] for h in single] == pytest.approx([h[1] for h in together[i]], abs=1e-5)


def test_padding_and_end_of_sentence_are_never_emitted():
    model = Model()
    with torch.no_grad():
        model.weight[:, 1:3] *= 50  # <pad> and </s> would win half of the frames
    for beam in (1, 4):
        for hypotheses in ctc(beam).generate([model], make_sample()):
            assert not set(hypotheses[0]["tokens"][:-1].tolist()) & {0, 1, 2}


def test_an_ensemble_averages_probabilities():
    a, b, sample = Model(0), Model(1), make_sample()

    class Mean(nn.Module):
        def get_ctc_log_probs(self, src_tokens, src_lengths):
            p = [m.get_ctc_log_probs(src_tokens, src_lengths)[0].exp() for m in (a, b)]
            return ((p[0] + p[1]) / 2).log(), src_lengths

    generator = ctc(4, 4)
    ensemble, mean = flat(generator.generate([a, b], sample)), flat(generator.generate([Mean()], sample))
    assert [[h[0] for h in u] for u in ensemble] == [[h[0] for h in u] for u in mean]
    assert ensemble[0][0][1] == pytest.approx(mean[0][0][1], abs=1e-5)
    assert [h[0][0] for h in ensemble] != [h[0][0] for h in flat(generator.generate([a], sample))]
    with pytest.raises(ColldError, match="different numbers of frames"):
        generator.generate([a, Model(1, extra_frames=-1)], sample)


class Transducer(Model):
    """Labels are those of the frame, whatever came before."""

    def encode_for_search(self, src_tokens, src_lengths):
        return self.get_ctc_log_probs(src_tokens, src_lengths)

    def start(self, rows, tags=None):
        return torch.zeros(rows, 9), (torch.zeros(rows, 1),)

    def extend(self, tokens, state):
        return torch.zeros(len(tokens), 9), state

    def join(self, frames, symbols):
        return frames + symbols


@pytest.mark.parametrize("decoder", [CtcDecoder(0), TransducerDecoder(GreedySearch(1))])
@pytest.mark.parametrize("mode", [True, False])
def test_models_run_in_eval_mode_without_gradients_and_are_put_back(decoder, mode):
    models = [Transducer(), Transducer(1)]
    for model in models:
        model.train(mode)
    FairseqGenerator(decoder, 2).generate(models, make_sample())
    assert all(model.modes == [(False, False)] and model.training == mode for model in models)


@pytest.mark.parametrize("bonus", [5.0, -5.0])
def test_a_beam_of_one_with_a_length_bonus_is_prefix_search(bonus):
    sample, model = make_sample(), Model()
    log_probs, lengths = model.get_ctc_log_probs(**sample["net_input"])
    log_probs[..., [1, 2]] = -math.inf
    result = CtcDecoder(0, [1, 2], length_bonus=bonus).decode([model], *sample["net_input"].values())
    assert result == prefix_beam_search(log_probs, lengths, beam=1, length_bonus=bonus)
    assert [h.tokens for (h,) in result] != [h.tokens for h in greedy_ctc(log_probs, lengths)]


@pytest.mark.parametrize("beam", [1, 3])
def test_fairseq_prints_the_text(beam):
    """As fairseq_cli/generate.py turns tokens into its D- lines."""
    from fairseq import utils
    from fairseq.data import Dictionary as FairseqDictionary

    dictionary = FairseqDictionary()
    for symbol in ("|", "a", "é", "ש", "<lang:fr>"):
        dictionary.add_symbol(symbol)
    text = ["<lang:fr>", "a", "a", "|", "é", "ש"]
    path = [i for symbol in text for i in (dictionary.index(symbol), dictionary.bos())]
    generator = ctc(beam, stripped=[dictionary.index("<lang:fr>")], pad=dictionary.pad(), eos=dictionary.eos())

    class Sure(nn.Module):
        def get_ctc_log_probs(self, src_tokens, src_lengths):
            one_hot = nn.functional.one_hot(torch.tensor([path]), len(dictionary)).float()
            return (10 * one_hot).log_softmax(-1), src_lengths

    sample = {"net_input": {"src_tokens": torch.zeros(1, 12), "src_lengths": torch.tensor([12])}}
    hypothesis = generator.generate([Sure()], sample)[0][0]
    _, printed, _ = utils.post_process_prediction(
        hypothesis["tokens"].int().cpu(),
        "",
        hypothesis["alignment"],
        None,
        dictionary,
        "letter",
        generator.symbols_to_strip_from_output,
    )
    assert printed == "aa éש"


def test_blank_and_stripped_symbols():
    generator = ctc(blank=8, stripped=[5])
    assert generator.symbols_to_strip_from_output == {2, 5}
    sample = make_sample()
    for hypotheses in generator.generate([Model()], sample):
        assert 8 not in hypotheses[0]["tokens"].tolist()
