"""Long recordings: read from the beginning to the end, cut where they are quiet, transcribed in pieces, joined again.

Only some pieces of a recording are in memory at a time, and each is noted as soon as it is transcribed.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from colld_fairseq.cli.terminal import AudioBar
from colld_fairseq.cli.transcribe.inputs import PART, Utterances
from colld_fairseq.cli.transcribe.output import Result
from colld_fairseq.data.audio import SAMPLE_RATE, audio_blocks
from colld_fairseq.data.cutting import Span, quietest
from colld_fairseq.data.utterances import BadUtterances
from colld_fairseq.data.voice_activity import VoiceActivity
from colld_fairseq.decoding.hypothesis import Hypothesis, joined
from colld_fairseq.errors import AudioError
from colld_fairseq.recogniser import Recogniser

# A piece ends at its quietest moment after this share of the longest length; loudness is that of so many seconds.
LEAST_SHARE, STEP_SECONDS, AROUND_SECONDS = 0.5, 0.01, 0.2


class Piece(NamedTuple):
    """Samples at 16 kHz, float32 [N], which begin at sample `start` of the recording."""

    start: int
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class Cutting(NamedTuple):
    """Into pieces of at most so many seconds: at the quietest moments, with nothing left out, or, with a detector,
    around speech."""

    longest_seconds: float
    detector: Optional[VoiceActivity] = None

    @property
    def whole_seconds(self) -> float:
        """Up to how many an utterance stays whole: 0 with a detector, which leaves silence out of short ones, too."""
        return 0.0 if self.detector else self.longest_seconds


@dataclass
class Recording:
    """A recording in pieces. Iterating reads it from the beginning to the end, with a detector twice; it raises
    AudioError."""

    path: str
    cutting: Cutting
    samples: int = 0  # read so far

    def __iter__(self) -> Iterator[Piece]:
        if self.cutting.detector is None:
            return self._quiet()
        activity = self.cutting.detector(audio_blocks(self.path))
        return self._with_speech(activity.pieces(self.cutting.longest_seconds))

    def _blocks(self) -> Iterator[np.ndarray]:
        for block in audio_blocks(self.path):
            self.samples += len(block)
            yield block

    def _quiet(self) -> Iterator[Piece]:
        longest = int(self.cutting.longest_seconds * SAMPLE_RATE)
        start, waiting = 0, np.zeros(0, dtype=np.float32)
        for block in self._blocks():
            waiting = np.concatenate((waiting, block))
            while len(waiting) > longest:
                end = quiet_end(waiting[:longest])
                yield Piece(start, waiting[:end])
                start, waiting = start + end, waiting[end:]
        if len(waiting):
            yield Piece(start, waiting)

    def _with_speech(self, spans: Sequence[Span]) -> Iterator[Piece]:
        """The samples of spans that are in order and do not overlap."""
        start, waiting, left = 0, np.zeros(0, dtype=np.float32), deque(spans)
        for block in self._blocks():
            waiting = np.concatenate((waiting, block))
            while left and left[0].end <= start + len(waiting):
                span = left.popleft()
                yield Piece(span.start, waiting[span.start - start : span.end - start])
            keep = left[0].start if left else start + len(waiting)
            drop = min(len(waiting), max(0, keep - start))
            start, waiting = start + drop, waiting[drop:]


def quiet_end(samples: np.ndarray) -> int:
    """Where a piece ends of which [N] samples at most fit: at their quietest moment."""
    first, step = int(LEAST_SHARE * len(samples)), int(STEP_SECONDS * SAMPLE_RATE)
    steps = samples[first : first + (len(samples) - first) // step * step].reshape(-1, step).astype(np.float64)
    around = round(AROUND_SECONDS / STEP_SECONDS)
    return len(samples) if len(steps) < around else first + quietest((steps**2).mean(axis=1), around) * step


def transcribe_recording(
    recogniser: Recogniser,
    cutting: Cutting,
    batch_seconds: float,
    utterances: Utterances,
    row: int,
    bad: BadUtterances,
    bar: AudioBar,
) -> Iterator[Dict[str, Result]]:
    """Results of the pieces under names of their own, those of `utterances.known` left out, then that of the recording;
    one that cannot be read to its end goes to `bad`."""
    name, n_best_lists, shown = utterances.ids[row], [], 0
    recording = Recording(utterances.rows.audio_path(row), cutting)
    try:
        for batch in batches(recording, batch_seconds):
            of = {piece.start: utterances.known.get(piece_name(name, piece)) for piece in batch}
            new = [piece for piece in batch if of[piece.start] is None]
            of.update(zip([piece.start for piece in new], transcribe(recogniser, utterances, name, new)))
            if new:
                yield {piece_name(name, piece): of[piece.start] for piece in new}
            n_best_lists += [of[piece.start].hypotheses for piece in batch]
            bar.advance(0, (recording.samples - shown) / SAMPLE_RATE)
            shown = recording.samples
    except AudioError as error:
        bad.update({name: str(error)})
        return
    bar.advance(1, (recording.samples - shown) / SAMPLE_RATE)
    yield {name: Result(recording.samples, joined(n_best_lists, recogniser.nbest))}


def piece_name(name: str, piece: Piece) -> str:
    return f"{name}{PART}{piece.start}"


def batches(some: Iterable[Piece], seconds: float) -> Iterator[List[Piece]]:
    """As many pieces as have so many seconds with padding, at least one."""
    batch: List[Piece] = []
    for piece in some:
        longest = max(one.seconds for one in [*batch, piece])
        if batch and longest * (len(batch) + 1) > seconds:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


def transcribe(recogniser: Recogniser, utterances: Utterances, name: str, batch: List[Piece]) -> List[Result]:
    """Of pieces of one recording; words have the recording's times."""
    if not batch:
        return []
    languages = utterances.languages([name]) * len(batch) if recogniser.needs_language else None
    spoken = utterances.spoken([name]) * len(batch)
    lists = recogniser.transcribe([piece.samples for piece in batch], languages, source_languages=spoken)
    return [
        Result(len(piece.samples), [later(one, piece.start / SAMPLE_RATE) for one in n_best])
        for piece, n_best in zip(batch, lists)
    ]


def later(hypothesis: Hypothesis, seconds: float) -> Hypothesis:
    """With the recording's times, and without what is the piece's own: frames and scores of tokens."""
    words = [
        replace(word, start=round(word.start + seconds, 3), end=round(word.end + seconds, 3))
        for word in hypothesis.words
    ]
    return replace(hypothesis, words=words, frames=[], token_scores=[])
