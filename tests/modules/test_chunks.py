"""What the frames of a streaming student take in, and the chunks that training draws."""

from collections import Counter

import pytest
import torch
from test_streaming_encoder import streaming_encoder, utterances

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.chunks import Chunk, draw_chunk, parse_counts, widest
from colld_fairseq.modules.encoder import EncoderConfig


@pytest.mark.parametrize("past", [0, 3, 8])
@pytest.mark.parametrize("left", [None, 0, 1, 2])
@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_hidden_frames_by_counting(size, left, past):
    """Chunks are counted backwards too: frame -1 is the last of the chunk before the first."""
    hidden = Chunk(size, left).hidden(7, past)
    assert hidden.shape == (7, past + 7)
    for query in range(7):
        begin = query // size * size
        context = range(-past if left is None else begin - left * size, begin + size)
        for key in range(-past, 7):
            assert bool(hidden[query, key + past]) == (key not in context)


def test_nothing_is_hidden_in_one_chunk():
    assert Chunk().hidden(5) is None and Chunk(None, 2).hidden(5) is None
    assert not Chunk(5).hidden(5).any()


@pytest.mark.parametrize("position", ["rotary", "relative_key", "none"])
@pytest.mark.parametrize("context, chunk", [("causal", 1), ("chunk", 1), ("chunk", 4)])
def test_no_frame_takes_in_what_comes_after_its_chunk(context, chunk, position):
    encoder = streaming_encoder(context, position=position)
    encoder.set_chunk(chunk)
    fbank = utterances(1, 4 * 20 + 3)
    with torch.no_grad():
        before = encoder(fbank).x
        for frame in (0, 7, 8, 15):
            changed = fbank.clone()
            changed[:, 4 * frame + 6] += 1.0  # the last that this frame is made of
            moved = (encoder(changed).x - before).abs().amax((0, 2)) > 0
            first = frame // chunk * chunk
            assert not moved[:first].any() and moved[first:].all()


@pytest.mark.parametrize("left", [0, 1, 3])
def test_left_context_is_counted_in_chunks(left):
    """One block without a convolution over time: its attention's reach alone."""
    encoder = streaming_encoder(layers=1, depthwise_conv_kernel=1, front_end="fbank_stack", fbank_stack=4)
    encoder.set_chunk(4, left)
    fbank = utterances(1, 80).requires_grad_()
    for frame in (0, 3, 13, 19):
        (gradient,) = torch.autograd.grad(encoder(fbank).x[0, frame].square().sum(), fbank)
        field = gradient[0].abs().sum(1).view(20, 4).sum(1).nonzero().squeeze(1).tolist()
        begin = frame // 4 * 4
        assert field == list(range(max(begin - 4 * left, 0), begin + 4))


