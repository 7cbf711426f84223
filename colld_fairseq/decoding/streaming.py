"""Recognition of streams: audio in as it arrives, texts out while it does.

    stream = recogniser.create_stream()
    while ...:
        stream.accept_waveform(samples)
        while recogniser.decode([stream]):
            print(recogniser.result(stream).text)
            if recogniser.is_endpoint(stream):
                recogniser.reset(stream)

Many streams are decoded as one batch, whatever their age; none changes another's result.
"""

from dataclasses import dataclass, field
from typing import Any, Callable, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from colld_fairseq.data.fbank import NUM_BINS, SAMPLE_RATE, SHIFT
from colld_fairseq.data.online_fbank import OnlineFbank
from colld_fairseq.decoding.endpoint import EndpointRules
from colld_fairseq.decoding.search import GreedySearch, Search
from colld_fairseq.decoding.transducer import Scorer, TransducerHypothesis
from colld_fairseq.errors import ColldError
from colld_fairseq.modules.streaming import StreamingEncoder, StreamState

FBANK_SECONDS = SHIFT / SAMPLE_RATE


@dataclass
class StreamingResult:
    """What is recognised of the current utterance so far, as if it ended here: what beam search found may yet change.

    Attributes:
        text, tokens: the labels and what they spell.
        times: seconds since the beginning of the stream at which the encoder frame of each label begins.
        start, end: seconds since the beginning of the stream; from where to where the utterance was decoded.
        log_prob: ln p of the most probable path.
        score: what labellings are ranked by (language model and length score included).
        alternatives: other labellings, best first, where the search gives several.
    """

    text: str
    tokens: List[int]
    times: List[float]
    start: float
    end: float
    log_prob: float
    score: float
    alternatives: List["StreamingResult"] = field(default_factory=list)


class Stream:
    """One stream's memory; made by :meth:`StreamingRecogniser.create_stream`."""

    def __init__(self, fbank: OnlineFbank, tag: Optional[int]) -> None:
        self.tag = tag
        self.samples = 0  # received so far
        self.finished = False
        self.frames = np.zeros((0, NUM_BINS), dtype=np.float32)  # filterbanks that are not decoded yet
        self.encoder: StreamState
        self.search: Any  # state of the search
        self.n_best: List[TransducerHypothesis]  # of the current utterance so far
        self.seen = 0  # encoder frames of the current utterance
        self.start = 0  # filterbank frames before the current utterance
        self._fbank = fbank

    def accept_waveform(self, samples: np.ndarray) -> None:
        """The next samples [N] at 16 kHz, any number of them: float in [-1, 1], or int16."""
        if self.finished:
            raise ColldError("this stream was finished and takes no more audio: create another one")
        self.samples += len(samples)
        self.frames = np.concatenate((self.frames, self._fbank.accept(samples)))

    def finish(self) -> None:
        """No more audio will come: what is left is decoded though it fills no chunk."""
        self.finished = True


