"""Task `multilingual_speech_to_text`: recognition and translation, several languages at once."""

import functools
import logging
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.distributed.utils import get_global_rank
from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import OmegaConf
from torch import Tensor, nn

from colld_fairseq.checkpoints.files import content_hash
from colld_fairseq.compat import (
    absolute_path,
    evaluated_checkpoint,
    given_on_command_line,
    restored_checkpoint,
    run_of,
    unwrapped,
)
from colld_fairseq.data import vocabulary_copy
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.checks import check_target_lengths, load_warnings, vocabulary_warnings
from colld_fairseq.data.datasets import NamedAudioDataset, SpeechToTextDataset
from colld_fairseq.data.fairseq_config import vocabulary_folder
from colld_fairseq.data.fbank import SHIFT
from colld_fairseq.data.manifest import JoinedManifest, Manifest, Row
from colld_fairseq.data.nbest import NBestTargets
from colld_fairseq.data.rows import PathRows
from colld_fairseq.decoding.attention import AttentionDecoder, AttentionGenerator
from colld_fairseq.decoding.ctc import CtcDecoder
from colld_fairseq.decoding.generators import Decoder, FairseqGenerator
from colld_fairseq.decoding.hotwords import HotwordScorer, read_hotwords
from colld_fairseq.decoding.kenlm_scorer import TokenKenlm, WordKenlm
from colld_fairseq.decoding.neural_lm import NeuralLm
from colld_fairseq.decoding.options import FRAMES, GENERATION, refuse_impossible, refuse_unused
from colld_fairseq.decoding.prefix_tree import LanguageModel
from colld_fairseq.decoding.transducer import GreedySearch, TransducerDecoder
from colld_fairseq.decoding.transducer_beam import BeamSearch
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_options import record
from colld_fairseq.models.pretrained_decoder import PretrainedDecoder
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.latency import TRAINED, WHOLE, set_latency
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, FINITE, NOT_NEGATIVE, POSITIVE, option
from colld_fairseq.scoring.sentences import HYPOTHESIS_UNKNOWN
from colld_fairseq.tasks.plateau import Plateau, plateau
from colld_fairseq.tasks.speech_task import SpeechTask, SpeechTaskConfig, check_stored
from colld_fairseq.tasks.validation import DecodingMeter, log_scores
from colld_fairseq.teachers.ctc_teacher import CtcTeacher, load_ctc_teacher
from colld_fairseq.teachers.load_transducer import load_teacher_transducer
from colld_fairseq.teachers.transducer_teacher import TeacherLattice, TransducerTeacher

logger = logging.getLogger(__name__)

# Longest hypothesis of an attention decoder in validation and `colld transcribe`: nobody speaks more letters than this,
# and a decoder at the start of its training, which never ends a sentence, would otherwise run to its limit. Tokens of
# pretrained decoders are longer: Whisper has room for 448 in 30 s, and a loop shall end before.
MAX_TOKENS_PER_SECOND, MAX_PRETRAINED_TOKENS_PER_SECOND = 30, 15

# --decoder -> the part of a model that it needs, and its name in messages; `auto` takes the first the model has.
DECODERS = {
    "attention": ("decoder", "an attention decoder"),
    "transducer": ("joiner", "a transducer"),
    "ctc": ("ctc", "a CTC layer"),
}

# Options that name teachers -> what these are in messages, and the options that learn from them.
TEACHERS = {
    "teacher_transducer": ("the teacher transducer", "--criterion transducer with --kd and without --kd-from self"),
    "teacher_ctc": ("the CTC teacher", "--ctc-kd teacher"),
}

# From a tenth of the updates on: before that every CTC and every transducer writes blanks. Our choice.
PLATEAU = Plateau(share=0.1)
PLATEAU_REMEDY = (
    "If that does not end soon: a lower --lr (1e-3 rather than 2e-3), a longer warm-up, a distilled encoder"
    " (--student), more updates"
)


