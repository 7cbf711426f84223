"""A chunk-wise student through both stages: chunks drawn again after a stop, decoding with the chunk asked for."""

import pytest
from commands import TINY_ENCODER, TRAINING, call, losses
from test_decoding import generate, hypotheses
from trained import Trained

from colld_fairseq import load_student
from colld_fairseq.errors import ConfigError

CHUNKS = ["--encoder-context", "chunk", "--chunk-sizes", "2,5,full", "--left-context", "1,full"]


@pytest.fixture(scope="module")
def streaming_student(corpus, teacher, tmp_path_factory):
    """Stage 1."""
    folder = tmp_path_factory.mktemp("streaming_student")
    options = ["--task", "speech_distillation", "--teacher", teacher, "--arch", "colld_student", *TINY_ENCODER, *CHUNKS]
    options += ["--criterion", "multi_teacher", "--layer-map", "sparse:2", "--mask-prob", "0", "--target-shift", "1"]
    call("train", corpus, *options, *TRAINING, "--max-update", "2", "--save-dir", folder)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def stage2(corpus, vocab, streaming_student):
    """Options of stage 2, without --save-dir and --max-update."""
    return [
        *[corpus, "--task", "multilingual_speech_to_text", "--vocab", vocab, "--student", streaming_student],
        *["--arch", "transducer_student", "--criterion", "transducer", "--predictor-embed-dim", "16"],
        *["--joiner-dim", "24", "--disable-validation", *TRAINING],
    ]


@pytest.fixture(scope="module")
def streaming_transducer(stage2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("streaming_transducer")
    output = call("train", *stage2, "--max-update", "6", "--save-dir", folder)
    return Trained(folder / "checkpoint_last.pt", output)


def test_context_lasts_from_stage_to_stage(streaming_student, streaming_transducer):
    for checkpoint in (streaming_student, streaming_transducer.checkpoint):
        config = load_student(str(checkpoint)).config
        assert (config.context, config.chunk_sizes, config.left_contexts) == ("chunk", [2, 5, None], [1, None])


def test_stopped_training_draws_the_same_chunks(stage2, streaming_transducer, tmp_path):
    first = call("train", *stage2, "--max-update", "3", "--save-dir", tmp_path)
    second = call("train", *stage2, "--max-update", "6", "--save-dir", tmp_path)
    assert losses(first) + losses(second) == losses(streaming_transducer.output)


def test_decoding_with_a_chunk(streaming_transducer, vocab, decoding):
    def scores(*options):
        output = generate(decoding, streaming_transducer, vocab, "--max-tokens", "200000", "--beam", "1", *options)
        return [hypothesis.score for _, hypothesis in sorted(hypotheses(output).items())]

    default, chunks = scores(), scores("--model-overrides", "{'eval_chunk': 2, 'eval_left_context': 1}")
    assert len(chunks) == len(default) and chunks != default


def test_decoding_with_a_latency(streaming_transducer, vocab, decoding, caplog):
    """Milliseconds, as frames in --model-overrides; what the training did not have is said."""

    def decoded(*options):
        output = generate(decoding, streaming_transducer, vocab, "--max-tokens", "200000", "--beam", "1", *options)
        return hypotheses(output)

    chosen = decoded("--decoding-chunk-ms", "80", "--decoding-left-context", "1")
    assert chosen == decoded("--model-overrides", "{'eval_chunk': 4, 'eval_left_context': 1}")
    assert decoded("--decoding-chunk-ms", "full") == decoded() != chosen and "was trained with" not in caplog.text
    decoded("--decoding-chunk-ms", "20", "--decoding-left-context", "1")
    assert "chunks of 20 ms, but the student was trained with 40 ms to the whole utterance" in caplog.text
    with pytest.raises(ConfigError, match="--decoding-right-ms say nothing without"):
        decoded("--decoding-left-context", "1")


def test_a_student_of_whole_utterances_is_not_cut(recogniser, vocab, decoding):
    with pytest.raises(ConfigError, match="only for a student with --encoder-context"):
        generate(decoding, recogniser, vocab, "--max-tokens", "200000", "--model-overrides", "{'eval_chunk': 2}")
