"""Streams in chunks give what the encoder makes of the whole utterance under the same mask."""

import pytest
import torch

from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.streaming import StreamingEncoder, StreamState

CONFORMERS = [name for name, fields in PRESETS.items() if fields["block"] == "conformer"]
NARROW = dict(layers=3, embed_dim=32, ffn_dim=48, attention_heads=4, subsampling_channels=4)


def streaming_encoder(context="chunk", preset="conformer_10m", **changes):
    torch.manual_seed(0)
    fields = dict(PRESETS[preset], **NARROW, context=context, causal_conv=True)
    encoder = StudentEncoder(EncoderConfig.from_dict({**fields, **changes}))
    for parameter in encoder.parameters():
        # Zero biases would hide frames that a stream does not have.
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() == 1 else None
    return encoder.eval()


def utterances(batch=2, frames=131):
    torch.manual_seed(1)
    return torch.randn(batch, frames, 80)


def whole(encoder, fbank, size, left):
    encoder.set_chunk(size if encoder.config.context == "chunk" else None, left)
    with torch.no_grad():
        return encoder(fbank).x


def pieces(streaming, fbank):
    """What each step of a stream takes."""
    window = streaming.fbank_frames_per_chunk + streaming.fbank_lookahead
    return [fbank[:, at : at + window] for at in range(0, fbank.size(1), streaming.fbank_frames_per_chunk)]


def streamed(streaming, fbank):
    state, outputs = streaming.start(len(fbank)), []
    steps = pieces(streaming, fbank)
    window = steps[0].size(1)
    for piece in steps:
        x, state = streaming.step(piece, state, last=piece.size(1) < window)
        outputs.append(x)
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("chunk, left", [(1, 3), (3, 0), (3, 2), (8, 1), (8, None)])
@pytest.mark.parametrize("context", ["chunk", "causal"])
@pytest.mark.parametrize("preset", CONFORMERS)
def test_chunks_equal_the_masked_utterance(preset, context, chunk, left):
    encoder = streaming_encoder(context, preset)
    fbank = utterances()
    expected = whole(encoder, fbank, chunk, left)
    torch.testing.assert_close(streamed(StreamingEncoder(encoder, chunk, left), fbank), expected, atol=1e-5, rtol=0)


OTHERS = [
    dict(position="none"),
    dict(depthwise_conv_kernel=1),
    dict(front_end="fbank_stack", fbank_stack=3),
]


@pytest.mark.parametrize("changes", OTHERS)
def test_chunks_of_other_shapes_equal_the_masked_utterance(changes):
    encoder = streaming_encoder(**changes)
    fbank = utterances()
    expected = whole(encoder, fbank, 4, 3)
    torch.testing.assert_close(streamed(StreamingEncoder(encoder, 4, 3), fbank), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("left", [None, 2])
@pytest.mark.parametrize("context", ["chunk", "causal"])
def test_streams_of_any_age_share_a_batch(context, left):
    """Streams that began at different steps and end with different lengths, joined and split at every step."""
    encoder = streaming_encoder(context)
    streaming = StreamingEncoder(encoder, 4, left)
    window = streaming.fbank_frames_per_chunk + streaming.fbank_lookahead
    fbanks = [utterances(1, frames) for frames in (131, 120, 9, 64)]
    begins = [0, 3, 4, 4]
    steps = [pieces(streaming, fbank) for fbank in fbanks]
    states, outputs = [None] * 4, [[] for _ in fbanks]
    for now in range(max(begin + len(own) for begin, own in zip(begins, steps))):
        rows = [row for row in range(4) if begins[row] <= now < begins[row] + len(steps[row])]
        given = [steps[row][now - begins[row]] for row in rows]
        joined = StreamState.join([states[row] or streaming.start(1) for row in rows])
        lengths = torch.tensor([piece.size(1) for piece in given])
        batch = torch.full((len(rows), window, 80), 100.0)
        for i, piece in enumerate(given):
            batch[i, : piece.size(1)] = piece[0]
        if bool((lengths == window).all()):
            x, joined = streaming.step(batch, joined)
        else:
            x, joined = streaming.step(batch, joined, last=True, lengths=lengths)
        frames = streaming.output_lengths(lengths).tolist()
        for i, (row, state) in enumerate(zip(rows, joined.split())):
            states[row] = state
            outputs[row].append(x[i, : frames[i]])
    for fbank, own in zip(fbanks, outputs):
        expected = whole(encoder, fbank, 4, left)[0]
        torch.testing.assert_close(torch.cat(own), expected, atol=1e-5, rtol=0)


def test_long_streams_keep_their_precision():
    """Rotary angles do not grow with a stream; its memory is bounded where the left context is."""
    encoder = streaming_encoder(layers=2)
    streaming = StreamingEncoder(encoder, 8, 2)
    piece = utterances(1, 35)
    state = streaming.start(1)
    for step in range(120):
        x, state = streaming.step(piece, state)
        if step == 20:
            settled = x
    assert int(state.frames) == 960 and state.blocks[0].attention.size(1) == 16
    torch.testing.assert_close(x, settled, atol=1e-5, rtol=0)


def test_a_step_leaves_the_state_it_was_given():
    streaming = StreamingEncoder(streaming_encoder(), 2, 1)
    first, second = utterances(2, 11), utterances(2, 22)[:, 11:]
    _, state = streaming.step(first, streaming.start(2))
    once, _ = streaming.step(second, state)
    streaming.step(first, state)
    again, _ = streaming.step(second, state)
    assert torch.equal(once, again)


def test_ends_that_make_no_frame():
    streaming = StreamingEncoder(streaming_encoder(), 2, 1)
    _, state = streaming.step(utterances(1, 11), streaming.start(1))
    for frames in (0, 3, 6):
        x, after = streaming.step(utterances(1, frames), state, last=True)
        assert x.shape == (1, 0, 32) and torch.equal(after.frames, state.frames)


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="cannot stream .* train one with --encoder-context"):
        StreamingEncoder(streaming_encoder("full"), 8)
    with pytest.raises(ConfigError, match="at least 1"):
        StreamingEncoder(streaming_encoder(), 0)
    with pytest.raises(ConfigError, match="at least 1"):
        StreamingEncoder(streaming_encoder("causal"), 0)
    with pytest.raises(ConfigError, match="must not be negative"):
        StreamingEncoder(streaming_encoder(), 8, -1)
    streaming = StreamingEncoder(streaming_encoder(), 2)
    for frames, last in ((10, False), (12, False), (12, True)):
        with pytest.raises(ConfigError, match=f"takes 11 filterbank frames.*got {frames}"):
            streaming.step(utterances(1, frames), streaming.start(1), last=last)
