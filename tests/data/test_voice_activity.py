"""Voice activity: probabilities and speech as silero-vad's own code has them, pieces that keep all speech."""

import sys
from dataclasses import dataclass

import numpy as np
import pytest
from commands import REPOSITORY

from colld_fairseq.data import voice_activity
from colld_fairseq.data.audio import find_zip_members, read_audio
from colld_fairseq.data.cutting import Span, packed, quietest, speech_spans, split, widened
from colld_fairseq.data.voice_activity import FRAME, SECONDS, VoiceActivity
from colld_fairseq.errors import ConfigError

RATE = 16000
PROMPTS = ("en-auth-incorrect", "en-agent-pass", "en-at-tone-time-exactly", "en-agent-user", "en-call-forwarding")
PAUSES = (0.5, 7.0, 1.0, 3.0, 0.7)  # seconds, behind each


@dataclass
class Talk:
    samples: np.ndarray
    spoken: list  # samples, first and last + 1, of each prompt


@pytest.fixture(scope="module")
def talk():
    """Real prompts with noise as quiet as a room between them."""
    members = find_zip_members(str(REPOSITORY / "examples" / "quickstart" / "prompts.zip"))
    noise, parts, spoken, at = np.random.default_rng(3), [], [], 0
    for name, pause in zip(PROMPTS, PAUSES):
        prompt = read_audio(members[f"{name}.ogg"])
        spoken.append((at, at + len(prompt)))
        parts += [prompt, 1e-4 * noise.standard_normal(int(pause * RATE)).astype(np.float32)]
        at += len(prompt) + len(parts[-1])
    return Talk(np.concatenate(parts), spoken)


@pytest.fixture(scope="module")
def activity(talk):
    return VoiceActivity()(np.array_split(talk.samples, 7))


@pytest.fixture(scope="module")
def silero():
    import silero_vad
    from silero_vad.sequence_vad import get_speech_timestamps_sequence

    return silero_vad.load_silero_vad(sequence=True), get_speech_timestamps_sequence


def test_probabilities_are_those_of_silero_vad_in_whatever_blocks(talk, activity, silero, monkeypatch):
    expected = silero[0].audio_forward(talk.samples)
    np.testing.assert_allclose(activity.probability, expected, atol=1e-5)
    monkeypatch.setattr(voice_activity, "MAX_FRAMES", 100)
    few = VoiceActivity()(
        [talk.samples[:100], talk.samples[100:100], talk.samples[100:100_001], talk.samples[100_001:]]
    )
    np.testing.assert_allclose(few.probability, expected, atol=1e-5)
    assert activity.samples == few.samples == len(talk.samples) and len(few.power) == len(expected)
    last = talk.samples[(len(expected) - 1) * FRAME :]
    assert few.power[-1] == pytest.approx(np.sum(last.astype(float) ** 2) / FRAME, rel=1e-4)


def test_versions_without_the_graph_of_sequences_say_the_same(talk, activity, monkeypatch):
    step = voice_activity.graph_file().with_name("silero_vad.onnx")
    monkeypatch.setattr(voice_activity, "graph_file", lambda: step)
    detector = VoiceActivity()
    assert not detector.takes_many_frames
    seconds = detector([talk.samples[: 5 * RATE]])
    same = 5 * RATE // FRAME
    np.testing.assert_allclose(seconds.probability[:same], activity.probability[:same], atol=2e-3)


def test_speech_is_what_silero_vad_says(talk, activity, silero):
    model, get_timestamps = silero
    expected = get_timestamps(talk.samples, model, speech_pad_ms=0)
    spans = list(speech_spans(activity.probability, 0.25 / SECONDS, 0.1 / SECONDS))
    assert [(s.start * FRAME, s.end * FRAME) for s in spans] == [(s["start"], s["end"]) for s in expected]
    assert len(spans) > len(PROMPTS)


@pytest.mark.parametrize("longest", [1.7, 4, 30])
def test_pieces_hold_all_speech_once_and_no_long_silence(talk, activity, longest):
    pieces = activity.pieces(longest)
    assert all(0 < piece.end - piece.start <= longest * RATE for piece in pieces)
    assert all(before.end <= after.start for before, after in zip(pieces, pieces[1:]))
    inside = np.zeros(len(talk.samples), dtype=bool)
    for piece in pieces:
        inside[piece.start : piece.end] = True
    speech = np.repeat(activity.probability >= 0.5, FRAME)[: len(inside)]
    assert inside[speech].mean() > 0.999  # nothing but sounds of a quarter of a second is left out
    for first, last in talk.spoken:
        loud = np.flatnonzero(np.abs(talk.samples[first:last]) > 0.05) + first
        assert inside[loud].mean() > 0.99  # one prompt begins with a click
    silence = talk.spoken[1][1] + RATE, talk.spoken[2][0] - RATE
    assert not inside[slice(*silence)].any()
    if longest == 30:  # the pauses of 7, 3 and 1 s, and not that of half a second, are longer than a piece bears
        assert len(pieces) == 4


def test_long_speech_is_cut_where_it_is_quietest():
    """Half a minute of speech without a pause for the detector, with a soft moment every four seconds."""
    frames = round(30 / SECONDS)
    power = np.ones(frames)
    soft = np.arange(125, frames, 125)
    for middle in soft:
        power[middle - 3 : middle + 3] = 0.01
    parts = list(split(Span(0, frames), power, round(10 / SECONDS), 6))
    assert parts[0].start == 0 and parts[-1].end == frames
    assert [part.start for part in parts[1:]] == [part.end for part in parts[:-1]]
    assert all(part.end in soft for part in parts[:-1]) and len(parts) == 4
    assert quietest(power[:3], 6) == 3  # too short to have one: its end


def test_margins_and_packing():
    speech = [Span(2, 10), Span(13, 20), Span(60, 90), Span(97, 99)]
    wide = widened(iter(speech), 6, 100)
    assert wide == [Span(0, 26), Span(54, 100)]
    spans = [Span(0, 26), Span(30, 50), Span(54, 60), Span(100, 110)]
    assert packed(spans, 60, 20) == [Span(0, 60), Span(100, 110)]
    assert packed(spans, 59, 20) == [Span(0, 50), Span(54, 60), Span(100, 110)]
    assert packed(spans, 200, 40) == [Span(0, 110)]


def test_silence_has_no_pieces():
    assert VoiceActivity()([np.zeros(RATE, np.float32)]).pieces(30) == []
    assert VoiceActivity()([]).pieces(30) == []


def test_where_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(ConfigError, match=r'--vad needs silero-vad.*pip install "colld_fairseq\[vad\]"'):
        VoiceActivity()