@pytest.mark.parametrize("position", ["rotary", "relative_key"])
@pytest.mark.parametrize("context", ["chunk", "causal"])
def test_frames_do_not_depend_on_the_batch(context, position):
    encoder = streaming_encoder(context, position=position)
    encoder.set_chunk(3 if context == "chunk" else None, 2)
    fbank, lengths = utterances(3, 80), torch.tensor([80, 44, 13])
    with torch.no_grad():
        together = encoder(fbank, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = encoder(fbank[row : row + 1, :length], lengths[row : row + 1])
            frames = int(alone.lengths)
            torch.testing.assert_close(together.x[row, :frames], alone.x[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    encoder = streaming_encoder()
    encoder.set_chunk(3, 1)
    fbank, lengths = utterances(2, 80), torch.tensor([80, 20])
    with torch.no_grad():
        exact = encoder(fbank, lengths)
        x = encoder.to(dtype)(fbank.to(dtype), lengths).x
    valid = ~exact.padding_mask
    assert x.dtype == dtype and torch.isfinite(x).all()
    assert (x.float() - exact.x)[valid].norm() / exact.x[valid].norm() < 0.05


# -- training ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("context, sizes", [("chunk", [2, 5, None]), ("causal", [1])])
def test_training_hears_what_it_draws(context, sizes):
    lefts = [1, None]
    encoder = streaming_encoder(context, chunk_sizes=[2, 5, None], left_contexts=lefts)
    fbank = utterances(2, 60)
    expected = {}
    for size in sizes:
        for left in lefts:
            encoder.set_chunk(size, left)
            expected[size, left] = encoder(fbank).x.detach()
    encoder.set_chunk()
    seen = set()
    for update in range(24):
        outputs = []
        for _ in range(2):  # a resumed run begins its update with the same seed
            torch.manual_seed(1 + update)
            outputs.append(encoder.train()(fbank).x.detach())
        assert torch.equal(*outputs)
        torch.manual_seed(1 + update)
        drawn = draw_chunk(sizes, lefts)
        torch.testing.assert_close(outputs[0], expected[drawn], atol=1e-5, rtol=0)
        seen.add(drawn)
    assert seen == set(expected)


def test_a_value_that_stands_twice_comes_twice_as_often():
    torch.manual_seed(0)
    drawn = Counter(draw_chunk([8, None, None], [4, None]) for _ in range(3000))
    assert drawn[8, 4] == pytest.approx(500, abs=90) and drawn[None, None] == pytest.approx(1000, abs=120)


def test_other_students_draw_nothing():
    """Their runs keep the random numbers they had."""
    encoder, fbank = streaming_encoder("full").train(), utterances(1, 40)
    torch.manual_seed(0)
    encoder(fbank)
    after = torch.rand(())
    torch.manual_seed(0)
    assert torch.rand(()) == after


# -- configuration -----------------------------------------------------------------------------------------------------
def test_evaluation_hears_the_widest_context_of_the_training():
    assert streaming_encoder(chunk_sizes=[8, None], left_contexts=[4]).chunk == (None, 4)
    assert streaming_encoder(chunk_sizes=[8, 16], left_contexts=[4, 2]).chunk == (16, 4)
    assert streaming_encoder("causal", left_contexts=[30, None]).chunk == (1, None)
    assert streaming_encoder("full").chunk == (None, None)
    assert widest([3, 9, 4]) == 9


def test_choice_of_the_chunk():
    encoder = streaming_encoder()
    encoder.set_chunk(6, 2)
    assert encoder.chunk == (6, 2)
    for size, left in ((0, None), (-1, 2), (4, -1)):
        with pytest.raises(ConfigError, match="at least 1|must not be negative"):
            encoder.set_chunk(size, left)
    with pytest.raises(ConfigError, match="nothing later: its chunks are of 1 frame, not of 4"):
        streaming_encoder("causal").set_chunk(4)
    full = streaming_encoder("full")
    full.set_chunk()
    with pytest.raises(ConfigError, match="be limited to chunks: train one with --encoder-context chunk"):
        full.set_chunk(8)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(causal_conv=False), "causal_conv=False"),
        (dict(block="transformer"), "block='transformer'"),
        (dict(position="conv"), "position='conv'"),
        (dict(front_end="waveform"), "front_end='waveform'"),
        (dict(front_end="fbank"), "front_end='fbank'"),
        (dict(time_reduction=2), "time_reduction=2"),
        (dict(chunk_sizes=[4, 0]), "a chunk of 0 frames"),
        (dict(left_contexts=[-1]), "a left context of -1 chunks"),
        (dict(chunk_sizes=[]), "at least one"),
    ],
)
def test_what_cannot_stream_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        EncoderConfig(**{**dict(context="chunk", causal_conv=True), **changes})


def test_counts_are_read():
    assert parse_counts(" 8, full,16", "--chunk-sizes") == [8, None, 16]
    for text in ("8,", "-8", "2.5", "all", ""):
        with pytest.raises(ConfigError, match="--chunk-sizes"):
            parse_counts(text, "--chunk-sizes")
