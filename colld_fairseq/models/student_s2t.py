"""Model `student_s2t`: student encoder, length adaptor, Transformer decoder, and CTC on the encoder's output.

The decoder is a new one, or with --decoder-from that of a Whisper, M2M-100, NLLB or mBART-50, which brings its
tokenizer along as the vocabulary. A Whisper decoder attends to an encoder of its own width directly: nothing has to be
trained.
"""

from argparse import Namespace
from dataclasses import dataclass
from typing import Optional, Union

from fairseq.data import Dictionary
from fairseq.models import FairseqEncoderDecoderModel, register_model
from fairseq.models.transformer import TransformerDecoder
from torch import Tensor, nn

from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary, directory_of
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_options import register_presets
from colld_fairseq.models.finetune_encoder import AttendedEncoder, CtcModel, FinetuneOptions, build_student
from colld_fairseq.models.pretrained_decoder import PARTS, PretrainedDecoder, load_pretrained, parse_parts
from colld_fairseq.modules.length_adaptor import LengthAdaptor
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, PROBABILITY, Number, option


@dataclass
class StudentS2TConfig(FinetuneOptions):
    adaptor_layers: Optional[int] = option(
        None,
        "stride-2 convolutions between encoder and decoder; default: 1, 0 before a Whisper decoder, 3 before other"
        " pretrained ones (Li et al. 2021)",
        COUNT_OR_NONE,
    )
    decoder_from: str = option(
        "", "pretrained decoder in place of a new one, and its tokenizer: hf:DIR (Whisper, M2M-100, NLLB, mBART-50)"
    )
    decoder_tokens_from: str = option(
        "",
        "manifests A.tsv,B.tsv: of the pretrained decoder's tokens keep only those in their targets, their languages"
        " and all single characters",
    )
    freeze_decoder_updates: int = option(
        0, "of a pretrained decoder only the attention to the encoder is trained for this many updates", COUNT_OR_NONE
    )
    train_decoder_parts: str = option(
        "all", f"parts of a pretrained decoder that are trained at all, with commas between: {', '.join(PARTS)}"
    )
    ctc_layer: bool = option(False, "a CTC layer on the encoder beside a pretrained decoder, too")
    decoder_layers: int = option(3, "Transformer decoder layers", COUNT)
    decoder_embed_dim: int = option(192, "decoder width", COUNT)
    decoder_ffn_embed_dim: int = option(768, "decoder feed-forward width", COUNT)
    decoder_attention_heads: int = option(4, "decoder attention heads", COUNT)
    decoder_dropout: Optional[float] = option(
        None,
        "dropout in the decoder, attention weights included; default: 0.1, or a pretrained decoder's own",
        PROBABILITY,
    )
    max_target_positions: int = option(1024, "longest target (tokens, end included)", Number(whole=True, low=3))


@register_model("student_s2t", dataclass=StudentS2TConfig)
class StudentS2T(CtcModel, FairseqEncoderDecoderModel):
    """The CTC layer is before the length adaptor; token 0 (`<s>`) of the dictionary is its blank."""

    def __init__(
        self,
        encoder: AttendedEncoder,
        decoder: Union[TransformerDecoder, PretrainedDecoder],
        vocabulary_size: Optional[int],
    ) -> None:
        """vocabulary_size: of the CTC layer; None = no such layer."""
        super().__init__(encoder, decoder)
        self.ctc = nn.Linear(encoder.student.width, vocabulary_size) if vocabulary_size else None

    @classmethod
    def build_model(cls, cfg: StudentS2TConfig, task) -> "StudentS2T":
        # Asked first: starting from --student records its encoder.
        from_checkpoint = bool(cfg.encoder_config) or getattr(task, "restored", False)
        student = build_student(cfg, task)
        pretrained = isinstance(task.vocabulary, PretrainedVocabulary)
        decoder = (
            pretrained_decoder(cfg, task, from_checkpoint) if pretrained else new_decoder(cfg, task.target_dictionary)
        )
        encoder = AttendedEncoder(cfg, student, adaptor(cfg, student.width, decoder))
        with_ctc = cfg.ctc_layer or not pretrained
        return cls(encoder, decoder, len(task.target_dictionary) if with_ctc else None)

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        prefix_tokens: Optional[Tensor] = None,
        **unused,
    ):
        """{"logits": [B, U, V], "ctc_logits": [B, T, V], "ctc_lengths": [B]}, the latter two with a CTC layer."""
        encoder_out = self.encoder(src_tokens, src_lengths, prefix_tokens)
        output = {"logits": self.decoder(prev_output_tokens, encoder_out=encoder_out)[0]}
        if self.ctc is not None:
            output["ctc_logits"] = self.ctc(encoder_out["ctc_input"][0])
            output["ctc_lengths"] = encoder_out["ctc_lengths"][0]
        return output

    def max_positions(self):
        return None