@dataclass
class MultilingualSpeechToTextConfig(SpeechTaskConfig):
    vocab: str = option(
        "",
        "folder written by `colld vocab` (default: the data folder, or --config-yaml there); a pretrained decoder"
        " brings its own",
    )
    decoder: ChoiceEnum(["auto", "ctc", "attention", "transducer"]) = option(
        "auto", "what decodes: auto = attention decoder or transducer where the model has one, else CTC"
    )
    ctc_target: ChoiceEnum(["tgt_text", "src_text"]) = option(
        "tgt_text", "text that CTC is trained on: the target, or the transcript (src_text)"
    )
    teacher_transducer: str = option(
        "", "checkpoint of a transducer with the same vocabulary and frame rate, for --kd of criterion transducer"
    )
    teacher_ctc: str = option(
        "", "checkpoint of a model with a CTC layer, the same vocabulary and frame rate, for --ctc-kd teacher"
    )
    nbest_targets: int = option(
        1,
        "targets per utterance of training manifests NAME.tsv with NAME.hypotheses.jsonl beside them (`colld"
        " transcribe --nbest`), weighed by their scores (criterion transducer; Yang et al.: 2); 1 = the manifest's"
        " text",
        COUNT,
    )
    tgt_lang: str = option("", "target language forced at decoding (default: each row's own; needed by interactive)")
    src_lang: str = option(
        "", "language spoken, for a Whisper decoder, where rows do not say it (default: the target language)"
    )
    valid_beam: int = option(1, "beam of the decoding in validation", COUNT)
    max_symbols: int = option(10, "most labels of a transducer at one frame", COUNT)
    blank_penalty: float = option(
        0.0, "taken from the logit of a transducer's blank in decoding; > 0 = longer hypotheses", FINITE
    )
    allow_unk: bool = option(
        False,
        "let hypotheses hold <unk>, of which text shows nothing (fairseq's --unkpen makes it rarer in attention"
        " decoders); without it no search ever emits it",
    )
    ngram_lm: str = option("", "KenLM n-gram model for CTC and transducer decoding (.arpa or binary)")
    ngram_lm_unit: ChoiceEnum(["word", "token"]) = option("word", "what the n-gram model counts")
    ngram_lm_weight: float = option(0.0, "weight of the n-gram model (natural logarithms)", NOT_NEGATIVE)
    length_bonus: float = option(
        0.0, "added in a CTC or transducer beam for each token (word, with a model of words)", FINITE
    )
    decoding_chunk_ms: str = option(
        "",
        "latency of students that stream, in validation and decoding: ms of a frame's chunk of audio, or full, the"
        " whole utterance; not for attention decoders; default: the model's --eval-chunk",
    )
    decoding_left_context: str = option(
        TRAINED,
        "with it: chunks (causal: frames) of context before a frame's own, full, or trained: the longest limited one",
    )
    decoding_right_ms: int = option(
        0, "with it: audio after its chunk that a frame takes in, for which a stream waits", COUNT_OR_NONE
    )
    hotwords: str = option("", "file of words and phrases, one a line, that CTC and transducer beams prefer")
    hotword_bonus: float = option(
        1.5, "added for each token of a hot word (natural logarithm), where its line has no <TAB>NUMBER", POSITIVE
    )


