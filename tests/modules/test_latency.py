"""Chunks in milliseconds, and what the training has against them."""

import re

import pytest
from test_streaming_encoder import streaming_encoder, utterances

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.chunks import Chunk
from colld_fairseq.modules.latency import doubts, frames_of, left_of, set_latency

TRAINING = dict(front_end="conv2d", chunk_sizes=[8, 16, None], left_contexts=[4, 8, None])  # 40 ms per frame
SHORT_ONLY = dict(front_end="conv2d", chunk_sizes=[4, 8], left_contexts=[2])


def test_milliseconds_are_frames():
    student = streaming_encoder(**TRAINING)
    assert [frames_of(student, ms) for ms in (40, "320", "full")] == [1, 8, None]
    assert (left_of(student), left_of(student, "3"), left_of(student, "full")) == (8, 3, None)
    for wrong, message in ((60, "a multiple of 40"), ("0", "a multiple of 40"), ("fast", "a number, or full")):
        with pytest.raises(ConfigError, match=message):
            frames_of(student, wrong)


@pytest.mark.parametrize("options", ["--", "--decoding-"])
@pytest.mark.parametrize(
    "given, named",
    [
        (("60",), "chunk-ms 60"),
        (("80", "all"), "left-context"),
        (("80", "2", 10), "right-ms 10"),
        (("full", "2", 40), "right-ms 40"),
    ],
)
def test_options_are_named_as_they_were_given(given, named, options):
    with pytest.raises(ConfigError, match=f"^{options}{named}"):
        set_latency(streaming_encoder(**TRAINING), *given, options=options)


@pytest.mark.parametrize(
    "training, chunk, remarks",
    [
        (TRAINING, Chunk(8, 4), []),
        (TRAINING, Chunk(11, 3), []),  # as many frames as 8 times 4, in a chunk between those of the training
        (TRAINING, Chunk(), []),
        (TRAINING, Chunk(64, None), []),
        (TRAINING, Chunk(2, 20), ["chunks of 80 ms.* trained with 320 ms to the whole utterance"]),
        (TRAINING, Chunk(8, 3), ["left context of 960 ms, .* trained with 1280 ms to the whole"]),
        (TRAINING, Chunk(2, 8), ["chunks of 80 ms", "left context of 640 ms"]),
        (SHORT_ONLY, Chunk(4, 2), []),
        (SHORT_ONLY, Chunk(None, None), ["chunks of the whole utterance.* trained with 160 ms to 320 ms"]),
        (SHORT_ONLY, Chunk(16, 2), ["chunks of 640 ms", "left context of 1280 ms, .* with 320 ms to 640 ms"]),
        (SHORT_ONLY, Chunk(8, None), ["left context of the whole utterance"]),
        (dict(SHORT_ONLY, chunk_sizes=[None]), Chunk(8, 2), ["trained with the whole utterance", "left context"]),
    ],
)
def test_doubts(training, chunk, remarks):
    student = streaming_encoder(**training)
    said = doubts(student.config, chunk, student.frame_rate_hz)
    assert len(said) == len(remarks) and all(re.search(*pair) for pair in zip(remarks, said))


def test_a_causal_student_keeps_its_chunks_of_one_frame():
    student = streaming_encoder("causal", front_end="conv2d", left_contexts=[30, 60])
    assert set_latency(student, 320) == [] and student.chunk == (1, 60)
    assert len(set_latency(student, "full", "20")) == 1 and student.chunk == (1, 20)


def test_the_latency_that_is_set_is_that_of_the_output():
    student = streaming_encoder(**TRAINING)
    fbank = utterances(1, 103)
    assert set_latency(student, 160, "9") and student.chunk == (4, 9)
    limited = student(fbank).x
    assert set_latency(student, "full") == [] and student.chunk == (None, 8)
    assert not limited.allclose(student(fbank).x, atol=1e-3)
    full = streaming_encoder("full", front_end="conv2d", causal_conv=True)
    assert set_latency(full, "full") == []
    with pytest.raises(ConfigError, match="cannot stream or be limited to chunks"):
        set_latency(full, 320)
