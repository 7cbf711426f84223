"""Whisper's encoder in Hugging Face layout as the student encoder has it."""

from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.checkpoints.encoder import Fields, Layout, Names
from colld_fairseq.checkpoints.verify import NativeEncoder, tapped
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder_config import WHISPER_RATE_HZ, EncoderConfig
from colld_fairseq.modules.feed_forward import get_activation
from colld_fairseq.quiet import quiet

NAMES = Names(
    [
        ("conv1.{w}", "front_end.conv1.{w}"),
        ("conv2.{w}", "front_end.conv2.{w}"),
        ("embed_positions.weight", "positions.weight"),
        ("layers.{n}.self_attn.q_proj.{w}", "blocks.{n}.attention.qkv.0.{w}"),
        ("layers.{n}.self_attn.k_proj.weight", "blocks.{n}.attention.qkv.1.weight"),
        ("layers.{n}.self_attn.v_proj.{w}", "blocks.{n}.attention.qkv.2.{w}"),
        ("layers.{n}.self_attn.out_proj.{w}", "blocks.{n}.attention.out.{w}"),
        ("layers.{n}.self_attn_layer_norm.{w}", "blocks.{n}.attention_layer_norm.{w}"),
        ("layers.{n}.fc1.{w}", "blocks.{n}.ffn.linear_in.{w}"),
        ("layers.{n}.fc2.{w}", "blocks.{n}.ffn.linear_out.{w}"),
        ("layers.{n}.final_layer_norm.{w}", "blocks.{n}.final_layer_norm.{w}"),
        ("layer_norm.{w}", "layer_norm.{w}"),
    ],
    prefixes=("model.encoder.", "encoder."),
    parts=("conv1.", "conv2.", "embed_positions.", "layers.", "layer_norm."),
    # Whisper's keys have no bias. One would add the same to all scores of a query, which softmax does not see.
    absent=r"mask_emb|blocks\.\d+\.attention\.qkv\.1\.bias",
)

FIELDS = Fields(
    layers=("encoder_layers", 4),
    embed_dim=("d_model", 384),
    ffn_dim=("encoder_ffn_dim", 1536),
    attention_heads=("encoder_attention_heads", 6),
    activation=("activation_function", "gelu"),
    fbank_bins=("num_mel_bins", 80),
    max_positions=("max_source_positions", 1500),
    dropout=("dropout", 0.0),
    attention_dropout=("attention_dropout", 0.0),
    activation_dropout=("activation_dropout", 0.0),
    layerdrop=("encoder_layerdrop", 0.0),
)
#: Our fields that the decoder shares.
SHARED = ("embed_dim", "activation", "fbank_bins", "max_positions")


def config_of(settings: Dict[str, Any], preprocessor: Dict[str, Any]) -> EncoderConfig:
    """`config.json` of a Whisper model; ConfigError where its preprocessor contradicts it."""
    fields = FIELDS.to_ours(settings)
    bins = preprocessor.get("feature_size", fields["fbank_bins"])
    if bins != fields["fbank_bins"]:
        raise ConfigError(
            f"config.json says num_mel_bins {fields['fbank_bins']}, preprocessor_config.json feature_size {bins}: take"
            " the two that belong together"
        )
    get_activation(fields["activation"])
    return EncoderConfig(front_end="whisper", block="transformer", position="sinusoidal", norm_first=True, **fields)


def settings_of(config: EncoderConfig) -> Sequence[Dict[str, Any]]:
    """Fields of transformers' WhisperConfig that are the encoder's, and those of WhisperFeatureExtractor."""
    settings = dict(FIELDS.to_theirs(config), model_type="whisper")
    return settings, dict(feature_size=config.fbank_bins, chunk_length=int(config.max_positions / WHISPER_RATE_HZ))


LAYOUT = Layout("hf:DIR (transformers' Whisper)", settings_of, config_of, NAMES)


def extractor_of(config: EncoderConfig) -> Any:
    """transformers' WhisperFeatureExtractor for an encoder."""
    import transformers

    return transformers.WhisperFeatureExtractor(**settings_of(config)[1])


def own_library(directory: Path, settings: Dict[str, Any], preprocessor: Dict[str, Any], complete: bool):
    """See `verify.open_native`; on windows of the full length, the only ones that transformers takes.

    complete: with a decoder; else the directory may hold an encoder alone.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with quiet():
        model, report = transformers.WhisperForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if not complete:
        missing = [name for name in wrong.get("missing_keys", []) if ".encoder." in name]
        wrong = {"missing_keys": missing}
    if any(wrong.values()):
        raise ConfigError(f"{directory}: transformers does not load it as it is: {wrong}")
    config = config_of(settings, preprocessor)
    extractor = extractor_of(config)
    if preprocessor:
        extractor = type(extractor).from_pretrained(directory, local_files_only=True)

    def prepare(waveform: np.ndarray) -> Tensor:
        return extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"][0].T

    def forward(source: Tensor) -> Tensor:
        return model.model.encoder(source.T[None]).last_hidden_state[0]

    return NativeEncoder(config.input, prepare, tapped(model.model.eval().encoder.layers, forward))
