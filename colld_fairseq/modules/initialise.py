"""Published checkpoints in the student encoder's own names, and students started from some of a teacher's
layers.

The functions take plain state dicts, whatever read them. Layer numbers in the tables count from 0 as in the
checkpoints; :func:`take_layers` counts blocks from 1 as the rest of the package does.
"""

import re
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.encoder_config import EncoderConfig

State = Dict[str, Tensor]

# (their name, our name); {n} is a layer number, {w} is "weight" or "bias". "qkv.0" is the query's third of
# the joint projection.
HF_WAV2VEC = [
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
]

FAIRSEQ_WAV2VEC = [
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
]

HF_W2V_BERT = [
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
]

PREFIXES = ("wav2vec2.", "hubert.", "wav2vec2_bert.", "w2v_encoder.w2v_model.", "w2v_model.")
WAVLM_PREFIX = "wavlm."
# WavLM's gated relative positions have no place in the student; its other weights do.
WAVLM_GATES = re.compile(r"encoder\.layers\.\d+\.attention\.(rel_attn_embed|gru_rel_pos)")
ENCODER_PARTS = ("encoder.", "feature_extractor.", "feature_projection.", "post_extract_proj.")


def map_hf_wav2vec_family(state: State, config: EncoderConfig) -> State:
    """State dict of a Hugging Face wav2vec 2.0, HuBERT or WavLM model -> one a StudentEncoder of ``config``
    loads strictly.

    Accepts the bare model and the model inside a task head. WavLM's gated position bias is left out, so that
    its student is only a starting point; the others reproduce the checkpoint's features.

    Raises:
        ConfigError: weights are missing, have another shape than ``config`` says, or have no place in the
            student.
    """
    return _map(state, config, HF_WAV2VEC)


def map_fairseq_wav2vec_family(state: State, config: EncoderConfig) -> State:
    """Like :func:`map_hf_wav2vec_family` for the ``model`` entry of a fairseq wav2vec 2.0 or HuBERT
    checkpoint.

    fairseq has no projection where the extractor is as wide as the encoder; the student then gets the
    identity.
    """
    return _map(state, config, FAIRSEQ_WAV2VEC)


def map_hf_w2v_bert(state: State, config: EncoderConfig) -> State:
    """Like :func:`map_hf_wav2vec_family` for a Hugging Face Wav2Vec2Bert model (w2v-BERT 2.0)."""
    return _map(state, config, HF_W2V_BERT)


def take_layers(
    state: State, teacher: EncoderConfig, student: EncoderConfig, layers: Optional[Sequence[int]] = None
) -> State:
    """The part of a teacher's weights that starts a shallower student of the same width.

    Args:
        state: the teacher in our names (from one of the map functions), of configuration ``teacher``.
        student: configuration of the student.
        layers: the teacher block (1 is the first) that starts each student block. None takes every k-th,
            ending with the last; an empty sequence copies no block, which also suits students of another
            width.

    Returns:
        Our names -> tensors (copies): the chosen blocks, and of front-end, positions, norm and mask embedding
        every tensor whose name and shape are the student's. Load with ``load_state_dict(..., strict=False)``.

    Raises:
        ConfigError: blocks are to be copied and the two blocks differ, or a layer does not exist.
    """
    if layers is None:
        layers = [round(k * teacher.layers / student.layers) for k in range(1, student.layers + 1)]
    wrong = [layer for layer in layers if not 1 <= layer <= teacher.layers]
    if wrong:
        raise ConfigError(f"teacher blocks {wrong} do not exist; the teacher has 1..{teacher.layers}")
    if layers:
        if len(layers) != student.layers:
            raise ConfigError(
                f"{len(layers)} teacher blocks given for {student.layers} student blocks; give one for each"
            )
        _check_same_blocks(teacher, student)
    expected = _expected_shapes(student)
    other_kind = _parts_of_another_kind(teacher, student)
    taken = {}
    for name, tensor in state.items():
        if not name.startswith(("blocks.",) + other_kind) and expected.get(name) == tensor.shape:
            taken[name] = tensor.clone()
    for index, layer in enumerate(layers):
        source, target = f"blocks.{layer - 1}.", f"blocks.{index}."
        for name, tensor in state.items():
            if name.startswith(source):
                taken[target + name[len(source) :]] = tensor.clone()
    return taken


