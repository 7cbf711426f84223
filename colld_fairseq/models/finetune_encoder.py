"""The student encoder inside recognisers and translators: masks, freezing, length adaptor, fairseq's interface."""

import contextlib
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from fairseq.models import FairseqEncoder
from torch import Tensor, nn

from colld_fairseq.checkpoints import names_colld
from colld_fairseq.checkpoints.encoder import FORMATS, EncoderCheckpoint, read_encoder
from colld_fairseq.checkpoints.input_options import InputOptions
from colld_fairseq.models.encoder_options import EncoderOptions, build_encoder, record_encoder, warn_of_shape
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.length_adaptor import LengthAdaptor
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.modules.masking import sample_channel_mask, sample_span_mask
from colld_fairseq.modules.streaming import StreamingEncoder
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, PROBABILITY, SHARE, option


@dataclass
class FinetuneOptions(EncoderOptions):
    student: str = option(
        "",
        "what to start from, its shape included: a checkpoint of `colld_student`, or a published encoder as"
        " hf:DIRECTORY, fairseq:FILE.pt or fairseq2:FILE.pt (HuBERT, wav2vec 2.0, ...); empty = from scratch",
    )
    freeze_encoder_updates: int = option(0, "the encoder gets no gradient for this many updates", COUNT_OR_NONE)
    mask_prob: float = option(
        0.0, "share of encoder frames covered by masked spans in training (wav2vec 2.0: 0.05-0.75)", SHARE
    )
    mask_length: int = option(10, "frames of a masked span, at the encoder's rate", COUNT)
    mask_channel_prob: float = option(0.0, "share of encoder input channels covered by zeroed spans in training", SHARE)
    mask_channel_length: int = option(64, "channels of a zeroed span", COUNT)
    output_dropout: float = option(0.0, "dropout before the CTC layer and the length adaptor", PROBABILITY)


class Encoded(NamedTuple):
    """x [B, T, D] at the student's rate, lengths [B], padding_mask bool [B, T] (True on padding)."""

    x: Tensor
    lengths: Tensor
    padding_mask: Tensor


class FinetuneEncoder(FairseqEncoder):
    """A StudentEncoder with what fine-tuning adds: masks in training, an output dropout and an initial freeze."""

    def __init__(self, cfg: FinetuneOptions, student: StudentEncoder) -> None:
        super().__init__(dictionary=None)
        self.student = student
        if cfg.mask_prob == 0:  # else distributed training would wait for its gradient
            student.mask_emb.requires_grad_(False)
        self.time_mask = (cfg.mask_prob, cfg.mask_length)
        self.channel_mask = (cfg.mask_channel_prob, cfg.mask_channel_length)
        self.freeze_updates = cfg.freeze_encoder_updates
        self.dropout = nn.Dropout(cfg.output_dropout)
        self.num_updates = 0

    @property
    def config(self):
        return self.student.config

    def set_num_updates(self, num_updates: int) -> None:
        self.num_updates = num_updates

    def encode(self, src_tokens: Tensor, src_lengths: Tensor, student: Optional[StudentEncoder] = None) -> Encoded:
        """Encoder output for src_tokens ([B, T, 80] or [B, N]) and src_lengths [B]; student: in place of its own."""
        student = student or self.student
        if student.right and not self.training:
            steps = StreamingEncoder(student, *student.chunk, student.right)
            x, lengths = steps.encode(src_tokens, src_lengths)
            lengths = lengths.to(src_lengths.device)
            return Encoded(x, lengths, lengths_to_padding_mask(lengths, x.size(1)))
        frozen = self.training and self.num_updates < self.freeze_updates
        with torch.no_grad() if frozen else contextlib.nullcontext():
            output = student(
                src_tokens, src_lengths, mask=self.frame_mask(), channel_mask=self.sample_channels(src_tokens)
            )
        return Encoded(self.dropout(output.x), output.lengths, output.padding_mask)

    def frame_mask(self):
        prob, length = self.time_mask
        if not self.training or prob == 0:
            return None
        return lambda lengths: sample_span_mask(lengths, prob, length, min_masks=0)

    def sample_channels(self, src_tokens: Tensor) -> Optional[Tensor]:
        prob, length = self.channel_mask
        if not self.training or prob == 0:
            return None
        return sample_channel_mask(src_tokens.size(0), self.student.width, prob, length, device=src_tokens.device)


