"""fairseq checkpoints of wav2vec 2.0, HuBERT and data2vec (audio) as teachers.

The weights are renamed into transformers' modules, so that there is one way for all teachers from there: its
HuBERT, which has every variant of the wav2vec 2.0 encoder, or its Data2VecAudio where positions come from a
stack of convolutions.
"""

import re
from argparse import Namespace
from pathlib import Path
from typing import Dict, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.modules.checkpoint_configs import FAIRSEQ_DEFAULTS, parse_conv_layers
from colld_fairseq.teachers.base import Teacher
from colld_fairseq.teachers.huggingface import build_encoder, make_teacher
from colld_fairseq.teachers.weights import content_hash, load_into

MODELS = ("wav2vec2", "hubert", "data2vec_audio")
VARIANCE_FLOOR = 1e-5  # fairseq normalises waveforms with torch's layer_norm

# fairseq's module names (regular expressions) and transformers'
RENAMINGS = (
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"post_extract_proj\.", "feature_projection.projection."),
    (r"layer_norm\.", "feature_projection.layer_norm."),
    (r"encoder\.pos_conv\.(\d+)\.0\.(?=weight$|bias$)", r"encoder.pos_conv_embed.layers.\1.conv."),
    (r"encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"encoder\.pos_conv\.1\.", "encoder.pos_conv_embed.conv."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
)


def rename_state(state: Dict[str, Tensor], batch_norm: bool = False) -> Dict[str, Tensor]:
    """The same tensors under transformers' names; keys without a counterpart (heads, quantisers) keep theirs.

    batch_norm: pos_conv.0 is a batch norm and pos_conv.1 the convolution.
    """
    rules = [(re.compile(pattern), name) for pattern, name in RENAMINGS]
    if batch_norm:
        rules.insert(0, (re.compile(r"encoder\.pos_conv\.0\."), "encoder.pos_conv_embed.batch_norm."))
    renamed = {}
    for key, value in state.items():
        pattern, name = next(((p, n) for p, n in rules if p.match(key)), (None, None))
        renamed[key if pattern is None else pattern.sub(name, key, count=1)] = value
    return renamed


def read_checkpoint(path: Path) -> Tuple[Dict, Dict, Dict[str, Tensor]]:
    """(model configuration, task configuration, state dict) of a checkpoint; runs no code in the file."""
    if not path.is_file():
        raise TeacherError(f"teacher fairseq:{path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TeacherError(
            f"teacher fairseq:{path}: cannot be loaded ({type(error).__name__}: {error}). If the file is "
            f"whole and you trust it, save it again with its configuration as plain dictionaries"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise TeacherError(f"teacher fairseq:{path}: holds no 'model'; is it a fairseq checkpoint?")
    config = checkpoint.get("cfg") or {}
    arguments = _plain(checkpoint.get("args"))
    model = _plain(config.get("model")) or arguments
    task = _plain(config.get("task")) or arguments
    if not model:
        raise TeacherError(f"teacher fairseq:{path}: holds no model configuration ('cfg' or 'args')")
    return model, task, checkpoint["model"]


def _plain(config) -> Dict:
    return vars(config) if isinstance(config, Namespace) else dict(config or {})


def convert_config(spec: str, model: Dict) -> Dict:
    """transformers' configuration for a fairseq one. Raises TeacherError where there is none."""
    name = model.get("_name") or model.get("arch")
    unsupported = None
    if name not in MODELS:
        unsupported = f"model {name!r} (supported: {', '.join(MODELS)}, pre-trained and not fine-tuned)"
    elif model.get("layer_type", "transformer") != "transformer":
        unsupported = f"layer_type {model['layer_type']!r}"
    elif model.get("activation_fn", "gelu") not in ("gelu", "relu"):
        unsupported = f"activation_fn {model['activation_fn']!r}"
    depth = model.get("pos_conv_depth", 1)
    layer_norm = model.get("extractor_mode", "default") == "layer_norm"
    pre_norm = model.get("layer_norm_first", False)
    if unsupported is None and depth > 1 and (pre_norm or not layer_norm):
        unsupported = "pos_conv_depth > 1 with layer_norm_first or a group-norm extractor"
    if unsupported is not None:
        raise TeacherError(f"teacher {spec}: {unsupported} cannot be used as a teacher")
    try:
        convolutions = parse_conv_layers(model.get("conv_feature_layers", FAIRSEQ_DEFAULTS["conv_feature_layers"]))
    except ConfigError as error:
        raise TeacherError(f"teacher {spec}: {error}") from error
    width, kernel = model.get("encoder_embed_dim", 768), model.get("conv_pos", 128)
    config = dict(
        model_type="hubert",
        hidden_size=width,
        num_hidden_layers=model.get("encoder_layers", 12),
        num_attention_heads=model.get("encoder_attention_heads", 12),
        intermediate_size=model.get("encoder_ffn_embed_dim", 3072),
        hidden_act=model.get("activation_fn", "gelu"),
        feat_extract_norm="layer" if layer_norm else "group",
        do_stable_layer_norm=pre_norm,
        conv_bias=model.get("conv_bias", False),
        conv_dim=[channels for channels, _, _ in convolutions],
        conv_kernel=[size for _, size, _ in convolutions],
        conv_stride=[stride for _, _, stride in convolutions],
        num_conv_pos_embeddings=kernel,
        num_conv_pos_embedding_groups=model.get("conv_pos_groups", 16),
        conv_pos_batch_norm=model.get("conv_pos_batch_norm", False),
    )
    if depth > 1:
        kernel = max(3, kernel // depth)
        config.update(model_type="data2vec-audio", num_conv_pos_embeddings=depth, conv_pos_kernel_size=kernel)
    return config


def load_fairseq(spec: str, name: str, *, layers: Sequence[int], kind: str, dtype, device) -> Teacher:
    """The teacher in the checkpoint `name`. Raises TeacherError."""
    path = Path(name).expanduser()
    model, task, state = read_checkpoint(path)
    config = convert_config(spec, model)
    state = rename_state(state, batch_norm=config["conv_pos_batch_norm"])
    projection, width = "feature_projection.projection", config["hidden_size"]
    if config["conv_dim"][-1] == width and f"{projection}.weight" not in state:
        # fairseq leaves the projection out when it would not change the width
        state[f"{projection}.weight"], state[f"{projection}.bias"] = torch.eye(width), torch.zeros(width)
    encoder = build_encoder(spec, config, layers, kind)
    load_into(encoder.module, state, ("",), path)
    return make_teacher(
        encoder,
        normalise=bool(task.get("normalize", False)),
        variance_floor=VARIANCE_FLOOR,
        spec=spec,
        content_hash=content_hash([path]),
        layers=layers,
        kind=kind,
        dtype=dtype,
        device=device,
    )
