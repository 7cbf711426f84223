"""EncoderConfig -> the configuration of other libraries' models: modules/checkpoint_configs.py backwards.

What a target can hold is not listed here. A configuration is written, read back by the function that reads
published checkpoints, and compared: a field that comes back changed has no place in the target.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.checkpoint_configs import FBANK_BINS, config_from_fairseq, config_from_hf
from colld_fairseq.modules.encoder_config import EncoderConfig

FAIRSEQ_ACTIVATIONS = ("gelu", "relu")  # of those that the student has too
#: Acts on gradients only; transformers has no such field.
TRAINING_ONLY = ("feature_grad_mult",)


def hf_hubert_config(config: EncoderConfig) -> Dict[str, Any]:
    """Fields of transformers' HubertConfig."""
    channels, kernels, strides = zip(*config.conv_layers)
    return dict(
        _hf_common(config),
        model_type="hubert",
        feat_extract_norm=config.extractor_norm,
        do_stable_layer_norm=config.norm_first,
        feat_proj_layer_norm=config.feature_norm,
        conv_dim=list(channels),
        conv_kernel=list(kernels),
        conv_stride=list(strides),
        conv_bias=config.conv_bias,
        num_conv_pos_embeddings=config.conv_pos,
        num_conv_pos_embedding_groups=_position_groups(config),
    )


def hf_w2v_bert_config(config: EncoderConfig) -> Dict[str, Any]:
    """Fields of transformers' Wav2Vec2BertConfig."""
    return dict(
        _hf_common(config),
        model_type="wav2vec2-bert",
        feature_projection_input_dim=FBANK_BINS * config.fbank_stack,
        position_embeddings_type="relative_key" if config.position == "relative_key" else None,
        left_max_position_embeddings=config.max_left_position,
        right_max_position_embeddings=config.max_right_position,
        conv_depthwise_kernel_size=config.depthwise_conv_kernel,
        conformer_conv_dropout=config.dropout,
        add_adapter=False,
    )


def _hf_common(config: EncoderConfig) -> Dict[str, Any]:
    return dict(
        num_hidden_layers=config.layers,
        hidden_size=config.embed_dim,
        intermediate_size=config.ffn_dim,
        num_attention_heads=config.attention_heads,
        hidden_act=config.activation,
        layer_norm_eps=config.layer_norm_eps,
        hidden_dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        feat_proj_dropout=config.dropout_input,
        layerdrop=config.layerdrop,
    )


def fairseq_hubert_config(config: EncoderConfig) -> Dict[str, Any]:
    """Fields of fairseq's HubertConfig that shape the encoder."""
    return dict(
        _name="hubert",
        extractor_mode={"group": "default", "layer": "layer_norm"}[config.extractor_norm],
        conv_feature_layers=str([tuple(layer) for layer in config.conv_layers]),
        conv_bias=config.conv_bias,
        feature_grad_mult=config.feature_grad_mult,
        layer_type="transformer",
        layer_norm_first=config.norm_first,
        conv_pos=config.conv_pos,
        conv_pos_groups=_position_groups(config),
        encoder_layers=config.layers,
        encoder_embed_dim=config.embed_dim,
        encoder_ffn_embed_dim=config.ffn_dim,
        encoder_attention_heads=config.attention_heads,
        activation_fn=config.activation if config.activation in FAIRSEQ_ACTIVATIONS else "gelu",
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        activation_dropout=config.activation_dropout,
        dropout_input=config.dropout_input,
        encoder_layerdrop=config.layerdrop,
    )


def _position_groups(config: EncoderConfig) -> int:
    """1 where there is no position convolution: any number need not divide the width."""
    return config.conv_pos_groups if config.position == "conv" else 1


class Layout(NamedTuple):
    """A kind of checkpoint: how it is called in messages, and its configuration in both directions."""

    name: str
    write: Callable[[EncoderConfig], Dict[str, Any]]
    read: Callable[[Dict[str, Any]], EncoderConfig]


HF_HUBERT = Layout("hf:DIR (transformers' HuBERT)", hf_hubert_config, config_from_hf)
HF_W2V_BERT = Layout("hf:DIR (transformers' w2v-BERT 2.0)", hf_w2v_bert_config, config_from_hf)
FAIRSEQ_HUBERT = Layout("fairseq:FILE.pt (fairseq's HuBERT)", fairseq_hubert_config, config_from_fairseq)
LAYOUTS = (HF_HUBERT, HF_W2V_BERT, FAIRSEQ_HUBERT)
OURS = "colld:FILE.pt"


def hf_layout(config: EncoderConfig) -> Layout:
    """The model of transformers that an encoder is nearest to."""
    return HF_W2V_BERT if config.block == "conformer" else HF_HUBERT


def lost_fields(config: EncoderConfig, layout: Layout) -> Dict[str, Tuple[Any, Any]]:
    """Field -> (value, value in the target) for every field that the target cannot hold; empty = it fits."""
    again = layout.read(layout.write(config)).to_dict()
    return {
        name: (value, again[name])
        for name, value in config.to_dict().items()
        if value != again[name] and name not in _fields_without_effect(config)
    }


def check_fits(config: EncoderConfig, layout: Layout) -> None:
    """Raises ConfigError that names what does not fit ``layout``, and the targets that can hold it."""
    lost = lost_fields(config, layout)
    if lost:
        fields = ", ".join(f"{name}={value!r} (always {there!r} there)" for name, (value, there) in lost.items())
        able = [other.name for other in LAYOUTS if not lost_fields(config, other)] + [OURS]
        raise ConfigError(
            f"{layout.name} has no place for {fields}; this encoder can be written as {' or '.join(able)}"
        )


def _fields_without_effect(config: EncoderConfig) -> List[str]:
    """Fields that only shape a part which this encoder does not have, and those of training alone."""
    idle = [*TRAINING_ONLY, "input"]  # the input is kept beside the configuration, by whoever writes the files
    if config.front_end != "waveform":
        idle += ["conv_layers", "extractor_norm", "conv_bias"]
    if config.front_end != "fbank_stack":
        idle += ["fbank_stack"]
    if config.front_end != "conv2d":
        idle += ["subsampling_channels"]
    if config.front_end == "waveform":
        idle += ["fbank_bins"]
    if config.front_end in ("fbank", "conv2d"):
        idle += ["feature_norm"]
    if config.block == "transformer":
        idle += ["depthwise_conv_kernel", "causal_conv", "conv_norm"]
    else:
        idle += ["norm_first"]
    if config.context == "full":
        idle += ["chunk_sizes", "left_contexts"]
    if config.position != "conv":
        idle += ["conv_pos", "conv_pos_groups"]
    if config.position != "relative_key":
        idle += ["max_left_position", "max_right_position"]
    return idle
