"""Model `colld_student`: a student encoder and the heads that predict teacher features from its layers."""

import logging
from dataclasses import dataclass
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from colld_fairseq.checkpoints.encoder import read_encoder, start_from
from colld_fairseq.checkpoints.input_options import InputOptions
from colld_fairseq.errors import ConfigError
from colld_fairseq.models import layer_map
from colld_fairseq.models.encoder_options import EncoderOptions, build_encoder, choose_silence, register_presets
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.heads import ConcatTanh, DistillationHeads
from colld_fairseq.modules.masking import sample_span_mask
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, SHARE, option
from colld_fairseq.teachers.source import TeacherSource

logger = logging.getLogger(__name__)

# Validation draws its masks with this seed, so that losses of different checkpoints are comparable.
VALID_MASK_SEED = 1

NO_HYPOTHESES = (
    "gives no hypotheses: fine-tune it with text first (student_ctc, student_s2t or transducer_student), or put a"
    " student of Whisper before its teacher's decoder (`colld assemble`)"
)

FROM_HELP = (
    "start from the weights of hf:DIRECTORY, fairseq:FILE.pt, fairseq2:FILE.pt or colld:FILE.pt: a student of"
    " Transformer blocks from HuBERT, wav2vec 2.0, omniASR, WavLM or Whisper, one of w2v-BERT-shaped Conformer blocks"
    " from w2v-BERT 2.0; empty = at random"
)
LAYERS_HELP = (
    "teacher blocks (1 = first) that the student's start from, one each: 1,2 (DistilHuBERT); empty = every k-th,"
    " ending with the last; none = no block, only what fits of front-end and positions (students of another"
    " width)"
)


@dataclass
class ColldStudentConfig(EncoderOptions):
    init_from: str = option("", FROM_HELP)
    init_layers: str = option("", LAYERS_HELP)
    frozen_blocks: Optional[int] = option(
        None,
        "front-end and so many first blocks keep the weights of --init-from (default: all are trained)",
        COUNT_OR_NONE,
    )
    layer_map: str = option("sparse:3", layer_map.HELP)
    head: ChoiceEnum(["linear", "mlp", "shared", "none"]) = option(
        "linear",
        "prediction heads: a Linear each, Linear-activation-Linear each (USAD), shared trunk (DistilHuBERT), or none:"
        " features equal the teacher's themselves, so that its decoder can read them",
    )
    head_activation: ChoiceEnum(["relu", "gelu"]) = option("gelu", "of mlp and shared heads")
    head_hidden: int = option(0, "hidden width of mlp and shared heads; 0 = student width", COUNT_OR_NONE)
    no_head_bias: bool = option(False, "last Linear of each head without bias (LightHuBERT)")
    upsample_heads: bool = option(False, "undo the encoder's time reduction inside the heads (FitHuBERT)")
    code_head: ChoiceEnum(["none", "linear", "cosine"]) = option(
        "none",
        "head of hubert_distillation's discriminative loss, on the last distilled layer: a Linear to the teacher's"
        " code classes, or to the space of its code embeddings, to be compared by cosine",
    )
    front_end_updates: int = option(
        0,
        "of hubert_distillation in which the front-end alone learns the teacher's layer 0, through a Linear; on"
        " several GPUs give --find-unused-parameters or --ddp-backend legacy_ddp for the whole run",
        COUNT_OR_NONE,
    )
    mask_prob: float = option(
        0.65, "share of frames that masked spans would cover without overlap (w2v-BERT: 0.65); 0 = no mask", SHARE
    )
    mask_length: int = option(10, "frames of a masked span, at the student's rate (w2v-BERT: 10)", COUNT)
    min_masks: int = option(2, "least number of spans in an utterance (w2v-BERT: 2)", COUNT_OR_NONE)