def _parts_of_another_kind(teacher: EncoderConfig, student: EncoderConfig) -> Tuple[str, ...]:
    """Name prefixes of the parts that mean something else in the student, even where the shapes agree."""

    def differ(*names: str) -> bool:
        return any(getattr(teacher, name) != getattr(student, name) for name in names)

    parts = []
    if differ("front_end"):
        parts.append("front_end.")
    if differ("conv_layers", "extractor_norm"):
        parts.append("front_end.layers.")
    if differ("norm_first"):
        parts.append("layer_norm.")
    return tuple(parts)


def _check_same_blocks(teacher: EncoderConfig, student: EncoderConfig) -> None:
    names = ["block", "embed_dim", "ffn_dim", "attention_heads", "activation", "position"]
    if student.block == "transformer":
        names += ["norm_first"]
    else:
        names += ["depthwise_conv_kernel", "causal_conv", "conv_norm"]
    if student.position == "relative_key":
        names += ["max_left_position", "max_right_position"]
    differ = [
        f"{name} (teacher {getattr(teacher, name)!r}, student {getattr(student, name)!r})"
        for name in names
        if getattr(teacher, name) != getattr(student, name)
    ]
    if differ:
        raise ConfigError(
            f"teacher blocks cannot start the student's: {', '.join(differ)} differ. Give the student the "
            "teacher's values, or start its blocks at random"
        )


def _expected_shapes(config: EncoderConfig) -> Dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in StudentEncoder(config).state_dict().items()}


def name_rules(table: Sequence[Tuple[str, str]]) -> List[Tuple[re.Pattern, str]]:
    """A table of (name, other name) with {n} and {w} in them, ready for :func:`renamed`."""
    rules = []
    for name, other in table:
        pattern = re.escape(name).replace(r"\{n\}", r"(?P<n>\d+)").replace(r"\{w\}", "(?P<w>weight|bias)")
        rules.append((re.compile(pattern), other))
    return rules


def renamed(name: str, rules: Sequence[Tuple[re.Pattern, str]]) -> Optional[str]:
    """The other name by the first rule that fits, None where none does."""
    for pattern, other in rules:
        if match := pattern.fullmatch(name):
            return other.format(**match.groupdict())
    return None


def select_encoder(state: State, table: Sequence[Tuple[str, str]]) -> State:
    """The tensors of a checkpoint that the student takes over, under the checkpoint's names without prefix."""
    rules = name_rules(table)
    plain = {_without_prefix(name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in plain.items() if renamed(name, rules) is not None}


def _without_prefix(name: str) -> str:
    for prefix in PREFIXES + (WAVLM_PREFIX,):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


def _map(state: State, config: EncoderConfig, table: Sequence[Tuple[str, str]]) -> State:
    rules = name_rules(table)
    expected = _expected_shapes(config)
    mapped: State = {}
    homeless = []
    for full_name, tensor in state.items():
        name = _without_prefix(full_name)
        ours = renamed(name, rules)
        if ours is not None:
            mapped[ours] = tensor
        elif name.startswith(ENCODER_PARTS) and not WAVLM_GATES.match(name):
            homeless.append(full_name)
    _join_projections(mapped)
    if "mask_emb" not in mapped:
        # Models that never masked do not store it.
        mapped["mask_emb"] = torch.zeros(config.embed_dim)
    if table is FAIRSEQ_WAV2VEC and "front_end.projection.weight" not in mapped:
        mapped["front_end.projection.weight"] = torch.eye(config.embed_dim)
        mapped["front_end.projection.bias"] = torch.zeros(config.embed_dim)
    homeless += [name for name in mapped if name not in expected]
    missing = [name for name in expected if name not in mapped]
    if missing or homeless:
        raise ConfigError(
            f"checkpoint and encoder configuration do not fit: missing {_some(missing)}; "
            f"without a place {_some(homeless)}"
        )
    for name, shape in expected.items():
        # Pointwise convolutions [out, in, 1] are linear layers here.
        if mapped[name].dim() == len(shape) + 1 and mapped[name].size(-1) == 1:
            mapped[name] = mapped[name].squeeze(-1)
        if mapped[name].shape != shape:
            raise ConfigError(
                f"{name} has shape {tuple(mapped[name].shape)} in the checkpoint, {tuple(shape)} expected"
            )
    return mapped


def _join_projections(mapped: State) -> None:
    """Replace ``….qkv.0``, ``.1``, ``.2`` by their concatenation, in place."""
    for first in [name for name in mapped if ".qkv.0." in name]:
        parts = [first.replace(".qkv.0.", f".qkv.{i}.") for i in range(3)]
        if all(part in mapped for part in parts):
            mapped[first.replace(".qkv.0.", ".qkv.")] = torch.cat([mapped.pop(part) for part in parts])


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} tensors ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})" if names else "none"
