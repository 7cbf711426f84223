"""fairseq2's wav2vec 2.0 in our names: its own shapes, and omniASR's (Meta, arXiv 2511.09690) from 300M to 7B.

A file holds weights alone. What they do not show (heads, normalization of the input) is known of published shapes,
and is otherwise said in a YAML file beside it: see `fairseq2_config.Description`.
"""

import re
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colld_fairseq.checkpoints import names_hf
from colld_fairseq.checkpoints.encoder import (
    EncoderCheckpoint,
    Layout,
    Names,
    StateDict,
    check_fits,
)
from colld_fairseq.checkpoints.fairseq2_config import (
    KERNELS,
    check_heads,
    config_of,
    describe,
    pretraining_width,
    settings_of,
    settle,
)
from colld_fairseq.checkpoints.files import resolve_file
from colld_fairseq.checkpoints.names_fairseq import without_identity_projection
from colld_fairseq.checkpoints.tensor_files import TensorFiles
from colld_fairseq.checkpoints.verify import NativeEncoder, tapped
from colld_fairseq.compat import absolute_path
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.quiet import quiet

DESCRIPTION = "colld_fairseq"  # of a file that `write` wrote, beside its "model"
CODEBOOK_ENTRIES = 640  # of both codebooks together, fairseq2's default

FRONT_END = "encoder_frontend."
EXTRACTOR = f"{FRONT_END}feature_extractor.layers."
POSITIONS = f"{FRONT_END}pos_encoder.conv."
PROJECTION = f"{FRONT_END}model_dim_proj."
BLOCK = "encoder.layers."
TABLE = [
    ("masker.temporal_mask_embed", "mask_emb"),
    (f"{EXTRACTOR}{{n}}.conv.{{w}}", "front_end.layers.{n}.conv.{w}"),
    (f"{FRONT_END}post_extract_layer_norm.{{w}}", "front_end.layer_norm.{w}"),
    (f"{PROJECTION}{{w}}", "front_end.projection.{w}"),
    (f"{POSITIONS}weight_g", "pos_conv.weight_g"),
    (f"{POSITIONS}weight_v", "pos_conv.weight_v"),
    (f"{POSITIONS}parametrizations.weight.original0", "pos_conv.weight_g"),
    (f"{POSITIONS}parametrizations.weight.original1", "pos_conv.weight_v"),
    (f"{POSITIONS}bias", "pos_conv.bias"),
    (f"{BLOCK}{{n}}.self_attn.q_proj.{{w}}", "blocks.{n}.attention.qkv.0.{w}"),
    (f"{BLOCK}{{n}}.self_attn.k_proj.{{w}}", "blocks.{n}.attention.qkv.1.{w}"),
    (f"{BLOCK}{{n}}.self_attn.v_proj.{{w}}", "blocks.{n}.attention.qkv.2.{w}"),
    (f"{BLOCK}{{n}}.self_attn.output_proj.{{w}}", "blocks.{n}.attention.out.{w}"),
    (f"{BLOCK}{{n}}.self_attn_layer_norm.{{w}}", "blocks.{n}.attention_layer_norm.{w}"),
    (f"{BLOCK}{{n}}.ffn.inner_proj.{{w}}", "blocks.{n}.ffn.linear_in.{w}"),
    (f"{BLOCK}{{n}}.ffn.output_proj.{{w}}", "blocks.{n}.ffn.linear_out.{w}"),
    (f"{BLOCK}{{n}}.ffn_layer_norm.{{w}}", "blocks.{n}.final_layer_norm.{w}"),
]
EXTRACTOR_NORM = {
    "group": (f"{EXTRACTOR}0.group_norm.{{w}}", "front_end.layers.0.norm.{w}"),
    "layer": (f"{EXTRACTOR}{{n}}.layer_norm.{{w}}", "front_end.layers.{n}.norm.{w}"),
}
FINAL_NORM = {True: "encoder.layer_norm.", False: f"{FRONT_END}layer_norm."}  # by norm_first
PREFIXES = ("module.",)
PARTS = (FRONT_END, "encoder.", "masker.")
#: How all else in files begins: heads of the pre-training, of CTC, and the decoder of models with a language model.
LEFT_BEHIND = ("quantizer.", "final_proj.", "final_target_proj.") + (
    "encoder_proj.", "text_frontend.", "llama_decoder.", "lang_embeddings.",
)  # fmt: skip


