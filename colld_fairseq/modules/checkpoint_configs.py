"""EncoderConfig of published checkpoints, from the configuration that lies beside their weights."""

import ast
from typing import Any, Dict, List

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder_config import WAV2VEC_CONV_LAYERS, EncoderConfig

#: Values of the libraries for fields that a configuration file leaves out.
HF_WAV2VEC_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.1,
    "layer_norm_eps": 1e-5,
    "do_stable_layer_norm": False,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "feat_proj_layer_norm": True,
    "conv_dim": [layer[0] for layer in WAV2VEC_CONV_LAYERS],
    "conv_kernel": [layer[1] for layer in WAV2VEC_CONV_LAYERS],
    "conv_stride": [layer[2] for layer in WAV2VEC_CONV_LAYERS],
    "conv_bias": False,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "conv_pos_batch_norm": False,
}
HF_W2V_BERT_DEFAULTS = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "hidden_act": "swish",
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.1,
    "layer_norm_eps": 1e-5,
    "feature_projection_input_dim": 160,
    "position_embeddings_type": "relative_key",
    "left_max_position_embeddings": 64,
    "right_max_position_embeddings": 8,
    "conv_depthwise_kernel_size": 31,
}
FAIRSEQ_DEFAULTS = {
    "extractor_mode": "default",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "dropout_input": 0.0,
    "layer_norm_first": False,
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "conv_bias": False,
    "feature_grad_mult": 1.0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "pos_conv_depth": 1,
    "conv_pos_batch_norm": False,
}
FBANK_BINS = 80


def config_from_hf(config: Dict[str, Any]) -> EncoderConfig:
    """``config.json`` of a wav2vec 2.0, HuBERT, WavLM or Wav2Vec2Bert model -> EncoderConfig.

    Raises:
        ConfigError: another model type, or a variant (named) that the student encoder does not have.
    """
    family = config.get("model_type")
    if family == "wav2vec2-bert":
        return _w2v_bert(config)
    if family not in ("wav2vec2", "hubert", "wavlm"):
        raise ConfigError(
            f"model_type={family!r} cannot start a student; wav2vec2, hubert, wavlm and wav2vec2-bert can"
        )
    c = {**HF_WAV2VEC_DEFAULTS, **config}
    _refuse(c, conv_pos_batch_norm=False, feat_extract_activation="gelu")
    if c.get("adapter_attn_dim"):
        raise ConfigError("attention adapters (adapter_attn_dim) have no place in the student encoder")
    return EncoderConfig(
        front_end="waveform",
        conv_layers=[list(layer) for layer in zip(c["conv_dim"], c["conv_kernel"], c["conv_stride"])],
        extractor_norm=c["feat_extract_norm"],
        conv_bias=c["conv_bias"],
        feature_norm=c["feat_proj_layer_norm"],
        block="transformer",
        norm_first=c["do_stable_layer_norm"],
        position="conv",
        conv_pos=c["num_conv_pos_embeddings"],
        conv_pos_groups=c["num_conv_pos_embedding_groups"],
        **_hf_common(c),
    )


def _w2v_bert(config: Dict[str, Any]) -> EncoderConfig:
    c = {**HF_W2V_BERT_DEFAULTS, **config}
    position = c["position_embeddings_type"] or "none"
    if position not in ("relative_key", "none"):
        raise ConfigError(f"position_embeddings_type={position!r} has no exact counterpart; 'relative_key' has")
    return EncoderConfig(
        front_end="fbank_stack",
        fbank_bins=FBANK_BINS,
        fbank_stack=c["feature_projection_input_dim"] // FBANK_BINS,
        block="conformer",
        position=position,
        max_left_position=c["left_max_position_embeddings"],
        max_right_position=c["right_max_position_embeddings"],
        depthwise_conv_kernel=c["conv_depthwise_kernel_size"],
        causal_conv=True,
        **_hf_common(c),
    )


def _hf_common(c: Dict[str, Any]) -> Dict[str, Any]:
    return dict(
        layers=c["num_hidden_layers"],
        embed_dim=c["hidden_size"],
        ffn_dim=c["intermediate_size"],
        attention_heads=c["num_attention_heads"],
        activation={"silu": "swish"}.get(c["hidden_act"], c["hidden_act"]),
        layer_norm_eps=c["layer_norm_eps"],
        dropout=c["hidden_dropout"],
        attention_dropout=c["attention_dropout"],
        activation_dropout=c["activation_dropout"],
        dropout_input=c["feat_proj_dropout"],
        layerdrop=c["layerdrop"],
    )


def config_from_fairseq(config: Dict[str, Any]) -> EncoderConfig:
    """``cfg`` of a fairseq wav2vec 2.0 or HuBERT checkpoint (or its ``model`` part) -> EncoderConfig.

    A fine-tuned checkpoint keeps the pre-trained model's settings under ``w2v_args``; those are read.

    Raises:
        ConfigError: a variant (named) that the student encoder does not have.
    """
    c = {**FAIRSEQ_DEFAULTS, **pretrained_part(config)}
    _refuse(c, layer_type="transformer", pos_conv_depth=1, conv_pos_batch_norm=False)
    return EncoderConfig(
        front_end="waveform",
        conv_layers=parse_conv_layers(c["conv_feature_layers"]),
        extractor_norm={"default": "group", "layer_norm": "layer"}.get(
            str(c["extractor_mode"]), str(c["extractor_mode"])
        ),
        conv_bias=c["conv_bias"],
        feature_grad_mult=c["feature_grad_mult"],
        block="transformer",
        norm_first=c["layer_norm_first"],
        position="conv",
        conv_pos=c["conv_pos"],
        conv_pos_groups=c["conv_pos_groups"],
        layers=c["encoder_layers"],
        embed_dim=c["encoder_embed_dim"],
        ffn_dim=c["encoder_ffn_embed_dim"],
        attention_heads=c["encoder_attention_heads"],
        activation=str(c["activation_fn"]),
        dropout=c["dropout"],
        attention_dropout=c["attention_dropout"],
        activation_dropout=c["activation_dropout"],
        dropout_input=c["dropout_input"],
        layerdrop=c["encoder_layerdrop"],
    )


def pretrained_part(config: Dict[str, Any]) -> Dict[str, Any]:
    """``cfg`` of a fairseq checkpoint, or its ``model`` part -> the fields of the pre-trained model in it."""
    model = config.get("model", config)
    return pretrained_part(model["w2v_args"]) if model.get("w2v_args") else model


def _refuse(config: Dict[str, Any], **supported: Any) -> None:
    for name, value in supported.items():
        found = config[name]
        if (str(found) if isinstance(value, str) else found) != value:
            raise ConfigError(f"{name}={found!r} is not supported by the student encoder; only {value!r} is")


def parse_conv_layers(text: str) -> List[List[int]]:
    """``"[(512, 10, 5)] + [(512, 3, 2)] * 4"``, fairseq's notation, -> [[512, 10, 5], [512, 3, 2], …].

    Only lists, tuples, integers, ``+`` and ``*`` are understood (fairseq evaluates it as Python); else
    ConfigError.
    """
    try:
        return [[int(value) for value in layer] for layer in _evaluate(ast.parse(text, mode="eval").body)]
    except (SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(
            f"conv_feature_layers {text!r} is not a list of (channels, kernel, stride): {error}"
        ) from error


def _evaluate(node: ast.expr) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluate(item) for item in node.elts]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _evaluate(node.left) + _evaluate(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _evaluate(node.left) * _evaluate(node.right)
    raise ValueError(f"{type(node).__name__} is not allowed")
