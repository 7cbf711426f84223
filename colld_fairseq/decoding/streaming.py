"""Recognition of streams: audio in as it arrives, results out while it does.

    stream = recogniser.create_stream()
    while ...:
        stream.accept_waveform(samples)
        while recogniser.decode([stream]):
            print(recogniser.result(stream).text)
            if recogniser.is_endpoint(stream):
                recogniser.reset(stream)

Many streams are decoded as one batch, whatever their age; none changes another's result.
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Callable, List, Mapping, Optional, Sequence, Union

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from colld_fairseq.data.fbank import NUM_BINS, SAMPLE_RATE, SHIFT
from colld_fairseq.data.online_fbank import OnlineFbank
from colld_fairseq.data.waveform import as_samples, check_rate
from colld_fairseq.decoding.hypothesis import Hypothesis, Word
from colld_fairseq.decoding.search import Search
from colld_fairseq.decoding.transducer import Scorer
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.modules.streaming import StreamingEncoder, StreamState

FBANK_SECONDS = SHIFT / SAMPLE_RATE


@dataclass(frozen=True)
class EndpointRules:
    """Seconds after which an utterance of a stream ends; math.inf turns a rule off. Defaults of Kaldi and sherpa-onnx.

    Attributes:
        silence_without_text: of audio in which nothing was recognized.
        silence_after_text: since the last label, once there is one.
        longest: of the utterance, whatever is said.
    """

    silence_without_text: float = 2.4
    silence_after_text: float = 1.2
    longest: float = 20.0

    def reached(self, has_text: bool, silence: float, length: float) -> bool:
        """Whether an utterance of `length` seconds is over, of which the last `silence` gave no label."""
        patience = self.silence_after_text if has_text else self.silence_without_text
        return silence >= patience or length >= self.longest


@dataclass
class StreamingResult(Hypothesis):
    """The best hypothesis of the current utterance so far, as if it ended here: beam search may yet change it."""

    times: List[float] = field(default_factory=list)
    """Seconds since the beginning of the stream at which the encoder frame of each token begins."""

    start: float = 0.0
    """Where the utterance begins, in seconds since the beginning of the stream."""

    end: float = 0.0
    """Up to where it was decoded."""

    alternatives: List["StreamingResult"] = field(default_factory=list)
    """Other hypotheses, best first, where the search gives several."""


class Stream:
    """One stream's memory; made by :meth:`StreamingRecogniser.create_stream`."""

    def __init__(self, fbank: OnlineFbank, tag: Optional[int]) -> None:
        self.tag = tag
        self.samples = 0  # received so far
        self.finished = False
        self.frames = np.zeros((0, NUM_BINS), dtype=np.float32)  # filterbanks that are not decoded yet
        self.encoder: StreamState
        self.search: Any  # state of the search
        self.n_best: List[Hypothesis]  # of the current utterance so far
        self.seen = 0  # encoder frames of the current utterance
        self.start = 0  # filterbank frames before the current utterance
        self.rate: Optional[int] = None  # of the audio that is given
        self._fbank = fbank
        self._resampler: Optional[soxr.ResampleStream] = None

    def accept_waveform(self, samples: Any, sample_rate: int = SAMPLE_RATE) -> None:
        """The next samples, any number of them and in any form that :func:`~colld_fairseq.data.waveform.as_samples`
        takes. Other rates (in Hz, the same in the whole stream) are resampled as they come.
        """
        if self.finished:
            raise ColldError("this stream was finished and takes no more audio: create another one")
        if check_rate(sample_rate) != (self.rate or sample_rate):
            raise ColldError(f"this stream began with {self.rate} Hz and cannot go on with {sample_rate} Hz")
        self.rate = sample_rate
        if sample_rate != SAMPLE_RATE and self._resampler is None:
            self._resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        samples = as_samples(samples)
        self._take(samples if self._resampler is None else self._resampler.resample_chunk(samples))

    def _take(self, samples: np.ndarray) -> None:
        self.samples += len(samples)
        self.frames = np.concatenate((self.frames, self._fbank.accept(samples)))

    def finish(self) -> None:
        """No more audio will come: what is left is decoded though it fills no chunk."""
        if self.finished:
            return
        if self._resampler is not None:
            self._take(self._resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
        self.frames = np.concatenate((self.frames, self._fbank.finish()))
        self.finished = True


@dataclass
class StreamingRecogniser:
    """Search over a streaming encoder: of a transducer, or of CTC.

    Args:
        encoder: the student, with the size of a step and its left context.
        scorer: of the transducer's network; None for CTC.
        search: of whole utterances as well.
        project: encoder frames [B, C, D] -> what the search takes: frames [B, C, J] of the joiner, or log-probabilities
            [B, C, V].
        detokenize: token ids -> text.
        words_of: hypothesis, start and end of what was decoded -> words; none by default.
        normalize: of filterbanks, frame by frame; none by default.
        fbank: variant of the filterbanks, as `InputConfig.fbank` names it.
        endpoint: when :meth:`is_endpoint` says that an utterance is over; None = never.
        tag: token of the target language, unless a stream names its own.
        languages: the token of each target language.
        language: of results, where streams are told none.
        needs_tag: whether a target language is needed.
    """

    encoder: StreamingEncoder
    scorer: Optional[Scorer]
    search: Search
    _: KW_ONLY
    project: Callable[[Tensor], Tensor]
    detokenize: Callable[[Sequence[int]], str]
    words_of: Callable[[Hypothesis, float, float], List[Word]] = lambda hypothesis, start, end: []
    normalize: Optional[Callable[[np.ndarray], np.ndarray]] = None
    fbank: str = "kaldi"
    endpoint: Optional[EndpointRules] = EndpointRules()
    tag: Optional[int] = None
    languages: Mapping[str, int] = field(default_factory=dict)
    language: str = ""
    needs_tag: bool = False

    def __post_init__(self) -> None:
        self.device = self.encoder.encoder.mask_emb.device
        self.frame_seconds = 1 / self.encoder.encoder.frame_rate_hz

    @property
    def chunk_seconds(self) -> float:
        """Audio by which a stream goes on at each step."""
        return self.encoder.fbank_frames_per_chunk * FBANK_SECONDS

    @torch.no_grad()
    def create_stream(self, tag: Union[None, int, str] = None) -> Stream:
        """A stream before its first sample; tag: of its target language, if not the recogniser's: the token, or the
        language's code. ColldError for one without a tag."""
        if isinstance(tag, str):
            if tag not in self.languages:
                raise ColldError(f"this model writes no {tag!r}, but {', '.join(self.languages) or 'one language'}")
            tag = self.languages[tag]
        tag = self.tag if tag is None else tag
        if self.needs_tag and tag is None:
            raise ColldError("this model writes several languages: say with --lang (tgt_lang) which")
        stream = Stream(OnlineFbank(self.normalize, variant=self.fbank), tag)
        self._begin(stream)
        return stream

    def is_ready(self, stream: Stream) -> bool:
        """Whether there is enough audio for a step."""
        given = len(stream.frames)
        return given >= self._step_frames or (
            stream.finished and int(self.encoder.output_lengths(torch.tensor(given))) > 0
        )

    def decode(self, streams: Sequence[Stream]) -> List[int]:
        """One step of all streams that are ready, as one batch; which these were (indices in `streams`).

        Raises ConfigError for a stream that is there twice.
        """
        if len(set(map(id, streams))) < len(streams):
            raise ConfigError("decode: a stream is there twice; one step of a stream needs the one before")
        ready = [index for index, stream in enumerate(streams) if self.is_ready(stream)]
        if ready:
            self._step([streams[index] for index in ready])
        return ready

    def result(self, stream: Stream) -> StreamingResult:
        """What is recognized of the utterance since the last reset."""
        result, *alternatives = [self._result(stream, hypothesis) for hypothesis in stream.n_best]
        result.alternatives = alternatives
        return result

    def _result(self, stream: Stream, hypothesis: Hypothesis) -> StreamingResult:
        start = stream.start * FBANK_SECONDS
        end = start + stream.seen * self.frame_seconds
        text, words = self.detokenize(hypothesis.tokens), self.words_of(hypothesis, start, end)
        return StreamingResult(
            **{**vars(hypothesis), "text": text, "words": words, "language": self._language(stream)},
            times=[start + frame * self.frame_seconds for frame in hypothesis.frames],
            start=start,
            end=end,
        )

    def _language(self, stream: Stream) -> str:
        return next((language for language, tag in self.languages.items() if tag == stream.tag), self.language)

    def is_endpoint(self, stream: Stream) -> bool:
        """Whether the utterance is over by the rules."""
        if self.endpoint is None:
            return False
        hypothesis, seen = stream.n_best[0], stream.seen
        spoken = hypothesis.frames[-1] + 1 if hypothesis.frames else 0
        silence, length = (seen - spoken) * self.frame_seconds, seen * self.frame_seconds
        return self.endpoint.reached(bool(hypothesis.tokens), silence, length)

    @torch.no_grad()
    def reset(self, stream: Stream) -> None:
        """The next utterance begins where the decoding stands, and is decoded as if the stream began there."""
        frames = round(stream.seen * self.frame_seconds / FBANK_SECONDS)
        stream.start += frames
        self._begin(stream)

    @property
    def _step_frames(self) -> int:
        """Filterbank frames of a step."""
        return self.encoder.fbank_frames_per_chunk + self.encoder.fbank_lookahead

    def _begin(self, stream: Stream) -> None:
        tags = None if stream.tag is None else torch.tensor([stream.tag], device=self.device)
        stream.encoder = self.encoder.start(1)
        stream.search, stream.seen = self.search.start(self.scorer, 1, tags), 0
        (stream.n_best,) = self.search.n_best(stream.search)

    @torch.no_grad()
    def _step(self, streams: Sequence[Stream]) -> None:
        taken = [stream.frames[: self._step_frames] for stream in streams]
        lengths = torch.tensor([len(frames) for frames in taken])
        fbank = pad_sequence([torch.from_numpy(frames) for frames in taken], batch_first=True)
        last = bool((lengths < self._step_frames).any())
        state = StreamState.join([stream.encoder for stream in streams])
        x, state = self.encoder.step(fbank.to(self.device), state, last, lengths if last else None)
        counts = self.encoder.output_lengths(lengths)
        before = type(streams[0].search).join([stream.search for stream in streams])
        after = self.search.proceed(self.scorer, self.project(x), counts, before)
        results = zip(after.split(), self.search.n_best(after), counts.tolist())
        for stream, frames, encoder, (search, n_best, count) in zip(streams, taken, state.split(), results):
            ends = len(frames) < self._step_frames
            # The lookahead is given again; at the end nothing follows it.
            stream.frames = stream.frames[len(frames) if ends else self.encoder.fbank_frames_per_chunk :]
            stream.encoder, stream.search, stream.n_best = encoder, search, n_best
            stream.seen += count
