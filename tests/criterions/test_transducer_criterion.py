"""Criterion transducer: which tokens it aligns, CTC beside it, utterances without an alignment."""

import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.logging import metrics
from torch import nn

from colld_fairseq.criterions.transducer import TransducerConfig, TransducerCriterion
from colld_fairseq.criterions.transducer.targets import TargetSequences
from colld_fairseq.losses.ctc import ctc_loss
from colld_fairseq.losses.transducer import transducer_loss

PAD, EOS, TAG = 1, 2, 4
LABELS = [[6, 7, 7], [9], [8, 6]]


def setting(frames=(5, 3, 4), tags=False, ctc=False, topology="regular"):
    torch.manual_seed(2)
    symbols = Dictionary()
    for symbol in ["<lang:xx>", "<lang:yy>", *"abcdef"]:
        symbols.add_symbol(symbol)
    rows = sum(t * (len(labels) + 1) for t, labels in zip(frames, LABELS))
    output = {"logits": torch.randn(rows, len(symbols), requires_grad=True), "lengths": torch.tensor(frames)}
    if ctc:
        output.update(ctc_logits=torch.randn(3, 8, len(symbols)), ctc_lengths=torch.tensor([8, 8, 8]))
    asked = {}

    class Model(nn.Module):
        prune_range = 0

        def __init__(self):
            super().__init__()
            self.topology = topology

        def forward(self, **net_input):
            asked.update(net_input)
            return output

    def padded(rows):
        return torch.tensor([row + [PAD] * (max(map(len, rows)) - len(row)) for row in rows])

    targets = [[TAG] * tags + labels + [EOS] for labels in LABELS]
    sample = {
        "net_input": {"prev_output_tokens": None}, "utt_id": ["a", "b", "c"], "target": padded(targets),
        "ctc_target": padded(LABELS),
        "target_lengths": torch.tensor(list(map(len, targets))), "ctc_target_lengths": torch.tensor([3, 1, 2]),
        "nsentences": 3, "audio_seconds": 1.0,
    }  # fmt: skip
    task = SimpleNamespace(target_dictionary=symbols, prefix_size=int(tags), has_ctc=True)
    return SimpleNamespace(model=Model(), task=task, sample=sample, output=output, asked=asked)


def alone(at, frames, rows_of, **options):
    """Sum of the losses of the utterances, one call each."""
    total, start = 0.0, 0
    for b, (t, labels) in enumerate(zip(frames, LABELS)):
        size = t * (len(labels) + 1)
        if b in rows_of:
            logits = at.output["logits"].detach()[start : start + size].view(1, t, len(labels) + 1, -1)
            lengths = torch.tensor([t]), torch.tensor([len(labels)])
            total += float(transducer_loss(logits, torch.tensor([labels]), *lengths, **options).loss_sum)
        start += size
    return total


@pytest.mark.parametrize("tags", [False, True])
def test_labels_without_tag_and_end(tags):
    at = setting(tags=tags)
    loss, tokens, log = TransducerCriterion(TransducerConfig(), at.task)(at.model, at.sample)
    assert tokens == log["sample_size"] == 6 and log["no_path"] == 0 and "ctc_loss" not in log
    assert at.asked["label_lengths"].tolist() == [3, 1, 2]
    assert float(loss) == pytest.approx(alone(at, (5, 3, 4), (0, 1, 2)), rel=1e-5)
    loss.backward()
    assert at.output["logits"].grad.abs().sum() > 0


@pytest.mark.parametrize("options", [dict(delay_penalty=0.3), dict(topology="modified"), dict(fastemit_lambda=0.5)])
def test_options_reach_the_loss(options):
    topology = options.get("topology", "regular")  # of the model; the others are the criterion's
    config = TransducerConfig(**{name: value for name, value in options.items() if name != "topology"})
    at, plain = setting(topology=topology), setting()
    loss, _, _ = TransducerCriterion(config, at.task)(at.model, at.sample)
    usual, _, _ = TransducerCriterion(TransducerConfig(), plain.task)(plain.model, plain.sample)
    assert float(loss) == pytest.approx(alone(at, (5, 3, 4), (0, 1, 2), **options), rel=1e-5)
    loss.backward()
    usual.backward()
    assert not torch.allclose(at.output["logits"].grad, plain.output["logits"].grad, atol=1e-4)