class StreamingRecogniser:
    """Transducer search over a streaming encoder.

    Args:
        encoder: the student, with the size of a step and the left context it is to hear.
        project: encoder frames [B, C, D] -> frames [B, C, J] as the joiner takes them.
        scorer: of the transducer's network.
        spell: token ids -> text.
        normalise: of filterbanks, frame by frame; none by default.
        endpoint: when :meth:`is_endpoint` says that an utterance is over; None = never.
        tag: token of the target language, unless a stream names its own.
        tagged: whether a target language is needed.
        search: greedy by default.
    """

    def __init__(
        self,
        encoder: StreamingEncoder,
        project: Callable[[Tensor], Tensor],
        scorer: Scorer,
        spell: Callable[[Sequence[int]], str],
        normalise: Optional[Callable[[np.ndarray], np.ndarray]] = None,
        endpoint: Optional[EndpointRules] = EndpointRules(),
        tag: Optional[int] = None,
        tagged: bool = False,
        search: Search = GreedySearch(),
    ) -> None:
        self.encoder, self.project, self.scorer, self.spell = encoder, project, scorer, spell
        self.normalise, self.endpoint, self.tag, self.tagged = normalise, endpoint, tag, tagged
        self.search = search
        self.device = encoder.encoder.mask_emb.device
        self.frame_seconds = 1 / encoder.encoder.frame_rate_hz

    @property
    def chunk_seconds(self) -> float:
        """Audio by which a stream goes on at each step."""
        return self.encoder.fbank_frames_per_chunk * FBANK_SECONDS

    @torch.no_grad()
    def create_stream(self, tag: Optional[int] = None) -> Stream:
        """A stream that nothing has been heard of; tag: of its target language, if not the recogniser's."""
        tag = self.tag if tag is None else tag
        if self.tagged and tag is None:
            raise ColldError("this model writes several languages: say with --lang (tgt_lang) which")
        stream = Stream(OnlineFbank(self.normalise), tag)
        self._begin(stream)
        return stream

    def is_ready(self, stream: Stream) -> bool:
        """Whether there is enough audio for a step."""
        given = len(stream.frames)
        return given >= self._whole or (stream.finished and int(self.encoder.output_lengths(torch.tensor(given))) > 0)

    def decode(self, streams: Sequence[Stream]) -> List[int]:
        """One step of all streams that are ready, as one batch; which these were (numbers in `streams`)."""
        ready = [number for number, stream in enumerate(streams) if self.is_ready(stream)]
        if ready:
            self._step([streams[number] for number in ready])
        return ready

    def result(self, stream: Stream) -> StreamingResult:
        """What is recognised of the utterance since the last reset."""
        result, *alternatives = [self._result(stream, hypothesis) for hypothesis in stream.n_best]
        result.alternatives = alternatives
        return result

    def _result(self, stream: Stream, hypothesis: TransducerHypothesis) -> StreamingResult:
        start = stream.start * FBANK_SECONDS
        return StreamingResult(
            self.spell(hypothesis.tokens),
            list(hypothesis.tokens),
            [start + frame * self.frame_seconds for frame in hypothesis.frames],
            start,
            start + stream.seen * self.frame_seconds,
            sum(hypothesis.token_scores) if hypothesis.tokens else hypothesis.score,
            hypothesis.score,
        )

    def is_endpoint(self, stream: Stream) -> bool:
        """Whether the utterance is over by the rules."""
        if self.endpoint is None:
            return False
        hypothesis, seen = stream.n_best[0], stream.seen
        heard = hypothesis.frames[-1] + 1 if hypothesis.frames else 0
        silence, length = (seen - heard) * self.frame_seconds, seen * self.frame_seconds
        return self.endpoint.reached(bool(hypothesis.tokens), silence, length)

    @torch.no_grad()
    def reset(self, stream: Stream) -> None:
        """The next utterance begins where the decoding stands, and is decoded as if the stream began there."""
        frames = round(stream.seen * self.frame_seconds / FBANK_SECONDS)
        stream.start += frames
        self._begin(stream)

    @property
    def _whole(self) -> int:
        """Filterbank frames of a step."""
        return self.encoder.fbank_frames_per_chunk + self.encoder.fbank_lookahead

    def _begin(self, stream: Stream) -> None:
        tags = None if stream.tag is None else torch.tensor([stream.tag], device=self.device)
        stream.encoder = self.encoder.start(1)
        stream.search, stream.seen = self.search.start(self.scorer, 1, tags), 0
        (stream.n_best,) = self.search.n_best(stream.search)

    @torch.no_grad()
    def _step(self, streams: Sequence[Stream]) -> None:
        taken = [stream.frames[: self._whole] for stream in streams]
        lengths = torch.tensor([len(frames) for frames in taken])
        fbank = pad_sequence([torch.from_numpy(frames) for frames in taken], batch_first=True)
        last = bool((lengths < self._whole).any())
        state = StreamState.join([stream.encoder for stream in streams])
        x, state = self.encoder.step(fbank.to(self.device), state, last, lengths if last else None)
        counts = self.encoder.output_lengths(lengths)
        before = self.search.join([stream.search for stream in streams])
        after = self.search.proceed(self.scorer, self.project(x), counts, before)
        found = zip(self.search.split(after), self.search.n_best(after), counts.tolist())
        for stream, frames, encoder, (search, n_best, count) in zip(streams, taken, state.split(), found):
            ends = len(frames) < self._whole
            # The lookahead is given again; at the end nothing follows it.
            stream.frames = stream.frames[len(frames) if ends else self.encoder.fbank_frames_per_chunk :]
            stream.encoder, stream.search, stream.n_best = encoder, search, n_best
            stream.seen += count
