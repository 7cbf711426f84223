"""Where a recording is cut into pieces: at its quietest moments, or around the speech in it.

Pure functions of what is known per frame. A frame is as long as its caller's.
"""

from typing import Iterator, List, NamedTuple, Sequence

import numpy as np

# Silero's own: speech begins with a frame above the first and ends below the second probability.
SPEECH, SILENCE = 0.5, 0.35


class Span(NamedTuple):
    """Frames from `start` to before `end`."""

    start: int
    end: int


def quietest(power: np.ndarray, around: int) -> int:
    """The frame in the middle of the quietest `around` neighboring ones, of [F] mean squares; F if there are fewer."""
    if len(power) < around:
        return len(power)
    return int(np.convolve(power, np.ones(around), mode="valid").argmin()) + around // 2


def speech_spans(probability: Sequence[float], least_speech: float, least_silence: float) -> Iterator[Span]:
    """Speech, by its probability per frame [F], as silero-vad's `get_speech_timestamps` without padding: silence
    shorter than `least_silence` frames is bridged, then speech that is not longer than `least_speech` left out."""
    start = end = -1  # of speech, and of silence in it, that have begun; -1: none has
    for frame, p in enumerate(probability):
        if p >= SPEECH:
            start, end = frame if start < 0 else start, -1
        elif p < SILENCE and start >= 0:
            end = frame if end < 0 else end
            if frame - end >= least_silence:
                if end - start > least_speech:
                    yield Span(start, end)
                start = end = -1
    if start >= 0 and len(probability) - start > least_speech:
        yield Span(start, len(probability))


def widened(spans: Iterator[Span], margin: int, frames: int) -> List[Span]:
    """With so many frames more on both sides, as far as the recording of so many `frames` goes; what then touches or
    overlaps is one."""
    result: List[Span] = []
    for span in spans:
        start, end = max(0, span.start - margin), min(frames, span.end + margin)
        if result and start <= result[-1].end:
            start = result.pop().start
        result.append(Span(start, end))
    return result


def split(span: Span, power: np.ndarray, longest: int, around: int) -> Iterator[Span]:
    """Parts of at most `longest` frames that leave nothing out; each ends at the quietest `around` frames of the second
    half of what it could be. power: of all frames of the recording."""
    start = span.start
    while span.end - start > longest:
        first = start + longest // 2
        end = first + quietest(power[first : start + longest], around)
        yield Span(start, end)
        start = end
    yield Span(start, span.end)


def packed(spans: Sequence[Span], longest: int, longest_pause: int) -> List[Span]:
    """As few as possible of at most `longest` frames, pauses included, none of these longer than `longest_pause`."""
    result: List[Span] = []
    for span in spans:
        if result and span.end - result[-1].start <= longest and span.start - result[-1].end <= longest_pause:
            span = Span(result.pop().start, span.end)
        result.append(span)
    return result
