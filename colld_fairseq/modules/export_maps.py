"""The student encoder's weights in the names of transformers and fairseq: modules/initialise.py backwards.

The tables are those of that file. Where one of our names stands for several of theirs, the first in the table
is written: the spelling of current versions.
"""

from typing import Sequence, Tuple

import torch

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.initialise import (
    FAIRSEQ_WAV2VEC,
    HF_W2V_BERT,
    HF_WAV2VEC,
    State,
    name_rules,
    renamed,
)


def export_hf_hubert(state: State) -> State:
    """Weights of a StudentEncoder -> state dict (copies) of transformers' HubertModel of the same shape.

    Raises:
        ConfigError: a weight has no place there (see :func:`colld_fairseq.modules.export_configs.check_fits`).
    """
    return _export(state, HF_WAV2VEC)


def export_hf_w2v_bert(state: State) -> State:
    """Like :func:`export_hf_hubert` for transformers' Wav2Vec2BertModel."""
    return _export(state, HF_W2V_BERT)


def export_fairseq_hubert(state: State, config: EncoderConfig) -> State:
    """Like :func:`export_hf_hubert` for the encoder of fairseq's HubertModel (which also has a ``final_proj``).

    fairseq has no projection between an extractor and an encoder of the same width: ours must be the identity
    there, as it is in students made from such a checkpoint; else ConfigError.
    """
    if config.conv_layers[-1][0] == config.embed_dim:
        state = _without_identity_projection(state)
    other_norm = "{n}.2.{w}" if config.extractor_norm == "layer" else "{n}.2.1.{w}"
    return _export(state, [row for row in FAIRSEQ_WAV2VEC if not row[0].endswith(f"conv_layers.{other_norm}")])


def _without_identity_projection(state: State) -> State:
    prefix = "front_end.projection."
    weight, bias = state[f"{prefix}weight"], state[f"{prefix}bias"]
    if not (torch.equal(weight, torch.eye(len(weight), dtype=weight.dtype)) and not bias.any()):
        raise ConfigError(
            "fairseq's HuBERT has no projection where the last convolution is as wide as the encoder "
            f"(embed_dim={len(weight)}), and front_end.projection is not the identity; this encoder can be "
            "written as hf:DIR or colld:FILE.pt"
        )
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


def _export(state: State, table: Sequence[Tuple[str, str]]) -> State:
    rules = name_rules([(ours, theirs) for theirs, ours in table])
    exported: State = {}
    homeless = []
    for name, tensor in _split_projections(state).items():
        theirs = renamed(name, rules)
        if theirs is None:
            homeless.append(name)
            continue
        # Pointwise convolutions are linear layers here, [out, in, 1] there.
        exported[theirs] = (tensor.unsqueeze(-1) if ".pointwise_" in name else tensor).clone()
    if homeless:
        raise ConfigError(f"the target has no place for {', '.join(homeless[:4])} ({len(homeless)} tensors)")
    return exported


def _split_projections(state: State) -> State:
    """Every joint ``….qkv.*`` replaced by its thirds ``….qkv.0.*``, ``.1``, ``.2``."""
    split: State = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            for index, part in enumerate(tensor.chunk(3)):
                split[name.replace(".qkv.", f".qkv.{index}.")] = part
        else:
            split[name] = tensor
    return split
