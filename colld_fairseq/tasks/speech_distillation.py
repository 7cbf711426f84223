"""Task `speech_distillation`: unlabelled audio and a frozen teacher's features of it."""

import logging
import os
from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import register_task
from torch import Tensor

from colld_fairseq.compat import absolute_path
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.datasets import SpeechDataset
from colld_fairseq.errors import ConfigError
from colld_fairseq.tasks.speech_task import SpeechTask, SpeechTaskConfig
from colld_fairseq.teachers import TeacherOutput, load_teacher
from colld_fairseq.teachers.alignment import align_frames
from colld_fairseq.teachers.cache import FeatureCache
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
        self.teacher = None
        self.cache: Optional[FeatureCache] = None
        self._info: Optional[TeacherInfo] = None

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

    def target_width(self, rate_hz: float) -> int:
        """D of the targets as `teacher_targets` returns them to a student of `rate_hz` frames a second."""
        stacked = round(self.teacher_info.frame_rate_hz / rate_hz) if self.cfg.frame_rule == "stack" else 1
        return self.teacher_info.width * max(1, stacked)

    def build_model(self, cfg, from_checkpoint: bool = False):
        model = super().build_model(cfg, from_checkpoint)
        layers = sorted({layer for pair in model.pairs for layer in pair.teachers})
        kind = str(self.cfg.teacher_kind)
        if self.cfg.teacher_cache:
            self.cache = FeatureCache.open(absolute_path(self.cfg.teacher_cache), self.teacher_spec, layers, kind)
        else:
            self.teacher = load_teacher(self.teacher_spec, layers, kind, str(self.cfg.teacher_dtype))
        return model

    def make_dataset(self, split, rows, student_input, options):
        options.keep_waveform = self.teacher is not None
        if self.crops_long_clips:
            options.max_samples = int(self.cfg.max_seconds * SAMPLE_RATE)
        return SpeechDataset(rows, student_input, options)

    def state_dict(self) -> Dict[str, str]:
        """Kept in every checkpoint: which teacher it learnt from."""
        return {"teacher": self.teacher_spec, "teacher_hash": hash_of(self.teacher_spec)}

    def teacher_output(self, sample: Dict) -> TeacherOutput:
        """The teacher's features of a batch, {layer: [B, T, D]} at its own frame rate."""
        device = sample["net_input"]["src_tokens"].device
        if self.cache is not None:
            return self.cache.read(sample["utt_id"], device)
        return self.teacher(**sample["teacher_input"])

    def teacher_targets(self, sample: Dict, lengths: Tensor, rate_hz: float) -> Tuple[Dict[int, Tensor], Tensor]:
        """Teacher features on the student's frames: {layer: [B, T, D]} and lengths [B] (the shorter of the two).

        `lengths` [B] and `rate_hz` are the student's. Raises TeacherError, naming the utterance, when the two
        disagree by more than two frames.
        """
        output = self.teacher_output(sample)
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
