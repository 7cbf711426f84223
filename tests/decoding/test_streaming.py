"""Streams: the results of whole recordings decoded under the same context, alone, together, utterance by utterance."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
import torch
from checkpoints import save_transducer
from streams import UTTERANCES, streamed

from colld_fairseq.decoding.hypothesis import Hypothesis
from colld_fairseq.decoding.real_time import cut, listen
from colld_fairseq.decoding.streaming import EndpointRules, StreamingResult
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.recogniser import load_recogniser

CONTEXTS = [(40, "0"), (320, "trained"), (160, "full")]


@pytest.fixture(scope="module")
def make(corpus, vocab, tagged_vocab, statistics, tmp_path_factory):
    """Checkpoints of untrained transducers; each combination of options once."""
    made = {}

    def build(*more, context="chunk", tags=False):
        key = (*more, context, tags)
        if key not in made:
            path = tmp_path_factory.mktemp("model") / "model.pt"
            options = [
                "--vocab",
                tagged_vocab if tags else vocab,
                "--cmvn",
                statistics["icefall" if "icefall" in more else "kaldi"],
                *more,
            ]
            made[key] = save_transducer(path, corpus, context, *options)
        return made[key]

    return build


@pytest.mark.parametrize("chunk_ms, left", CONTEXTS)
@pytest.mark.parametrize(
    "context, more",
    [
        ("chunk", ()),
        ("causal", ()),
        ("chunk", ("--fbank", "icefall")),
        ("chunk", ("--predictor", "stateless", "--topology", "modified")),
    ],
)
def test_result_is_that_of_the_whole_utterance(make, context, more, chunk_ms, left):
    recogniser = load_recogniser(make(*more, context=context), blank_penalty=0.5, max_symbols=2)
    recogniser.limit_context(chunk_ms, left)
    expected = [n_best[0] for n_best in recogniser.transcribe(UTTERANCES)]
    assert max(len(transcript.tokens) for transcript in expected) > 10
    streaming = recogniser.streaming(chunk_ms, left, endpoint=None)
    for utterance, transcript in zip(UTTERANCES, expected):
        results = streamed(streaming, utterance)
        seen = results[-1] if results else streaming.result(streaming.create_stream())
        assert (seen.text, seen.tokens) == (transcript.text, transcript.tokens)
        assert seen.log_prob == pytest.approx(transcript.score, abs=1e-3)
        for before, after in zip(results, results[1:]):
            assert after.tokens[: len(before.tokens)] == before.tokens and after.end > before.end
            assert all(before.end <= time < after.end for time in after.times[len(before.tokens) :])


BEAMS = {
    "beam": ((), dict(beam=4, nbest=3)),
    "length": ((), dict(beam=1, length_bonus=0.5)),
    "modified": (("--predictor", "stateless", "--topology", "modified"), dict(beam=3, length_bonus=-0.5)),
    "fused": ((), dict(beam=4, nbest=2)),
}


@pytest.mark.parametrize("name", BEAMS)
def test_beam_search_is_that_of_the_whole_utterance(make, language_model, name):
    more, options = BEAMS[name]
    options = dict(blank_penalty=0.5, max_symbols=2, **options)
    greedy = load_recogniser(make(*more), blank_penalty=0.5, max_symbols=2)
    recogniser = load_recogniser(make(*more), **options, **(language_model if name == "fused" else {}))
    for one in (greedy, recogniser):
        one.limit_context(160, "2")
    expected = recogniser.transcribe(UTTERANCES)
    assert [n_best[0].tokens for n_best in expected] != [n_best[0].tokens for n_best in greedy.transcribe(UTTERANCES)]
    streaming = recogniser.streaming(160, "2", endpoint=None)
    for utterance, n_best in zip(UTTERANCES, expected):
        results = streamed(streaming, utterance)
        best = results[-1] if results else streaming.result(streaming.create_stream())
        seen = [best, *best.alternatives]
        assert [(one.text, one.tokens) for one in seen] == [(one.text, one.tokens) for one in n_best]
        assert [one.score for one in seen] == pytest.approx([one.score for one in n_best], abs=1e-3)
        assert [one.log_prob for one in seen] == pytest.approx([one.log_prob for one in n_best], abs=1e-3)
        for result in results:
            assert sorted(result.times) == result.times and len(result.times) == len(result.tokens)
            assert all(result.start <= time < result.end for time in result.times)


@pytest.mark.parametrize("piece", [37, 16000])
def test_pieces_of_audio_change_nothing(make, piece):
    streaming = load_recogniser(make(), blank_penalty=0.5, max_symbols=2).streaming(endpoint=None)
    assert streamed(streaming, UTTERANCES[0], piece)[-1] == streamed(streaming, UTTERANCES[0])[-1]


@pytest.mark.parametrize("beam", [1, 3])
def test_streams_share_batches(make, beam):
    """They begin at different times, one is created again, and each result is that of the stream alone."""
    streaming = load_recogniser(make(), beam, blank_penalty=0.5, max_symbols=2).streaming(160, "3", endpoint=None)
    alone = [streamed(streaming, utterance)[-1] for utterance in UTTERANCES if len(utterance) > 2000]
    utterances = [utterance for utterance in UTTERANCES if len(utterance) > 2000]
    streams, batches = [streaming.create_stream() for _ in utterances], []
    for now in range(60):
        for index, (utterance, stream) in enumerate(zip(utterances, streams)):
            at = (now - 7 * index) * 800
            if 0 <= at < len(utterance):
                stream.accept_waveform(utterance[at : at + 800])
            elif at >= len(utterance) and not stream.finished:
                stream.finish()
        while ready := streaming.decode(streams):
            batches.append(len(ready))
    assert max(batches) > 1
    for stream, expected in zip(streams, alone):
        seen = streaming.result(stream)
        assert seen.tokens == expected.tokens and seen.log_prob == pytest.approx(expected.log_prob, abs=1e-3)


@pytest.mark.parametrize("beam", [1, 3])
def test_after_a_reset_the_stream_begins_anew(make, beam):
    """The second utterance is that of an utterance which begins where the first ended; times go on."""
    streaming = load_recogniser(make(), beam, blank_penalty=0.5, max_symbols=2).streaming(endpoint=None)
    utterance = UTTERANCES[0]
    stream = streaming.create_stream()
    stream.accept_waveform(utterance)
    for _ in range(2):
        streaming.decode([stream])
    first = streaming.result(stream)
    assert (first.start, first.end) == (0.0, 0.64) and first.tokens
    streaming.reset(stream)
    empty = streaming.result(stream)
    assert empty.tokens == [] and empty.start == empty.end == 0.64
    stream.finish()
    while streaming.decode([stream]):
        pass
    second, expected = streaming.result(stream), streamed(streaming, utterance[int(0.64 * 16000) :])[-1]
    assert second.tokens == expected.tokens and len(second.tokens) > 2
    assert second.times == pytest.approx([time + 0.64 for time in expected.times])
    with pytest.raises(ColldError, match="finished"):
        stream.accept_waveform(utterance)


@pytest.fixture
def quiet(make):
    """Settings of blank_penalty: one that never lets the model speak, and one that lets it speak all the time."""
    return lambda penalty: load_recogniser(make(), blank_penalty=penalty, max_symbols=1)


def test_endpoints(quiet):
    """Silence without text, silence after text, length: the first step at which a rule holds."""
    rules = EndpointRules(silence_without_text=0.6, silence_after_text=math.inf, longest=math.inf)

    def first_end(recogniser, rules):
        streaming = recogniser.streaming(160, "3", endpoint=rules)
        stream = streaming.create_stream()
        stream.accept_waveform(np.concatenate([UTTERANCES[0], UTTERANCES[1]]))
        while streaming.decode([stream]):
            if streaming.is_endpoint(stream):
                return streaming.result(stream)
        return None

    silent = first_end(quiet(-1e4), rules)
    assert silent.tokens == [] and silent.end == pytest.approx(0.64)
    assert first_end(quiet(1e4), rules) is None
    long = first_end(quiet(1e4), EndpointRules(math.inf, math.inf, 0.9))
    assert long.end == pytest.approx(0.96)
    # a model that speaks, and then does not any more
    streaming = quiet(1e4).streaming(160, "3", endpoint=EndpointRules(math.inf, 0.4, math.inf))
    stream = streaming.create_stream()
    stream.accept_waveform(np.concatenate([UTTERANCES[0], UTTERANCES[1]]))
    streaming.decode([stream])
    assert streaming.result(stream).tokens and not streaming.is_endpoint(stream)
    streaming.scorer.blank_penalty = -1e4
    ends = []
    while streaming.decode([stream]):
        ends.append(streaming.is_endpoint(stream))
    assert ends[:4] == [False, False, True, True]


def test_language_of_a_stream(make):
    recogniser = load_recogniser(make(tags=True), tgt_lang="xx", blank_penalty=0.5, max_symbols=2)
    streaming = recogniser.streaming(endpoint=None)
    results = []
    for language in ("xx", "yy", None, recogniser.vocabulary.tag_id("yy")):
        stream = streaming.create_stream(language)
        stream.accept_waveform(UTTERANCES[0])
        while streaming.decode([stream]):
            pass
        results.append(streaming.result(stream))
    assert results[2] == results[0] and results[1].log_prob != pytest.approx(results[0].log_prob, abs=0.1)
    assert results[3] == results[1] and [one.language for one in results] == ["xx", "yy", "xx", "yy"]
    (whole,), *_ = recogniser.transcribe([UTTERANCES[0]])
    assert whole.language == "xx" and Hypothesis.from_json(whole.to_json()).language == "xx"
    with pytest.raises(ColldError, match="no 'zz', but .*xx"):
        streaming.create_stream("zz")


def test_refused_with_the_remedy(make):
    def refused(path, *arguments, **options):
        with pytest.raises(ConfigError) as error:
            load_recogniser(path, **options).streaming(*arguments)
        return str(error.value)

    assert "--encoder-context chunk" in refused(make(context="full"))
    assert "colld cmvn" in refused(make("--cmvn", "utterance"))
    assert "leave the option out" in refused(make(), cmvn="utterance")
    assert "multiple of 40" in refused(make(), 100)
    assert "--left-context 'much'" in refused(make(), 320, "much")
    assert "give one model" in refused(f"{make()}:{make()}")
    with pytest.raises(ColldError, match="--lang"):
        load_recogniser(make(tags=True)).streaming().create_stream()
    assert "EndpointRules" in refused(make(), 320, "2", "none")
    recogniser = load_recogniser(make("--cmvn", "none"))
    streaming = recogniser.streaming()
    stream = streaming.create_stream()
    with pytest.raises(ConfigError, match="a stream is there twice"):
        streaming.decode([stream, stream])
    for outside in (-1, len(recogniser.vocabulary.dictionary)):
        with pytest.raises(ColldError, match=f"token {outside} is none of the vocabulary's"):
            recogniser.align(UTTERANCES[0], [5, outside])


@pytest.mark.parametrize("contexts, expected", [("1,2,full", 2), ("2,1", 2), ("full,1,4", 4), ("full", None), ("3", 3)])
def test_left_context_of_the_training(make, contexts, expected):
    """The longest that has a limit: streams are decoded by default with one that the model was trained with."""
    recogniser = load_recogniser(make("--left-context", contexts))
    assert recogniser.streaming(320).encoder.context == (8, expected)
    assert recogniser.streaming(320, "full").encoder.context == (8, None)
    assert recogniser.streaming(40, "5").encoder.context == (1, 5)
    same = recogniser.streaming(320, str(expected or "full"))
    assert recogniser.streaming(320).encoder.context == same.encoder.context


def test_clock_of_a_live_stream(make, monkeypatch):
    """Steps take half a second each: what is waited for is that, the chunk, and what is still being worked on."""
    rules = EndpointRules(longest=0.9)
    recogniser = load_recogniser(make(), blank_penalty=1e4, max_symbols=1).streaming(320, "3", rules)
    ticks = [0.0]
    plain = recogniser.decode

    def decode(streams):
        ready = plain(streams)
        ticks[0] += 0.5 * bool(ready)
        return ready

    monkeypatch.setattr(recogniser, "decode", decode)
    results = []
    latency = listen(recogniser, [cut(UTTERANCES[0])], lambda *result: results.append(result), timer=lambda: ticks[0])[
        0
    ]
    # 1.4 s: steps at 0.38 (chunk, lookahead and a window, in pieces of 20 ms), 0.7, 1.02, 1.34, and one at the end
    assert latency.audio == pytest.approx(1.4) and latency.work == pytest.approx(2.5)
    assert latency.first == pytest.approx(0.38 + 0.5)
    assert latency.final == pytest.approx(0.38 + 5 * 0.5 - 1.4)
    assert [round(result.end, 2) for _, result, _ in results] == [0.32, 0.64, 0.96, 1.28, 1.32, 1.32]
    assert [final for _, _, final in results] == [False, False, True, False, False, True]
    assert len(latency.delays) == sum(len(result.tokens) for _, result, final in results if final)
    assert latency.delays[0] == pytest.approx(0.88 - results[0][1].times[0])


class Changing:
    """A recogniser whose text is another one after each second of audio; the last of them is final."""

    def __init__(self, *transcripts):
        self.transcripts = transcripts

    def create_stream(self, tag):
        return SimpleNamespace(samples=0, steps=0, accept_waveform=self.accept, finish=lambda: None)

    def accept(self, samples):
        self.stream.samples += len(samples)

    def decode(self, streams):
        (self.stream,) = streams
        ready = self.stream.steps < self.stream.samples // 16000
        self.stream.steps += ready
        return [0] * ready

    def is_endpoint(self, stream):
        return stream.steps == len(self.transcripts)

    def result(self, stream):
        text = self.transcripts[stream.steps - 1] if stream.steps else ""
        times = [0.25 * index for index in range(len(text))]
        tokens = [ord(letter) for letter in text]
        return StreamingResult(tokens, 0.0, 0.0, text=text, times=times, end=float(stream.steps))

    def reset(self, stream):
        self.transcripts, stream.steps, stream.samples = [], 0, 0


def test_labels_that_change_are_waited_for_until_they_stay():
    recogniser, results = Changing("ab", "ac", "a", "a", "abd", "abd"), []
    recogniser.stream = None
    stream = recogniser.create_stream(None)
    recogniser.create_stream = lambda tag: stream
    recogniser.stream = stream
    latency = listen(
        recogniser,
        [np.split(np.zeros(6 * 16000), 6)],
        lambda _, result, final: results.append((result.text, final)),
        timer=lambda: 0.0,
    )[0]
    assert results == [("ab", False), ("ac", False), ("a", False), ("abd", False), ("abd", True)]
    assert latency.first == pytest.approx(1.0)
    assert latency.delays == pytest.approx([1.0 - 0.0, 5.0 - 0.25, 5.0 - 0.5])


def test_audio_in_any_form(make):
    """Lists, integers, tensors and another rate give what 16 kHz floats give; nothing is no crash."""
    recogniser = load_recogniser(make(), blank_penalty=0.5, max_symbols=2)
    streaming = recogniser.streaming(endpoint=None)
    pcm = (UTTERANCES[0] * 32767).astype(np.int16)
    exact = pcm / np.float32(32768)
    forms = [exact.astype(np.float64), exact.tolist(), pcm, torch.from_numpy(pcm)[None]]
    expected, *seen, empty, short = recogniser.transcribe([exact, *forms, [], exact[:10]])
    assert expected[0].tokens and all(n_best == expected for n_best in seen)
    assert [(one.text, one.tokens) for one in empty + short] == [("", [])] * 2
    assert recogniser.transcribe([]) == []
    assert recogniser.transcribe([[]]) == [empty]
    whole = streamed(streaming, exact)[-1]
    for form in forms:
        stream = streaming.create_stream()
        stream.accept_waveform(form)
        stream.accept_waveform([])
        stream.finish()
        while streaming.decode([stream]):
            pass
        assert streaming.result(stream) == whole
    faster = soxr.resample(exact, 16000, 44100, quality="HQ")
    again = soxr.resample(faster, 44100, 16000, quality="HQ")
    assert recogniser.transcribe([faster.tolist()], sample_rate=44100) == recogniser.transcribe([again])
    stream = streaming.create_stream()
    for at in range(0, len(faster), 1000):
        stream.accept_waveform(faster[at : at + 1000], 44100)
    stream.finish()
    assert abs(stream.samples - len(exact)) <= 1
    with pytest.raises(ColldError, match="began with 44100 Hz"):
        other = streaming.create_stream()
        other.accept_waveform(faster[:100], 44100)
        other.accept_waveform(exact[:100])
