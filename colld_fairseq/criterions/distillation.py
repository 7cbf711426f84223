"""What the distillation criterions share: one student and its teachers, brought together on common frames.

    loss = sum_k lambda_k l_k        over the teachers; lambda_k: their shares, l_k: `compute_loss` of the criterion

One teacher is the case of length 1. How several make one loss: --teacher-combination (`multi_teacher`).
"""

from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from colld_fairseq.criterions.logs import log_means, log_speed, sum_logs
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.regression import regression_loss
from colld_fairseq.losses.targets import NORMALIZATIONS, average_layers, normalize_alike, normalize_targets
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.named_values import choice_of_each
from colld_fairseq.numbers import NOT_NEGATIVE, option


@dataclass
class DistillationConfig(FairseqDataclass):
    layer_weights: str = option("", "weights of the layer pairs, comma-separated (default: 1/K each)")
    target_norm: str = option(
        "none",
        "teacher features: none (as they are), instance (per channel over the utterance) or layer (affine-free"
        " LayerNorm); one value for all teachers, or NAME=VALUE,NAME=VALUE",
    )
    decoder_weight: float = option(
        0.0,
        "weight of what --teacher-decoder loses by reading the student's output, per token",
        NOT_NEGATIVE,
    )
    decoder_term: ChoiceEnum(["cross_entropy", "kl"]) = option(
        "cross_entropy",
        "of --decoder-weight: cross-entropy of the manifests' tgt_text, or its distributions' divergence from those it"
        " has with the teacher's output",
    )


class Targets(NamedTuple):
    """The targets of one teacher: targets [B, T, D] for some of its heads, on `lengths` [B] frames.

    weight: of its loss; heads: their indices; features: its layers as they are, {layer: [B, T, D]}; rows: int64, which
    utterances of the batch these B are, None for all.
    """

    name: str
    weight: float
    heads: List[int]
    targets: List[Tensor]
    lengths: Tensor
    features: Dict[int, Tensor]
    rows: Optional[Tensor] = None


class Frames(NamedTuple):
    """A teacher and the student on the frames that both have, T of them in the longest utterance.

    predictions, targets: K tensors [B, T, D]; weights: of the K layer pairs; valid, masked: bool [B, T], the frames
    that count and those of them whose input was masked; features: teacher layer -> [B, T, D]; layers: of the student,
    K [B, T, D], not in training; output: the student's, of the whole batch.
    """

    predictions: List[Tensor]
    targets: List[Tensor]
    weights: List[float]
    valid: Tensor
    masked: Tensor
    features: Dict[int, Tensor]
    layers: List[Tensor]
    output: Any


class Loss(NamedTuple):
    """What a criterion computes for a teacher: the loss summed over frames, their number [0-dim], terms for the log."""

    loss_sum: Tensor
    frames: Tensor
    terms: Dict[str, Tensor]