class StudentOutput(NamedTuple):
    """The heads' outputs for a batch.

    predictions: one [B, T, D_teacher] for each head; lengths [B] of them; mask [B, T] (True = predicted
    from masked input) or None when nothing is masked. code_output: [B, T, C] logits of the linear code head,
    [B, T, E] of the cosine one, or None. front_end: [B, T, D_teacher], the teacher's layer 0 as predicted from
    the front-end; in training only with front_end_only, when there is nothing else. layers: what each head is fed,
    [B, T, D_student], at the rate of the predictions; None in training.
    """

    predictions: List[Tensor]
    lengths: Tensor
    mask: Optional[Tensor]
    code_output: Optional[Tensor] = None
    front_end: Optional[Tensor] = None
    layers: Optional[List[Tensor]] = None


@register_model("colld_student", dataclass=ColldStudentConfig)
class ColldStudent(BaseFairseqModel):
    """`encoder.` is the student; `heads.` exists in distillation only: no fine-tuned model takes it over.

    `pairs` are the layer pairs of all teachers, one teacher after another. There is a head for each, or, where the
    teachers' features are averaged, for each of the first teacher's, which stand for all.
    """

    def __init__(self, cfg: ColldStudentConfig, encoder: StudentEncoder, heads: DistillationHeads, pairs) -> None:
        super().__init__()
        self.cfg = cfg
        self.prediction_rate_hz = encoder.frame_rate_hz * heads.upsample_factor
        self.encoder = encoder
        self.heads = heads
        self.pairs = pairs
        self.front_end_updates = cfg.front_end_updates
        self.num_updates = 0

    @classmethod
    def build_model(cls, cfg: ColldStudentConfig, task) -> "ColldStudent":
        if not hasattr(task, "teachers"):
            raise ConfigError(f"a student in distillation {NO_HYPOTHESES}")
        from_checkpoint = bool(cfg.encoder_config)  # a recorded encoder comes with the weights of its checkpoint
        encoder = build_encoder(cfg)
        if cfg.init_from and not from_checkpoint:
            start_student(encoder, cfg.init_from, cfg.init_layers)
            choose_silence(cfg, encoder.config)
        teachers = task.teachers
        depths = {name: source.info.num_layers for name, source in teachers.items()}
        pairs = layer_map.parse_layer_maps(cfg.layer_map, encoder.num_layers, depths)
        learned = [teachers[pair.teacher] for pair in pairs]
        if cfg.head == "none" and any(one.quantizer or one.info.width != encoder.width for one in learned):
            raise ConfigError(f"--head none: a student of width {encoder.width} cannot equal its teacher; take linear")
        if cfg.head == "shared" and len({pair.student_layer for pair in pairs}) > 1:
            raise ConfigError(
                "--head shared predicts every teacher layer from one student layer, but --layer-map"
                f" {cfg.layer_map} names several: write S:T,S:T with one S, or choose another head"
            )
        if cfg.front_end_updates or cfg.code_head != "none":
            check_alone(teachers)
            check_rate(encoder, teachers.first.info.frame_rate_hz)
        if cfg.frozen_blocks is not None:
            freeze_start(encoder, cfg.frozen_blocks, started=from_checkpoint or bool(cfg.init_from))
        freeze_unreached(encoder, pairs, masked=cfg.mask_prob > 0)
        upsample = encoder.config.time_reduction if cfg.upsample_heads else 1
        rate_hz = encoder.frame_rate_hz * upsample
        widths = [one.target_width(rate_hz) for one in learned]
        if task.combination == "average":
            widths = layer_map.averaged_widths(pairs, widths, len(teachers))
        heads = DistillationHeads(
            [encoder.width] * (1 if cfg.head == "shared" else len(widths)),
            widths,
            kind=cfg.head,
            hidden_width=cfg.head_hidden or None,
            activation=cfg.head_activation,
            upsample=upsample,
            bias=not cfg.no_head_bias,
            code_width=code_width(cfg, task),
            front_end_width=teachers.first.info.width if cfg.front_end_updates else 0,
            adapters=frame_adapters(pairs, teachers, rate_hz),
        )
        return cls(cfg, encoder, heads, pairs)

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, front_end_only: bool = False, **unused) -> StudentOutput:
        """Predict teacher features from masked input. src_tokens [B, T, 80] or [B, N], src_lengths [B].

        front_end_only: run nothing but the front-end and its head, on unmasked input.
        """
        if front_end_only:
            x, lengths = self.encoder.embed(src_tokens, src_lengths)
            return StudentOutput([], lengths, None, front_end=self.heads.front_end(x))
        layers = [pair.student_layer for pair in self.pairs[: len(self.heads.heads)]]
        mask = self.mask if self.cfg.mask_prob > 0 else None
        output = self.encoder(src_tokens, src_lengths, mask=mask, layers=layers)
        fed = [output.features[layer] for layer in layers]
        # Shared: one trunk, fed by one layer.
        predictions = self.heads(fed[:1] if self.cfg.head == "shared" else fed)
        factor = self.heads.upsample_factor
        mask = output.mask
        if mask is not None and factor > 1:
            mask = mask.repeat_interleave(factor, dim=1)
        code_output = front_end = None
        if self.heads.code is not None:
            code_output = self.heads.code(output.features[max(layers)])
        # Not in training: what a model returns and no loss uses would keep distributed training waiting.
        if self.heads.front_end is not None and not self.training:
            front_end = self.heads.front_end(output.front_end)
        seen = None if self.training else [layer.repeat_interleave(factor, dim=1) for layer in fed]
        return StudentOutput(predictions, output.lengths * factor, mask, code_output, front_end, layers=seen)

    def mask(self, lengths: Tensor) -> Tensor:
        """Spans to mask, bool [B, T], for frame counts `lengths` [B]."""
        if self.training:
            return self.sample_mask(lengths)
        # In validation each utterance's mask depends on its length alone, not on the other utterances of its batch.
        masks = [self.sample_mask(length, VALID_MASK_SEED)[0] for length in lengths.split(1)]
        return pad_sequence(masks, batch_first=True)

    def sample_mask(self, lengths: Tensor, seed: Optional[int] = None) -> Tensor:
        generator = None if seed is None else torch.Generator(lengths.device).manual_seed(seed)
        return sample_span_mask(lengths, self.cfg.mask_prob, self.cfg.mask_length, self.cfg.min_masks, generator)


