"""Task `speech_distillation`: unlabeled audio and the features that frozen teachers, one or several, have of it."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Dict, List, Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from torch import Tensor

from colld_fairseq.compat import absolute_path
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.datasets import SpeechDataset, SpeechToTextDataset
from colld_fairseq.data.joining import JoinedUtterances, Joining
from colld_fairseq.data.manifest import require_waveforms
from colld_fairseq.data.perturbation import Perturbation
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.balance import LossScales
from colld_fairseq.models.colld_student import ColldStudentConfig
from colld_fairseq.numbers import NOT_NEGATIVE, SHARE, option
from colld_fairseq.tasks.frozen_decoder import FrozenDecoder
from colld_fairseq.tasks.speech_task import SpeechTask, SpeechTaskConfig
from colld_fairseq.teachers.codes import TeacherCodes, load_codes
from colld_fairseq.teachers.several import Teachers

EACH = "; one value for all teachers, or NAME=VALUE,NAME=VALUE"


@dataclass
class SpeechDistillationConfig(SpeechTaskConfig):
    teacher: str = option(
        "",
        "hf:DIRECTORY (Hugging Face layout), fairseq:FILE.pt, fairseq2:FILE.pt (omniASR),"
        " colld:FILE.pt (a student of this project),"
        " onnx:FILE.onnx or python:package.module:Class; several,"
        " for --criterion multi_teacher, as NAME=hf:DIRECTORY,NAME=fairseq:FILE.pt",
    )
    teacher_kind: str = option(
        "layer",
        "target features: layer = block outputs, ffn = feed-forward outputs before the residual (USAD,"
        f" data2vec){EACH}",
    )
    teacher_dtype: str = option(
        "float32", f"the teacher's own precision, whatever the student's: float32, bfloat16 or float16{EACH}"
    )
    teacher_cache: str = option(
        "",
        "folder written by `colld features`: read targets there instead of running the teacher; of several teachers"
        " NAME=FOLDER,NAME=FOLDER, and those without one are run",
    )
    teacher_weights: str = option("", "NAME=WEIGHT,NAME=WEIGHT of several teachers, in proportion (default: equal)")
    teacher_combination: ChoiceEnum(["sum", "random", "average"]) = option(
        "sum",
        "several teachers: sum their losses by weight, draw one for each utterance with its weight as probability, or"
        " predict the weighted mean of their features (equal widths) with one head per layer",
    )
    teacher_codes: str = option(
        "",
        "codebook written by `colld cluster`, for --code-head; default: the code classes of the teacher's own"
        " pre-training head (fairseq checkpoints of HuBERT have it)",
    )
    teacher_codebooks: str = option(
        "",
        "file written by `colld codebooks`, for --criterion multi_codebook; of several teachers NAME=FILE,NAME=FILE."
        " --teacher-cache may then also be its folder of --indexes",
    )
    frame_rule: str = option(
        "average",
        "how teacher frames meet a slower student: average neighbors, stack their channels, or concat_tanh"
        f" (a learned Linear and tanh bring stacked frames back to the teacher's width){EACH}",
    )
    teacher_decoder: str = option(
        "",
        "the teacher's own decoder, hf:DIR, which reads the student's output, frozen, for --decoder-weight of the"
        " criterion: the manifests' tgt_text is what the teacher writes",
    )
    join_seconds: float = option(
        0.0,
        "training: utterances of one language follow each other in windows of up to so many seconds, every length"
        " being as likely; drawn anew in every epoch. 0: each by itself",
        NOT_NEGATIVE,
    )
    join_padded: float = option(0.0, "share of these windows that silence fills up to --join-seconds", SHARE)


@register_task("speech_distillation", dataclass=SpeechDistillationConfig)
class SpeechDistillationTask(SpeechTask):
    """Batches of audio; `teachers` give their features of a batch on the student's frames.

    They are an attribute of the task and no module: in no checkpoint, in no EMA, never in train mode.
    """

    cfg: SpeechDistillationConfig

    def __init__(self, cfg: SpeechDistillationConfig) -> None:
        super().__init__(cfg)
        self.student: Optional[ColldStudentConfig] = None
        """The options of the student, which criterions look at. Set by build_model alone."""
        self.loss_scales = LossScales()
        """Of the teachers' losses, for --balance-updates. Here, because checkpoints keep the state of tasks."""

    @cached_property
    def teachers(self) -> Teachers:
        """The teachers by name; loaded once the model is built."""
        cfg = self.cfg
        return Teachers.from_options(
            cfg.teacher,
            cfg.teacher_kind,
            cfg.teacher_dtype,
            cfg.teacher_cache,
            cfg.frame_rule,
            cfg.teacher_weights,
            cfg.teacher_codebooks,
        )

    @cached_property
    def frozen_decoder(self) -> Optional[FrozenDecoder]:
        """What --teacher-decoder names."""
        return FrozenDecoder(self.cfg.teacher_decoder) if self.cfg.teacher_decoder else None

    @property
    def combination(self) -> str:
        """How several teachers make one loss: "sum", "random" or "average"."""
        return str(self.cfg.teacher_combination)

    @property
    def crops_long_utterances(self) -> bool:
        """Cached features are of complete utterances, so that with a cache long ones are left out instead."""
        return not self.teachers.caches

    @cached_property
    def teacher_codes(self) -> TeacherCodes:
        """The teacher's code classes; read at the first use. Raises TeacherError where there are none."""
        return load_codes(self.teachers.first.spec, self.cfg.teacher_codes and absolute_path(self.cfg.teacher_codes))

    def code_logits(self, features: Dict[int, Tensor], temp: float) -> Tensor:
        """The teacher's logits over its code classes, float32 [B, T, C], from its features {layer: [B, T, D]}."""
        features = features[self.teacher_codes.layer]
        self.teacher_codes = self.teacher_codes.to(features.device)
        return self.teacher_codes.logits(features, temp)

    def build_model(self, cfg, from_checkpoint: bool = False):
        model = super().build_model(cfg, from_checkpoint)
        self.student = model.cfg
        if self.frozen_decoder is not None:
            self.frozen_decoder.check_width(model.encoder.width)
        for name, source in self.teachers.items():
            pairs = [pair for pair in model.pairs if pair.teacher == name]
            given = self.encoder.input
            source.load(self.teacher_layers(pairs, source.kind), model.front_end_updates > 0, given)
        return model

    def teacher_layers(self, pairs, kind: str) -> List[int]:
        """The layers of one teacher that the student's heads need; ConfigError where its --teacher-kind lacks them."""
        layers = {layer for pair in pairs for layer in pair.teacher_layers}
        if self.student.front_end_updates:
            layers.add(0)
            if kind != "layer":
                raise ConfigError(
                    f"--front-end-updates needs the teacher's layer 0: give --teacher-kind layer, no {kind}"
                )
        if self.student.code_head != "none":
            layers.add(self.teacher_codes.layer)
            if kind != self.teacher_codes.kind:
                raise ConfigError(
                    f"--code-head {self.student.code_head}: the codes of {self.teacher_codes.source} are of"
                    f" --teacher-kind {self.teacher_codes.kind}, not {kind}: give that one, or make others with"
                    " `colld cluster`"
                )
        return sorted(layers)

    def make_dataset(self, split, rows, student_input, options):
        options.keep_waveform = self.teachers.any_online
        if options.keep_waveform:
            require_waveforms(rows, "the teacher", ", or give --teacher-cache, made by `colld features` of the audio")
        for cache in self.teachers.caches:
            cache.check_manifest(rows)
        options.unusable = {name: why for cache in self.teachers.caches for name, why in cache.bad.items()}
        if self.crops_long_utterances:
            options.max_samples = int(self.cfg.max_seconds * SAMPLE_RATE)
        joining = self.joining(student_input) if options.train else None
        self.check_caches(joining, options.perturbation)
        if joining is not None:
            self.check_lengths(rows, joining)
            if options.perturbation is not None:
                options.perturbation = replace(options.perturbation, max_samples=joining.max_samples)
        dataset = self.make_utterances(rows, student_input, options)
        return dataset if joining is None else JoinedUtterances(dataset, joining)

    def make_utterances(self, rows, student_input, options) -> SpeechDataset:
        decoder = self.frozen_decoder
        if decoder is None:
            return SpeechDataset(rows, student_input, options)
        dictionary = decoder.vocabulary.dictionary
        return SpeechToTextDataset(
            rows, student_input, options, dictionary, decoder.encode, decoder.encode, prefix=decoder.prefix
        )

    def joining(self, student_input) -> Optional[Joining]:
        """How training utterances are joined, if they are; ConfigError for windows that the student does not take."""
        seconds, config = self.cfg.join_seconds, student_input.config
        if not seconds:
            return None
        if config.kind == "log_mel" and seconds > config.window_seconds:
            raise ConfigError(f"--join-seconds {seconds:g}: this student takes in {config.window_seconds:g} s at most")
        return Joining(seconds, self.cfg.join_padded, stretch=1 / (1 - self.cfg.perturb_speed))

    def check_lengths(self, rows, joining: Joining) -> None:
        """Raises ConfigError where an utterance would be cut and its transcript not."""
        if self.frozen_decoder is None or not (rows.n_samples > joining.max_samples).any():
            return
        row = rows.row(int(rows.n_samples.argmax()))
        raise ConfigError(
            f"utterance {row.id} of {row.n_samples / SAMPLE_RATE:.1f} s is longer than --join-seconds"
            f" {joining.max_seconds:g}: its audio would be cut and its transcript, which --teacher-decoder reads, would"
            " not: leave it out of the manifest or raise --join-seconds"
        )

    def check_caches(self, joining: Optional[Joining], perturbation: Optional[Perturbation]) -> None:
        """Raises ConfigError where audio is changed of which a cache has features."""
        changed = {"--join-seconds": joining, "--perturb-*": perturbation}
        for name, given in changed.items():
            if given is not None and self.teachers.caches:
                raise ConfigError(
                    f"{name} makes other audio than that of --teacher-cache: leave one of them out (without the cache"
                    " the teacher runs along)"
                )

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            criterion.after_update(logging_outputs)

    def state_dict(self) -> Dict[str, Any]:
        """Kept in every checkpoint: which teachers it learned from, and how large their losses were."""
        scales = {"loss_scales": self.loss_scales.state()} if self.loss_scales.counts else {}
        return {**self.teachers.record(), **scales}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        self.loss_scales.restore(state_dict.get("loss_scales", {}))

    def go_on_from(self, saved, cfg, file: str) -> None:
        super().go_on_from(saved, cfg, file)
        self.load_state_dict(saved.state)  # fairseq-train itself does not
