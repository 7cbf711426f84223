"""ctc_attention against torch's CTC utterance by utterance, and cross-entropy token by token."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.logging import metrics
from torch import nn

from colld_fairseq.criterions.ctc_attention import CtcAttentionConfig, CtcAttentionCriterion
from colld_fairseq.errors import ConfigError

PAD, EOS = 1, 2


def dictionary():
    made = Dictionary()
    for symbol in ["<lang:xx>", "<lang:yy>", *"abcdef"]:
        made.add_symbol(symbol)
    return made


def setting(with_decoder=True, tags=False):
    """Three utterances of 20, 9 and 3 frames; the last is too short for its text."""
    torch.manual_seed(2)
    symbols = dictionary()
    ctc_targets = [[6, 7, 7, 8], [9, 10], [6, 6, 7]]
    targets = [[4] * tags + text + [EOS] for text in ctc_targets]
    output = {
        "ctc_logits": torch.randn(3, 20, len(symbols), dtype=torch.float64, requires_grad=True),
        "ctc_lengths": torch.tensor([20, 9, 3]),
    }
    longest = max(map(len, targets))
    if with_decoder:
        output["logits"] = torch.randn(3, longest, len(symbols), dtype=torch.float64, requires_grad=True)

    class Model(nn.Module):
        def forward(self, **net_input):
            return output

    def padded(rows):
        return torch.tensor([row + [PAD] * (max(map(len, rows)) - len(row)) for row in rows])

    sample = {
        "net_input": {}, "target": padded(targets), "ctc_target": padded(ctc_targets),
        "ctc_target_lengths": torch.tensor([len(text) for text in ctc_targets]), "nsentences": 3, "audio_seconds": 1.0,
    }  # fmt: skip
    task = SimpleNamespace(target_dictionary=symbols, prefix_size=int(tags), has_ctc=True)
    return SimpleNamespace(
        model=Model(), task=task, sample=sample, output=output, ctc_targets=ctc_targets, targets=targets
    )


def ctc_alone(at):
    """Sum of the CTC losses of the utterances that have an alignment, one call each."""
    total = 0.0
    for row in (0, 1):
        log_probs = at.output["ctc_logits"][row, : at.output["ctc_lengths"][row]].float().log_softmax(-1)
        text = torch.tensor([at.ctc_targets[row]])
        total += float(F.ctc_loss(log_probs[:, None], text, [len(log_probs)], [text.size(1)], blank=0, reduction="sum"))
    return total


def test_ctc_model():
    at = setting(with_decoder=False)
    loss, tokens, log = CtcAttentionCriterion(CtcAttentionConfig(), at.task)(at.model, at.sample)
    assert tokens == 6  # of the two that have an alignment
    assert float(loss) == pytest.approx(ctc_alone(at), rel=1e-5)
    assert log["ctc_too_short"] == 1 and "nll_loss" not in log
    loss.backward()
    gradient = at.output["ctc_logits"].grad
    assert torch.isfinite(gradient).all() and gradient[2].abs().sum() == 0 and gradient[0].abs().sum() > 0


def logged(*logs):
    """What is in the training log after these batches."""
    with metrics.aggregate(new_root=True) as totals:
        CtcAttentionCriterion.reduce_metrics(logs)
    return totals.get_smoothed_values()


@pytest.mark.parametrize("with_decoder", [False, True])
def test_the_loss_is_that_of_the_utterances_with_an_alignment(with_decoder):
    """As if the others were not there: neither better nor worse."""
    at = setting(with_decoder)
    criterion = CtcAttentionCriterion(CtcAttentionConfig(ctc_weight=1.0), at.task)
    loss, tokens, log = criterion(at.model, at.sample)
    assert float(loss) / tokens == pytest.approx(ctc_alone(at) / 6, rel=1e-5)
    values = logged(log)
    assert values["ctc_loss"] == pytest.approx(ctc_alone(at) / 6, abs=1e-3) and values["ctc_too_short"] == 1


def test_a_batch_without_any_alignment_reads_infinite_and_weighs_nothing():
    at, other = setting(with_decoder=False), setting(with_decoder=False)
    criterion = CtcAttentionCriterion(CtcAttentionConfig(), at.task)
    at.output["ctc_lengths"] = torch.tensor([3, 1, 2])
    loss, tokens, log = criterion(at.model, at.sample)
    assert (float(loss), tokens, log["ctc_too_short"]) == (0.0, 0, 3)
    assert logged(log)["loss"] == logged(log)["ctc_loss"] == math.inf
    _, _, usual = criterion(other.model, other.sample)
    assert logged(log, usual)["loss"] == logged(usual)["loss"]


def test_cross_entropy_takes_the_share_of_ctc_without_any_alignment():
    at = setting()
    at.output["ctc_lengths"] = torch.tensor([3, 1, 2])
    lightly, alone = (
        CtcAttentionCriterion(CtcAttentionConfig(ctc_weight=weight), at.task)(at.model, at.sample)[0]
        for weight in (0.3, 0.0)
    )
    assert float(lightly) == float(alone) > 0


def test_an_empty_target_counts_as_one_token():
    """All blanks is its alignment: one utterance's loss, in a batch of them as beside others."""
    at = setting(with_decoder=False)
    log_probs = at.output["ctc_logits"].detach().float().log_softmax(-1)
    blanks = -float(log_probs[0, :20, 0].sum()), -float(log_probs[1, :9, 0].sum()), -float(log_probs[2, :3, 0].sum())
    criterion = CtcAttentionCriterion(CtcAttentionConfig(), at.task)
    at.sample["ctc_target_lengths"] = torch.tensor([0, 0, 0])
    at.sample["ctc_target"] = torch.full((3, 1), PAD)
    loss, tokens, log = criterion(at.model, at.sample)
    assert tokens == 3 and log["ctc_too_short"] == 0
    assert float(loss) == pytest.approx(sum(blanks), rel=1e-5)
    at.output["ctc_lengths"] = torch.tensor([20, 9, 0])  # without a frame there is not even a blank
    loss, tokens, log = criterion(at.model, at.sample)
    assert tokens == 2 and log["ctc_too_short"] == 1
    assert float(loss) == pytest.approx(sum(blanks[:2]), rel=1e-5)