# Finding and opening


class Opened(NamedTuple):
    """An encoder whose weights are not read yet."""

    tensors: TensorFiles
    config: EncoderConfig
    names: Names
    identity: StateDict
    """The projection where the file has none, under its name."""


def open_file(name: str) -> Opened:
    """A file or a folder of shards; see `encoder.read_encoder` for errors."""
    paths, described = weight_files(name), description_file(name)
    tensors, origin = TensorFiles(paths), str(paths[0])
    check_names(tensors.shapes, origin)
    seen = seen_in(tensors.shapes, origin)
    given = describe(tensors.others.get(DESCRIPTION, {}), paths[0], described)
    config = settle(seen, given, origin, described)
    return Opened(tensors, config, names_of(config), identity_projection(tensors.shapes, config))


def weight_files(name: str) -> List[Path]:
    """FILE.pt alone, or all shards of the folder that fairseq2 writes (…/pp_00/tp_00/sdp_00.pt), of which the folder,
    one above it, or any of its files may be named. CheckpointError where one is missing."""
    path = Path(absolute_path(name))
    if path.is_dir():
        inner = [path / "model/pp_00/tp_00", path / "pp_00/tp_00", path / "tp_00", path]
        folder = next((each for each in inner if each.is_dir() and any(each.glob("sdp_*.pt"))), None)
        if folder is None:
            raise CheckpointError(f"{path}: holds no pp_00/tp_00/sdp_00.pt; name the file FILE.pt itself")
    elif re.fullmatch(r"sdp_\d+\.pt", path.name) and path.is_file():
        folder = path.parent
    else:
        return [resolve_file(name)]
    others = [each for each in folder.parent.parent.glob("pp_*/tp_*") if each.is_dir() and each != folder]
    if re.fullmatch(r"tp_\d+", folder.name) and others:
        raise CheckpointError(
            f"{folder}: the model is cut by layer or by channel as well ({others[0]}); only shards by row can be read"
        )
    shards = [folder / f"sdp_{index:02d}.pt" for index in range(len(list(folder.glob("sdp_*.pt"))))]
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(f"{missing[0]} is missing; copy all shards")
    return shards


def description_file(name: str) -> Path:
    """Where `Description` is looked for."""
    path = Path(absolute_path(name))
    return path.with_name(f"{path.name}.yaml") if path.is_dir() else path.with_suffix(".yaml")


def files(name: str) -> List[Path]:
    """Everything that decides what the model computes."""
    described = description_file(name)
    return [*weight_files(name), *([described] if described.is_file() else [])]


# What weights show


def check_names(state: StateDict, origin: str) -> None:
    """Raises CheckpointError for weights that are of no part of fairseq2's models."""
    bare = map(WITH_PREFIX.without_prefix, state)
    unknown = [name for name in bare if not name.startswith(PARTS + LEFT_BEHIND)]
    if unknown:
        raise CheckpointError(
            f"{origin}: {len(unknown)} weights are of no part of fairseq2's wav2vec 2.0 ({', '.join(unknown[:3])}); is"
            " it one of its files? Those of fairseq are fairseq:FILE.pt, of transformers hf:DIR"
        )


