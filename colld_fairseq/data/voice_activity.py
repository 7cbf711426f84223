"""Voice activity: the probability of speech, every 32 ms, by silero-vad, and the pieces of a recording that have some.

Its weights lie in its wheel as graphs of ONNX. The package itself is never imported: that sets torch's threads to one
for the whole program.
"""

import importlib.util
from pathlib import Path
from typing import Iterable, Iterator, List, NamedTuple, Optional

import numpy as np

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.data.cutting import Span, packed, speech_spans, split, widened
from colld_fairseq.errors import ConfigError

INSTALL = 'pip install "colld_fairseq[vad]"'
FRAME, CONTEXT = 512, 64  # samples of a frame; of the one before that the graphs want with it
MAX_FRAMES = 512  # in one call, as silero-vad itself
WIDTH = 128  # of the LSTM
SECONDS = FRAME / SAMPLE_RATE

# Seconds. The first two are silero-vad's. Our choice, by measurement (RESULTS.md, long recordings), are the margins,
# which keep soft beginnings and ends of words, and the pause after which a new piece begins: students trained on
# utterances without silence recognize less well with it, and attention decoders make up words for it.
LEAST_SPEECH, LEAST_SILENCE = 0.25, 0.1
MARGIN, LONGEST_PAUSE, AROUND = 0.2, 0.5, 0.2


class Activity(NamedTuple):
    """What is known of a recording, frame by frame, the last one filled up with zeros: a MB per hour."""

    probability: np.ndarray  # float32 [F], of speech
    power: np.ndarray  # float32 [F], mean square
    samples: int  # of the recording

    def pieces(self, longest_seconds: float) -> List[Span]:
        """Samples of pieces with speech of at most `longest_seconds`, in order: neighboring speech in one piece as long
        as it fits, with margins; longer speech is cut at its quietest moments. Empty where nobody speaks."""
        frames, longest = len(self.probability), max(1, int(longest_seconds / SECONDS))
        speech = speech_spans(self.probability, LEAST_SPEECH / SECONDS, LEAST_SILENCE / SECONDS)
        parts = [
            part
            for span in widened(speech, round(MARGIN / SECONDS), frames)
            for part in split(span, self.power, longest, round(AROUND / SECONDS))
        ]
        spans = packed(parts, longest, round(LONGEST_PAUSE / SECONDS))
        return [Span(span.start * FRAME, min(span.end * FRAME, self.samples)) for span in spans]


class VoiceActivity:
    """silero-vad in ONNX Runtime. Raises ConfigError, with the line that installs it, where either is not there."""

    def __init__(self) -> None:
        graph = graph_file()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.takes_many_frames = "h" in [value.name for value in self.session.get_inputs()]

    def __call__(self, blocks: Iterable[np.ndarray]) -> Activity:
        """Of audio at 16 kHz in blocks float32 [N] of any lengths."""
        samples, state, context = 0, np.zeros((2, 1, WIDTH), np.float32), np.zeros(CONTEXT, np.float32)
        probabilities, powers = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
        for block in whole_frames(blocks):
            samples += len(block)
            frames = np.pad(block, (0, -len(block) % FRAME)).reshape(-1, FRAME)
            contexts = np.concatenate((context[None], frames[:-1, -CONTEXT:]))
            probability, state = self._run(np.concatenate((contexts, frames), axis=1), state)
            context = frames[-1, -CONTEXT:]
            probabilities.append(probability)
            powers.append((frames**2).mean(axis=1))
        return Activity(np.concatenate(probabilities), np.concatenate(powers), samples)

    def _run(self, frames: np.ndarray, state: np.ndarray):
        """Probabilities [F] of [F, CONTEXT + FRAME], and the LSTM's state [2, 1, WIDTH] behind them."""
        if self.takes_many_frames:
            probability, hidden, cell = self.session.run(None, {"input": frames, "h": state[:1], "c": state[1:]})
            return probability.reshape(-1), np.concatenate((hidden, cell))
        probability = np.zeros(len(frames), np.float32)
        for index, frame in enumerate(frames):
            given = {"input": frame[None], "state": state, "sr": np.array(SAMPLE_RATE, np.int64)}
            output, state = self.session.run(None, given)
            probability[index] = output.item()
        return probability, state


def whole_frames(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in blocks of at most MAX_FRAMES frames; all but the very last one are whole frames."""
    waiting = np.zeros(0, np.float32)
    for block in blocks:
        waiting = np.concatenate((waiting, block))
        end = len(waiting) // FRAME * FRAME
        for start in range(0, end, MAX_FRAMES * FRAME):
            yield waiting[start : min(end, start + MAX_FRAMES * FRAME)]
        waiting = waiting[end:]
    if len(waiting):
        yield waiting


def graph_file() -> Path:
    """The graph that takes a sequence of frames at once, ten times as fast, where the installed version has it."""
    package, runtime = (importlib.util.find_spec(name) for name in ("silero_vad", "onnxruntime"))
    graph: Optional[Path] = None
    if package is not None and package.submodule_search_locations:
        folder = Path(package.submodule_search_locations[0], "data")
        files = [folder / "silero_vad_16k_sequence.onnx", folder / "silero_vad.onnx"]
        graph = next((file for file in files if file.is_file()), None)
    if graph is None or runtime is None:
        raise ConfigError(f"--vad needs silero-vad 5 or newer and onnxruntime, not installed here: {INSTALL}")
    return graph
