"""CTC on streams: the hypotheses of whole utterances, whatever the pieces that audio or frames come in."""

import random

import numpy as np
import pytest
import torch
from checkpoints import save_ctc, save_recogniser, save_transducer
from streams import UTTERANCES, streamed

from colld_fairseq.decoding.ctc import BestPathSearch, Pieces, PrefixBeamSearch
from colld_fairseq.decoding.streaming import EndpointRules
from colld_fairseq.errors import ConfigError
from colld_fairseq.recogniser import load_recogniser

SEARCHES = {
    "best path": BestPathSearch(),
    "beam": PrefixBeamSearch(beam=4, nbest=3),
    "length": PrefixBeamSearch(beam=3, nbest=1, beam_size_token=3, length_bonus=0.7),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("seeds", [range(first, first + 20) for first in range(0, 180, 20)])
def test_pieces_change_nothing(name, seeds):
    """540 cases in all."""
    for seed in seeds:
        draw = random.Random(seed)
        pieces = [[draw.randint(0, 6) for _ in range(draw.randint(0, 6))] for _ in range(draw.randint(1, 3))]
        check_pieces(name, pieces, seed, draw.uniform(0.3, 4))


def check_pieces(name, pieces, seed, sharpness):
    """Utterances (one a list, of pieces of so many frames) side by side, and each by itself at once."""
    search, generator = SEARCHES[name], torch.Generator().manual_seed(seed)
    logits = [sharpness * torch.randn(sum(lengths), 5, generator=generator) for lengths in pieces]
    frames = [torch.log_softmax(one, -1) for one in logits]
    states = search.start(None, len(pieces)).split()
    for step in range(max(map(len, pieces), default=0)):
        active = [i for i, lengths in enumerate(pieces) if step < len(lengths)]
        given_now = [frames[i][sum(pieces[i][:step]) :][: pieces[i][step]] for i in active]
        batch = torch.nn.utils.rnn.pad_sequence([torch.cat((one, torch.zeros(1, 5))) for one in given_now], True)
        lengths = torch.tensor([len(one) for one in given_now])
        before = Pieces.join([states[i] for i in active])
        kept = search.n_best(before)
        after = search.proceed(None, batch, lengths, before)
        assert search.n_best(before) == kept, "a state was changed"
        for i, state in zip(active, after.split()):
            states[i] = state
    for one, state in zip(frames, states):
        (expected,) = search(None, one[None], torch.tensor([len(one)]))
        (seen,) = search.n_best(state)
        assert [(h.tokens, h.frames) for h in seen] == [(h.tokens, h.frames) for h in expected]
        for part in ("score", "log_prob", "token_scores"):
            seen_values, expected_values = ([getattr(h, part) for h in some] for some in (seen, expected))
            np.testing.assert_allclose(np.hstack(seen_values), np.hstack(expected_values), atol=1e-9)


@pytest.fixture(scope="module")
def make(corpus, vocab, tagged_vocab, statistics, tmp_path_factory):
    """Checkpoints of untrained CTC models; each combination of options once."""
    made = {}

    def build(*more, context="chunk", tags=False, save=save_ctc):
        key = (*more, context, tags, save)
        if key not in made:
            path = tmp_path_factory.mktemp("ctc") / "model.pt"
            normalization = ["--vocab", tagged_vocab if tags else vocab, "--cmvn", statistics["kaldi"]]
            made[key] = save(path, corpus, context, *normalization, *more)
        return made[key]

    return build


@pytest.mark.parametrize("context", ["chunk", "causal"])
@pytest.mark.parametrize("chunk_ms, left", [(40, "0"), (320, "trained"), (160, "full")])
@pytest.mark.parametrize("options", [{}, {"beam": 4, "nbest": 3}, {"beam": 3, "lm": True}])
def test_result_is_that_of_the_whole_utterance(make, language_model, context, chunk_ms, left, options):
    options = dict(options)
    fusion = language_model if options.pop("lm", False) else {}
    recogniser = load_recogniser(make(context=context), **options, **fusion)
    recogniser.limit_context(chunk_ms, left)
    expected = recogniser.transcribe(UTTERANCES)
    assert max(len(n_best[0].tokens) for n_best in expected) > 3
    streaming = recogniser.streaming(chunk_ms, left, endpoint=None)
    for utterance, n_best in zip(UTTERANCES, expected):
        results = streamed(streaming, utterance, piece=777)
        best = results[-1] if results else streaming.result(streaming.create_stream())
        seen = [best, *best.alternatives]
        assert [(one.text, one.tokens, one.frames) for one in seen] == [(o.text, o.tokens, o.frames) for o in n_best]
        assert [one.score for one in seen] == pytest.approx([one.score for one in n_best], abs=1e-3)
        assert all(0 <= time < result.end for result in results for time in result.times)


def test_the_ctc_layer_of_a_transducer_streams_too(make):
    recogniser = load_recogniser(make("--auxiliary-ctc", save=save_transducer), decoder="ctc")
    recogniser.limit_context(320)
    (expected,) = recogniser.transcribe(UTTERANCES[:1])
    seen = streamed(recogniser.streaming(320, endpoint=None), UTTERANCES[0])[-1]
    assert (seen.text, seen.tokens) == (expected[0].text, expected[0].tokens) and seen.tokens


def test_five_latencies_of_one_student(make):
    """80 ms to the whole utterance; as an option of the task or of a method, and in streams."""
    path = make("--chunk-sizes", "2,4,8,16,full")
    transcripts = {}
    for chunk_ms in (80, 160, 320, 640, "full"):
        chosen = load_recogniser(path, decoding_chunk_ms=chunk_ms)
        later = load_recogniser(path)
        later.limit_context(chunk_ms)
        results = [recogniser.transcribe(UTTERANCES[:2]) for recogniser in (chosen, later)]
        transcripts[chunk_ms] = [n_best[0].tokens for n_best in results[0]]
        assert [n_best[0].tokens for n_best in results[1]] == transcripts[chunk_ms]
        if chunk_ms == "full":
            with pytest.raises(ConfigError, match="whole utterances are no streams"):
                chosen.streaming(chunk_ms)
        else:
            streams = chosen.streaming(chunk_ms, endpoint=None)
            assert [streamed(streams, one)[-1].tokens for one in UTTERANCES[:2]] == transcripts[chunk_ms]
    assert len({str(tokens) for tokens in transcripts.values()}) == 5


@pytest.mark.parametrize("save", [save_ctc, save_transducer])
def test_right_context(make, save):
    """Streams give the text of whole utterances with it, which is another one than without."""
    path = make("--chunk-sizes", "2,4,8,16,full", save=save)
    recogniser = load_recogniser(path, decoding_chunk_ms=80, decoding_right_ms=240)
    expected = [n_best[0] for n_best in recogniser.transcribe(UTTERANCES)]
    streaming = recogniser.streaming(80, endpoint=None, right_ms=240)
    for utterance, hypothesis in zip(UTTERANCES, expected):
        results = streamed(streaming, utterance, piece=777)
        seen = results[-1] if results else streaming.result(streaming.create_stream())
        assert (seen.tokens, seen.frames) == (hypothesis.tokens, hypothesis.frames)
    recogniser.limit_context(80)
    assert [n_best[0].log_prob for n_best in recogniser.transcribe(UTTERANCES[:1])] != [expected[0].log_prob]


def test_the_latency_of_validation_is_not_that_of_later_decoding(make):
    trained, plain = make("--chunk-sizes", "2,4,full", "--decoding-chunk-ms", "80"), make("--chunk-sizes", "2,4,full")
    assert load_recogniser(trained).models[0].encoder.student.chunk.size is None
    assert load_recogniser(trained, decoding_chunk_ms="160").models[0].encoder.student.chunk.size == 4
    results = [load_recogniser(path).transcribe(UTTERANCES[:1])[0][0].tokens for path in (trained, plain)]
    assert results[0] == results[1]


def test_an_attention_decoder_has_no_latency_to_choose(make):
    decoder = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "48"]
    path = make("--arch", "student_s2t", "--criterion", "ctc_attention", *decoder, save=save_recogniser)
    attention = load_recogniser(path)
    for refused in (
        lambda: attention.limit_context(320),
        lambda: attention.streaming(320),
        lambda: load_recogniser(path, decoding_chunk_ms=320),
    ):
        with pytest.raises(ConfigError, match="attention decoder reads whole utterances .* --decoder ctc decodes"):
            refused()
    attention.limit_context("full")
    assert load_recogniser(path, decoder="ctc", decoding_chunk_ms=320).transcribe(UTTERANCES[:1])


def test_utterances_end_and_begin(make):
    streaming = load_recogniser(make()).streaming(160, "3", endpoint=EndpointRules(longest=0.6))
    stream = streaming.create_stream()
    stream.accept_waveform(UTTERANCES[0])
    while not streaming.is_endpoint(stream):
        assert streaming.decode([stream])
    first = streaming.result(stream)
    assert first.end == pytest.approx(0.64) and first.tokens
    streaming.reset(stream)
    stream.finish()
    while streaming.decode([stream]):
        pass
    second = streaming.result(stream)
    expected = streamed(streaming, UTTERANCES[0][int(0.64 * 16000) :])[-1]
    assert second.tokens == expected.tokens and second.start == pytest.approx(0.64)


def test_no_language_is_needed_where_tags_are(make):
    streaming = load_recogniser(make(tags=True)).streaming(endpoint=None)
    assert streamed(streaming, UTTERANCES[0])[-1].tokens


def test_refused_with_the_remedy(make):
    with pytest.raises(ConfigError, match="--encoder-context chunk"):
        load_recogniser(make(context="full")).streaming()
    with pytest.raises(ConfigError, match="give one model"):
        load_recogniser(f"{make()}:{make()}").streaming()
