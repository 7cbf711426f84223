"""Transformer block of wav2vec 2.0 and HuBERT, post-norm or pre-norm."""

from typing import Optional, Sequence, Tuple

from torch import Tensor, nn

from colld_fairseq.modules.attention import SelfAttention
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.feed_forward import FeedForward
from colld_fairseq.modules.positions import Rotary


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward, each with residual; the norm after it (`norm_first=False`) or before it."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width, eps = config.embed_dim, config.layer_norm_eps
        self.norm_first = config.norm_first
        self.attention = SelfAttention(config)
        self.attention_layer_norm = nn.LayerNorm(width, eps=eps)
        self.ffn = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        key_bias: Optional[Tensor] = None,
        rotary: Optional[Rotary] = None,
        utterances: Optional[Sequence[int]] = None,
    ) -> Tuple[Tensor, Tensor]:
        """[B, T, D] -> block output [B, T, D] and raw feed-forward output [B, T, D] (before dropout and residual).

        `padding_mask` is unused: within this block only attention mixes frames, and `key_bias` already hides padded
        keys. `utterances`: see `SelfAttention.forward`.
        """
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_layer_norm(x), key_bias, rotary, utterances))
            ffn = self.ffn(self.final_layer_norm(x))
            return x + self.dropout(ffn), ffn
        x = self.attention_layer_norm(x + self.dropout(self.attention(x, key_bias, rotary, utterances)))
        ffn = self.ffn(x)
        return self.final_layer_norm(x + self.dropout(ffn)), ffn
