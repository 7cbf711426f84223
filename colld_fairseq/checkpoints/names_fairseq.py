"""fairseq's checkpoints of wav2vec 2.0 and HuBERT in our names, of data2vec in those of transformers."""

import ast
import math
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.checkpoints import names_hf
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, Fields, Layout, Names, StateDict, check_fits
from colld_fairseq.checkpoints.files import plain, read_torch, resolve_file
from colld_fairseq.checkpoints.verify import NativeEncoder, tapped
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.quiet import quiet

MODELS = ("wav2vec2", "hubert", "data2vec_audio")  # pre-trained, or inside a fine-tuned one
ACTIVATIONS = ("gelu", "relu")  # of those that the student has too
VARIANCE_FLOOR = 1e-5  # fairseq normalizes waveforms with torch's layer_norm
LABEL_RATE_HZ = 50.0  # fairseq's HuBERT wants one; it only concerns the targets of pre-training

WAV2VEC = Names(
    [
        ("mask_emb", "mask_emb"),
        ("feature_extractor.conv_layers.{n}.0.{w}", "front_end.layers.{n}.conv.{w}"),
        ("feature_extractor.conv_layers.{n}.2.{w}", "front_end.layers.{n}.norm.{w}"),
        ("feature_extractor.conv_layers.{n}.2.1.{w}", "front_end.layers.{n}.norm.{w}"),
        ("layer_norm.{w}", "front_end.layer_norm.{w}"),
        ("post_extract_proj.{w}", "front_end.projection.{w}"),
        ("encoder.pos_conv.0.weight_g", "pos_conv.weight_g"),
        ("encoder.pos_conv.0.weight_v", "pos_conv.weight_v"),
        ("encoder.pos_conv.0.bias", "pos_conv.bias"),
        ("encoder.layer_norm.{w}", "layer_norm.{w}"),
        ("encoder.layers.{n}.self_attn.q_proj.{w}", "blocks.{n}.attention.qkv.0.{w}"),
        ("encoder.layers.{n}.self_attn.k_proj.{w}", "blocks.{n}.attention.qkv.1.{w}"),
        ("encoder.layers.{n}.self_attn.v_proj.{w}", "blocks.{n}.attention.qkv.2.{w}"),
        ("encoder.layers.{n}.self_attn.out_proj.{w}", "blocks.{n}.attention.out.{w}"),
        ("encoder.layers.{n}.self_attn_layer_norm.{w}", "blocks.{n}.attention_layer_norm.{w}"),
        ("encoder.layers.{n}.fc1.{w}", "blocks.{n}.ffn.linear_in.{w}"),
        ("encoder.layers.{n}.fc2.{w}", "blocks.{n}.ffn.linear_out.{w}"),
        ("encoder.layers.{n}.final_layer_norm.{w}", "blocks.{n}.final_layer_norm.{w}"),
    ],
    ("w2v_encoder.w2v_model.", "w2v_model."),
    ("encoder.", "feature_extractor.", "post_extract_proj."),
)

FIELDS = Fields(
    layers=("encoder_layers", 12),
    embed_dim=("encoder_embed_dim", 768),
    ffn_dim=("encoder_ffn_embed_dim", 3072),
    attention_heads=("encoder_attention_heads", 12),
    activation=("activation_fn", "gelu"),
    norm_first=("layer_norm_first", False),
    extractor_norm=("extractor_mode", "default"),
    conv_layers=("conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"),
    conv_bias=("conv_bias", False),
    feature_grad_mult=("feature_grad_mult", 1.0),
    conv_pos=("conv_pos", 128),
    conv_pos_groups=("conv_pos_groups", 16),
    dropout=("dropout", 0.1),
    attention_dropout=("attention_dropout", 0.1),
    activation_dropout=("activation_dropout", 0.0),
    dropout_input=("dropout_input", 0.0),
    layerdrop=("encoder_layerdrop", 0.0),
)
#: Fields that the student encoder has with these values only (here, and in fairseq where nothing is said).
FIXED = dict(layer_type="transformer", pos_conv_depth=1, conv_pos_batch_norm=False)


class FairseqFile(NamedTuple):
    """A checkpoint: name and fields of the pre-trained model and of its task, and all weights under fairseq's names."""

    name: str
    model: Dict[str, Any]
    task: Dict[str, Any]
    weights: StateDict
    path: Path