def code_width(cfg: ColldStudentConfig, task) -> int:
    """Outputs of the code head; 0 = none. The teacher's codes are loaded only if there is one."""
    if cfg.code_head == "none":
        return 0
    return task.teacher_codes.num_codes if cfg.code_head == "linear" else task.teacher_codes.code_dim


def check_alone(teachers: Mapping[str, TeacherSource]) -> None:
    if len(teachers) > 1:
        raise ConfigError(
            f"--code-head and --front-end-updates are for one teacher, not for {', '.join(teachers)}: leave them out"
        )


def frame_adapters(
    pairs: Sequence[layer_map.LayerPair], teachers: Mapping[str, TeacherSource], rate_hz: float
) -> Dict[int, ConcatTanh]:
    """Index of the layer pair -> what makes targets of its stacked teacher frames, where --frame-rule asks for it."""
    adapters = {}
    for index, pair in enumerate(pairs):
        source = teachers[pair.teacher]
        together = source.frames_together(rate_hz)
        if source.frame_rule == "concat_tanh" and together > 1:
            adapters[index] = ConcatTanh(source.info.width, together)
    return adapters


def check_rate(encoder: StudentEncoder, teacher_hz: float) -> None:
    """Code classes and layer 0 are matched frame by frame: averaging or stacking them would mean something else."""
    if abs(encoder.frame_rate_hz - teacher_hz) > 1e-3:
        raise ConfigError(
            f"--code-head and --front-end-updates need a student at its teacher's {teacher_hz:g} Hz, not at"
            f" {encoder.frame_rate_hz:g} Hz: choose another front-end or --fbank-stack, or leave them out"
        )


