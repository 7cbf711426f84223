"""The students of HuBERT as architectures: what they set, what a typed option overrides, and what starts S&W."""

import pytest
import torch
from fairseq import models
from synthetic import HUBERT_BASE_32, write_hubert_with_codes
from task_setup import configure, set_up

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.models.hubert_students import ARCHITECTURES

SHAPES = {  # layers, width, feed-forward width, heads, gradient into the extractor, dropout on the front-end's output
    "hubert_student_deep_thin": (12, 480, 480, 12, 0.1, 0.0),
    "hubert_student_deep_thin_fbank": (12, 480, 480, 12, 0.1, 0.1),
    "hubert_student_shallow_wide": (2, 768, 3072, 12, 0.1, 0.0),
    "fithubert": (12, 480, 480, 12, 1.0, 0.05),
    "half_l2l": (12, 384, 1536, 6, 1.0, 0.0),
}
NARROW = ["--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "48", "--encoder-attention-heads", "4"]


def options(corpus, teacher, name):
    task = [corpus, "--task", "speech_distillation", "--teacher", teacher, "--arch", name]
    return [*task, "--criterion", "hubert_distillation", "--discriminative-weight", "0"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Spec of a fairseq HuBERT with the extractor and the 12 layers of Base, 32 wide."""
    path = tmp_path_factory.mktemp("base") / "hubert.pt"
    return write_hubert_with_codes(path, **HUBERT_BASE_32)


def test_there_is_one_for_every_shape():
    assert set(SHAPES) == set(ARCHITECTURES)
    assert all(models.ARCH_MODEL_NAME_REGISTRY[name] == "colld_student" for name in ARCHITECTURES)


@pytest.mark.parametrize("name", SHAPES)
def test_what_an_architecture_sets(name, corpus, base):
    more = ["--init-from", base] if name == "hubert_student_shallow_wide" else []
    run = set_up(*options(corpus, base, name), *(NARROW if more else []), *more)
    config = run.model.encoder.config
    layers, width, ffn, heads, grad_mult, dropout_input = SHAPES[name]
    assert (config.layers, config.feature_grad_mult, config.dropout_input) == (layers, grad_mult, dropout_input)
    if not more:
        assert (config.embed_dim, config.ffn_dim, config.attention_heads) == (width, ffn, heads)
    assert (config.dropout, config.attention_dropout, config.activation_dropout) == (0.1, 0.1, 0.1)
    assert run.model.cfg.mask_prob == 0 and run.model.prediction_rate_hz == 50
    pairs = [(pair.student_layer, pair.teacher_layers) for pair in run.model.pairs]
    if name == "hubert_student_shallow_wide":
        assert pairs == [(2, (4,)), (2, (8,)), (2, (12,))] and run.model.heads.kind == "shared"
    else:
        assert pairs == [(k, (k,)) for k in range(1, 13)] and run.model.heads.kind == "linear"


def test_typed_options_win(corpus):
    typed = ["--mask-prob", "0.4", "--dropout", "0", "--layer-map", "sparse:2", "--head", "mlp"]
    cfg = configure(*options(corpus, "hf:x", "hubert_student_deep_thin"), *typed, "--encoder-preset", "half_l2l").model
    assert (cfg.mask_prob, cfg.dropout, cfg.layer_map, cfg.head) == (0.4, 0.0, "sparse:2", "mlp")
    assert cfg.encoder_preset == "half_l2l" and cfg.attention_dropout == 0.1


def test_shallow_and_wide_starts_from_its_teacher(corpus, base):
    """Extractor, its projection, position convolution and the first two blocks."""
    run = set_up(*options(corpus, base, "hubert_student_shallow_wide"), *NARROW, "--init-from", base)
    expected = read_encoder(base).weights
    state = run.model.encoder.state_dict()
    parts = {name.split(".")[0] for name in state}
    assert parts == {"mask_emb", "front_end", "pos_conv", "blocks", "layer_norm"}
    for name, value in state.items():
        assert torch.equal(value, expected[name]), name


def test_heads_are_no_part_of_the_student(corpus, coded_teacher):
    """What fine-tuning takes over are the weights named encoder.*; all heads are named heads.*"""
    extra = ["--code-head", "linear", "--discriminative-weight", "1", "--front-end-updates", "1"]
    run = set_up(*options(corpus, coded_teacher, "hubert_student_deep_thin_fbank"), *NARROW, *extra)
    assert run.model.encoder.num_parameters() < sum(p.numel() for p in run.model.parameters())
    assert {name.split(".")[0] for name in run.model.state_dict()} == {"encoder", "heads"}
    assert {"heads.code.weight", "heads.front_end.weight"} < set(run.model.state_dict())