def open_file(name: str) -> FairseqFile:
    """A checkpoint; of a fine-tuned one the pre-trained model's settings, kept under `w2v_args`. CheckpointError."""
    path = resolve_file(name)
    checkpoint = read_torch(path)
    if not isinstance(checkpoint.get("model"), dict):
        raise CheckpointError(f"{path}: holds no 'model'; is it a fairseq checkpoint?")
    config, arguments = plain(checkpoint.get("cfg")) or {}, plain(checkpoint.get("args")) or {}
    model, task = config.get("model") or arguments, config.get("task") or arguments
    if not model:
        raise CheckpointError(
            f"{path}: holds no model configuration ('cfg' or 'args'); fairseq2's are fairseq2:FILE.pt"
        )
    model = pretrained_part(model)
    name = model.get("_name") or model.get("arch")
    if name not in MODELS:
        raise CheckpointError(f"{path}: holds a model {name!r}; {', '.join(MODELS)} can be read")
    if task.get("sample_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise CheckpointError(
            f"{path}: sample_rate is {task['sample_rate']!r}, and audio is {SAMPLE_RATE} Hz here; take a model of"
            f" {SAMPLE_RATE} Hz"
        )
    return FairseqFile(name, model, task, checkpoint["model"], path)


def pretrained_part(config: Dict[str, Any]) -> Dict[str, Any]:
    """`cfg` of a fairseq checkpoint, or its `model` part -> the fields of the pre-trained model in it."""
    model = config.get("model", config)
    return pretrained_part(model["w2v_args"]) if model.get("w2v_args") else model


def files(name: str) -> List[Path]:
    """The file."""
    return [resolve_file(name)]


def read(name: str, blocks: Optional[int] = None) -> EncoderCheckpoint:
    """See `encoder.read_encoder`."""
    return encoder_of(open_file(name), blocks)


def encoder_of(file: FairseqFile, blocks: Optional[int] = None) -> EncoderCheckpoint:
    """The encoder of an open checkpoint."""
    config = config_from_fairseq(file.model, file.task)
    state = with_projection(file.weights, config)
    return EncoderCheckpoint(config, WAV2VEC.to_ours(state, config, blocks, str(file.path)), f"fairseq:{file.path}")


def with_projection(state: StateDict, config: EncoderConfig) -> StateDict:
    """fairseq has no projection where the extractor is as wide as the encoder; here that is the identity."""
    width, name = config.embed_dim, "post_extract_proj"
    if config.conv_layers[-1][0] != width or any(f"{name}.weight" in key for key in state):
        return state
    return {**state, f"{name}.weight": torch.eye(width), f"{name}.bias": torch.zeros(width)}


def config_from_fairseq(config: Dict[str, Any], task: Optional[Dict[str, Any]] = None) -> EncoderConfig:
    """`cfg` of a fairseq wav2vec 2.0 or HuBERT checkpoint (or its `model` part), and its task's -> EncoderConfig.

    Raises ConfigError that names a variant which the student encoder does not have.
    """
    model = pretrained_part(config)
    fields = FIELDS.to_ours(model)
    for name, value in {**FIXED, "activation_fn": model.get("activation_fn", "gelu")}.items():
        given, able = model.get(name, value), ACTIVATIONS if name == "activation_fn" else (value,)
        if (str(given) if isinstance(value, str) else given) not in able:
            able = " or ".join(map(repr, able))
            raise ConfigError(f"{name}={given!r} is not supported by the student encoder; only {able} is")
    mode = str(fields["extractor_norm"])
    fields.update(
        input=InputConfig.waveforms(bool((task or {}).get("normalize")), VARIANCE_FLOOR),
        conv_layers=parse_conv_layers(fields["conv_layers"]),
        extractor_norm={"default": "group", "layer_norm": "layer"}.get(mode, mode),
        activation=str(fields["activation"]),
    )
    return EncoderConfig(front_end="waveform", block="transformer", position="conv", **fields)


