"""Task `speech_distillation`: unlabelled audio and a frozen teacher's features of it."""

import logging
import os
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from torch import Tensor

from colld_fairseq.compat import absolute_path
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.datasets import SpeechDataset
from colld_fairseq.errors import ConfigError
from colld_fairseq.tasks.speech_task import SpeechTask, SpeechTaskConfig
from colld_fairseq.teachers import Teacher, TeacherOutput, load_teacher
from colld_fairseq.teachers.alignment import align_frames
from colld_fairseq.teachers.cache import FeatureCache
from colld_fairseq.teachers.codes import TeacherCodes, load_codes
from colld_fairseq.teachers.describe import TeacherInfo, describe_teacher
from colld_fairseq.teachers.weights import hash_of

logger = logging.getLogger(__name__)


@dataclass
class SpeechDistillationConfig(SpeechTaskConfig):
    teacher: str = field(
        default="",
        metadata={"help": "hf:DIRECTORY (Hugging Face layout) or fairseq:FILE.pt"},
    )
    teacher_kind: ChoiceEnum(["layer", "ffn"]) = field(
        default="layer",
        metadata={
            "help": "target features: block outputs, or feed-forward outputs before the residual (USAD, data2vec)"
        },
    )
    teacher_dtype: ChoiceEnum(["float32", "bfloat16", "float16"]) = field(
        default="float32", metadata={"help": "the teacher's own precision, whatever the student's"}
    )
    teacher_cache: str = field(
        default="",
        metadata={"help": "folder written by `colld features`: read targets there instead of running the teacher"},
    )
    teacher_codes: str = field(
        default="",
        metadata={
            "help": "codebook written by `colld cluster`, for --code-head; default: the code classes of the teacher's"
            " own pre-training head (fairseq checkpoints of HuBERT have it)"
        },
    )
    frame_rule: ChoiceEnum(["average", "stack"]) = field(
        default="average",
        metadata={"help": "how teacher frames meet a slower student: average neighbours or stack their channels"},
    )