class CtcModel:
    """What CTC decoding needs of a model whose `ctc` is a Linear on the output of its `encoder`."""

    def get_ctc_log_probs(self, src_tokens: Tensor, src_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Log-probabilities float32 [B, T, V] and lengths [B]."""
        encoded = self.encoder.encode(src_tokens, src_lengths)
        return torch.log_softmax(self.ctc(encoded.x).float(), dim=-1), encoded.lengths


class AttendedEncoder(FinetuneEncoder):
    """FinetuneEncoder with a length adaptor, as a fairseq encoder that an attention decoder can attend to.

    Without an adaptor (None) the decoder attends to the student's output as it is.
    """

    def __init__(self, cfg, student: StudentEncoder, adaptor: Optional[LengthAdaptor]) -> None:
        super().__init__(cfg, student)
        self.adaptor = adaptor

    def forward(
        self, src_tokens: Tensor, src_lengths: Tensor, prefix_tokens: Optional[Tensor] = None, **unused: Any
    ) -> Dict[str, List[Tensor]]:
        """fairseq's encoder output; `ctc_input` [B, T, D] and `ctc_lengths` [B] are before the length adaptor.

        prefix_tokens int64 [B, P]: what a pretrained decoder is given first; handed on to it.
        """
        encoded = self.encode(src_tokens, src_lengths)
        x, lengths = encoded.x, encoded.lengths
        if self.adaptor is not None:
            x, lengths = self.adaptor(x, lengths)
        return {
            "encoder_out": [x.transpose(0, 1)],
            "encoder_padding_mask": [lengths_to_padding_mask(lengths, x.size(1))],
            "encoder_embedding": [],
            "encoder_states": [],
            "src_tokens": [],
            "src_lengths": [],
            "ctc_input": [encoded.x],
            "ctc_lengths": [encoded.lengths],
            "prefix_tokens": [] if prefix_tokens is None else [prefix_tokens],
        }

    def forward_torchscript(self, net_input: Dict[str, Tensor]) -> Dict[str, List[Tensor]]:
        return self.forward(net_input["src_tokens"], net_input["src_lengths"], net_input.get("prefix_tokens"))

    def reorder_encoder_out(self, encoder_out: Dict[str, List[Tensor]], new_order: Tensor) -> Dict[str, List[Tensor]]:
        """Rows of the batch in a new order (beam search)."""
        reordered = {name: [] for name in encoder_out}
        reordered["encoder_out"] = [x.index_select(1, new_order) for x in encoder_out["encoder_out"]]
        for name in ("encoder_padding_mask", "ctc_input", "ctc_lengths", "prefix_tokens"):
            reordered[name] = [x.index_select(0, new_order) for x in encoder_out[name]]
        return reordered


def build_student(cfg: FinetuneOptions, task) -> StudentEncoder:
    """The encoder to fine-tune: that of `cfg.student` with its weights, or a new one of the chosen shape.

    A checkpoint of the fine-tuned model carries `encoder_config`, which a training that goes on from it has, too: then
    the student's file is not needed any more, and the weights come from the checkpoint itself.
    """
    if not cfg.student or cfg.encoder_config:
        student = build_encoder(cfg)
    else:
        checkpoint = read_start(cfg.student, task.input_options)
        warn_of_shape(cfg, checkpoint.config)
        record_encoder(cfg, checkpoint.config)
        student = build_encoder(cfg)
        student.load_state_dict(checkpoint.weights)
    if student.config.front_end == "waveform" and student.config.feature_grad_mult == 0:
        student.front_end.layers.requires_grad_(False)  # so that weight decay leaves them alone too
    return student


def read_start(student: str, options: InputOptions) -> EncoderCheckpoint:
    """What --student names: a spec, or a checkpoint of ours, whose input `options` may not contradict."""
    if is_published(student):
        return read_encoder(student)
    return names_colld.read(student.removeprefix("colld:"), options=options)


def is_published(student: str) -> bool:
    """Whether --student names an encoder in another format than ours."""
    scheme = student.partition(":")[0]
    return scheme in FORMATS and scheme != "colld"
