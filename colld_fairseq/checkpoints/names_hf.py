"""Transformers' directories: HuBERT, wav2vec 2.0, WavLM, omniASR and w2v-BERT 2.0 as the student encoder has them."""

import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.checkpoints import names_custom, names_omniasr, names_whisper
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, Fields, Layout, Names, check_fits
from colld_fairseq.checkpoints.files import read_json, read_state, resolve_directory, weight_files
from colld_fairseq.checkpoints.stored_weights import StoredWeights, shapes_of
from colld_fairseq.checkpoints.tensor_files import SplitFiles
from colld_fairseq.checkpoints.verify import NativeEncoder, tapped
from colld_fairseq.constants import NUM_BINS, SAMPLE_RATE
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.modules.encoder_config import WAV2VEC_CONV_LAYERS, EncoderConfig
from colld_fairseq.modules.feed_forward import get_activation
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.parsing import values_of
from colld_fairseq.quiet import quiet

logger = logging.getLogger(__name__)

VARIANCE_FLOOR = 1e-7  # added to the variance by transformers' Wav2Vec2FeatureExtractor

WRITTEN = ("config.json", "model.safetensors", "preprocessor_config.json")  # by `write`
PREFIXES = ("wav2vec2.", "hubert.", "wavlm.", "data2vec_audio.", "wav2vec2_bert.")
PARTS = ("encoder.", "feature_extractor.", "feature_projection.")
# WavLM's gated relative positions have no place in the student; its other weights do.
WAVLM_GATES = r"encoder\.layers\.\d+\.attention\.(rel_attn_embed|gru_rel_pos)"
WAV2VEC = Names(
    [
        ("masked_spec_embed", "mask_emb"),
        ("feature_extractor.conv_layers.{n}.conv.{w}", "front_end.layers.{n}.conv.{w}"),
        ("feature_extractor.conv_layers.{n}.layer_norm.{w}", "front_end.layers.{n}.norm.{w}"),
        ("feature_projection.layer_norm.{w}", "front_end.layer_norm.{w}"),
        ("feature_projection.projection.{w}", "front_end.projection.{w}"),
        ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "pos_conv.weight_g"),
        ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "pos_conv.weight_v"),
        ("encoder.pos_conv_embed.conv.weight_g", "pos_conv.weight_g"),
        ("encoder.pos_conv_embed.conv.weight_v", "pos_conv.weight_v"),
        ("encoder.pos_conv_embed.conv.bias", "pos_conv.bias"),
        ("encoder.layer_norm.{w}", "layer_norm.{w}"),
        ("encoder.layers.{n}.attention.q_proj.{w}", "blocks.{n}.attention.qkv.0.{w}"),
        ("encoder.layers.{n}.attention.k_proj.{w}", "blocks.{n}.attention.qkv.1.{w}"),
        ("encoder.layers.{n}.attention.v_proj.{w}", "blocks.{n}.attention.qkv.2.{w}"),
        ("encoder.layers.{n}.attention.out_proj.{w}", "blocks.{n}.attention.out.{w}"),
        ("encoder.layers.{n}.layer_norm.{w}", "blocks.{n}.attention_layer_norm.{w}"),
        ("encoder.layers.{n}.feed_forward.intermediate_dense.{w}", "blocks.{n}.ffn.linear_in.{w}"),
        ("encoder.layers.{n}.feed_forward.output_dense.{w}", "blocks.{n}.ffn.linear_out.{w}"),
        ("encoder.layers.{n}.final_layer_norm.{w}", "blocks.{n}.final_layer_norm.{w}"),
    ],
    PREFIXES,
    PARTS,
    WAVLM_GATES,
)

