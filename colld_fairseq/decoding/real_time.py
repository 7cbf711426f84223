"""Streams as if they were live: every piece of audio arrives when it was spoken, and decoding takes its time.

Nothing waits: the clock is computed from the length of the audio and the measured time of the work.
"""

import time
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Callable, Iterable, List, Optional, Sequence, Union

import numpy as np

from colld_fairseq.data.fbank import SAMPLE_RATE
from colld_fairseq.decoding.streaming import StreamingRecogniser, StreamingResult

PIECE = SAMPLE_RATE // 50  # samples that arrive at once: 20 ms

# index of the stream, what is recognized of its utterance, and whether that is final
OnResult = Callable[[int, StreamingResult, bool], None]


@dataclass
class Latency:
    """Seconds that a user waits. Clocks begin with the first sample.

    Attributes:
        audio: of the stream.
        work: spent on it; of streams that are decoded together an equal share.
        first: when the first text appeared; None if none did.
        final: from the end of the audio to the last result.
        delays: per label: from the beginning of its encoder frame until the label appeared and no longer changed.
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
    tags: Optional[Sequence[Union[int, str]]] = None,
    timer: Callable[[], float] = time.perf_counter,
) -> List[Latency]:
    """Decode streams side by side until all have ended; utterances end where the recogniser's rules say.

    Args:
        sources: the pieces of each stream, float or int16 [n] at 16 kHz.
        on_result: called whenever a text has changed, and at the end of each utterance that has one.
        tags: the streams' target languages, where they differ, as `create_stream` takes them.
        timer: the time in seconds, of which work is measured.
    """
    streams = [recogniser.create_stream(tag) for tag in tags or [None] * len(sources)]
    pieces = [iter(source) for source in sources]
    latencies = [Latency() for _ in sources]
    labels: List[List[int]] = [[] for _ in streams]  # of the current utterance, as reported last
    clocks: List[List[float]] = [[] for _ in streams]  # when each of them appeared, with all before it unchanged since
    running = list(range(len(streams)))
    clock = 0.0

    def report(index: int, now: float, final: bool) -> None:
        result, latency = recogniser.result(streams[index]), latencies[index]
        changed = result.tokens != labels[index]
        if result.tokens and latency.first is None:
            latency.first = now
        pairs = zip(result.tokens, labels[index])
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        clocks[index] = clocks[index][:same] + [now] * (len(result.tokens) - same)
        labels[index] = result.tokens
        if changed or (final and (result.tokens or result.alternatives)):
            on_result(index, result, final)
        if final:
            latency.delays += [appeared - start for appeared, start in zip(clocks[index], result.times)]
            labels[index], clocks[index] = [], []

    while running:
        arrived = [next(pieces[index], None) for index in running]  # may wait: not part of the work
        begin = timer()
        for index, samples in zip(running, arrived):
            if samples is None:
                streams[index].finish()
            else:
                streams[index].accept_waveform(samples)
        clock = max(clock, max(streams[index].samples for index in running) / SAMPLE_RATE)
        while stepped := recogniser.decode([streams[index] for index in running]):
            now = clock + timer() - begin
            for index in [running[i] for i in stepped]:
                over = recogniser.is_endpoint(streams[index])
                report(index, now, over)
                if over:
                    recogniser.reset(streams[index])
        spent = timer() - begin
        clock += spent
        for index in running:
            latencies[index].work += spent / len(running)
        for index in [index for index, samples in zip(running, arrived) if samples is None]:
            audio = streams[index].samples / SAMPLE_RATE
            report(index, clock, True)
            latencies[index].audio, latencies[index].final = audio, clock - audio
            running.remove(index)
    return latencies
