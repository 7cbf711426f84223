"""Options of tasks and models that no other test changes: each value arrives where it is meant to work."""

import pytest

from colld_fairseq.data.augment import SpecAugment
from colld_fairseq.tasks import multilingual_speech_to_text as task_module


def test_spec_augment_in_training_alone(finetuning):
    options = [
        "--specaug-freq-masks",
        "1",
        "--specaug-freq-width",
        "5",
        "--specaug-time-masks",
        "3",
        "--specaug-time-width",
        "7",
    ]
    task = finetuning(*options, "--specaug-time-share", "0.3").task
    for split, expected in (("train", SpecAugment(1, 5, 3, 7, 0.3)), ("test", None)):
        task.load_dataset(split)
        assert task.dataset(split).options.spec_augment == expected
    plain = finetuning().task
    plain.load_dataset("train")
    assert plain.dataset("train").options.spec_augment is None


def test_beam_of_validation(finetuning):
    for beam in (1, 3):
        run = finetuning("--valid-beam", beam)
        assert run.task.decoders(run.model)[""].beam == beam


@pytest.mark.parametrize("unit, expected", [("word", "WordKenlm"), ("token", "TokenKenlm")])
def test_unit_of_the_language_model(unit, expected, finetuning, monkeypatch):
    for name in ("WordKenlm", "TokenKenlm"):
        monkeypatch.setattr(task_module, name, lambda *arguments, name=name: name)
    assert (
        finetuning("--ngram-lm", "any.arpa", "--ngram-lm-unit", unit).task.frame_decoder([], "ctc", 1, 1).lm == expected
    )


def test_longest_target(finetuning, vocab):
    small = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "40"]
    run = finetuning(*small, "--max-target-positions", "77", arch="student_s2t")
    assert run.model.max_decoder_positions() == 77
