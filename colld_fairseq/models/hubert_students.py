"""Published students of HuBERT Base as architectures of `colld_student`: shape, layer map, heads, regularization.

deep-and-thin and shallow-and-wide: Wang et al., 2210.15631 (S&W has DistilHuBERT's shape, heads and targets, and
starts from its teacher with --init-from); fithubert: 2207.00555; half_l2l: the 12-layer half of 2207.06867. All run
on clean input with dropout 0.1. A typed option wins over its architecture.
"""

from typing import Any, Dict

from fairseq.models import register_model_architecture

from colld_fairseq.models.encoder_options import set_defaults

COMMON = dict(mask_prob=0.0, dropout=0.1, attention_dropout=0.1, activation_dropout=0.1)
LAYER_TO_LAYER = dict(COMMON, layer_map="dense", head="linear")

ARCHITECTURES: Dict[str, Dict[str, Any]] = {
    "hubert_student_deep_thin": dict(LAYER_TO_LAYER, encoder_preset="deep_thin"),
    "hubert_student_deep_thin_fbank": dict(LAYER_TO_LAYER, encoder_preset="deep_thin_fbank", dropout_input=0.1),
    "hubert_student_shallow_wide": dict(
        COMMON,
        encoder_preset="shallow_wide",
        layer_map="2:4,2:8,2:12",
        head="shared",
        head_activation="gelu",
        init_layers="1,2",
    ),
    "fithubert": dict(LAYER_TO_LAYER, encoder_preset="fithubert", upsample_heads=True, dropout_input=0.05),
    "half_l2l": dict(LAYER_TO_LAYER, encoder_preset="half_l2l"),
}


for _name, _values in ARCHITECTURES.items():
    register_model_architecture("colld_student", _name)(set_defaults(_values))