class DistillationCriterion(FairseqCriterion):
    logged_terms = ("restored",)  # what `compute_loss` logs as sums over frames; subclasses add theirs
    of_codebooks = False  # whether targets are indexes into --teacher-codebooks
    several_teachers = False  # whether more than one is meant to be used
    without_heads = False  # whether the student's features are to equal the teacher's as they are
    target_shift = 0  # student frames by which predictions come after their targets

    def __init__(self, cfg: DistillationConfig, task) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.given_weights = [
            NOT_NEGATIVE.read(part, "--layer-weights") for part in cfg.layer_weights.split(",") if part
        ]
        self.target_norms = choice_of_each(cfg.target_norm, list(task.teachers), "--target-norm", NORMALIZATIONS)

    @classmethod
    def build_criterion(cls, cfg, task):
        if len(task.teachers) > 1 and not cls.several_teachers:
            raise ConfigError(f"this criterion is for one teacher, not {len(task.teachers)}: --criterion multi_teacher")
        with_codebooks = [name for name, source in task.teachers.items() if source.codebooks]
        if with_codebooks and not cls.of_codebooks:
            raise ConfigError("--teacher-codebooks: this criterion learns features; take --criterion multi_codebook")
        if cls.of_codebooks and with_codebooks != list(task.teachers):
            missing = next(name for name in task.teachers if name not in with_codebooks)
            raise ConfigError(f"--teacher-codebooks has none of teacher {missing!r}: make some with `colld codebooks`")
        criterion = cls(cfg, task)
        criterion.without_heads = task.student.head == "none"
        criterion.check_decoder(task)
        criterion.check_heads(task.student)
        return criterion

    def check_heads(self, student) -> None:
        """Raises ConfigError unless the loss reaches all heads of a student with these options."""
        if student.code_head != "none" or student.front_end_updates:
            raise ConfigError(
                "no loss of this criterion reaches the student's --code-head or --front-end-updates: leave them out, or"
                " take --criterion hubert_distillation"
            )

    def compute_loss(self, frames: Frames) -> Tuple[Tensor, Tensor, Dict[str, Tensor]]:
        """Loss summed over frames, number of frames [0-dim], the terms for the log."""
        raise NotImplementedError

    def loss_scales(self, losses: Dict[str, Loss]) -> Dict[str, float]:
        """What the teachers' losses are divided by; names without a value: 1."""
        return {}

    def log_teacher(self, name: str, frames: Frames, own: Loss, part: Tensor) -> Dict[str, Tensor]:
        """What else the log gets of one teacher; part: of the loss, its weight included."""
        return {}

    def after_update(self, logging_outputs: List[Dict[str, Any]]) -> None:
        """Called by the task after every update, with the logging outputs of its batches, of all workers."""

    def forward(self, model, sample: Dict, reduce: bool = True):
        """Returns (loss summed over frames, number of frames, logging output)."""
        self.check_distributed(model)
        output = model(**sample["net_input"])
        teachers, restored = self.targets(model, sample, output)
        met = {teacher.name: self.meet(teacher, output) for teacher in teachers}
        losses = {name: Loss(*self.compute_loss(frames)) for name, frames in met.items()}
        scales = self.loss_scales(losses)
        loss, log = (restored if self.training else 0.0), {}
        for teacher in teachers:
            own = losses[teacher.name]
            part = teacher.weight * own.loss_sum / scales.get(teacher.name, 1.0)
            loss = loss + part
            for name, value in own.terms.items():
                log[name] = log.get(name, 0.0) + teacher.weight * value
            log.update(self.log_teacher(teacher.name, met[teacher.name], own, part))
        valid, masked = (sum(getattr(frames, name).sum() for frames in met.values()) for name in ("valid", "masked"))
        if model.heads.adapters:
            log["restored"] = restored
        # The same utterances for every teacher, or each utterance for one of them.
        sizes = [own.frames for own in losses.values()]
        size = sizes[0] if teachers[0].rows is None else sum(sizes)
        if self.cfg.decoder_weight:
            term, tokens = self.decoder_term(model, sample, output, teachers[0])
            loss = loss + self.cfg.decoder_weight * size * term / max(tokens, 1)
            log.update(decoder=term, decoder_tokens=tokens)
        return loss, size, self.log(sample, loss, size, log, valid, masked)

    def decoder_term(self, model, sample: Dict, output, teacher: Targets) -> Tuple[Tensor, int]:
        """What the frozen decoder loses, summed over tokens, and their number."""
        decoder = self.task.frozen_decoder
        frames = output.predictions[output_head(model)]
        if str(self.cfg.decoder_term) == "cross_entropy":
            return decoder.cross_entropy(frames, output.lengths, sample)
        targets = teacher.features[model.pairs[output_head(model)].teacher_layers[0]]
        common = min(frames.size(1), targets.size(1))
        return decoder.divergence(frames[:, :common], targets[:, :common], teacher.lengths, sample)

    def norm_of(self, name: str) -> str:
        """How targets of a teacher, or of an average of them, are normalized."""
        return self.target_norms.get(name) or next(iter(self.target_norms.values()))

    def check_decoder(self, task) -> None:
        """Raises ConfigError unless --decoder-weight and --teacher-decoder are given together, with what they need."""
        if bool(self.cfg.decoder_weight) != bool(getattr(task.cfg, "teacher_decoder", "")):
            raise ConfigError("--decoder-weight of the criterion and --teacher-decoder of the task need each other")
        if self.cfg.decoder_weight and (task.student.head != "none" or "out:out" not in task.student.layer_map):
            raise ConfigError(
                "--teacher-decoder reads the student's output: give --head none, and out:out in --layer-map"
            )
        if str(self.cfg.decoder_term) == "kl" and len(task.teachers) > 1:
            raise ConfigError("--decoder-term kl compares with the one teacher whose decoder it is; take cross_entropy")

    def check_distributed(self, model) -> None:
        """Raises ConfigError before torch's DistributedDataParallel waits for gradients that never come."""
        if model.heads.adapters and getattr(model, "find_unused_parameters", False):
            raise ConfigError("--frame-rule concat_tanh: leave out --find-unused-parameters; every parameter is used")

    def teacher_features(self, model, sample: Dict, output, drawn: Dict[str, Tensor], **how: bool):
        """{name: (features {layer: [B, T, D]}, lengths [B])} on the student's frames; see TeacherSource.targets."""
        return {
            name: source.targets(sample, output.lengths, model.prediction_rate_hz, drawn.get(name), **how)
            for name, source in self.task.teachers.items()
        }

    def targets(self, model, sample: Dict, output) -> Tuple[List[Targets], Tensor]:
        """The targets of each teacher, and the distance [0-dim, summed] between restored and teacher frames."""
        weights, drawn = self.task.teachers.weights, {}
        if self.task.combination == "random" and self.training:
            drawn = draw_rows(weights, len(output.lengths), output.lengths.device)
        aligned = self.teacher_features(model, sample, output, drawn)
        if not drawn:
            shared = torch.stack([lengths for _, lengths in aligned.values()]).amin(0)
            aligned = {name: (features, shared) for name, (features, _) in aligned.items()}
        teachers, restored = [], 0.0
        for name, (features, lengths) in aligned.items():
            heads = [index for index, pair in enumerate(model.pairs) if pair.teacher == name]
            # Without heads, targets and predictions are normalized alike, later.
            norm = "none" if self.without_heads else self.norm_of(name)
            targets, distance = self.make_targets(model, heads, features, lengths, norm)
            # What is drawn with its weight as probability is not weighed again.
            weight = 1.0 if drawn else weights[name]
            teachers.append(Targets(name, weight, heads, targets, lengths, features, drawn.get(name)))
            restored = restored + distance
        return ([average(teachers)] if self.task.combination == "average" else teachers), restored

    def make_targets(self, model, heads: List[int], features: Dict[int, Tensor], lengths: Tensor, norm: str):
        """Targets [B, T, D] of the pairs `heads`, and how far their adapters, if any, are from restoring the frames."""
        padding = lengths_to_padding_mask(lengths)
        features = {layer: value[:, : padding.size(1)] for layer, value in features.items()}
        targets, distance = [], 0.0
        for index in heads:
            target = self.target(features, model.pairs[index].teacher_layers, padding, norm)
            if str(index) in model.heads.adapters:
                stacked = target
                target, restored = model.heads.adapters[str(index)](stacked)
                distance = distance + regression_loss(restored, stacked, ~padding, log_sigmoid_cosine=0.0).loss_sum
            targets.append(target)
        return targets, distance

    def target(self, features: Dict[int, Tensor], layers, padding: Tensor, norm: str) -> Tensor:
        if len(layers) == 1:
            return normalize_targets(features[layers[0]], padding, norm)
        return average_layers([features[layer] for layer in layers], padding, norm)

    def meet(self, teacher: Targets, output) -> Frames:
        """The frames on which predictions and targets meet, the predictions `target_shift` later.

        A teacher that no utterance drew has a batch of none: its heads get a gradient, of 0, as distributed training
        wants.
        """
        shift = self.target_shift
        valid = ~lengths_to_padding_mask((teacher.lengths - shift).clamp_min(0))
        frames = valid.size(1)

        def later(value: Tensor) -> Tensor:
            return (value if teacher.rows is None else value[teacher.rows])[:, shift : shift + frames]

        predictions = [later(output.predictions[head]) for head in teacher.heads]
        targets = [target[:, :frames] for target in teacher.targets]
        if self.without_heads:
            how = self.norm_of(teacher.name)
            alike = [normalize_alike(*pair, ~valid, how) for pair in zip(predictions, targets)]
            predictions, targets = map(list, zip(*alike))
        return Frames(
            predictions=predictions,
            targets=targets,
            weights=self.head_weights(teacher.heads, len(output.predictions)),
            valid=valid,
            masked=valid if output.mask is None else later(output.mask) & valid,
            features=teacher.features,
            layers=[] if output.layers is None else [later(output.layers[head]) for head in teacher.heads],
            output=output,
        )

    def head_weights(self, heads: List[int], count: int) -> List[float]:
        """Weights of these of `count` heads."""
        if not self.given_weights:
            return [1.0 / len(heads)] * len(heads)
        if len(self.given_weights) != count:
            raise ConfigError(f"--layer-weights gives {len(self.given_weights)} weights for {count} layer pairs")
        return [self.given_weights[head] for head in heads]

    @staticmethod
    def log(sample: Dict, loss: Tensor, size: Tensor, terms: Dict, valid: Tensor, masked: Tensor) -> Dict[str, Any]:
        """Sums over a batch, for `reduce_metrics`: the loss, its terms, and how many frames there were."""
        terms = {name: value.detach() if torch.is_tensor(value) else value for name, value in terms.items()}
        return dict(
            terms,
            loss=loss.detach(),
            sample_size=size,
            ntokens=sample["ntokens"],
            nsentences=sample["nsentences"],
            audio_seconds=sample["audio_seconds"],
            masked_frames=masked,
            valid_frames=valid,
        )

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        totals = sum_logs(logging_outputs)
        log_means(totals, "sample_size", "loss", *cls.logged_terms)
        if totals.get("decoder_tokens"):
            log_means(totals, "decoder_tokens", "decoder")
        frames = max(totals["sample_size"], 1)
        metrics.log_scalar("masked", totals["masked_frames"] / max(totals["valid_frames"], 1), frames, round=3)
        log_speed(totals)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


def output_head(model) -> int:
    """Index of the layer pair whose student layer is the encoder's output."""
    return next(index for index, pair in enumerate(model.pairs) if pair.student_layer == model.encoder.output_layer)


def average(teachers: List[Targets]) -> Targets:
    """One set of targets for all: the weighted means, float32, of the teachers' first, second, ... targets."""
    weights = [teacher.weight for teacher in teachers]
    means = [
        sum(weight * target.to(torch.promote_types(target.dtype, torch.float32)) for weight, target in zip(weights, at))
        for at in zip(*(teacher.targets for teacher in teachers))
    ]
    return teachers[0]._replace(name="average", weight=1.0, targets=means)


def draw_rows(weights: Dict[str, float], count: int, device) -> Dict[str, Tensor]:
    """Draws one of the names for each of `count` utterances, with `weights` as probabilities; name -> its rows, int64.

    From torch's random state, which fairseq sets anew at every update, so that a resumed run draws the same. That
    state is the same for all workers, but they shall not all draw the same.
    """
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())) + rank)
    drawn = torch.multinomial(torch.tensor(list(weights.values())), count, replacement=True, generator=generator)
    return {name: (drawn == index).nonzero().squeeze(1).to(device) for index, name in enumerate(weights)}
