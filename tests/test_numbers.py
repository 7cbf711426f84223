"""Kinds of numbers: the same definition for the options of fairseq and of the `colld` command."""

import argparse
from dataclasses import fields
from types import SimpleNamespace

import pytest
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from task_setup import assemble, configure, vary

from colld_fairseq import numbers
from colld_fairseq.errors import ConfigError

KINDS = {
    "COUNT": ([1, 7], [0, -1, 1.5]),
    "COUNT_OR_NONE": ([0, 3], [-1, 0.5]),
    "POSITIVE": ([1e-9, 2.5], [0.0, -1.0]),
    "NOT_NEGATIVE": ([0.0, 3.0], [-1e-9]),
    "FINITE": ([-2.0, 0.0, 9.0], []),
    "SHARE": ([0.0, 0.5, 1.0], [-0.1, 1.1]),
    "PROBABILITY": ([0.0, 0.99], [-0.1, 1.0]),
}


@pytest.mark.parametrize("name", KINDS)
def test_values_of_each_kind(name):
    kind = getattr(numbers, name)
    good, bad = KINDS[name]
    for value in good:
        assert kind(str(value)) == value
        assert kind.check(value, "--x") == kind.read(str(value), "--x") == value
    for value in [*bad, float("nan"), float("inf"), -float("inf")]:
        with pytest.raises(argparse.ArgumentTypeError, match="number"):
            kind(str(value))
        with pytest.raises(ConfigError, match="--x .*number"):
            kind.check(value, "--x")
        with pytest.raises(ConfigError, match="--x: .*number"):
            kind.read(str(value), "--x")
    with pytest.raises(argparse.ArgumentTypeError, match="'three' is not a (whole|finite) number"):
        kind("three")


REGISTRIES = {
    "task": TASK_DATACLASS_REGISTRY,
    "model": MODEL_DATACLASS_REGISTRY,
    "criterion": CRITERION_DATACLASS_REGISTRY,
}
OURS = {
    (name, field.name): field
    for registry in REGISTRIES.values()
    for name, config in registry.items()
    if config.__module__.startswith("colld_fairseq.")
    for field in fields(config)
    if any(word in str(field.type) for word in ("int", "float"))
}


def test_every_numeric_option_says_its_kind():
    assert len(OURS) > 60
    assert [name for name, field in OURS.items() if "number" not in field.metadata] == []


@pytest.fixture(scope="module")
def configuration(corpus, vocab):
    """Of a whole training command; what is read from files comes later."""
    return configure(
        *[corpus, "--task", "multilingual_speech_to_text", "--vocab", vocab, "--arch", "student_s2t"],
        *["--criterion", "ctc_attention", "--encoder-layers", "1", "--encoder-embed-dim", "32"],
        *["--encoder-ffn-embed-dim", "48", "--encoder-attention-heads", "2", "--decoder-layers", "1"],
    )


@pytest.mark.parametrize(
    "option, value",
    [
        *[("max_seconds", 0.0), ("min_seconds", -1.0), ("max_bad_audio", float("nan")), ("sampling_alpha", 1.5)],
        *[("valid_beam", 0), ("max_symbols", -3), ("ngram_lm_weight", float("inf")), ("blank_penalty", float("nan"))],
        *[("encoder_layers", 0), ("encoder_ffn_embed_dim", -8), ("encoder_attention_heads", 0), ("conv_pos_groups", 0)],
        *[("dropout", 1.0), ("encoder_layerdrop", -0.1), ("feature_grad_mult", float("nan")), ("decoder_layers", 0)],
        *[
            ("decoder_dropout", float("nan")),
            ("ctc_weight", 1.5),
            ("label_smoothing", -0.1),
            ("ctc_weight", float("nan")),
        ],
        *[("seed", -1), ("max_target_positions", 1)],
    ],
)
def test_senseless_values_are_refused_before_anything_is_read(option, value, configuration):
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} .*: must be a .* number"):
        assemble(vary(configuration, **{option: value}))


@pytest.mark.parametrize("width, heads", [(32, 5), (3, 3), (2, 1), (6, 4)])
def test_widths_that_a_decoder_cannot_have(width, heads, configuration):
    with pytest.raises(ConfigError, match=f"--decoder-embed-dim {width}: must be even.*heads {heads}"):
        assemble(vary(configuration, decoder_embed_dim=width, decoder_attention_heads=heads))


def test_sensible_values_at_the_bounds_are_taken(configuration):
    assemble(
        vary(configuration, ctc_weight=0.0, label_smoothing=0.0, min_seconds=0.0, sampling_alpha=0.0, valid_beam=1)
    )


@pytest.mark.parametrize(
    "criterion, option, value",
    [
        *[("multi_teacher", "target_shift", -1), ("colld", "logit_temp", 0.0), ("colld", "num_negatives", -1)],
        *[("transducer", "kd_temperature", 0.0), ("transducer", "kd_shift", -1), ("transducer", "kd_window", 0)],
        *[("transducer", "kd_weight", -0.5), ("transducer_student", "prune_range", -2)],
        ("hubert_distillation", "student_temp", float("nan")),
    ],
)
def test_more_options_by_their_kind(criterion, option, value):
    cfg = SimpleNamespace(_name=criterion, **{option: value})
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')} "):
        numbers.check_numbers(cfg, {**CRITERION_DATACLASS_REGISTRY, **MODEL_DATACLASS_REGISTRY})