@register_task("speech_distillation", dataclass=SpeechDistillationConfig)
class SpeechDistillationTask(SpeechTask):
    """Batches of audio; `teacher_targets` gives the teacher's features of a batch on the student's frames.

    The teacher is an attribute of the task and no module: it is in no checkpoint, in no EMA, never in train mode.
    """

    cfg: SpeechDistillationConfig

    def __init__(self, cfg: SpeechDistillationConfig) -> None:
        super().__init__(cfg)
        self.teacher: Optional[Teacher] = None
        self.front_end_teacher: Optional[Teacher] = None  # of layer 0 alone, while nothing else is learnt
        self.cache: Optional[FeatureCache] = None
        self.code_head, self.front_end_head = "none", False  # of the student; known once the model is built
        self._info: Optional[TeacherInfo] = None
        self._codes: Optional[TeacherCodes] = None

    @property
    def crops_long_clips(self) -> bool:
        """Long clips are cropped, but not beside cached features, which are of whole clips: there they are left out."""
        return self.cache is None

    @property
    def teacher_spec(self) -> str:
        scheme, _, name = self.cfg.teacher.partition(":")
        if not name:
            raise ConfigError("--teacher is missing: write hf:DIRECTORY or fairseq:FILE.pt")
        path = absolute_path(name)
        return f"{scheme}:{path if os.path.exists(path) else name}"  # else a name in the local Hugging Face cache

    @property
    def teacher_info(self) -> TeacherInfo:
        """Depth, width and frame rate of the teacher, known before its weights are loaded."""
        if self._info is None:
            self._info = describe_teacher(self.teacher_spec)
        return self._info

    @property
    def teacher_codes(self) -> TeacherCodes:
        """The teacher's code classes; read at the first use. Raises TeacherError where there are none."""
        if self._codes is None:
            codebook = self.cfg.teacher_codes and absolute_path(self.cfg.teacher_codes)
            self._codes = load_codes(self.teacher_spec, codebook)
        return self._codes

    def code_logits(self, features: Dict[int, Tensor], temp: float) -> Tensor:
        """The teacher's logits over its code classes, float32 [B, T, C], from its features {layer: [B, T, D]}."""
        codes = self.teacher_codes
        self._codes = codes = codes.to(features[codes.layer].device)
        return codes.logits(features[codes.layer], temp)

    def target_width(self, rate_hz: float) -> int:
        """D of the targets as `teacher_targets` returns them to a student of `rate_hz` frames a second."""
        stacked = round(self.teacher_info.frame_rate_hz / rate_hz) if self.cfg.frame_rule == "stack" else 1
        return self.teacher_info.width * max(1, stacked)

    def build_model(self, cfg, from_checkpoint: bool = False):
        model = super().build_model(cfg, from_checkpoint)
        self.code_head, self.front_end_head = str(model.cfg.code_head), bool(model.cfg.front_end_head)
        layers, kind = self.teacher_layers(model.pairs), str(self.cfg.teacher_kind)
        if self.cfg.teacher_cache:
            self.cache = FeatureCache.open(absolute_path(self.cfg.teacher_cache), self.teacher_spec, layers, kind)
        else:
            dtype = str(self.cfg.teacher_dtype)
            self.teacher = load_teacher(self.teacher_spec, layers, kind, dtype)
            if self.front_end_head:
                self.front_end_teacher = load_teacher(self.teacher_spec, [0], kind, dtype)
        return model

    def teacher_layers(self, pairs) -> List[int]:
        """The teacher layers the student's heads need; ConfigError where --teacher-kind does not offer them."""
        kind = str(self.cfg.teacher_kind)
        layers = {layer for pair in pairs for layer in pair.teachers}
        if self.front_end_head:
            layers.add(0)
            if kind != "layer":
                raise ConfigError(f"--front-end-head needs the teacher's layer 0: give --teacher-kind layer, no {kind}")
        if self.code_head != "none":
            layers.add(self.teacher_codes.layer)
            if kind != self.teacher_codes.kind:
                raise ConfigError(
                    f"--code-head {self.code_head}: the codes of {self.teacher_codes.source} are of --teacher-kind"
                    f" {self.teacher_codes.kind}, not {kind}: give that one, or make others with `colld cluster`"
                )
        return sorted(layers)

    def make_dataset(self, split, rows, student_input, options):
        options.keep_waveform = self.teacher is not None
        if self.crops_long_clips:
            options.max_samples = int(self.cfg.max_seconds * SAMPLE_RATE)
        return SpeechDataset(rows, student_input, options)

    def state_dict(self) -> Dict[str, str]:
        """Kept in every checkpoint: which teacher it learnt from."""
        return {"teacher": self.teacher_spec, "teacher_hash": hash_of(self.teacher_spec)}

    def teacher_output(
        self, sample: Dict, front_end_only: bool = False, keep_padding: bool = False
    ) -> TeacherOutput:
        """The teacher's features of a batch, {layer: [B, T, D]} at its own frame rate.

        front_end_only: layer 0 is needed and no other, so no block is run. keep_padding: every clip is as long as the
        longest, with what the teacher makes of its padding; a cache does not have that.
        """
        device = sample["net_input"]["src_tokens"].device
        if self.cache is not None:
            return self.cache.read(sample["utt_id"], device)
        teacher = self.front_end_teacher if front_end_only else self.teacher
        output = teacher(**sample["teacher_input"], keep_padding=keep_padding)
        if keep_padding:
            output.lengths = torch.full_like(output.lengths, int(output.lengths.max()))
        return output

    def teacher_targets(
        self, sample: Dict, lengths: Tensor, rate_hz: float, **how: bool
    ) -> Tuple[Dict[int, Tensor], Tensor]:
        """Teacher features on the student's frames: {layer: [B, T, D]} and lengths [B] (the shorter of the two).

        `lengths` [B] and `rate_hz` are the student's, `how` are options of `teacher_output`. Raises TeacherError,
        naming the utterance, when the two disagree by more than two frames.
        """
        output = self.teacher_output(sample, **how)
        if how.get("keep_padding"):
            lengths = torch.full_like(lengths, int(lengths.max()))
        targets, target_lengths = {}, lengths
        for layer, features in output.features.items():
            targets[layer], target_lengths = align_frames(
                features,
                output.lengths,
                output.frame_rate_hz,
                rate_hz,
                str(self.cfg.frame_rule),
                lengths,
                sample["utt_id"],
            )
        return targets, torch.minimum(target_lengths, lengths)
