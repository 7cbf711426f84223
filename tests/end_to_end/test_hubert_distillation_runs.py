"""fairseq-train with hubert_distillation: front-end adaptation that is interrupted, and on two workers."""

import math

import pytest
import torch
from commands import TINY_ENCODER, TRAINING, call, log_records
from test_resume import CHECKPOINTS, curve, run_and_kill
from workers import train_distributed

from colld_fairseq import load_student

SWITCH = 12  # the first update with the whole loss; `run_and_kill` kills after update 13
UPDATES = 16


@pytest.fixture(scope="module")
def options(corpus, coded_teacher):
    """With everything that draws random numbers: dropout, masks, layer-drop."""
    return [
        *[corpus, "--task", "speech_distillation", "--teacher", coded_teacher, "--criterion", "hubert_distillation"],
        *["--arch", "hubert_student_deep_thin_fbank", *TINY_ENCODER[:-2], *TRAINING, *CHECKPOINTS],
        *["--layer-map", "1:2,2:4", "--code-head", "linear", "--front-end-updates", SWITCH],
        *["--mask-prob", "0.3", "--encoder-layerdrop", "0.2"],
    ]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """The uninterrupted run: its log and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return call("train", *options, "--max-update", UPDATES, "--save-dir", folder), folder


def adapts(record):
    """fairseq goes on naming a term that is logged no more, without a value."""
    return record.get("front_end") is not None


def test_both_stages_are_logged(whole):
    records = log_records(whole[0], "train_inner")
    assert len(records) == UPDATES
    for record in records:
        assert math.isfinite(float(record["loss"]))
        adapting = int(record["num_updates"]) <= SWITCH
        assert adapts(record) == adapting and ("kl" in record and "agreement" in record) != adapting
    adaptation = [float(record["front_end"]) for record in records[:SWITCH]]
    assert sum(adaptation[-3:]) < sum(adaptation[:3])


def test_killed_run_resumes_within_the_adaptation_and_across_its_end(options, whole, tmp_path):
    """kill -9 after update 13; the last checkpoint is of update 10, the switch comes after 12."""
    expected = curve(whole[0])
    options = [*options, "--save-dir", tmp_path]
    first = curve(run_and_kill([*options, "--max-update", "1000"], tmp_path / "log.txt"))
    second = curve(call("train", *options, "--max-update", UPDATES))
    assert 5 < min(second) <= SWITCH and max(second) == UPDATES
    assert {update: expected[update] for update in first if update <= UPDATES} == {
        update: value for update, value in first.items() if update <= UPDATES
    }
    assert {update: expected[update] for update in second} == second


def test_run_stopped_at_the_switch_goes_on_to_the_same_weights(options, whole, tmp_path):
    parts = {}
    for stop in (4, SWITCH, UPDATES):
        parts.update(curve(call("train", *options, "--max-update", stop, "--save-dir", tmp_path)))
        if stop == SWITCH:
            blocks = load_student(tmp_path / "checkpoint_last.pt").blocks.state_dict()
    assert parts == curve(whole[0])
    expected = load_student(whole[1] / "checkpoint_last.pt")
    for name, value in load_student(tmp_path / "checkpoint_last.pt").state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert any(not torch.equal(value, expected.blocks.state_dict()[name]) for name, value in blocks.items())


def test_two_workers(options, tmp_path):
    """One update of the adaptation, three of the whole loss."""
    output = train_distributed([*options, "--front-end-updates", 1, "--max-update", 4], tmp_path)
    records = log_records(output, "train_inner")
    assert [adapts(record) for record in records] == [True, False, False, False]
    assert all(math.isfinite(float(record["loss"])) for record in records)