def seen_in(state: StateDict, origin: str) -> Dict[str, Any]:
    """Fields of the configuration that shapes of weights show, and the extractor's `channels`.

    Raises CheckpointError where a weight is missing that every encoder has, ConfigError for other convolutions.
    """
    shapes = {WITH_PREFIX.without_prefix(name): tuple(tensor.shape) for name, tensor in state.items()}

    def shape(*names: str) -> Tuple[int, ...]:
        there = next((name for name in names if name in shapes), None)
        if there is None:
            raise CheckpointError(
                f"{origin}: has no {names[0]}; wav2vec 2.0 of Transformer blocks, on waveforms and with one convolution"
                " for positions can be read"
            )
        return shapes[there]

    output = f"{BLOCK}0.self_attn.output_proj.weight"
    if (square := shape(output))[0] != square[-1]:
        raise CheckpointError(f"{origin}: {output} is {list(square)}, and must be square; are all shards there?")
    weights = (f"{EXTRACTOR}{index}.conv.weight" for index in count())
    convolutions = [shapes[name] for name in takewhile(shapes.__contains__, weights)]
    if [kernel for *_, kernel in convolutions] != KERNELS:
        raise ConfigError(
            f"{origin}: convolutions of kernels {[kernel for *_, kernel in convolutions]}; no file says their strides,"
            f" which are known for {KERNELS} alone"
        )
    width, position = square[0], shape(f"{POSITIONS}weight_v", f"{POSITIONS}parametrizations.weight.original1")
    return dict(
        layers=1 + max(int(match[1]) for name in shapes if (match := re.match(rf"{re.escape(BLOCK)}(\d+)\.", name))),
        embed_dim=width,
        ffn_dim=shape(f"{BLOCK}0.ffn.inner_proj.weight")[0],
        norm_first=f"{FINAL_NORM[True]}weight" in shapes,
        extractor_norm="group" if f"{EXTRACTOR}0.group_norm.weight" in shapes else "layer",
        conv_bias=f"{EXTRACTOR}0.conv.bias" in shapes,
        channels=[channels for channels, *_ in convolutions],
        conv_pos=position[-1],
        conv_pos_groups=max(1, width // max(1, position[1])),
    )


LAYOUT = Layout("fairseq2:FILE.pt (fairseq2's wav2vec 2.0)", settings_of, config_of)
LAYOUTS = (LAYOUT,)


def names_of(config: EncoderConfig) -> Names:
    """The names that an encoder with these norms has, and no others."""
    final = (f"{FINAL_NORM[config.norm_first]}{{w}}", "layer_norm.{w}")
    return Names([*TABLE, EXTRACTOR_NORM[config.extractor_norm], final], PREFIXES, PARTS)


WITH_PREFIX = Names(TABLE, PREFIXES, PARTS)  # of whatever norms


def identity_projection(state: StateDict, config: EncoderConfig) -> StateDict:
    """fairseq2 has no projection where the extractor is as wide as the encoder; here that is the identity."""
    width = config.embed_dim
    if config.conv_layers[-1][0] != width or any(f"{PROJECTION}weight" in name for name in state):
        return {}
    return {f"{PROJECTION}weight": torch.eye(width), f"{PROJECTION}bias": torch.zeros(width)}


# Reading and writing


def read_config(name: str) -> EncoderConfig:
    """Of a file or folder, without its weights."""
    return open_file(name).config


def read(name: str, blocks: Optional[int] = None) -> EncoderCheckpoint:
    """See `encoder.read_encoder`: all names and shapes are checked, and values are read when they are asked for."""
    opened = open_file(name)
    tensors, origin = opened.tensors, str(opened.tensors.paths[0])
    opened.names.to_ours({**tensors.shapes, **opened.identity}, opened.config, origin=origin)
    weights = opened.names.stored(tensors, opened.config, blocks, origin, opened.identity)
    return EncoderCheckpoint(opened.config, weights, f"fairseq2:{name}")


def write(path: Path, checkpoint: EncoderCheckpoint) -> None:
    """See `encoder.write_encoder`. The file also says what weights do not show, where fairseq2 does not look."""
    config = checkpoint.config
    check_fits(config, LAYOUT)
    seen, described = settings_of(config)
    check_heads(seen, config.attention_heads, "fairseq2:FILE.pt")
    weights = without_identity_projection(checkpoint.weights, config, "fairseq2's wav2vec 2.0")
    model = {**names_of(config).to_theirs(weights), **untrained_heads(config, pretraining_width(seen))}
    torch.save({"model": model, DESCRIPTION: described}, path)


def untrained_heads(config: EncoderConfig, width: int) -> StateDict:
    """What fairseq2's class has behind the encoder in any case, for its pre-training; features do not pass it.

    width: of what it compares, quantized inputs and outputs.
    """
    shapes = {
        "quantizer.entries": (1, CODEBOOK_ENTRIES, width // 2),
        "quantizer.entry_proj.weight": (CODEBOOK_ENTRIES, config.conv_layers[-1][0]),
        "quantizer.entry_proj.bias": (CODEBOOK_ENTRIES,),
        "final_proj.weight": (width, config.embed_dim),
        "final_proj.bias": (width,),
        "final_target_proj.weight": (width, width),
        "final_target_proj.bias": (width,),
    }
    heads = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return {**heads, "quantizer.num_updates": torch.zeros((), dtype=torch.int64)}


# The same model in transformers, to compare with: fairseq2 cannot be installed beside this package


IN_TRANSFORMERS: Sequence[Tuple[str, str]] = (
    (r"masker\.temporal_mask_embed", "masked_spec_embed"),
    (r"encoder_frontend\.feature_extractor\.layers\.0\.group_norm\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"encoder_frontend\.feature_extractor\.layers\.", "feature_extractor.conv_layers."),
    (r"encoder_frontend\.post_extract_layer_norm\.", "feature_projection.layer_norm."),
    (r"encoder_frontend\.model_dim_proj\.", "feature_projection.projection."),
    (r"encoder_frontend\.pos_encoder\.conv\.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"encoder_frontend\.pos_encoder\.conv\.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"encoder_frontend\.pos_encoder\.conv\.", "encoder.pos_conv_embed.conv."),
    (r"encoder_frontend\.layer_norm\.", "encoder.layer_norm."),
    (r"encoder\.layers\.(\d+)\.self_attn\.output_proj\.", r"encoder.layers.\1.attention.out_proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.ffn\.inner_proj\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.ffn\.output_proj\.", r"encoder.layers.\1.feed_forward.output_dense."),
    (r"encoder\.layers\.(\d+)\.ffn_layer_norm\.", r"encoder.layers.\1.final_layer_norm."),
)


def transformers_name(name: str) -> str:
    """fairseq2's name of an encoder weight -> that of transformers' wav2vec 2.0 and HuBERT."""
    for pattern, replacement in IN_TRANSFORMERS:
        renamed, changed = re.subn(f"^{pattern}", replacement, name)
        if changed:
            return renamed
    return name


def own_library(name: str, complete: bool) -> NativeEncoder:
    """See `verify.open_native`: transformers' HuBERT, whose weights are renamed without our names between."""
    import transformers

    opened = open_file(name)
    bare = {WITH_PREFIX.without_prefix(key): key for key in opened.tensors.shapes}
    wanted = {short: key for short, key in bare.items() if short.startswith(PARTS)}
    values = opened.tensors.read(list(wanted.values()))
    state = {transformers_name(short): values[key].float() for short, key in wanted.items()}
    state.update({transformers_name(key): value for key, value in opened.identity.items()})
    settings, _ = names_hf.hubert_settings(opened.config)
    with quiet():
        model = transformers.HubertModel(transformers.HubertConfig(**settings))
    missing, unexpected = model.load_state_dict(state, strict=False)
    if not complete:  # models that never masked do not store it
        missing = [each for each in missing if each != "masked_spec_embed"]
    if missing or unexpected:
        raise ConfigError(
            f"{opened.tensors.paths[0]}: transformers misses {missing[:4]}, does not know {unexpected[:4]}"
        )
    given = opened.config.input

    def prepare(waveform: np.ndarray) -> Tensor:
        samples = torch.from_numpy(waveform)
        return F.layer_norm(samples, samples.shape) if given.normalization == "utterance" else samples

    def forward(source: Tensor) -> Tensor:
        return model(source[None]).last_hidden_state[0]

    return NativeEncoder(given, prepare, tapped(model.eval().encoder.layers, forward))