def test_ctc_beside_it():
    at = setting(ctc=True)
    loss, tokens, log = TransducerCriterion(TransducerConfig(ctc_weight=0.5), at.task)(at.model, at.sample)
    ctc = ctc_loss(
        at.output["ctc_logits"], torch.tensor([8] * 3), at.sample["ctc_target"], torch.tensor([3, 1, 2]), 0, PAD
    )
    expected = alone(at, (5, 3, 4), (0, 1, 2)) + 0.5 * float(ctc.loss_sum)
    assert float(loss) == pytest.approx(expected, rel=1e-5) and log["ctc_tokens"] == 6
    without, _, log = TransducerCriterion(TransducerConfig(ctc_weight=0.0), at.task)(at.model, at.sample)
    assert "ctc_loss" not in log and float(without) < float(loss)


def test_utterances_without_an_alignment_are_counted():
    """No frame at all; with one label a frame, also fewer frames than labels."""
    at = setting(frames=(2, 0, 4))
    loss, tokens, log = TransducerCriterion(TransducerConfig(), at.task)(at.model, at.sample)
    assert log["no_path"] == 1 and tokens == log["sample_size"] == 5
    assert float(loss) == pytest.approx(alone(at, (2, 0, 4), (0, 2)), rel=1e-5)
    at = setting(frames=(2, 0, 4), topology="modified")
    loss, tokens, log = TransducerCriterion(TransducerConfig(), at.task)(at.model, at.sample)
    assert log["no_path"] == 2 and tokens == 2
    assert float(loss) == pytest.approx(alone(at, (2, 0, 4), (2,), topology="modified"), rel=1e-5)
    loss.backward()
    assert torch.isfinite(at.output["logits"].grad).all()


@pytest.mark.parametrize("frames", [(0, 0, 0), (2, 0, 1)])
def test_a_batch_without_any_alignment_reads_infinite_and_weighs_nothing(frames):
    at, other = (setting(**more, ctc=True, topology="modified") for more in ({"frames": frames}, {}))
    criterion = TransducerCriterion(TransducerConfig(), at.task)
    loss, tokens, log = criterion(at.model, at.sample)
    assert (float(loss), tokens, log["no_path"]) == (0.0, 0, 3)
    _, _, usual = criterion(other.model, other.sample)
    read = []
    for logs in ([log], [usual], [log, usual]):
        with metrics.aggregate(new_root=True) as totals:
            TransducerCriterion.reduce_metrics(logs)
        read.append([totals.get_smoothed_values()[name] for name in ("loss", "transducer_loss")])
    assert read[0] == [math.inf, math.inf] and read[1] == read[2] and max(read[1]) < math.inf


def test_the_transducer_takes_the_share_of_ctc_without_any_alignment():
    at, plain = setting(ctc=True), setting()
    at.output["ctc_lengths"] = torch.tensor([0, 0, 1])
    loss, _, log = TransducerCriterion(TransducerConfig(ctc_weight=0.5), at.task)(at.model, at.sample)
    usual, _, _ = TransducerCriterion(TransducerConfig(), plain.task)(plain.model, plain.sample)
    assert log["ctc_too_short"] == 3 and float(loss) == pytest.approx(1.5 * float(usual), rel=1e-5)


def test_what_counts_of_nbest_lists():
    """The weight of a target without a path goes to the others of its utterance; one without any does not count."""
    weights, utterances = torch.tensor([0.5, 0.3, 0.2, 1.0, 0.6, 0.4]), torch.tensor([0, 0, 0, 1, 2, 2])
    targets = TargetSequences(None, None, None, weights, {"utterances": utterances})
    everything = torch.ones(6, dtype=torch.bool)
    assert targets.counting(everything)[0].equal(weights) and targets.counting(everything)[1].all()
    left, counted = targets.counting(torch.tensor([True, False, True, False, False, True]))
    torch.testing.assert_close(left, torch.tensor([5 / 7, 0, 2 / 7, 0, 0, 1]))
    assert counted.tolist() == [True, False, True]
    alone = TargetSequences(None, None, None, torch.ones(3), {})
    left, counted = alone.counting(torch.tensor([True, False, True]))
    assert left.tolist() == [1, 0, 1] and counted.tolist() == [True, False, True]


def test_an_empty_text_counts_as_one_token(monkeypatch):
    monkeypatch.setitem(globals(), "LABELS", [[6, 7, 7], [], [8, 6]])
    at = setting()
    at.sample["ctc_target_lengths"] = torch.tensor([3, 0, 2])
    loss, tokens, log = TransducerCriterion(TransducerConfig(), at.task)(at.model, at.sample)
    assert tokens == 6 and log["no_path"] == 0
    assert float(loss) == pytest.approx(alone(at, (5, 3, 4), (0, 1, 2)), rel=1e-5)
