"""Model `student_s2t`: student encoder, length adaptor, Transformer decoder, and CTC on the encoder's output."""

from argparse import Namespace
from dataclasses import dataclass

from fairseq.models import FairseqEncoderDecoderModel, register_model
from fairseq.models.transformer import TransformerDecoder
from torch import Tensor, nn

from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_options import register_presets
from colld_fairseq.models.finetune_encoder import AttendedEncoder, CtcModel, FinetuneOptions, build_student
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, PROBABILITY, Number, option


@dataclass
class StudentS2TConfig(FinetuneOptions):
    adaptor_layers: int = option(1, "stride-2 convolutions between encoder and decoder", COUNT_OR_NONE)
    decoder_layers: int = option(3, "Transformer decoder layers", COUNT)
    decoder_embed_dim: int = option(192, "decoder width", COUNT)
    decoder_ffn_embed_dim: int = option(768, "decoder feed-forward width", COUNT)
    decoder_attention_heads: int = option(4, "decoder attention heads", COUNT)
    decoder_dropout: float = option(0.1, "dropout in the decoder, attention weights included", PROBABILITY)
    max_target_positions: int = option(1024, "longest target (tokens, end included)", Number(whole=True, low=3))


@register_model("student_s2t", dataclass=StudentS2TConfig)
class StudentS2T(CtcModel, FairseqEncoderDecoderModel):
    """The CTC layer is before the length adaptor; token 0 (`<s>`) of the dictionary is its blank."""

    def __init__(self, encoder: AttendedEncoder, decoder: TransformerDecoder, vocabulary_size: int) -> None:
        super().__init__(encoder, decoder)
        self.ctc = nn.Linear(encoder.student.width, vocabulary_size)

    @classmethod
    def build_model(cls, cfg: StudentS2TConfig, task) -> "StudentS2T":
        dictionary, width = task.target_dictionary, cfg.decoder_embed_dim
        if width % cfg.decoder_attention_heads or width % 2 or width < 4:
            raise ConfigError(
                f"--decoder-embed-dim {width}: must be even, at least 4 and a multiple of --decoder-attention-heads"
                f" {cfg.decoder_attention_heads}"
            )
        encoder = AttendedEncoder(cfg, build_student(cfg, task), cfg.adaptor_layers, cfg.decoder_embed_dim)
        embed = nn.Embedding(len(dictionary), cfg.decoder_embed_dim, dictionary.pad())
        nn.init.normal_(embed.weight, std=cfg.decoder_embed_dim**-0.5)
        nn.init.zeros_(embed.weight[dictionary.pad()])
        decoder = TransformerDecoder(decoder_arguments(cfg), dictionary, embed)
        return cls(encoder, decoder, len(dictionary))

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, prev_output_tokens: Tensor, **unused):
        """{"logits": [B, U, V], "ctc_logits": [B, T, V], "ctc_lengths": [B]}"""
        encoder_out = self.encoder(src_tokens, src_lengths)
        logits, _ = self.decoder(prev_output_tokens, encoder_out=encoder_out)
        return {
            "logits": logits,
            "ctc_logits": self.ctc(encoder_out["ctc_input"][0]),
            "ctc_lengths": encoder_out["ctc_lengths"][0],
        }

    def max_positions(self):
        return None


def decoder_arguments(cfg: StudentS2TConfig) -> Namespace:
    """What fairseq's TransformerDecoder reads. A flat namespace, because the nested defaults of fairseq's own
    TransformerConfig are class objects shared by every instance."""
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
        dropout=cfg.decoder_dropout,
        attention_dropout=cfg.decoder_dropout,
        activation_dropout=cfg.decoder_dropout,
        max_target_positions=cfg.max_target_positions,
        share_decoder_input_output_embed=True,
    )


register_presets("student_s2t", "base", "small", "tiny")
