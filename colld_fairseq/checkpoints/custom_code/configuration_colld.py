"""Configuration of a CTC recognizer: a Conformer on filterbanks, trained with colld_fairseq."""

from typing import Any, Optional, Sequence, Tuple

from transformers import PretrainedConfig

SAMPLES_PER_FBANK_FRAME = 160


class ColldConfig(PretrainedConfig):
    """Shape of the encoder, and what its CTC layer writes. Token `pad_token_id` is the blank of CTC."""

    model_type = "colld_ctc"

    def __init__(
        self,
        vocab_size: int = 32,
        num_mel_bins: int = 80,
        front_end: str = "fbank_stack",  # or "fbank" (strided convolution), "conv2d"
        stacked_frames: int = 2,  # of "fbank_stack"
        feature_norm: bool = True,  # of "fbank_stack"
        subsampling_channels: int = 64,  # of "conv2d"
        hidden_size: int = 256,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 4,
        intermediate_size: int = 1024,
        hidden_act: str = "swish",  # or "gelu", "relu"
        position_embeddings_type: str = "rotary",  # or "relative_key", "none"
        left_max_position_embeddings: int = 64,  # of "relative_key"
        right_max_position_embeddings: int = 8,
        conv_depthwise_kernel_size: int = 31,
        causal_conv: bool = False,
        context: str = "full",  # or "chunk", "causal": trained for streaming
        chunk_sizes: Sequence[Optional[int]] = (None,),  # frames, drawn in training; None = the whole utterance
        left_contexts: Sequence[Optional[int]] = (None,),  # chunks
        layer_norm_eps: float = 1e-5,
        hidden_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        feat_proj_dropout: float = 0.0,
        layerdrop: float = 0.0,
        ctc_loss_reduction: str = "mean",
        ctc_zero_infinity: bool = True,
        pad_token_id: int = 0,
        **more: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.num_mel_bins = num_mel_bins
        self.front_end = front_end
        self.stacked_frames = stacked_frames
        self.feature_norm = feature_norm
        self.subsampling_channels = subsampling_channels
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.position_embeddings_type = position_embeddings_type
        self.left_max_position_embeddings = left_max_position_embeddings
        self.right_max_position_embeddings = right_max_position_embeddings
        self.conv_depthwise_kernel_size = conv_depthwise_kernel_size
        self.causal_conv = causal_conv
        self.context = context
        self.chunk_sizes = list(chunk_sizes)
        self.left_contexts = list(left_contexts)
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout = hidden_dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.feat_proj_dropout = feat_proj_dropout
        self.layerdrop = layerdrop
        self.ctc_loss_reduction = ctc_loss_reduction
        self.ctc_zero_infinity = ctc_zero_infinity
        # The pipeline counts chunks and times in samples per logit.
        more["inputs_to_logits_ratio"] = SAMPLES_PER_FBANK_FRAME * self.fbank_frames_per_logit
        super().__init__(pad_token_id=pad_token_id, **more)

    @property
    def fbank_frames_per_logit(self) -> int:
        return {"fbank": 2, "conv2d": 4}.get(self.front_end, self.stacked_frames)

    @property
    def chunk(self) -> Tuple[Optional[int], Optional[int]]:
        """Frames per chunk and chunks before its own that a frame attends to, None = all: the widest of training."""
        if self.context == "full":
            return None, None
        sizes = [1] if self.context == "causal" else self.chunk_sizes
        size, left = (None if None in counts else max(counts) for counts in (sizes, self.left_contexts))
        return size, left
