"""A trained recogniser or translator in plain Python: waveforms in, hypotheses out."""

import logging
import os
from dataclasses import fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from colld_fairseq.checkpoints.files import plain, read_torch, resolve_file
from colld_fairseq.checkpoints.input_options import InputOptions
from colld_fairseq.checkpoints.names_colld import encoder_in
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.waveform import as_waveform
from colld_fairseq.decoding.forced_alignment import align_ctc_model, align_transducer_model
from colld_fairseq.decoding.hypothesis import Hypothesis, NBest
from colld_fairseq.decoding.options import GENERATION, generation_options, refuse_unused
from colld_fairseq.decoding.streaming import EndpointRules, StreamingRecogniser
from colld_fairseq.decoding.transducer import Scorer
from colld_fairseq.decoding.words import WordTimer
from colld_fairseq.deprecated import present_name
from colld_fairseq.devices import pick_device
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.files import split_paths
from colld_fairseq.models.colld_student import NO_HYPOTHESES
from colld_fairseq.models.encoder_options import record
from colld_fairseq.modules.latency import TRAINED, doubts, frames_of, left_of, right_of, set_latency
from colld_fairseq.modules.streaming import StreamingEncoder
from colld_fairseq.tasks.multilingual_speech_to_text import MultilingualSpeechToTextConfig, MultilingualSpeechToTextTask
from colld_fairseq.teachers.base import DTYPES

TASK = "multilingual_speech_to_text"
# What validation decoded with is no choice for later; fairseq-generate does not know it either.
NO_LATENCY = {"decoding_chunk_ms": "", "decoding_left_context": TRAINED, "decoding_right_ms": 0}
logger = logging.getLogger(__name__)


