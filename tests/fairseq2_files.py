"""Files as fairseq2 writes them, made of random models of transformers: its names, from the library's own code."""

import re

import torch
import transformers
import yaml

EXTRACTOR = "encoder_frontend.feature_extractor.layers"
POSITIONS = "encoder_frontend.pos_encoder.conv"
WEIGHT = r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight"
BLOCK = [  # behind the number of the block, which is the first group
    (r"attention\.out_proj", "self_attn.output_proj"),
    (r"attention\.([qkv]_proj)", r"self_attn.\2"),
    (r"feed_forward\.intermediate_dense", "ffn.inner_proj"),
    (r"feed_forward\.output_dense", "ffn.output_proj"),
    (r"final_layer_norm", "ffn_layer_norm"),
    (r"layer_norm", "self_attn_layer_norm"),
]
OMNIASR = [
    (r"subsampling\.conv_layers\.(\d+)\.(conv|layer_norm)\.", rf"{EXTRACTOR}.\1.\2."),
    (r"subsampling\.layer_norm\.", "encoder_frontend.post_extract_layer_norm."),
    (r"subsampling\.projection\.", "encoder_frontend.model_dim_proj."),
    (r"encode_positions\.conv\.", f"{POSITIONS}."),
    (r"layer_norm\.", "encoder.layer_norm."),
    *((rf"layers\.(\d+)\.{old}\.", "encoder.layers.{n}." + new + ".") for old, new in BLOCK),
]
WAV2VEC = [
    (r"feature_extractor\.conv_layers\.(\d+)\.(conv|layer_norm)\.", rf"{EXTRACTOR}.\1.\2."),
    (r"feature_projection\.layer_norm\.", "encoder_frontend.post_extract_layer_norm."),
    (r"feature_projection\.projection\.", "encoder_frontend.model_dim_proj."),
    (rf"{WEIGHT}\.original0", f"{POSITIONS}.weight_g"),
    (rf"{WEIGHT}\.original1", f"{POSITIONS}.weight_v"),
    (r"encoder\.pos_conv_embed\.conv\.", f"{POSITIONS}."),
    (r"encoder\.layer_norm\.", "{final}."),
    (r"masked_spec_embed", "masker.temporal_mask_embed"),
    *((rf"encoder\.layers\.(\d+)\.{old}\.", "encoder.layers.{n}." + new + ".") for old, new in BLOCK),
]  # fmt: skip
TINY = dict(num_hidden_layers=3, intermediate_size=40, conv_dim=[8] * 7)
KERNEL = dict(num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=2)


def randomize(model):
    """Norms and biases too, which start neutral and would hide a mistake."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def omniasr(head_size, heads=2):
    """transformers' encoder of an omniASR, scaled down."""
    torch.manual_seed(head_size)
    shape = dict(hidden_size=heads * head_size, num_attention_heads=heads)
    return randomize(transformers.OmniASRAudioModel(transformers.OmniASRAudioConfig(**shape, **TINY, **KERNEL)))


def wav2vec(**settings):
    """transformers' wav2vec 2.0, scaled down."""
    torch.manual_seed(1)
    shape = dict(hidden_size=24, num_attention_heads=2)
    return randomize(transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**{**shape, **TINY, **KERNEL, **settings})))


def state_of(model):
    """Its weights under fairseq2's names."""
    if isinstance(model, transformers.Wav2Vec2Model):
        stable = model.config.do_stable_layer_norm
        renamed = {}
        for name, value in model.state_dict().items():
            new = rename(name, WAV2VEC, "encoder.layer_norm" if stable else "encoder_frontend.layer_norm")
            if model.config.feat_extract_norm == "group":
                new = new.replace("layers.0.layer_norm", "layers.0.group_norm") if new.startswith(EXTRACTOR) else new
            renamed[new] = value.clone()
        return renamed
    state = {rename(name, OMNIASR): value.clone() for name, value in model.state_dict().items()}
    weight = state.pop(f"{POSITIONS}.weight")  # without weight normalization there
    state[f"{POSITIONS}.weight_g"] = weight.norm(dim=(0, 1), keepdim=True)
    state[f"{POSITIONS}.weight_v"] = 3.0 * weight
    state["masker.temporal_mask_embed"] = torch.rand(model.config.hidden_size)
    return state


def rename(name, table, final=""):
    for pattern, replacement in table:
        match = re.match(pattern, name)
        if match:
            new = match.expand(replacement.replace("{n}", r"\1").replace("{final}", final))
            return new + name[match.end() :]
    raise KeyError(name)


def heads_of_pretraining(width):
    """What an SSL checkpoint has beside its encoder."""
    shapes = {"entry_proj.weight": (640, 8), "entry_proj.bias": (640,), "entries": (1, 640, 4), "num_updates": ()}
    state = {f"quantizer.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    for name, columns in (("final_proj", width), ("final_target_proj", 8)):
        state.update({f"{name}.weight": torch.zeros(8, columns), f"{name}.bias": torch.zeros(8)})
    return state


def save(path, state, **description):
    """{"model": state} at `path`, with a description beside it where one is given; returns the spec."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state}, path)
    if description:
        path.with_suffix(".yaml").write_text(yaml.safe_dump(description))
    return f"fairseq2:{path}"


def save_shards(folder, state, count):
    """fairseq2's folder of shards: every tensor cut along its first axis, uneven ends included."""
    inner = folder / "model/pp_00/tp_00"
    inner.mkdir(parents=True)
    cut = {name: value.chunk(count) if value.dim() else (value,) * count for name, value in state.items()}
    for index in range(count):
        part = {name: parts[index].clone() for name, parts in cut.items() if index < len(parts)}
        torch.save(part, inner / f"sdp_{index:02d}.pt")
    return inner