W2V_BERT = Names(
    [
        ("masked_spec_embed", "mask_emb"),
        ("feature_projection.layer_norm.{w}", "front_end.layer_norm.{w}"),
        ("feature_projection.projection.{w}", "front_end.projection.{w}"),
        ("encoder.layers.{n}.ffn1_layer_norm.{w}", "blocks.{n}.ffn1_layer_norm.{w}"),
        ("encoder.layers.{n}.ffn1.intermediate_dense.{w}", "blocks.{n}.ffn1.linear_in.{w}"),
        ("encoder.layers.{n}.ffn1.output_dense.{w}", "blocks.{n}.ffn1.linear_out.{w}"),
        ("encoder.layers.{n}.self_attn_layer_norm.{w}", "blocks.{n}.attention_layer_norm.{w}"),
        ("encoder.layers.{n}.self_attn.linear_q.{w}", "blocks.{n}.attention.qkv.0.{w}"),
        ("encoder.layers.{n}.self_attn.linear_k.{w}", "blocks.{n}.attention.qkv.1.{w}"),
        ("encoder.layers.{n}.self_attn.linear_v.{w}", "blocks.{n}.attention.qkv.2.{w}"),
        ("encoder.layers.{n}.self_attn.linear_out.{w}", "blocks.{n}.attention.out.{w}"),
        ("encoder.layers.{n}.self_attn.distance_embedding.weight", "blocks.{n}.attention.relative_key.weight"),
        ("encoder.layers.{n}.conv_module.layer_norm.{w}", "blocks.{n}.conv.layer_norm.{w}"),
        ("encoder.layers.{n}.conv_module.pointwise_conv1.weight", "blocks.{n}.conv.pointwise_in.weight"),
        ("encoder.layers.{n}.conv_module.depthwise_conv.weight", "blocks.{n}.conv.depthwise.weight"),
        ("encoder.layers.{n}.conv_module.depthwise_layer_norm.{w}", "blocks.{n}.conv.norm.{w}"),
        ("encoder.layers.{n}.conv_module.pointwise_conv2.weight", "blocks.{n}.conv.pointwise_out.weight"),
        ("encoder.layers.{n}.ffn2_layer_norm.{w}", "blocks.{n}.ffn2_layer_norm.{w}"),
        ("encoder.layers.{n}.ffn2.intermediate_dense.{w}", "blocks.{n}.ffn2.linear_in.{w}"),
        ("encoder.layers.{n}.ffn2.output_dense.{w}", "blocks.{n}.ffn2.linear_out.{w}"),
        ("encoder.layers.{n}.final_layer_norm.{w}", "blocks.{n}.final_layer_norm.{w}"),
    ],
    PREFIXES,
    PARTS,
)

WAV2VEC_FIELDS = Fields(
    layers=("num_hidden_layers", 12),
    embed_dim=("hidden_size", 768),
    ffn_dim=("intermediate_size", 3072),
    attention_heads=("num_attention_heads", 12),
    activation=("hidden_act", "gelu"),
    norm_first=("do_stable_layer_norm", False),
    extractor_norm=("feat_extract_norm", "group"),
    conv_bias=("conv_bias", False),
    feature_norm=("feat_proj_layer_norm", True),
    conv_pos=("num_conv_pos_embeddings", 128),
    conv_pos_groups=("num_conv_pos_embedding_groups", 16),
    layer_norm_eps=("layer_norm_eps", 1e-5),
    dropout=("hidden_dropout", 0.1),
    attention_dropout=("attention_dropout", 0.1),
    activation_dropout=("activation_dropout", 0.1),
    dropout_input=("feat_proj_dropout", 0.0),
    layerdrop=("layerdrop", 0.1),
)
BERT_FIELDS = Fields(
    layers=("num_hidden_layers", 24),
    embed_dim=("hidden_size", 1024),
    ffn_dim=("intermediate_size", 4096),
    attention_heads=("num_attention_heads", 16),
    activation=("hidden_act", "swish"),
    position=("position_embeddings_type", "relative_key"),
    max_left_position=("left_max_position_embeddings", 64),
    max_right_position=("right_max_position_embeddings", 8),
    depthwise_conv_kernel=("conv_depthwise_kernel_size", 31),
    layer_norm_eps=("layer_norm_eps", 1e-5),
    dropout=("hidden_dropout", 0.0),
    attention_dropout=("attention_dropout", 0.0),
    activation_dropout=("activation_dropout", 0.0),
    dropout_input=("feat_proj_dropout", 0.0),
    layerdrop=("layerdrop", 0.1),
)

#: model_type -> stem of transformers' classes, of models whose blocks a teacher can be asked for.
FAMILIES = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "data2vec-audio": "Data2VecAudio",
    "wav2vec2-bert": "Wav2Vec2Bert",
}
#: Others whose encoder is exactly one that the student encoder can be.
OUR_MODULES = ("whisper", *names_omniasr.FAMILIES, names_custom.FAMILY)


