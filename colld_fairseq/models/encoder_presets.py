"""Named student encoders (`--arch colld_student_NAME`, `--encoder-preset NAME`): fields of EncoderConfig."""

from typing import Any, Dict

W2V_BERT = dict(
    front_end="fbank_stack",
    fbank_stack=2,
    block="conformer",
    position="relative_key",
    activation="swish",
    causal_conv=True,
    depthwise_conv_kernel=31,
    embed_dim=1024,
    ffn_dim=4096,
    attention_heads=16,
)
OUR_CONFORMER = dict(front_end="fbank_stack", fbank_stack=2, block="conformer", position="rotary", activation="swish")
CONFORMER_25HZ = dict(OUR_CONFORMER, front_end="conv2d", layers=16, attention_heads=4)
HUBERT_BASE = dict(
    front_end="waveform",
    block="transformer",
    position="conv",
    activation="gelu",
    extractor_norm="group",
    embed_dim=768,
    ffn_dim=3072,
    attention_heads=12,
)
# FitHuBERT's thinner extractor (channels, kernel, stride) and time reduction, 2207.00555.
FITHUBERT_CONV = [[128, 10, 5], [256, 1, 1]] + [[256, 3, 2]] * 4 + [[512, 1, 1]] + [[512, 2, 2]] * 2
# Both students of Wang et al. lack the norm behind the extractor, as DistilHuBERT does; gradient into it x 0.1.
WANG = dict(HUBERT_BASE, feature_norm=False, feature_grad_mult=0.1)
DEEP_THIN = dict(WANG, layers=12, embed_dim=480, ffn_dim=480)
WHISPER = dict(
    front_end="whisper", block="transformer", position="sinusoidal", activation="gelu", norm_first=True, fbank_bins=80
)

PRESETS: Dict[str, Dict[str, Any]] = {
    # CoLLD students. conformer_1024 is the 12-layer half of w2v-BERT 2.0 and takes its weights (our inference
    # of the paper's student); base, small and tiny are our choices.
    "conformer_1024": dict(W2V_BERT, layers=12),
    "base": dict(OUR_CONFORMER, layers=12, embed_dim=768, ffn_dim=3072, attention_heads=12),
    "small": dict(OUR_CONFORMER, layers=12, embed_dim=384, ffn_dim=1536, attention_heads=6),
    "tiny": dict(
        OUR_CONFORMER, fbank_stack=4, layers=6, embed_dim=192, ffn_dim=576, attention_heads=4, depthwise_conv_kernel=15
    ),
    # Encoders of transducers: Conformer S and M (Gulati et al. 2020) with rotary positions, about 10 and 30 million
    # parameters with an LSTM predictor and a joiner. Subsampling channels are our choice.
    "conformer_10m": dict(CONFORMER_25HZ, embed_dim=144, ffn_dim=576),
    "conformer_30m": dict(CONFORMER_25HZ, embed_dim=256, ffn_dim=1024),
    # Published students of HuBERT-family teachers.
    "distilhubert": dict(WANG, layers=2),
    "fithubert": dict(HUBERT_BASE, layers=12, embed_dim=480, ffn_dim=480, conv_layers=FITHUBERT_CONV, time_reduction=2),
    "half_l2l": dict(HUBERT_BASE, layers=12, embed_dim=384, ffn_dim=1536, attention_heads=6),
    "lighthubert_small": dict(
        HUBERT_BASE, layers=12, embed_dim=384, ffn_dim=1536, attention_heads=6, extractor_norm="layer"
    ),
    "deep_thin": DEEP_THIN,
    "deep_thin_fbank": dict(DEEP_THIN, front_end="fbank"),
    "shallow_wide": dict(WANG, layers=2),  # DistilHuBERT's shape
    "usad_small": dict(HUBERT_BASE, front_end="fbank", layers=12, embed_dim=384, ffn_dim=1536, attention_heads=6),
    # Whisper's encoders (Radford et al. 2022, and the model cards of large-v3 and its turbo, which share one).
    "whisper_tiny": dict(WHISPER, layers=4, embed_dim=384, ffn_dim=1536, attention_heads=6),
    "whisper_base": dict(WHISPER, layers=6, embed_dim=512, ffn_dim=2048, attention_heads=8),
    "whisper_small": dict(WHISPER, layers=12, embed_dim=768, ffn_dim=3072, attention_heads=12),
    "whisper_medium": dict(WHISPER, layers=24, embed_dim=1024, ffn_dim=4096, attention_heads=16),
    "whisper_large": dict(WHISPER, layers=32, embed_dim=1280, ffn_dim=5120, attention_heads=20),
    "whisper_large_v3": dict(WHISPER, layers=32, embed_dim=1280, ffn_dim=5120, attention_heads=20, fbank_bins=128),
}
