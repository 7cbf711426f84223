"""One frozen teacher as a training task uses it: run, or read from its cache, on the student's frames."""

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.checkpoints.encoder import TEACHERS, usage
from colld_fairseq.compat import absolute_path
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.teachers import Teacher, TeacherInfo, TeacherOutput, describe_teacher, load_teacher
from colld_fairseq.teachers.alignment import align_frames
from colld_fairseq.teachers.cache import FeatureCache
from colld_fairseq.teachers.cache_files import CacheHeader
from colld_fairseq.teachers.quantizer import ResidualQuantizer

# How teacher frames meet a slower student. concat_tanh hands over stacked frames, which an adapter of the model
# (modules/heads.py) brings back to the teacher's width.
FRAME_RULES = ("average", "stack", "concat_tanh")


@dataclass
class TeacherSource:
    """A teacher's targets. `load` makes it ready; before that it only knows what its configuration says.

    name: of the teacher among several; spec, kind, dtype: as `load_teacher` takes them; cache_folder: where its
    features are read instead, if given; frame_rule: one of FRAME_RULES; weight: share of the loss, or probability;
    codebooks: file of `colld codebooks`, if indexes into them are the targets, in the place of features.
    """

    name: str
    spec: str
    kind: str = "layer"
    dtype: str = "float32"
    cache_folder: str = ""
    frame_rule: str = "average"
    weight: float = 1.0
    codebooks: str = ""
    layers: Tuple[int, ...] = ()
    silence: Optional[InputConfig] = field(default=None, init=False)
    """With the silence behind each utterance that student and teacher both take in; None: one of them does not."""
    cut_student: bool = field(default=False, init=False)  # of its tail, which the teacher does not have
    cut_teacher: bool = field(default=False, init=False)
    teacher: Optional[Teacher] = field(default=None, init=False)
    front_end_teacher: Optional[Teacher] = field(default=None, init=False)  # of layer 0, while nothing else is learned
    cache: Optional[FeatureCache] = field(default=None, init=False)

    def __post_init__(self) -> None:
        scheme, _, name = self.spec.partition(":")
        if not name:
            raise ConfigError(f"--teacher {self.spec!r}: write {usage(TEACHERS)}")
        if self.codebooks:
            if self.frame_rule == "concat_tanh":
                raise ConfigError(f"--frame-rule concat_tanh: {self.name} has --teacher-codebooks; leave it out")
            self.frame_rule = "stack"  # indexes have no average
        path = absolute_path(name)
        self.spec = f"{scheme}:{path if os.path.exists(path) else name}"  # else a name in the local Hugging Face cache

    @cached_property
    def info(self) -> TeacherInfo:
        """Depth, width and frame rate, known before the weights are loaded."""
        return describe_teacher(self.spec)

    @cached_property
    def quantizer(self) -> Optional[ResidualQuantizer]:
        """What --teacher-codebooks names. Raises TeacherError where it was not made from this teacher."""
        if not self.codebooks:
            return None
        quantizer = ResidualQuantizer.load(absolute_path(self.codebooks))
        quantizer.check_teacher(self.spec)
        return quantizer

    def frames_together(self, rate_hz: float) -> int:
        """Teacher frames to one of a student of `rate_hz` frames per second, at least 1."""
        return max(1, round(self.info.frame_rate_hz / rate_hz))

    def target_width(self, rate_hz: float) -> int:
        """D of what a student of `rate_hz` frames per second is to predict; of codebooks its logits."""
        width = self.quantizer.logits_per_frame if self.quantizer else self.info.width
        return width * (self.frames_together(rate_hz) if self.frame_rule == "stack" else 1)

    def load(self, layers: Sequence[int], front_end: bool = False, given: Optional[InputConfig] = None) -> None:
        """Load the teacher for `layers`, or open its cache. front_end: layer 0 alone may be asked for as well.

        given: what the student takes in.
        """
        self.layers = tuple(layers)
        self._check_codebooks()
        with_silence = given is not None and given.kind == "log_mel"
        self.silence = given if with_silence and self.info.has_silence else None
        self.cut_student = with_silence and self.silence is None
        if self.cache_folder:
            codebooks = self.quantizer.content_hash if self.quantizer else ""
            self.cache = FeatureCache.open(absolute_path(self.cache_folder), self.spec, layers, self.kind, codebooks)
            self._check_silence(self.cache.header)
            return
        self.teacher = self._load(layers)
        if front_end:
            self.front_end_teacher = self._load([0])

    def _load(self, layers: Sequence[int]) -> Teacher:
        teacher = load_teacher(self.spec, layers, self.kind, self.dtype)
        if self.silence is not None:
            teacher.set_silence(self.silence)
        return teacher

    def _check_codebooks(self) -> None:
        """Raises ConfigError unless the codebooks, if there are some, are of the one layer that is wanted."""
        if self.quantizer is None:
            return
        layer, kind = self.quantizer.header.layer, self.quantizer.header.kind
        if self.layers != (layer,):
            wanted = ", ".join(map(str, self.layers))
            raise ConfigError(
                f"--layer-map: the codebooks of {self.name} are of layer {layer}, not {wanted}: write S:{layer}, S a"
                " layer of the student, or make others with `colld codebooks --layer`"
            )
        if kind != self.kind:
            raise ConfigError(f"--teacher-kind: the codebooks of {self.name} are of kind {kind}, not {self.kind}")

    def _check_silence(self, header: CacheHeader) -> None:
        """Raises ConfigError for a cache without the student's silence; what the student does not have is cut off."""
        cached = (header.tail_seconds, header.least_seconds)
        if self.silence is None:
            self.cut_teacher = any(cached)
            return
        wanted = (self.silence.tail_seconds, self.silence.least_seconds)
        if wanted != cached:
            raise ConfigError(
                f"teacher cache {self.cache_folder} has features of {cached[0]:g} s of silence behind each utterance,"
                f" {cached[1]:g} s with it at least; the student takes in {wanted[0]:g} and {wanted[1]:g} s: make"
                f" another with `colld features --tail-seconds {wanted[0]:g} --least-seconds {wanted[1]:g}`"
            )

    def output(
        self, sample: Dict, rows: Optional[Tensor] = None, front_end_only: bool = False, keep_padding: bool = False
    ) -> TeacherOutput:
        """Features of a batch, {layer: [B, T, D]} at the teacher's own frame rate.

        rows: int64, the utterances of the batch that are wanted, at least one; default: all. front_end_only: layer 0 is
        needed and no other, so no block is run. keep_padding: every utterance is as long as the longest, with what the
        teacher makes of its padding; a cache does not have that.
        """
        if self.cache is not None:
            device = sample["net_input"]["src_tokens"].device
            return self.cache.read(pick_names(sample, rows), device)
        teacher = self.front_end_teacher if front_end_only else self.teacher
        given = sample["teacher_input"]
        if rows is not None:
            given = {name: value[rows] for name, value in given.items()}
        output = teacher(**given, keep_padding=keep_padding)
        if keep_padding:
            output.lengths = torch.full_like(output.lengths, int(output.lengths.max()))
        return output

    def quantized(self, output: TeacherOutput) -> TeacherOutput:
        """With indexes [B, T, C] in the place of features, where there are codebooks and the cache has not got them."""
        if self.quantizer is None or (self.cache is not None and self.cache.header.codebooks):
            return output
        quantizer = self._quantizer_on(next(iter(output.features.values())).device)
        indexes = {layer: quantizer.encode(features) for layer, features in output.features.items()}
        return replace(output, features=indexes)

    def decoded(self, indexes: Tensor) -> Tensor:
        """float32 [..., D], the features that indexes [..., C] into the teacher's codebooks stand for."""
        return self._quantizer_on(indexes.device).decode(indexes)

    def _quantizer_on(self, device: torch.device) -> ResidualQuantizer:
        """No module holds the codebooks, so that nothing else moves them."""
        if self.quantizer.mean.device != device:
            self.quantizer = self.quantizer.to(device)
        return self.quantizer

    def targets(
        self, sample: Dict, lengths: Tensor, rate_hz: float, rows: Optional[Tensor] = None, **how: bool
    ) -> Tuple[Dict[int, Tensor], Tensor]:
        """Features on the student's frames: {layer: [B, T, D]} and lengths [B] (the shorter of the two). With
        codebooks indexes in their place, uint8 or float32.

        `lengths` [B] and `rate_hz` are the student's; `rows` int64 takes some utterances of the batch, B of them, and
        may be empty; `how` are options of `output`. Raises TeacherError, naming the utterance, when the two disagree by
        more than two frames.
        """
        rule = "average" if self.frame_rule == "average" else "stack"
        if rows is not None:
            lengths = lengths[rows]
            if not len(rows):
                width = self.quantizer.bytes_per_frame if self.quantizer else self.info.width
                width *= self.frames_together(rate_hz) if rule == "stack" else 1
                return {layer: torch.zeros(0, 0, width, device=lengths.device) for layer in self.layers}, lengths
        output = self.quantized(self.output(sample, rows, **how))
        if self.cut_student:
            lengths = torch.minimum(lengths, frames_of(sample, rows, rate_hz).to(lengths))
        if self.cut_teacher:
            own = frames_of(sample, rows, output.frame_rate_hz).to(output.lengths)
            output.lengths = torch.minimum(output.lengths, own)
        if how.get("keep_padding"):
            lengths = torch.full_like(lengths, int(lengths.max()))
        targets, target_lengths = {}, lengths
        for layer, features in output.features.items():
            targets[layer], target_lengths = align_frames(
                features, output.lengths, output.frame_rate_hz, rate_hz, rule, lengths, pick_names(sample, rows)
            )
        return targets, torch.minimum(target_lengths, lengths)


def frames_of(sample: Dict, rows: Optional[Tensor], rate_hz: float) -> Tensor:
    """Frames that begin within the audio of these utterances, without silence behind it: int64 [B]."""
    samples = sample["samples"] if rows is None else sample["samples"][rows]
    return torch.div(samples * rate_hz, SAMPLE_RATE).ceil().long()


def pick_names(sample: Dict, rows: Optional[Tensor]) -> Sequence[str]:
    names = sample["utt_id"]
    return names if rows is None else [names[row] for row in rows.tolist()]