def check_family(settings: Dict[str, Any]) -> str:
    """model_type of a config.json; ConfigError where no teacher can be made of it."""
    family, known = settings.get("model_type"), sorted([*FAMILIES, *OUR_MODULES])
    if family not in known:
        raise ConfigError(f"config.json says model_type {family!r}; supported: {', '.join(known)}")
    return family


def files(name: str) -> List[Path]:
    """Everything in a directory that decides what its model computes."""
    directory = resolve_directory(name)
    preprocessor, _ = _find_preprocessor(directory)
    return [directory / "config.json", *weight_files(directory)] + ([preprocessor] if preprocessor else [])


def stored_state(directory: Path) -> StoredWeights:
    """All weights of a directory under their own names; see `read_state`, which maps them all."""
    files = SplitFiles(weight_files(directory))
    return StoredWeights(files, files.shapes)


def read(name: str, blocks: Optional[int] = None) -> EncoderCheckpoint:
    """See `encoder.read_encoder`: values are read when they are asked for."""
    directory = resolve_directory(name)
    settings = read_json(directory / "config.json")
    family = settings.get("model_type")
    preprocessor = read_preprocessor(directory, family)
    with values_of(f"{directory / 'config.json'}{' or preprocessor_config.json' if preprocessor else ''}"):
        config = config_from_hf(settings, preprocessor)
    if family == names_custom.FAMILY:
        weights = names_custom.read_weights(read_state(directory), config, blocks, str(directory))
        return EncoderCheckpoint(config, weights, f"hf:{name}")
    names, files = layout_of(config).names, SplitFiles(weight_files(directory))
    if family in names_omniasr.FAMILIES:
        names, files = names_omniasr.NAMES, names_omniasr.WithWeightNorm(files)
    weights = names.stored(files, config, blocks, str(directory))
    return EncoderCheckpoint(config, weights, f"hf:{name}", _lacking(settings))


def _lacking(settings: Dict[str, Any]) -> str:
    if settings["model_type"] == "wavlm":
        return "WavLM's gated relative positions"
    return "the convolutional adapter behind the encoder (add_adapter)" if settings.get("add_adapter") else ""


def read_preprocessor(directory: Path, family: Optional[str]) -> Dict[str, Any]:
    """Settings of the feature extractor of a model_type; empty where the directory has none, with a warning where they
    would say how waveforms are normalized.

    Raises CheckpointError for another sampling rate than 16 kHz, and for values that are none.
    """
    path, settings = _find_preprocessor(directory)
    if path is None and family not in ("whisper", "wav2vec2-bert", names_custom.FAMILY):
        logger.warning(
            "%s has neither preprocessor_config.json nor processor_config.json: waveforms are normalized to unit"
            " variance, the default of transformers; copy the file that belongs to the model if it was trained"
            " otherwise",
            directory,
        )
    rate = settings.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise CheckpointError(
            f"{path}: sampling_rate is {rate!r}, and audio is {SAMPLE_RATE} Hz here; take a model of {SAMPLE_RATE} Hz"
        )
    if not isinstance(settings.get("do_normalize", True), bool):
        raise CheckpointError(f"{path}: do_normalize is {settings['do_normalize']!r}; it can be true or false")
    return settings


def _find_preprocessor(directory: Path) -> Tuple[Optional[Path], Dict[str, Any]]:
    """The file with the feature extractor's settings, and those: where transformers looks, in its order."""
    path = directory / "processor_config.json"
    if path.is_file():
        content = read_json(path)
        nested = content.get("feature_extractor", content.get("audio_processor"))
        if isinstance(nested, dict):  # older versions name the processor's class only
            return path, nested
    path = directory / "preprocessor_config.json"
    return (path, read_json(path)) if path.is_file() else (None, {})


def input_of(settings: Dict[str, Any], preprocessor: Dict[str, Any]) -> InputConfig:
    """What a model takes, by its config.json and the settings of its feature extractor."""
    if settings.get("model_type") == "wav2vec2-bert":
        return InputConfig("fbank", bins=NUM_BINS)
    return InputConfig.waveforms(preprocessor.get("do_normalize", True), VARIANCE_FLOOR)


