"""Streams as they would be heard live: every piece of audio is there when it was spoken, and decoding takes its time.

Nothing waits: the clock is computed from the length of the audio and the measured time of the work.
"""

import time
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Callable, Iterable, List, Optional, Sequence

import numpy as np

from colld_fairseq.data.fbank import SAMPLE_RATE
from colld_fairseq.decoding.streaming import StreamingRecogniser, StreamingResult

PIECE = SAMPLE_RATE // 50  # samples that arrive at once: 20 ms

# number of the stream, what is recognised of its utterance, and whether that is final
OnResult = Callable[[int, StreamingResult, bool], None]


@dataclass
class Latency:
    """Seconds that a listener waits. Clocks begin with the first sample.

    Attributes:
        audio: of the stream.
        work: spent on it; of streams that are decoded together an equal share.
        first: when the first text was there; None if there never was one.
        final: from the end of the audio to the last result.
        delays: of each label: from the beginning of its encoder frame until it was there to stay.
    """

    audio: float = 0.0
    work: float = 0.0
    first: Optional[float] = None
    final: float = 0.0
    delays: List[float] = field(default_factory=list)


def cut(waveform: np.ndarray) -> Iterable[np.ndarray]:
    """A waveform [N] in pieces as a microphone gives them."""
    return np.split(waveform, range(PIECE, len(waveform), PIECE))


def listen(
    recogniser: StreamingRecogniser,
    sources: Sequence[Iterable[np.ndarray]],
    on_result: OnResult,
    tags: Optional[Sequence[int]] = None,
    timer: Callable[[], float] = time.perf_counter,
) -> List[Latency]:
    """Decode streams side by side until all have ended; utterances end where the recogniser's rules say.

    Args:
        sources: the pieces of each stream, float or int16 [n] at 16 kHz.
        on_result: called whenever a text has changed, and at the end of each utterance that has one.
        tags: tokens of the streams' target languages, where they differ.
        timer: the time in seconds, of which work is measured.
    """
    streams = [recogniser.create_stream(tag) for tag in tags or [None] * len(sources)]
    pieces = [iter(source) for source in sources]
    latencies = [Latency() for _ in sources]
    labels: List[List[int]] = [[] for _ in streams]  # of the current utterance, as reported last
    clocks: List[List[float]] = [[] for _ in streams]  # when each of them was there, and all before it
    running = list(range(len(streams)))
    clock = 0.0

    def report(number: int, now: float, final: bool) -> None:
        result, latency = recogniser.result(streams[number]), latencies[number]
        changed = result.tokens != labels[number]
        if result.tokens and latency.first is None:
            latency.first = now
        pairs = zip(result.tokens, labels[number])
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        clocks[number] = clocks[number][:same] + [now] * (len(result.tokens) - same)
        labels[number] = result.tokens
        if changed or (final and (result.tokens or result.alternatives)):
            on_result(number, result, final)
        if final:
            latency.delays += [there - start for there, start in zip(clocks[number], result.times)]
            labels[number], clocks[number] = [], []

    while running:
        heard = [next(pieces[number], None) for number in running]  # may wait: not part of the work
        begin = timer()
        for number, samples in zip(running, heard):
            if samples is None:
                streams[number].finish()
            else:
                streams[number].accept_waveform(samples)
        clock = max(clock, max(streams[number].samples for number in running) / SAMPLE_RATE)
        while stepped := recogniser.decode([streams[number] for number in running]):
            now = clock + timer() - begin
            for number in [running[i] for i in stepped]:
                over = recogniser.is_endpoint(streams[number])
                report(number, now, over)
                if over:
                    recogniser.reset(streams[number])
        spent = timer() - begin
        clock += spent
        for number in running:
            latencies[number].work += spent / len(running)
        for number in [number for number, samples in zip(running, heard) if samples is None]:
            audio = streams[number].samples / SAMPLE_RATE
            report(number, clock, True)
            latencies[number].audio, latencies[number].final = audio, clock - audio
            running.remove(number)
    return latencies