@register_task("multilingual_speech_to_text", dataclass=MultilingualSpeechToTextConfig)
class MultilingualSpeechToTextTask(SpeechTask):
    """Rows with text. With language tags in the vocabulary the decoder is told the target language by its first token,
    which is forced at decoding and carries no loss."""

    cfg: MultilingualSpeechToTextConfig

    def __init__(self, cfg: MultilingualSpeechToTextConfig) -> None:
        super().__init__(cfg)
        folder, run = vocabulary_folder(cfg.vocab, cfg.data, cfg.config_yaml), run_of(cfg)
        model = run.get("model") if run is not None else None
        self.vocabulary, self.vocabulary_copy = vocabulary_copy.open_vocabulary(
            folder,
            evaluated_checkpoint(cfg),
            restored_checkpoint(run),
            getattr(model, "decoder_from", None) or "",
            getattr(model, "decoder_tokens_from", None) or "",
        )
        if cfg.vocab and not self.vocabulary.tags_in_targets:
            raise ConfigError(f"--vocab {cfg.vocab}: the vocabulary is that of the pretrained decoder; leave it out")
        self.valid_decoders: Optional[Dict[str, Decoder]] = None
        self.teacher_transducer: Optional[TransducerTeacher] = None  # loaded where a criterion asks for it
        self.teacher_ctc: Optional[CtcTeacher] = None  # likewise
        self.longest_target: Optional[int] = None  # tokens that a pretrained decoder has positions for
        self.has_ctc = True  # of the model; before one is built there is nothing to say
        self.validations: List[Dict[str, float]] = []  # of this start of a run: their scores, by metric

    @property
    def target_dictionary(self):
        return self.vocabulary.dictionary

    @property
    def prefix_size(self) -> int:
        """Target tokens that are given, not predicted (the language tag)."""
        return int(self.vocabulary.uses_tags and self.vocabulary.tags_in_targets)

    def build_model(self, cfg, from_checkpoint: bool = False):
        model = super().build_model(cfg, from_checkpoint)
        for name, value in getattr(model, "recorded", {}).items():
            record(cfg, name, value)
        self.set_latency(model.encoder.student)
        if isinstance(getattr(model, "decoder", None), PretrainedDecoder):
            self.longest_target = model.decoder.max_positions()
        self.has_ctc = has(model, "ctc")
        self.output_lengths = model.encoder.student.output_lengths  # fairseq-interactive asks for what is too short
        return model

    def set_latency(self, student: StudentEncoder) -> None:
        """Of --decoding-chunk-ms, if it is given; ConfigError for a student without one to choose."""
        if self.cfg.decoding_chunk_ms:
            context = self.cfg.decoding_left_context, self.cfg.decoding_right_ms
            for remark in set_latency(student, self.cfg.decoding_chunk_ms, *context, options="--decoding-"):
                logger.warning(remark)
        elif self.cfg.decoding_left_context != TRAINED or self.cfg.decoding_right_ms:
            raise ConfigError("--decoding-left-context and --decoding-right-ms say nothing without --decoding-chunk-ms")

    def go_on_from(self, saved, cfg, file):
        self.load_state_dict(saved.state)
        super().go_on_from(saved, cfg, file)
        if saved.model.get("added_parts") and "added_parts" in cfg:  # of languages
            record(cfg, "added_parts", saved.model["added_parts"])
        if "topology" in saved.model:  # of a transducer
            recorded, given = str(saved.model["topology"] or "regular"), getattr(cfg, "topology", None)
            if given and str(given) != recorded:
                raise ConfigError(f"--topology {given}, but {file} was trained with {recorded}: leave the option out")
            record(cfg, "topology", recorded)

    # -- data ------------------------------------------------------------------------------------------------------
    def make_dataset(self, split, rows, student_input, options):
        vars(self).pop("language_pairs", None)  # fairseq-validate loads one validation set after another
        if not rows.has_text:
            raise ConfigError(
                f"{rows.path}: this task needs a speech-to-text manifest, with id, audio, n_frames, tgt_text"
            )
        self.check_rows(rows, options.train)
        for name, teacher in self.loaded_teachers.items():
            options.teacher_input = teacher.student_input
            check_stored(rows, options.teacher_input.config, TEACHERS[name][0])
        return SpeechToTextDataset(
            rows,
            student_input,
            options,
            self.target_dictionary,
            functools.partial(self.encode_target, language="" if options.train else self.cfg.tgt_lang),
            self.encode_ctc_target,
            self.nbest_of(rows) if options.train else None,
            None if self.vocabulary.tags_in_targets else functools.partial(self.prefix_of, train=options.train),
        )

    def check_rows(self, rows: JoinedManifest, train: bool) -> None:
        """All that is looked up for a row later on, for all of them now: a ConfigError for a target language without a
        tag, or training targets nothing of which could be written, and warnings."""
        targets = list(dict.fromkeys(("tgt_text", str(self.cfg.ctc_target))))
        for part in rows.parts:
            self.check_languages(part, "" if train else self.cfg.tgt_lang)
            if self.longest_target is not None and (train or not evaluated_checkpoint(self.cfg)):
                encode = functools.partial(self.vocabulary.encode, append_eos=True)
                check_target_lengths(part, encode, self.longest_target)
            warnings = load_warnings(part, targets=targets)
            codec, known, alone = self.vocabulary.codec, self.target_dictionary.indices, len(rows.parts) == 1
            for target in targets:
                warnings += vocabulary_warnings(part, target, codec, known, required=train, alone=alone)
            for warning in warnings:
                logger.warning(warning)

    def check_languages(self, manifest: Manifest, forced: str = "") -> None:
        """ConfigError, naming file and line, for the first row in (or into) a language that the model cannot be told;
        forced: target language of all."""
        if self.vocabulary.tags_in_targets and (forced or not self.vocabulary.uses_tags):
            return
        (sources, source_names), (targets, target_names) = manifest.codes("src_lang"), manifest.codes("tgt_lang")
        pairs = sources.astype(np.int64) * len(target_names) + targets
        for row in np.sort(np.unique(pairs, return_index=True)[1]).tolist():
            source = source_names[sources[row]] or self.cfg.src_lang
            self.vocabulary.prefix(source, forced or target_names[targets[row]], manifest.where(row))

    def prefix_of(self, row: Row, train: bool) -> List[int]:
        """What a pretrained decoder is given first for a row."""
        target = row.tgt_lang if train else self.cfg.tgt_lang or row.tgt_lang
        return self.vocabulary.prefix(row.src_lang or self.cfg.src_lang, target, f"{row.id}, line {row.line}")

    def nbest_of(self, rows) -> Optional[NBestTargets]:
        """The n-best lists of training rows, if asked for."""
        if self.cfg.nbest_targets == 1:
            return None
        nbest = NBestTargets(rows, self.cfg.nbest_targets) if self.cfg.nbest_targets > 1 else ()
        if not len(nbest):
            raise ConfigError(
                f"--nbest-targets {self.cfg.nbest_targets}: no training row has a list of hypotheses; make them with "
                "`colld transcribe --nbest`, which writes NAME.hypotheses.jsonl beside NAME.tsv"
            )
        return nbest

    def encode_target(self, row: Row, language: str = "") -> Tensor:
        """Token ids of a row's text, after the tag of `language` (default: the row's own) where there are tags."""
        tokens = self.vocabulary.encode(row.tgt_text, append_eos=True)
        if not self.prefix_size:
            return tokens
        tag = self.vocabulary.tag_id(language or row.tgt_lang, f"{row.id}, line {row.line}")
        return torch.cat([torch.tensor([tag]), tokens])

    def encode_ctc_target(self, row: Row) -> Tensor:
        return self.vocabulary.encode(getattr(row, str(self.cfg.ctc_target)), append_eos=False)

    # -- teachers that are recognisers -----------------------------------------------------------------------------
    def build_criterion(self, cfg, from_checkpoint: bool = False):
        """The criterion, which loads the teachers that it learns from. ConfigError for one that it leaves out."""
        criterion = super().build_criterion(cfg, from_checkpoint)
        for name, (_, learners) in TEACHERS.items():
            if getattr(self.cfg, name) and name not in self.loaded_teachers:
                option_name = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option_name}: nothing is learned from it: leave it out, or give {learners}")
        if self.cfg.nbest_targets > 1 and not getattr(criterion, "reads_nbest", False):
            raise ConfigError(
                "--nbest-targets: nothing is learned from it: leave it out, or give --criterion transducer"
            )
        return criterion

    @property
    def loaded_teachers(self) -> Dict[str, Union[TransducerTeacher, CtcTeacher]]:
        """Those that the criterion has asked for, by the option that names them."""
        teachers = {name: getattr(self, name) for name in TEACHERS}
        return {name: teacher for name, teacher in teachers.items() if teacher is not None}

    def check_one_input(self) -> None:
        """ConfigError where teachers take different inputs: a batch holds one for all of them."""
        first, *others = self.loaded_teachers.values()
        if any(other.student_input != first.student_input for other in others):
            raise ConfigError(
                "--teacher-ctc and --teacher-transducer take different inputs: give teachers with the same"
            )

    def load_teacher_transducer(self) -> None:
        """For criterions that learn from it; before data is loaded, which then holds its input, too. ConfigError where
        it takes another input than the CTC teacher."""
        if not self.cfg.teacher_transducer:
            raise ConfigError("--kd needs --teacher-transducer, the checkpoint of a trained transducer")
        self.teacher_transducer = load_teacher_transducer(absolute_path(self.cfg.teacher_transducer), self)
        self.check_one_input()

    def load_teacher_ctc(self) -> None:
        """Likewise, whichever of the two is loaded first."""
        if not self.cfg.teacher_ctc:
            raise ConfigError(
                "--ctc-kd teacher needs --teacher-ctc, the checkpoint of a trained model with a CTC layer"
            )
        self.teacher_ctc = load_ctc_teacher(absolute_path(self.cfg.teacher_ctc), self)
        self.check_one_input()

    def teacher_lattice(self, sample: Dict, **targets: Tensor) -> TeacherLattice:
        """The teacher's side of a batch; targets: what the student's forward is given of them."""
        return self.teacher_transducer(**sample["teacher_input"], **targets)

    def state_dict(self) -> Dict[str, Any]:
        """Kept in every checkpoint: the vocabulary, and which teacher it learned from."""
        state = {vocabulary_copy.NAME: self.vocabulary_copy}
        for name, teacher in self.loaded_teachers.items():
            state.update({name: teacher.path, f"{name}_hash": content_hash([Path(teacher.path)])})
        return state

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Of the checkpoint of a model that this task is to run; ConfigError where its vocabulary is another."""
        if vocabulary_copy.NAME in (state or {}):
            vocabulary_copy.check_same(state[vocabulary_copy.NAME], self.vocabulary_copy, self.vocabulary.folder)

    def get_interactive_tokens_and_lengths(self, lines: List[str], encode_fn):
        """fairseq-interactive: each line is the path of an audio file."""
        return lines, [0] * len(lines)  # known once they are read

    def build_dataset_for_inference(self, src_tokens, src_lengths, **unused):
        return NamedAudioDataset(PathRows(src_tokens, src_lengths), self.student_input, self.output_lengths)

    # -- decoding --------------------------------------------------------------------------------------------------
    def decoder_of(self, models) -> str:
        """Key of DECODERS for these models. ConfigError for one that they do not have, or an unknown --tgt-lang."""
        possible = [name for name, (part, _) in DECODERS.items() if all(has(model, part) for model in models)]
        kind = possible[0] if self.cfg.decoder == "auto" else str(self.cfg.decoder)
        if kind not in possible:
            names = " and ".join(DECODERS[name][1] for name in possible)
            raise ConfigError(f"--decoder {kind}: the model has {names} only")
        if kind != "ctc" and self.vocabulary.uses_tags and self.cfg.tgt_lang:
            self.vocabulary.tag_id(self.cfg.tgt_lang, "--tgt-lang, or --lang")
        self.check_latency(models, kind, self.cfg.decoding_chunk_ms or WHOLE)
        return kind

    @staticmethod
    def check_latency(models, kind: str, chunk_ms: Union[int, str]) -> None:
        """ConfigError for an attention decoder that is to stream, or to decode as in a stream."""
        if kind == "attention" and chunk_ms != WHOLE:
            ctc = all(has(model, "ctc") for model in models)
            other = "--decoder ctc decodes" if ctc else "fine-tune student_ctc or transducer_student for"
            raise ConfigError(
                "an attention decoder reads whole utterances and cannot stream, whatever the chunks of its encoder;"
                f" {other} streams"
            )

    def build_generator(self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None, prefix_allowed_tokens_fn=None):
        """Called by fairseq; `build_decoder` is for callers of ours."""
        kind, extra = self.decoder_of(models), extra_gen_cls_kwargs or {}
        refuse_impossible(args)
        refuse_unused(self.search_options, kind)
        if kind == "attention":
            return self.attention_generator(models, args, seq_gen_cls, extra, prefix_allowed_tokens_fn)
        if self.given_of_attention:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in self.given_of_attention)
            logger.warning("%s: of attention decoding, without effect on what decodes here, %s", names, kind)
        decoder = self.frame_decoder(models, kind, getattr(args, "beam", 1), getattr(args, "nbest", 1), **extra)
        return FairseqGenerator(decoder, self.target_dictionary.eos(), self.vocabulary.tag_ids)

    def build_decoder(self, models, beam: int, nbest: int, **generation: float) -> Decoder:
        """What decodes the models' batches into hypotheses; generation: of `decoding.options.GENERATION`."""
        kind = self.decoder_of(models)
        if kind != "attention":
            return self.frame_decoder(models, kind, beam, nbest)
        args = Namespace(beam=beam, nbest=nbest, **generation)
        return AttentionDecoder(self.attention_generator(models, args), nbest)

    @property
    def search_options(self) -> List[str]:
        """Names of the options for searches over frames that have other values than by default."""
        defaults = MultilingualSpeechToTextConfig()
        return [name for name in FRAMES if getattr(self.cfg, name) != getattr(defaults, name)]

    @property
    def given_of_attention(self) -> List[str]:
        """Names of fairseq's options for attention decoders that fairseq-generate was given."""
        if not evaluated_checkpoint(self.cfg):  # in training, names of criterions' options are alike
            return []
        return [name for name in GENERATION if given_on_command_line(name)]

    def attention_generator(self, models, args, seq_gen_cls=None, extra=None, prefix_allowed_tokens_fn=None):
        """fairseq's generator, which writes no tag, no unknown token and nothing that a pretrained decoder must not."""
        extra = dict(extra or {}, symbols_to_strip_from_output=self.vocabulary.tag_ids)
        if seq_gen_cls is None:
            seq_gen_cls = AttentionGenerator
            extra.update(never_written=self.unwanted_unknown)
        if not self.vocabulary.tags_in_targets:
            never_written = self.vocabulary.never_written | self.unwanted_unknown
            extra.update(never_written=never_written, never_first=self.vocabulary.never_first)
        return super().build_generator(models, self.limited(args), seq_gen_cls, extra, prefix_allowed_tokens_fn)

    @property
    def unwanted_unknown(self) -> Set[int]:
        """The id of `<unk>` where no hypothesis may hold it, but for tokenizers whose end of sentence it is."""
        dictionary = self.target_dictionary
        return set() if self.cfg.allow_unk else {dictionary.unk()} - {dictionary.eos()}

    def frame_decoder(
        self, models, kind: str, beam: int, nbest: int, lm_model: Optional[nn.Module] = None, lm_weight: float = 0.0
    ) -> Decoder:
        """Of kind `ctc` or `transducer`; lm_model: fairseq's of --lm-path, in place of the n-gram model."""
        cfg, dictionary = self.cfg, self.target_dictionary
        lm, lm_weight = self.with_hotwords(*self.fusion(lm_model, lm_weight))
        fusion = dict(lm=lm, lm_weight=lm_weight, length_bonus=cfg.length_bonus)
        blank = dictionary.bos()
        specials = {dictionary.pad(), dictionary.eos(), *self.vocabulary.tag_ids}
        never_emitted = sorted((specials | self.unwanted_unknown) - {blank})
        if kind == "ctc":
            return CtcDecoder(blank, never_emitted, beam, nbest, **fusion)
        topology, *others = {model.topology for model in models}
        if others:
            raise ConfigError(f"these transducers were trained with topologies {topology} and {others[0]}: no ensemble")
        way = dict(max_symbols=cfg.max_symbols, topology=topology)
        if beam == 1 and lm is None and cfg.length_bonus == 0:
            search = GreedySearch(**way)
        else:
            search = BeamSearch(beam, min(nbest, beam), **way, **fusion)
        return TransducerDecoder(search, blank, never_emitted, cfg.blank_penalty)

    def fusion(self, lm_model: Optional[nn.Module], lm_weight: float) -> Tuple[Optional[LanguageModel], float]:
        """Language model and its weight: fairseq's of --lm-path, or the n-gram model of --ngram-lm."""
        cfg, dictionary = self.cfg, self.target_dictionary
        if lm_model is not None:
            if cfg.ngram_lm:
                raise ConfigError("--lm-path and --ngram-lm: give one language model")
            if not lm_weight:
                logger.warning("--lm-path without --lm-weight: the language model changes nothing")
            return NeuralLm(lm_model, dictionary), lm_weight
        if not cfg.ngram_lm:
            return None, cfg.ngram_lm_weight
        path, symbols = absolute_path(cfg.ngram_lm), dictionary.symbols
        if cfg.ngram_lm_unit != "word":
            return TokenKenlm(path, symbols), cfg.ngram_lm_weight
        self.vocabulary.word_boundary("--ngram-lm-unit word")
        return WordKenlm(path, symbols, self.vocabulary.tag_ids), cfg.ngram_lm_weight

    def with_hotwords(self, lm: Optional[LanguageModel], lm_weight: float) -> Tuple[Optional[LanguageModel], float]:
        """The same with --hotwords beside it."""
        if not self.cfg.hotwords:
            return lm, lm_weight
        symbols, boundary = self.target_dictionary.symbols, self.vocabulary.word_boundary("--hotwords")
        phrases = read_hotwords(absolute_path(self.cfg.hotwords), self.vocabulary, self.cfg.hotword_bonus)
        return HotwordScorer(phrases, symbols, boundary, lm, lm_weight), 1.0

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """Called by fairseq; the language tag is forced whether or not --prefix-size was given."""
        decoder = getattr(generator, "decoder", generator)
        tags = self.tags_for(
            decoder, sample["net_input"]["src_tokens"], sample.get("tgt_langs"), sample.get("src_langs")
        )
        prefix_tokens = prefix_tokens if tags is None else tags.reshape(len(tags), -1)
        with torch.no_grad():
            return generator.generate(models, sample, prefix_tokens=prefix_tokens, constraints=constraints)

    def tags_for(
        self,
        decoder: object,
        source: Tensor,
        languages: Optional[Sequence[str]],
        spoken: Optional[Sequence[str]] = None,
    ) -> Optional[Tensor]:
        """Tags int64 [B] of the target languages (--tgt-lang, else each utterance's own) for a batch `source` [B, ...],
        or [B, P] of a pretrained decoder, with the languages spoken; None where the vocabulary has none, and for CTC,
        which is told no language."""
        if isinstance(decoder, CtcDecoder):
            return None
        spoken = [language or self.cfg.src_lang for language in spoken or [""] * len(source)]
        return self.vocabulary.tags(languages, self.cfg.tgt_lang, len(source), source.device, spoken)

    # -- validation by decoding ------------------------------------------------------------------------------------
    def valid_step(self, sample, model, criterion):
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        if not log:
            return loss, sample_size, log
        model, net_input = unwrapped(model), sample["net_input"]
        source, lengths = net_input["src_tokens"], net_input["src_lengths"]
        normalize = self.vocabulary.codec.normalizer
        for name, decoder in self.decoders(model).items():
            side = "src" if name == "ctc_" or self.transcribes([model]) else "tgt"
            tags = self.tags_for(decoder, source, sample["tgt_langs"], sample["src_langs"])
            hypotheses = decoder.decode([model], source, lengths, tags)
            meter = DecodingMeter(self.language_pairs[side])
            for n_best, reference, source_language, language in zip(
                hypotheses, sample[f"{side}_texts"], sample["src_langs"], sample[f"{side}_langs"]
            ):
                # As `colld score` compares them: detokenized, with the manifest's reference, which no <unk> can match.
                hypothesis = self.vocabulary.decode(torch.tensor(n_best[0].tokens), HYPOTHESIS_UNKNOWN)
                meter.add(normalize(hypothesis), normalize(reference), source_language, language)
            log.update({f"_{name}{pair}": counts for pair, counts in meter.statistics.items()})
        return loss, sample_size, log

    def post_validate(self, model, stats: Dict[str, Any], agg) -> None:
        """Called by fairseq after each validation set: says in the log where the run is on a plateau."""
        scores = {name: float(value) for name, value in stats.items() if is_number(value)}
        if self.validations and self.validations[-1]["num_updates"] == scores["num_updates"]:
            return  # a further validation set: the first counts
        self.validations.append(scores)
        dead = plateau(self.validations, self.updates_of_run(scores["num_updates"]), PLATEAU)
        if dead is not None and get_global_rank() == 0:
            logger.warning("%s. %s", dead, PLATEAU_REMEDY)

    def updates_of_run(self, so_far: float) -> int:
        """How many updates the run will have: --max-update or, of --max-epoch, as many as its epochs had up to now; 0
        where nothing says it."""
        run = run_of(self.cfg)
        if run is None:
            return 0
        limits, training_set = run.optimization, self.datasets.get(run.dataset.train_subset)
        if limits.max_update or training_set is None:
            return limits.max_update
        return round(so_far / training_set.epoch * limits.max_epoch)

    def transcribes(self, models) -> bool:
        """Whether hypotheses are in the language spoken whatever the target language: CTC trained on transcripts."""
        return self.decoder_of(models) == "ctc" and self.cfg.ctc_target == "src_text"

    def limited(self, args: Namespace) -> Namespace:
        """fairseq's options of generation, with MAX_TOKENS_PER_SECOND as the limit of hypotheses where none was given:
        fairseq's default is 200 tokens whatever the length of the utterance."""
        default = (getattr(args, "max_len_a", 0), getattr(args, "max_len_b", 200)) == (0, 200)
        if not default or given_on_command_line("max_len_a", "max_len_b"):
            return args
        per_second = SAMPLE_RATE if self.encoder.input.kind == "waveform" else SAMPLE_RATE / SHIFT
        own = self.vocabulary.tags_in_targets
        tokens_per_second = MAX_TOKENS_PER_SECOND if own else MAX_PRETRAINED_TOKENS_PER_SECOND
        limits = {"max_len_a": tokens_per_second / per_second, "max_len_b": 10}
        return Namespace(**{**(OmegaConf.to_container(args) if OmegaConf.is_config(args) else vars(args)), **limits})

    def decoders(self, model) -> Dict[str, Decoder]:
        """Metric prefix -> decoder: "" for the targets, "ctc_" for transcripts beside an attention decoder."""
        if self.valid_decoders is None:
            self.valid_decoders = {"": self.build_decoder([model], self.cfg.valid_beam, 1)}
            if self.decoder_of([model]) != "ctc" and self.cfg.ctc_target == "src_text" and has(model, "ctc"):
                self.valid_decoders["ctc_"] = self.frame_decoder([model], "ctc", self.cfg.valid_beam, 1)
        return self.valid_decoders

    @functools.cached_property
    def language_pairs(self) -> Dict[str, List[str]]:
        """Side of the text, "tgt" or "src" -> "source-target" pairs of all validation sets: every worker logs the same
        keys at every step."""
        pairs = set()
        for dataset in self.datasets.values():
            if not dataset.options.train:
                sources, source_names = dataset.rows.codes("src_lang")
                targets, target_names = dataset.rows.codes("tgt_lang")
                pairs |= {(source_names[s], target_names[t]) for s, t in set(zip(sources.tolist(), targets.tolist()))}
        return {
            "tgt": sorted(f"{source}-{target}" for source, target in pairs),
            "src": sorted({f"{source}-{source}" for source, _ in pairs}),
        }

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        super().reduce_metrics(logging_outputs, criterion)
        log_scores(metrics, logging_outputs)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def has(model, part: str) -> bool:
    return getattr(model, part, None) is not None