def config_from_hf(settings: Dict[str, Any], preprocessor: Optional[Dict[str, Any]] = None) -> EncoderConfig:
    """`config.json` of a model of a family that a student can start from, and its feature extractor's settings.

    Raises:
        ConfigError: another model type, or a variant (named) that the student encoder does not have.
    """
    family = settings.get("model_type")
    if family == "whisper":
        return names_whisper.config_of(settings, preprocessor or {})
    if family in names_omniasr.FAMILIES:
        return names_omniasr.config_of(settings, preprocessor or {})
    if family == names_custom.FAMILY:
        return names_custom.config_of(settings, preprocessor or {})
    if family not in ("wav2vec2", "hubert", "wavlm", "wav2vec2-bert"):
        raise ConfigError(
            f"model_type={family!r} cannot start a student; wav2vec2, hubert, wavlm, wav2vec2-bert, whisper and omniasr"
            " can"
        )
    supported = dict(conv_pos_batch_norm=False, feat_extract_activation="gelu")
    wrong = next((name for name, value in supported.items() if settings.get(name, value) != value), None)
    if wrong:
        able = repr(supported[wrong])
        raise ConfigError(f"{wrong}={settings[wrong]!r} is not supported by the student encoder; only {able} is")
    if settings.get("adapter_attn_dim"):
        raise ConfigError("attention adapters (adapter_attn_dim) have no place in the student encoder")
    fields = (BERT_FIELDS if family == "wav2vec2-bert" else WAV2VEC_FIELDS).to_ours(settings)
    fields["activation"] = {"silu": "swish"}.get(fields["activation"], fields["activation"])
    get_activation(fields["activation"])
    fields["input"] = input_of(settings, preprocessor or {})
    if family != "wav2vec2-bert":
        convolutions = zip(*conv_layers_of(settings))
        return EncoderConfig(
            front_end="waveform", conv_layers=list(convolutions), block="transformer", position="conv", **fields
        )
    fields["position"] = fields["position"] or "none"
    if fields["position"] not in ("relative_key", "none"):
        position = fields["position"]
        raise ConfigError(f"position_embeddings_type={position!r} has no exact counterpart; 'relative_key' has")
    return EncoderConfig(
        front_end="fbank_stack",
        fbank_bins=NUM_BINS,
        fbank_stack=fbank_stack_of(settings),
        block="conformer",
        causal_conv=True,
        **fields,
    )


def conv_layers_of(settings: Dict[str, Any]) -> List[Sequence[int]]:
    """Channels, kernels and strides of the waveform extractor."""
    published = zip(*WAV2VEC_CONV_LAYERS)
    return [settings.get(f"conv_{name}", value) for name, value in zip(("dim", "kernel", "stride"), published)]


def fbank_stack_of(settings: Dict[str, Any]) -> int:
    """Filterbank frames that w2v-BERT stacks."""
    return settings.get("feature_projection_input_dim", 2 * NUM_BINS) // NUM_BINS


def hubert_settings(config: EncoderConfig) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Fields of transformers' HubertConfig and Wav2Vec2FeatureExtractor."""
    channels, kernels, strides = map(list, zip(*config.conv_layers))
    settings = WAV2VEC_FIELDS.to_theirs(config)
    settings.update(model_type="hubert", conv_dim=channels, conv_kernel=kernels, conv_stride=strides)
    if config.position != "conv":
        settings["num_conv_pos_embedding_groups"] = 1  # any other might not divide the width
    normalize = config.input is not None and config.input.normalization == "utterance"
    # As published: attention masks belong to models with layer norms in the extractor.
    return settings, dict(do_normalize=normalize, return_attention_mask=config.extractor_norm == "layer")


def w2v_bert_settings(config: EncoderConfig) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Fields of transformers' Wav2Vec2BertConfig and SeamlessM4TFeatureExtractor."""
    settings = BERT_FIELDS.to_theirs(config)
    settings.update(
        model_type="wav2vec2-bert",
        feature_projection_input_dim=NUM_BINS * config.fbank_stack,
        position_embeddings_type="relative_key" if config.position == "relative_key" else None,
        conformer_conv_dropout=config.dropout,
        add_adapter=False,
    )
    return settings, dict(stride=config.fbank_stack)


