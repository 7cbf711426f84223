"""A right context: steps that take in some frames after their chunk, against every chunk's frames computed apart."""

import pytest
import torch
from test_streaming_encoder import streaming_encoder, utterances

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.latency import set_latency
from colld_fairseq.modules.positions import rotary_table
from colld_fairseq.modules.streaming import StreamingEncoder


def by_hand(encoder, fbank, size, left, right):
    """Frames of one utterance [1, T, 80]. Every chunk has its own copy of the frames after it, which see what the chunk
    sees; keys, and what the convolution looks back at, are the frames of the chunks before, as those were computed."""
    x, _ = encoder.embed(fbank)
    x, begin, chunks = x[0], 0, []
    while begin < len(x):
        goes_on = len(x) - begin >= size + right
        chunks.append(x[begin : begin + size + right])
        begin = begin + size if goes_on else len(x)

    def own(rows, c):
        return rows[c] if c == len(chunks) - 1 else rows[c][:size]

    def attended(block, rows, c):
        before = [own(rows, k) for k in range(0 if left is None else max(c - left, 0), c)]
        keys = block.attention_layer_norm(torch.cat([*before, rows[c]]))[None]
        rotary = None
        if encoder.config.position == "rotary":
            rotary = rotary_table(keys.size(1), encoder.width // encoder.config.attention_heads, keys)
        return block.attention(keys, None, rotary)[0, -len(rows[c]) :]

    for block in encoder.blocks:
        chunks = [rows + 0.5 * block.ffn1(block.ffn1_layer_norm(rows)) for rows in chunks]
        chunks = [rows + attended(block, chunks, c) for c, rows in enumerate(chunks)]
        behind = [torch.cat([*(own(chunks, k) for k in range(c)), rows]) for c, rows in enumerate(chunks)]
        chunks = [rows + block.conv(past[None])[0, -len(rows) :] for rows, past in zip(chunks, behind)]
        chunks = [block.final_layer_norm(rows + 0.5 * block.ffn2(block.ffn2_layer_norm(rows))) for rows in chunks]
    return torch.cat([own(chunks, c) for c in range(len(chunks))])


@pytest.mark.parametrize("position", ["rotary", "relative_key"])
@pytest.mark.parametrize("size, left, right", [(4, 2, 3), (1, None, 2), (3, 0, 5), (2, 1, 0)])
def test_streams_and_whole_batches_are_the_definition(size, left, right, position):
    encoder = streaming_encoder(position=position)
    streaming = StreamingEncoder(encoder, size, left, right)
    fbank = utterances(3, 4 * 17 + 6)
    window, shift = streaming.fbank_frames_per_chunk + streaming.fbank_lookahead, streaming.fbank_frames_per_chunk
    # One that ends with a step, one a frame before, and one shorter than a step.
    lengths = torch.tensor([fbank.size(1), window + shift * ((60 - window) // shift), window - 1])
    with torch.no_grad():
        together, counts = streaming.encode(fbank, lengths)
        assert counts.tolist() == encoder.output_lengths(lengths).tolist()
        for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist())):
            expected = by_hand(encoder, fbank[row : row + 1, :length], size, left, right)
            torch.testing.assert_close(together[row, :count], expected, atol=1e-5, rtol=0)
            state, begin, frames = streaming.start(1), 0, []
            while begin < length:
                piece = fbank[row : row + 1, begin : min(begin + window, length)]
                last = piece.size(1) < window
                x, state = streaming.step(piece, state, last)
                frames.append(x[0])
                begin = length if last else begin + shift
            torch.testing.assert_close(torch.cat(frames), expected, atol=1e-5, rtol=0)


def test_as_many_steps_as_the_longest_stream_has(monkeypatch):
    streaming, steps, step = StreamingEncoder(streaming_encoder(), 2, None, 6), [], StreamingEncoder.step
    monkeypatch.setattr(StreamingEncoder, "step", lambda *given: steps.append(given) or step(*given))
    shift, lookahead = streaming.fbank_frames_per_chunk, streaming.fbank_lookahead
    lengths = torch.tensor([shift + lookahead + 3 * shift - 1, lookahead])
    _, counts = streaming.encode(utterances(2, int(lengths.max())), lengths)
    assert len(steps) == 4 and counts.tolist() == streaming.encoder.output_lengths(lengths).tolist()


def test_what_it_is_told():
    student = streaming_encoder(front_end="conv2d", chunk_sizes=[4, 8], left_contexts=[2])
    assert set_latency(student, 160, right_ms=160) == [] and (student.chunk, student.right) == ((4, 2), 4)
    (remark,) = set_latency(student, 160, right_ms=200)
    assert "chunks of 360 ms" in remark
    assert set_latency(student, 160) == [] and student.right == 0
    for wrong in (dict(chunk_ms=160, right_ms=20), dict(chunk_ms="full", right_ms=80)):
        with pytest.raises(ConfigError, match="--right-ms"):
            set_latency(student, **wrong)
    with pytest.raises(ConfigError, match="no right context"):
        StreamingEncoder(streaming_encoder("causal"), 4, None, 2)