def hubert_settings(config: EncoderConfig) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Fields of fairseq's HubertConfig that shape the encoder, and of its task."""
    model = FIELDS.to_theirs(config)
    model.update(
        _name="hubert",
        layer_type="transformer",
        extractor_mode={"group": "default", "layer": "layer_norm"}[config.extractor_norm],
        conv_feature_layers=str([tuple(layer) for layer in config.conv_layers]),
        conv_pos_groups=config.conv_pos_groups if config.position == "conv" else 1,
        activation_fn=config.activation if config.activation in ACTIVATIONS else "gelu",
    )
    return model, {"normalize": config.input is not None and config.input.normalization == "utterance"}


HUBERT = Layout("fairseq:FILE.pt (fairseq's HuBERT)", hubert_settings, config_from_fairseq, WAV2VEC)
LAYOUTS = (HUBERT,)


def write(path: Path, checkpoint: EncoderCheckpoint) -> None:
    """See `encoder.write_encoder`."""
    config = checkpoint.config
    check_fits(config, HUBERT)
    weights = hubert_weights(checkpoint.weights, config)
    # fairseq's model has this head in any case; the encoder's features do not pass it.
    weights["final_proj.weight"], weights["final_proj.bias"] = torch.zeros(1, config.embed_dim), torch.zeros(1)
    frame_rate_hz = SAMPLE_RATE / math.prod(stride for _, _, stride in config.conv_layers)
    model, task = hubert_settings(config)
    model.update(final_dim=1, label_rate=frame_rate_hz)
    task.update(_name="hubert_pretraining", data=".", labels=[], label_rate=frame_rate_hz, sample_rate=SAMPLE_RATE)
    content = as_fairseq_saves(model, task, weights, "hubert")
    content["task_state"] = {"dictionaries": [None]}  # no labels: fairseq then builds no label embeddings
    torch.save(content, path)


def as_fairseq_saves(model: dict, task: dict, weights: StateDict, criterion: str) -> dict:
    """A checkpoint without optimizer that fairseq's loader takes; plain values only."""
    history = {"criterion_name": criterion, "optimizer_name": "none", "lr_scheduler_state": {}, "num_updates": 0}
    return {
        "args": None,
        "cfg": {"model": model, "task": task},
        "model": weights,
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }


def hubert_weights(weights: StateDict, config: EncoderConfig) -> StateDict:
    """Weights of a StudentEncoder as those of the encoder of fairseq's HubertModel (which also has a `final_proj`).

    fairseq has no projection between an extractor and an encoder of the same width: ours must be the identity there,
    as it is in students made from such a checkpoint; else ConfigError.
    """
    weights = without_identity_projection(weights, config, "fairseq's HuBERT")
    other_norm = "conv_layers.{n}.2.{w}" if config.extractor_norm == "layer" else "conv_layers.{n}.2.1.{w}"
    table = [row for row in WAV2VEC.table if not row[0].endswith(other_norm)]
    return Names(table, WAV2VEC.prefixes, WAV2VEC.parts).to_theirs(weights)


def without_identity_projection(weights: StateDict, config: EncoderConfig, model: str) -> StateDict:
    """The weights as `model` has them, which it names in errors; see :func:`hubert_weights`."""
    if config.conv_layers[-1][0] != config.embed_dim:
        return weights
    projection = "front_end.projection."
    weight, bias = weights[f"{projection}weight"], weights[f"{projection}bias"]
    if not (torch.equal(weight, torch.eye(len(weight), dtype=weight.dtype)) and not bias.any()):
        raise ConfigError(
            f"{model} has no projection where the last convolution is as wide as the encoder (embed_dim={len(weight)}),"
            " and front_end.projection is not the identity; this encoder can be written as hf:DIR or colld:FILE.pt"
        )
    return {name: tensor for name, tensor in weights.items() if not name.startswith(projection)}


LONGEST = 100  # a list of convolutions, and a factor in it: neither may take all memory


def parse_conv_layers(text: str) -> List[List[int]]:
    """`"[(512, 10, 5)] + [(512, 3, 2)] * 4"`, fairseq's notation, -> [[512, 10, 5], [512, 3, 2], …].

    Only lists, tuples, integers, `+` and `*` are understood (fairseq evaluates it as Python); else ConfigError.
    """
    try:
        return [[int(value) for value in layer] for layer in _evaluate(ast.parse(text, mode="eval").body)]
    except Exception as error:  # Python's parser has several of its own for text that is no program
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
        sides = [_evaluate(node.left), _evaluate(node.right)]
        layers = math.prod(len(side) for side in sides if isinstance(side, list))
        if any(layers * side > LONGEST for side in sides if isinstance(side, int)):
            raise ValueError(f"more than {LONGEST} times a layer")
        return sides[0] * sides[1]
    raise ValueError(f"{type(node).__name__} is not allowed")