HUBERT = Layout("hf:DIR (transformers' HuBERT)", hubert_settings, config_from_hf, WAV2VEC)
BERT = Layout("hf:DIR (transformers' w2v-BERT 2.0)", w2v_bert_settings, config_from_hf, W2V_BERT)
LAYOUTS = (HUBERT, BERT, names_whisper.LAYOUT, names_custom.LAYOUT)


def layout_of(config: EncoderConfig) -> Layout:
    """The model of transformers that an encoder is nearest to."""
    if config.front_end == "whisper":
        return names_whisper.LAYOUT
    return BERT if config.block == "conformer" else HUBERT


def write(directory: Path, checkpoint: EncoderCheckpoint) -> None:
    """See `encoder.write_encoder`."""
    import transformers
    from safetensors.torch import save_file

    layout = layout_of(checkpoint.config)
    if layout is names_whisper.LAYOUT:
        raise ConfigError(
            "transformers' Whisper is encoder and decoder: name the one whose decoder it is to have, --decoder-from"
            " hf:TEACHER"
        )
    check_fits(checkpoint.config, layout)
    settings, preprocessor = layout.write(checkpoint.config)
    dtype = str(shapes_of(checkpoint.weights)["blocks.0.attention.out.weight"].dtype).removeprefix("torch.")
    stem = FAMILIES[settings["model_type"]]
    weights = layout.names.to_theirs(checkpoint.weights)
    directory.mkdir()
    config_class = getattr(transformers, f"{stem}Config")
    config_class(**settings, dtype=dtype, architectures=[f"{stem}Model"]).save_pretrained(directory)
    extractor_class(settings)(**preprocessor).save_pretrained(directory)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def extractor_class(settings: Dict[str, Any]):
    import transformers

    if settings["model_type"] == "wav2vec2-bert":
        return transformers.SeamlessM4TFeatureExtractor
    return transformers.Wav2Vec2FeatureExtractor


def own_library(name: str, complete: bool) -> NativeEncoder:
    """See `verify.open_native`."""
    import transformers

    directory = resolve_directory(name)
    settings = read_json(directory / "config.json")
    if settings.get("model_type") == "whisper":
        return names_whisper.own_library(directory, settings, read_preprocessor(directory, "whisper"), complete)
    if settings.get("model_type") == names_custom.FAMILY:
        return names_custom.own_library(directory)
    if (family := settings.get("model_type")) in names_omniasr.FAMILIES:
        return names_omniasr.own_library(directory, settings, read_preprocessor(directory, family))
    if settings.get("model_type") not in FAMILIES:
        raise ConfigError(f"{directory}: model_type={settings.get('model_type')!r} cannot be converted")
    stem = FAMILIES[settings["model_type"]]
    transformers.utils.logging.disable_progress_bar()
    with quiet():
        model, report = getattr(transformers, f"{stem}Model").from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if str(settings.get("architectures")).endswith("ForCTC']"):  # written with its head
        wrong["unexpected_keys"] = sorted(set(wrong.get("unexpected_keys", [])) - {"lm_head.weight", "lm_head.bias"})
    if not complete:  # heads, and a mask embedding that models which never masked do not store
        wrong = {"missing_keys": sorted(set(wrong.get("missing_keys", [])) - {"masked_spec_embed"})}
    if any(wrong.values()):
        raise ConfigError(f"{directory}: transformers does not load it as it is: {wrong}")
    path, preprocessor = _find_preprocessor(directory)
    extractor = extractor_class(settings)()
    if path is not None:
        extractor = type(extractor).from_pretrained(directory, local_files_only=True)
    filterbanks = stem == "Wav2Vec2Bert"

    def prepare(waveform: np.ndarray) -> Tensor:
        inputs = extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        if not filterbanks:
            return inputs["input_values"][0]
        frames = int(inputs["attention_mask"].sum())
        return inputs["input_features"][0, :frames].reshape(-1, NUM_BINS)

    def forward(source: Tensor) -> Tensor:
        if not filterbanks:
            return model(source[None]).last_hidden_state[0]
        width = model.config.feature_projection_input_dim
        frames = source.numel() // width
        return model(source.flatten()[: frames * width].view(1, frames, width)).last_hidden_state[0]

    return NativeEncoder(input_of(settings, preprocessor), prepare, tapped(model.eval().encoder.layers, forward))