def test_repeated_letters_need_a_blank_between_them():
    """6 6 7 has no alignment with 3 frames, but one with 4."""
    at = setting(with_decoder=False)
    at.output["ctc_lengths"][2] = 4
    _, _, log = CtcAttentionCriterion(CtcAttentionConfig(), at.task)(at.model, at.sample)
    assert log["ctc_too_short"] == 0


@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_attention_model(tags, smoothing):
    """The language tag is given at decoding: it carries no loss."""
    at = setting(tags=tags)
    cfg = CtcAttentionConfig(ctc_weight=0.3, label_smoothing=smoothing)
    loss, tokens, log = CtcAttentionCriterion(cfg, at.task)(at.model, at.sample)

    nll, smoothed, correct, count = 0.0, 0.0, 0, 0
    for row, text in enumerate(at.targets):
        for u, token in enumerate(text):
            if tags and u == 0:
                continue
            log_probs = at.output["logits"][row, u].float().log_softmax(-1)
            uniform = smoothing / (len(log_probs) - 1)
            nll -= float(log_probs[token])
            smoothed -= (1 - smoothing - uniform) * float(log_probs[token]) + uniform * float(log_probs.sum())
            correct += int(log_probs.argmax()) == token
            count += 1
    assert tokens == count == 12
    assert float(log["nll_loss"]) == pytest.approx(nll, rel=1e-5) and int(log["correct"]) == correct
    assert float(loss) / count == pytest.approx(0.7 * smoothed / count + 0.3 * ctc_alone(at) / 6, rel=1e-5)


def test_loss_of_an_undecided_decoder_is_the_logarithm_of_the_vocabulary():
    at = setting()
    at.output["logits"] = torch.zeros_like(at.output["logits"])
    _, tokens, log = CtcAttentionCriterion(CtcAttentionConfig(), at.task)(at.model, at.sample)
    assert float(log["nll_loss"]) / tokens == pytest.approx(math.log(len(at.task.target_dictionary)), rel=1e-5)


def test_a_model_with_a_decoder_alone():
    """As a pretrained decoder without a CTC layer: cross-entropy by default; CTC is refused."""
    at = setting()
    for name in ("ctc_logits", "ctc_lengths"):
        del at.output[name]
    loss, tokens, log = CtcAttentionCriterion(CtcAttentionConfig(label_smoothing=0.0), at.task)(at.model, at.sample)
    counted = at.sample["target"] != PAD
    expected = F.cross_entropy(at.output["logits"].float()[counted], at.sample["target"][counted], reduction="sum")
    assert tokens == int(counted.sum()) and float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert "ctc_loss" not in log
    at.task.has_ctc = False
    with pytest.raises(ConfigError, match="no CTC layer, which beside a pretrained decoder is one of --ctc-layer"):
        CtcAttentionCriterion(CtcAttentionConfig(ctc_weight=0.1), at.task)
