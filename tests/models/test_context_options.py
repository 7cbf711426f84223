"""Options of streaming students, their meaning in every combination with a recorded student."""

import pytest
from omegaconf import OmegaConf

from colld_fairseq.errors import ConfigError
from colld_fairseq.models.colld_student import ColldStudentConfig
from colld_fairseq.models.encoder_options import build_encoder, encoder_config, record_encoder
from colld_fairseq.models.finetune_encoder import FinetuneOptions

NARROW = dict(encoder_layers=1, encoder_embed_dim=16, encoder_ffn_embed_dim=16, encoder_attention_heads=2)


def fields(**options):
    config = encoder_config(FinetuneOptions(**NARROW, **options))
    return config.context, config.causal_conv, config.chunk_sizes, config.left_contexts


def test_new_students():
    assert fields()[:2] == ("full", False)
    assert fields(encoder_context="chunk") == ("chunk", True, [8, 16, 32, None], [4, 8, None])
    assert fields(encoder_context="causal")[:2] == ("causal", True) and fields(encoder_context="causal")[3] == [None]
    assert fields(encoder_context="chunk", chunk_sizes="4,full", left_context="2") == ("chunk", True, [4, None], [2])
    assert fields(encoder_context="causal", left_context="64,full")[3] == [64, None]


def test_a_recorded_student_keeps_its_context_and_takes_the_chunks_of_the_run():
    first = ColldStudentConfig(**NARROW, encoder_context="chunk", chunk_sizes="4,8", left_context="2")
    second = FinetuneOptions()
    record_encoder(second, encoder_config(first))
    config = encoder_config(second)
    assert (config.context, config.chunk_sizes, config.left_contexts) == ("chunk", [4, 8], [2])
    second.chunk_sizes, second.left_context = "16", "full"
    config = encoder_config(second)
    assert (config.chunk_sizes, config.left_contexts) == ([16], [None])
    second = FinetuneOptions(encoder_context="full")
    record_encoder(second, encoder_config(first))
    assert build_encoder(second).chunk == (None, None)
    second = FinetuneOptions(encoder_context="causal")
    record_encoder(second, encoder_config(first))
    config = encoder_config(second)
    assert (config.context, config.left_contexts) == ("causal", [None])


def test_only_causal_convolutions_learn_to_stream_later():
    cfg = FinetuneOptions(encoder_context="chunk")
    record_encoder(cfg, encoder_config(ColldStudentConfig(**NARROW, encoder_preset="conformer_1024")))
    assert fields(encoder_preset="conformer_1024")[:2] == ("full", True)
    assert encoder_config(cfg).left_contexts == [4, 8, None]
    record_encoder(cfg, encoder_config(ColldStudentConfig(**NARROW)))
    with pytest.raises(ConfigError, match="convolutions of this student look ahead; distil one with --encoder-context"):
        encoder_config(cfg)


def test_evaluation():
    streaming = dict(NARROW, encoder_context="chunk", chunk_sizes="4,8", left_context="2,3")
    assert build_encoder(FinetuneOptions(**streaming)).chunk == (8, 3)
    assert build_encoder(FinetuneOptions(**streaming, eval_chunk="full")).chunk == (None, 3)
    cfg = OmegaConf.structured(FinetuneOptions(**streaming))
    cfg.eval_chunk, cfg.eval_left_context = 6, 1  # as --model-overrides sets them
    assert build_encoder(cfg).chunk == (6, 1)
    assert build_encoder(FinetuneOptions(**NARROW, encoder_context="causal", eval_left_context="9")).chunk == (1, 9)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(chunk_sizes="8"), "--chunk-sizes: only for a student with --encoder-context chunk"),
        (dict(encoder_context="causal", chunk_sizes="8"), "--chunk-sizes: only for a student with .* chunk$"),
        (dict(left_context="8", eval_chunk="4"), "--left-context, --eval-chunk: only for a student with .* or causal"),
        (dict(encoder_context="chunk", chunk_sizes="8;16"), "--chunk-sizes '8;16': write a number, or full"),
        (dict(encoder_context="chunk", left_context="all"), "--left-context 'all'"),
        (dict(encoder_context="chunk", eval_chunk="0"), "a chunk of 0 frames"),
        (dict(encoder_context="causal", eval_chunk="4"), "its chunks are of 1 frame"),
        (dict(encoder_context="streaming"), "context='streaming' is not known"),
        (dict(encoder_context="chunk", encoder_preset="distilhubert"), "block='transformer'"),
    ],
)
def test_contradictions_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        build_encoder(FinetuneOptions(**{**NARROW, **options}))