def start_student(encoder: StudentEncoder, spec: str, layers: str = "") -> None:
    """Copy weights of the checkpoint `spec` into `encoder` (see FROM_HELP and LAYERS_HELP), in place.

    Of front-end, positions and final norm all that has the same name and shape is copied; the log says what stays
    random. Raises ConfigError when the blocks of the two differ, a block does not exist, or the checkpoint cannot be
    read.
    """
    chosen = parse_layers(layers)
    checkpoint = read_encoder(spec, None if chosen is None else max([0, *chosen]))
    try:
        taken = start_from(encoder, checkpoint, chosen)
    except ConfigError as error:
        raise ConfigError(f"--init-from {spec}: {error} (--init-layers none)") from error
    given = checkpoint.config
    usual = InputOptions().settle(given.input_kind, None, spec)  # which options may change
    if given.front_end == encoder.config.front_end and given.input != usual:
        encoder.config.input = given.input
    # blocks.3.ffn.linear_in.weight is of part blocks.3
    parts = {".".join(name.split(".")[:2]) for name in encoder.state_dict().keys() - set(taken)}
    random = sorted(part.removesuffix(".weight").removesuffix(".bias") for part in parts)
    logger.info("started from %s: %d tensors; at random: %s", spec, len(taken), ", ".join(random) or "nothing")


def parse_layers(text: str) -> Optional[List[int]]:
    """ "" -> None (every k-th), "none" -> [] (no block), "1,2" -> [1, 2]."""
    if text in ("", "none"):
        return [] if text else None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--init-layers {text!r}: write block numbers like 2,4,6, or none") from None


def freeze_start(encoder: StudentEncoder, blocks: int, started: bool) -> None:
    """Take front-end and the first blocks out of training. ConfigError where they are random, or nothing is left."""
    if not started or blocks >= encoder.num_layers:
        reason = "there is no --init-from" if not started else f"the student has {encoder.num_layers} blocks"
        raise ConfigError(f"--frozen-blocks {blocks}: {reason}; leave it out or give fewer")
    encoder.front_end.requires_grad_(False)
    encoder.blocks[:blocks].requires_grad_(False)


def freeze_unreached(encoder: StudentEncoder, pairs: Sequence[layer_map.LayerPair], masked: bool) -> None:
    """Take parameters that no loss reaches out of training.

    So distributed training need not search for them at every step, and weight decay leaves them alone. Blocks
    above the highest distilled layer stay as they were initialized, which is worth a warning.
    """
    top = max(pair.student_layer for pair in pairs)
    for parameter in unreached_parameters(encoder, top, masked):
        parameter.requires_grad_(False)
    if top < encoder.num_layers:
        logger.warning(
            "student blocks %d to %d are above the highest distilled layer %d and are not trained: map the"
            " last layer, or take fewer layers",
            top + 1,
            encoder.num_layers,
            top,
        )


def unreached_parameters(encoder: StudentEncoder, top: int, masked: bool) -> Iterator[nn.Parameter]:
    """Parameters that do not take part in student layer `top` or a lower one."""
    yield from encoder.blocks[top:].parameters()
    if encoder.layer_norm is not None and encoder.config.norm_first and top < encoder.output_layer:
        yield from encoder.layer_norm.parameters()
    if encoder.config.front_end == "waveform" and encoder.config.feature_grad_mult == 0:
        yield from encoder.front_end.layers.parameters()
    if not masked:
        yield encoder.mask_emb


register_presets("colld_student", "conformer_1024", "base", "small", "tiny", "conformer_10m", "conformer_30m")
register_presets("colld_student", "whisper_tiny", "whisper_base", "whisper_small", "whisper_medium", "whisper_large")
register_presets("colld_student", "whisper_large_v3")
register_presets("colld_student", "distilhubert", "fithubert", "half_l2l", "lighthubert_small", "usad_small")