class Recogniser:
    """Models of one task with the way they are decoded; made by `load_recogniser`. An utterance's result does not
    depend on what else is in its batch."""

    def __init__(
        self,
        task: MultilingualSpeechToTextTask,
        models: Sequence[nn.Module],
        beam: int,
        nbest: int,
        device: str,
        settings: Mapping[str, Any],
        dtype: torch.dtype = torch.float32,
        generation: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.settings = settings
        """Of model and task, {"model": ..., "task": ...}, as the (last) checkpoint records them."""
        self.task, self.device, self.dtype = task, device, dtype
        self.models = [model.eval().to(device, dtype) for model in models]
        self.input, self.vocabulary, self.nbest = task.student_input, task.vocabulary, nbest
        self.decoder = task.decoder_of(self.models)
        self.search: Any = task.build_decoder(
            self.models, beam, nbest, **generation
        )  # streams ask more of it than a Decoder has
        self.transcribes: bool = task.transcribes(self.models)
        """Whether hypotheses are in the language spoken whatever the target language: CTC trained on transcripts."""

    @property
    def needs_language(self) -> bool:
        """Whether each utterance's target language has to be named: tags in the vocabulary, and none forced."""
        return self.vocabulary.uses_tags and self.decoder != "ctc" and not self.task.cfg.tgt_lang

    def output_lengths(self, samples: Tensor) -> Tensor:
        """Samples at 16 kHz, int64 [B] -> encoder frames [B]."""
        return self.models[0].encoder.student.output_lengths(self.input.lengths(samples))

    def transcribe(
        self,
        waveforms: Sequence[Any],
        languages: Optional[Sequence[str]] = None,
        sample_rate: int = SAMPLE_RATE,
        source_languages: Optional[Sequence[str]] = None,
    ) -> List[List[Hypothesis]]:
        """n-best lists, best first, of utterances in any form that `as_waveform` takes (data/waveform.py), of
        `sample_rate` Hz; without tokens where one is too short for a frame. languages: the target language of each,
        where `needs_language`. source_languages: those spoken, which a Whisper decoder is told, and by which an
        `adapted_ctc` takes the parts of an added language; "" or None: the option src_lang, else the target languages.

        Raises ConfigError: not one language for each utterance, or one that the model does not have.
        """
        check_one_each(languages, len(waveforms), "languages")
        check_one_each(source_languages, len(waveforms), "source_languages")
        if self.needs_language and languages is None:
            raise ConfigError("this model writes several languages: name in `languages` that of each utterance")
        inputs = [torch.from_numpy(self.input(as_waveform(waveform, sample_rate))) for waveform in waveforms]
        n_best = [[Hypothesis([], 0.0, 0.0)] for _ in inputs]
        lengths = torch.tensor([len(one) for one in inputs], dtype=torch.long)
        student = self.models[0].encoder.student
        # An attention decoder would have nothing to attend to; other searches end their hypotheses as in a stream.
        least = 1 if self.decoder == "attention" else 0
        usable = torch.nonzero(student.output_lengths(lengths) >= least).flatten().tolist()
        if usable:
            source = pad_sequence([inputs[i] for i in usable], batch_first=True).to(self.device, self.dtype)
            short = self._one_frame - source.size(1)
            if short > 0:
                source = torch.cat((source, source.new_zeros(len(usable), short, *source.shape[2:])), dim=1)
            own, spoken = (named and [named[i] for i in usable] for named in (languages, source_languages))
            tags = self.task.tags_for(self.search, source, own, spoken)
            n_best_lists = self._decode(source, lengths[usable], tags, spoken)
            for row, (i, hypotheses) in enumerate(zip(usable, n_best_lists)):
                told = self.told_language(own[row] if own else "", spoken[row] if spoken else "")
                n_best[i] = [replace(one, text=self.detokenize(one.tokens), language=told) for one in hypotheses]
                for one in n_best[i]:
                    one.words = self.words_of(one, 0.0, self._seconds(lengths[i]))
        return n_best

    def told_language(self, target: str, spoken: str) -> str:
        """The language that decoding depends on: the target language where the vocabulary has tags, the spoken one
        where it is an added language of an `adapted_ctc`, else ""."""
        if self.decoder != "ctc":
            return (self.task.cfg.tgt_lang or target) if self.vocabulary.uses_tags else ""
        spoken = spoken or self.task.cfg.src_lang
        return spoken if spoken in self.added_languages else ""

    @cached_property
    def added_languages(self) -> List[str]:
        """Of an `adapted_ctc`, those that have parts of their own."""
        return [name for model in self.models[:1] for name in getattr(model, "languages", ())]

    def _decode(
        self, source: Tensor, lengths: Tensor, tags: Optional[Tensor], spoken: Optional[Sequence[str]]
    ) -> NBest:
        """n-best lists; utterances in added languages by their own parts of the models, those of each together."""
        if not self.added_languages:
            return self.search.decode(self.models, source, lengths.to(self.device), tags)
        told = [self.told_language("", language) for language in spoken or [""] * len(source)]
        n_best: NBest = [[] for _ in told]
        for language in dict.fromkeys(told):
            rows = [row for row, name in enumerate(told) if name == language]
            for model in self.models:
                model.choose_language(language)
            longest = max(int(lengths[rows].max()), self._one_frame)  # as if they were alone
            lists = self.search.decode(self.models, source[rows, :longest], lengths[rows].to(self.device))
            for row, hypotheses in zip(rows, lists):
                n_best[row] = hypotheses
        return n_best

    def _seconds(self, length: Tensor) -> float:
        """Of an input, up to its last encoder frame."""
        return int(self.models[0].encoder.student.output_lengths(length)) / self.models[0].encoder.student.frame_rate_hz

    @cached_property
    def words_of(self) -> WordTimer:
        """Words of a hypothesis with their times."""
        return WordTimer(self.vocabulary, 1 / self.models[0].encoder.student.frame_rate_hz)

    @cached_property
    def _one_frame(self) -> int:
        """Length of the shortest input that gives an encoder frame."""
        lengths = self.models[0].encoder.student.output_lengths(torch.arange(1, 4000))
        return 1 + int((lengths < 1).sum())

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without unknown ones."""
        return self.vocabulary.detokenize(tokens)

    def limit_context(self, chunk_ms: Union[int, str], left_context: str = TRAINED, right_ms: int = 0) -> None:
        """Choose the latency: frames get no more context than they have in `streaming`, so that the output of whole
        utterances is that of streams. What the checkpoint was not trained for is a warning.

        chunk_ms: audio of a chunk, or "full", the whole utterance. left_context: chunks ("causal" students: frames)
        before a frame's own, "full", or "trained": the longest of the training that has a limit. right_ms: audio after
        its chunk that a frame of a chunk-wise student takes in, for which a stream waits, and computes it twice.

        Raises ConfigError: a student of whole utterances, no whole number of frames, an attention decoder.
        """
        self._warn(self.set_context(chunk_ms, left_context, right_ms))

    def set_context(self, chunk_ms: Union[int, str], left_context: str = TRAINED, right_ms: int = 0) -> List[str]:
        """`limit_context`, with its warnings as the result."""
        self.task.check_latency(self.models, self.decoder, chunk_ms)
        remarks = [set_latency(model.encoder.student, chunk_ms, left_context, right_ms) for model in self.models]
        return list(dict.fromkeys(remark for some in remarks for remark in some))

    @staticmethod
    def _warn(remarks: Sequence[str]) -> None:
        for remark in remarks:
            logger.warning(remark)

    def streaming(
        self,
        chunk_ms: int = 320,
        left_context: str = TRAINED,
        endpoint: Optional[EndpointRules] = EndpointRules(),
        right_ms: int = 0,
    ) -> StreamingRecogniser:
        """The same model on streams, decoded in the same way: with the beam, the language model, ... of utterances.

        Args:
            chunk_ms, left_context, right_ms: see `limit_context`; whole utterances are no streams.
            endpoint: when an utterance is over; None = at the end of the stream.

        Raises ConfigError for what cannot stream: attention decoders, ensembles, a full context, filterbanks normalized
        over the whole utterance.
        """
        if len(self.models) > 1:
            raise ConfigError("an ensemble cannot stream: give one model")
        if not (endpoint is None or isinstance(endpoint, EndpointRules)):
            raise ConfigError(f"streaming: endpoint is {endpoint!r}; give EndpointRules(...), or None for no endpoints")
        if self.dtype != torch.float32:
            raise ConfigError(f"streams are decoded in float32, not in {str(self.dtype).partition('.')[2]}")
        (model,) = self.models
        self.task.check_latency(self.models, self.decoder, chunk_ms)
        spoken = self.told_language("", "")
        student = model.student_for(spoken) if self.added_languages else model.encoder.student
        chunk = frames_of(student, chunk_ms)
        if chunk is None:
            raise ConfigError("--chunk-ms full: whole utterances are no streams; leave out --streaming, or name a size")
        right = right_of(student, right_ms, chunk)
        encoder = StreamingEncoder(student, chunk, left_of(student, left_context), right)
        self._warn(doubts(student.config, encoder.context, student.frame_rate_hz, right))
        if self.input.config.normalization == "utterance":
            raise ConfigError(
                "this model's filterbanks are normalized over the whole utterance, which a stream does not know: train"
                " with --cmvn FILE (made by `colld cmvn`) or --cmvn none"
            )
        language, tagged = self.task.cfg.tgt_lang, self.vocabulary.uses_tags and self.decoder == "transducer"
        scorer, project = self._for_streams(model, spoken)
        return StreamingRecogniser(
            encoder,
            scorer,
            self.search.search,
            project=project,
            detokenize=self.detokenize,
            words_of=self.words_of,
            normalize=self.input.normalize,
            fbank=self.input.config.fbank,
            endpoint=endpoint,
            tag=self.vocabulary.tag_id(language) if tagged and language else None,
            languages=self.vocabulary.tags_by_language if tagged else {},
            language=spoken,
            needs_tag=tagged,
        )

    def check_alignable(self) -> None:
        """Raises ConfigError: an attention decoder, an ensemble."""
        if len(self.models) > 1 or self.decoder == "attention":
            raise ConfigError("alignments are those of one model with CTC (--decoder ctc) or a transducer")

    def align(self, waveform: Any, tokens: Sequence[int], language: str = "", spoken: str = "") -> List[int]:
        """Encoder frames at which tokens begin on their most probable path, under the context that is set.

        waveform: of one utterance at 16 kHz; language: its target language, where `needs_language`; spoken: the
        language spoken, by which an `adapted_ctc` takes the parts of an added language (default: the option src_lang).

        Raises ConfigError as `check_alignable`. ColldError: the tokens need more frames than there are, or one of them
        is none of the vocabulary's or of the language's.
        """
        self.check_alignable()
        symbols = len(self.task.target_dictionary)
        outside = next((token for token in tokens if not 0 <= token < symbols), None)
        if outside is not None:
            raise ColldError(f"align: token {outside} is none of the vocabulary's, which are 0 to {symbols - 1}")
        (model,), blank = self.models, self.task.target_dictionary.bos()
        source = torch.from_numpy(self.input(as_waveform(waveform, SAMPLE_RATE)))[None]
        lengths = torch.tensor([source.size(1)])
        given = model, source.to(self.device, self.dtype), lengths.to(self.device), tokens, blank
        if self.added_languages:
            model.choose_language(self.told_language("", spoken))
        if self.decoder == "ctc":
            return align_ctc_model(*given)
        tags = self.vocabulary.tags([language], self.task.cfg.tgt_lang, 1, "cpu")
        return align_transducer_model(*given, tag=None if tags is None else int(tags[0]))

    def _for_streams(self, model: nn.Module, spoken: str) -> Tuple[Optional[Scorer], Callable[[Tensor], Tensor]]:
        """What the search of a stream asks, and makes of encoder frames; see `StreamingRecogniser`."""
        if self.decoder == "transducer":
            joiner_input = model.joiner.encoder_projection
            return self.search.scorer([model], [joiner_input.out_features]), joiner_input
        if self.added_languages:
            return None, lambda x: self.search.emittable(model.log_probs(x, spoken))
        return None, lambda x: self.search.emittable(torch.log_softmax(model.ctc(x).float(), dim=-1))


def check_one_each(languages: Optional[Sequence[str]], utterances: int, argument: str) -> None:
    """ConfigError unless there is a name for each utterance, or None."""
    if languages is None or (not isinstance(languages, str) and len(languages) == utterances):
        return
    given = repr(languages) if isinstance(languages, str) else f"{len(languages)}"
    raise ConfigError(f"{argument} is a list of one language for each of the {utterances} utterances, not {given}")


def load_recogniser(
    path: Union[str, "os.PathLike[str]"],
    beam: int = 1,
    nbest: int = 1,
    device: Optional[str] = None,
    dtype: str = "float32",
    **options: Any,
) -> Recogniser:
    """The model of a checkpoint (several with colons between them: an ensemble), ready to transcribe.

    Files are loaded with weights_only, so nothing in them is run.

    Args:
        device: "cpu" or "cuda"; default: cuda where there is one.
        dtype: precision of the model, "float32", "bfloat16" or "float16"; scores are added up in float32 all the same.
        options: of the task `multilingual_speech_to_text` that are to differ from the training's: `vocab`, `cmvn`,
            `decoder`, `tgt_lang`, `ngram_lm`, ... `cmvn` can only say where statistics are now that an older checkpoint
            has no copy of. Of attention decoders also fairseq's of generation: `max_len_a`, `max_len_b`, `min_len`,
            `lenpen`, `unkpen`, `temperature`, `no_repeat_ngram_size`.

    Raises ConfigError: no such file, no model of this task, a vocabulary that is gone; and what the task raises.
    """
    options = {present_name(name): value for name, value in options.items()}
    given = [name for name, value in options.items() if value not in (None, "")]
    generation = generation_options({name: options.pop(name) for name in GENERATION if name in options})
    unknown = sorted(set(options) - {field.name for field in fields(MultilingualSpeechToTextConfig)})
    if unknown:
        raise ConfigError(f"neither the task {TASK} nor fairseq's generation has an option {unknown[0]!r}")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}, choose one of {', '.join(DTYPES)}")
    if not 1 <= nbest <= beam:
        raise ConfigError(f"--nbest {nbest} of a beam of {beam}: give at least 1, and a --beam of at least as many")
    device = pick_device(device)
    task: Any = None
    models: List[nn.Module] = []
    settings: Dict[str, Any] = {}
    for part in split_paths(os.fspath(path), ":"):
        state = _read_checkpoint(part, options)
        try:
            loaded, _, task = checkpoint_utils.load_model_ensemble_and_task([part], task=task, state=state)
        except RuntimeError as error:  # weights of another shape, or of a newer version
            raise ConfigError(f"{part}: {error}") from error
        models += loaded
        settings = {name: plain(state["cfg"][name]) for name in ("model", "task")}
    refuse_unused(given, task.decoder_of(models))
    return Recogniser(task, models, beam, nbest, device, settings, DTYPES[dtype], generation)


def _read_checkpoint(path: str, options: Dict[str, Any]) -> Dict[str, Any]:
    """What fairseq's loading makes of a file, with other options of the task."""
    read_torch(resolve_file(path))  # what fairseq would say of a file that cannot be read is no help
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(path)
        task = state["cfg"]["task"]
    except Exception as error:
        raise ConfigError(f"{path} is not a checkpoint of a colld_fairseq model: {error}") from error
    if task._name != TASK:
        raise ConfigError(f"{path} was trained for {task._name}, it {NO_HYPOTHESES}")
    given = InputOptions(**{field.name: options.get(field.name) for field in fields(InputOptions)})
    encoder_in(state["cfg"], path, given)
    whole = {name: value for name, value in NO_LATENCY.items() if name in task}
    overwrite_args_by_name(state["cfg"], {"task": {**whole, **options, **vars(InputOptions())}})
    record(state["cfg"]["common_eval"], "path", path)  # where the task finds a copy of the vocabulary
    return state