def adaptor(cfg: StudentS2TConfig, width: int, decoder: nn.Module) -> Optional[LengthAdaptor]:
    """What stands between an encoder of `width` and the decoder; None where it is of no use."""
    if not isinstance(decoder, PretrainedDecoder):
        return LengthAdaptor(width, cfg.decoder_embed_dim, 1 if cfg.adaptor_layers is None else cfg.adaptor_layers)
    default = 0 if decoder.family == "whisper" else 3
    layers = default if cfg.adaptor_layers is None else cfg.adaptor_layers
    return LengthAdaptor(width, decoder.width, layers) if layers or width != decoder.width else None


def pretrained_decoder(cfg: StudentS2TConfig, task, from_checkpoint: bool) -> PretrainedDecoder:
    """The decoder of --decoder-from; its weights are not read where they come from a checkpoint."""
    decoder = PretrainedDecoder(
        task.vocabulary, cfg.decoder_dropout, parse_parts(cfg.train_decoder_parts), cfg.freeze_decoder_updates
    )
    if not from_checkpoint:
        load_pretrained(decoder, task.vocabulary, directory_of(cfg.decoder_from))
    return decoder


def new_decoder(cfg: StudentS2TConfig, dictionary: Dictionary) -> TransformerDecoder:
    width = cfg.decoder_embed_dim
    if width % cfg.decoder_attention_heads or width % 2 or width < 4:
        raise ConfigError(
            f"--decoder-embed-dim {width}: must be even, at least 4 and a multiple of --decoder-attention-heads"
            f" {cfg.decoder_attention_heads}"
        )
    embed = nn.Embedding(len(dictionary), width, dictionary.pad())
    nn.init.normal_(embed.weight, std=width**-0.5)
    nn.init.zeros_(embed.weight[dictionary.pad()])
    return TransformerDecoder(decoder_arguments(cfg), dictionary, embed)


def decoder_arguments(cfg: StudentS2TConfig) -> Namespace:
    """What fairseq's TransformerDecoder reads. A flat namespace, because the nested defaults of fairseq's own
    TransformerConfig are class objects shared by every instance."""
    dropout = 0.1 if cfg.decoder_dropout is None else cfg.decoder_dropout
    return Namespace(
        encoder_embed_dim=cfg.decoder_embed_dim,
        decoder_layers=cfg.decoder_layers,
        decoder_embed_dim=cfg.decoder_embed_dim,
        decoder_input_dim=cfg.decoder_embed_dim,
        decoder_output_dim=cfg.decoder_embed_dim,
        decoder_ffn_embed_dim=cfg.decoder_ffn_embed_dim,
        decoder_attention_heads=cfg.decoder_attention_heads,
        decoder_normalize_before=True,
        decoder_learned_pos=False,
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        max_target_positions=cfg.max_target_positions,
        share_decoder_input_output_embed=True,
    )


register_presets("student_s2t", "base", "small", "tiny")