# Models that the student encoder cannot express, in transformers' names: data2vec's stack of position convolutions, and
# the batch norm before HuBERT's


def to_transformers(file: FairseqFile) -> Tuple[Dict[str, Any], InputConfig, StateDict]:
    """config.json, input and weights of the same model in transformers. ConfigError where it has none either."""
    given = {**FIXED, **file.model}
    depth, batch_norm = given["pos_conv_depth"], given["conv_pos_batch_norm"]
    config = config_from_fairseq({**given, "pos_conv_depth": 1, "conv_pos_batch_norm": False}, file.task)
    if depth > 1 and (config.norm_first or config.extractor_norm == "group"):
        raise ConfigError("pos_conv_depth > 1 with layer_norm_first or a group-norm extractor has no counterpart")
    settings = {**names_hf.hubert_settings(config)[0], "conv_pos_batch_norm": batch_norm}
    if depth > 1:
        kernel = max(3, config.conv_pos // depth)
        settings.update(model_type="data2vec-audio", num_conv_pos_embeddings=depth, conv_pos_kernel_size=kernel)
    return settings, config.input, transformers_names(with_projection(file.weights, config), batch_norm)


def transformers_names(state: StateDict, batch_norm: bool = False) -> StateDict:
    """The encoder's tensors under transformers' names.

    batch_norm: pos_conv.0 is a batch norm and pos_conv.1 the convolution.
    """
    renamed: StateDict = {}
    for key, tensor in state.items():
        name = WAV2VEC.without_prefix(key)
        part, _, last = name.removeprefix("encoder.pos_conv.").partition(".")
        if name.startswith("encoder.pos_conv."):
            if batch_norm and part == "0":
                theirs = f"encoder.pos_conv_embed.batch_norm.{last}"
            elif last.startswith("0."):
                theirs = f"encoder.pos_conv_embed.layers.{part}.conv.{last.removeprefix('0.')}"
            else:
                theirs = f"encoder.pos_conv_embed.conv.{last}"
        else:
            theirs = names_hf.WAV2VEC.theirs(WAV2VEC.ours(name))
        if theirs is not None:
            renamed[theirs] = tensor
    return renamed


# fairseq's own classes, to compare with


def own_library(name: str, complete: bool) -> NativeEncoder:
    """See `verify.open_native`. The class is built without the heads that the checkpoint may have."""
    file = open_file(name)
    with quiet():
        model = _fairseq_model(file)
    given = WAV2VEC.select(file.weights)
    missing = WAV2VEC.select(model.state_dict()).keys() - given.keys() - {"mask_emb"}
    if missing:
        raise ConfigError(f"{file.path}: {len(missing)} encoder weights are missing ({', '.join(sorted(missing)[:4])})")
    model.load_state_dict(given, strict=False)
    model.eval()
    trained_on = config_from_fairseq(file.model, file.task).input

    def prepare(waveform: np.ndarray) -> Tensor:
        samples = torch.from_numpy(waveform)
        return F.layer_norm(samples, samples.shape) if trained_on.normalization == "utterance" else samples

    def forward(source: Tensor) -> Tensor:
        return model(source[None], mask=False, features_only=True)["x"][0]

    return NativeEncoder(trained_on, prepare, tapped(model.encoder.layers, forward, time_first=True))


def _fairseq_model(file: FairseqFile) -> nn.Module:
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    shape = {**FIXED, **FIELDS.defaults}
    fields = {key: file.model[key] for key in shape if key in file.model}
    if file.name == "wav2vec2":
        return Wav2Vec2Model(Wav2Vec2Config(**fields))
    if file.name == "hubert":
        fields.pop("pos_conv_depth", None)
        return HubertModel(HubertConfig(**fields, label_rate=LABEL_RATE_HZ), HubertPretrainingConfig(), [None])
    raise ConfigError(f"{file.path}: a model {file.name!r} cannot be converted; hubert and wav2vec2 can")
