"""Long recordings: read from the beginning to the end, cut where they are quiet, transcribed in pieces, joined again.

Only some pieces of a recording are in memory at a time, and each is noted as soon as it is transcribed.
"""

from dataclasses import replace
from typing import Dict, Iterator, List, NamedTuple

import numpy as np

from colld_fairseq.cli.terminal import AudioBar
from colld_fairseq.cli.transcribe.inputs import Utterances
from colld_fairseq.cli.transcribe.output import Result
from colld_fairseq.data.audio import SAMPLE_RATE, audio_blocks
from colld_fairseq.data.utterances import BadUtterances
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


def quietest(samples: np.ndarray, first: int) -> int:
    """Sample of the quietest moment of [N] from `first` on."""
    step, around = int(STEP_SECONDS * SAMPLE_RATE), round(AROUND_SECONDS / STEP_SECONDS)
    frames = samples[first : first + (len(samples) - first) // step * step].reshape(-1, step).astype(np.float64)
    power = (frames**2).mean(axis=1)
    if len(power) < around:
        return len(samples)
    loudness = np.convolve(power, np.ones(around) / around, mode="valid")
    return first + (int(loudness.argmin()) + around // 2) * step


def pieces(path: str, longest_seconds: float) -> Iterator[Piece]:
    """The recording in pieces of at most `longest_seconds` that leave nothing out. Raises AudioError."""
    longest = int(longest_seconds * SAMPLE_RATE)
    start, waiting = 0, np.zeros(0, dtype=np.float32)
    for block in audio_blocks(path):
        waiting = np.concatenate((waiting, block))
        while len(waiting) > longest:
            end = quietest(waiting[:longest], int(LEAST_SHARE * longest))
            yield Piece(start, waiting[:end])
            start, waiting = start + end, waiting[end:]
    if len(waiting):
        yield Piece(start, waiting)


def transcribe_recording(
    recogniser: Recogniser,
    cut_seconds: float,
    batch_seconds: float,
    utterances: Utterances,
    row: int,
    bad: BadUtterances,
    bar: AudioBar,
) -> Iterator[Dict[str, Result]]:
    """Results of the pieces under names of their own, those of `utterances.known` left out, then that of the recording;
    one that cannot be read to its end goes to `bad`."""
    name, results = utterances.ids[row], []
    try:
        for batch in batches(pieces(utterances.rows.audio_path(row), cut_seconds), batch_seconds):
            of = {piece.start: utterances.known.get(piece_name(name, piece)) for piece in batch}
            new = [piece for piece in batch if of[piece.start] is None]
            of.update(zip([piece.start for piece in new], transcribe(recogniser, utterances, name, new)))
            if new:
                yield {piece_name(name, piece): of[piece.start] for piece in new}
            results += [of[piece.start] for piece in batch]
            bar.advance(0, sum(piece.seconds for piece in batch))
    except AudioError as error:
        bad.update({name: str(error)})
        return
    bar.advance(1, 0.0)
    n_best = joined([one.hypotheses for one in results], recogniser.nbest)
    yield {name: Result(sum(one.samples for one in results), n_best)}


def piece_name(name: str, piece: Piece) -> str:
    return f"{name}@{piece.start}"


def batches(some: Iterator[Piece], seconds: float) -> Iterator[List[Piece]]:
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
    words = [
        replace(word, start=round(word.start + seconds, 3), end=round(word.end + seconds, 3))
        for word in hypothesis.words
    ]
    return replace(hypothesis, words=words)
