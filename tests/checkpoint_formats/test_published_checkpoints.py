"""Names and shapes of official checkpoints, built at full size from their published configuration.

The libraries' own classes make them, without memory: on torch's meta device, or as fake tensors where fairseq's
initialization needs values. What a checkpoint holds besides the encoder is listed and nothing else may be left over.
"""

import pytest
import torch
import transformers
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from torch._subclasses.fake_tensor import FakeTensorMode

from colld_fairseq.checkpoints import names_fairseq, names_hf
from colld_fairseq.checkpoints.names_fairseq import config_from_fairseq
from colld_fairseq.checkpoints.names_hf import config_from_hf
from colld_fairseq.modules.encoder import StudentEncoder

CODES = 504  # 500 clusters and fairseq's 4 symbols
HUBERT_HEADS = {"final_proj.weight", "final_proj.bias", "label_embs_concat"}
QUANTIZER = {"quantizer.weight_proj.weight", "quantizer.weight_proj.bias", "project_q.weight", "project_q.bias"}
WAV2VEC_HEADS = {"quantizer.vars", "final_proj.weight", "final_proj.bias"} | QUANTIZER
HF_WAV2VEC_HEADS = {"quantizer.codevectors", "project_hid.weight", "project_hid.bias"} | QUANTIZER

LARGE_FAIRSEQ = dict(
    encoder_layers=24, encoder_embed_dim=1024, encoder_ffn_embed_dim=4096, encoder_attention_heads=16, final_dim=768
)
LAYER_NORM_FAIRSEQ = dict(extractor_mode="layer_norm", layer_norm_first=True)
BASE_FAIRSEQ = dict(final_dim=256, encoder_layerdrop=0.05, dropout_input=0.1, feature_grad_mult=0.1)

# file name -> model, what its configuration sets, parameters of the encoder with the mask embedding
FAIRSEQ = {
    "hubert_base_ls960": ("hubert", dict(BASE_FAIRSEQ, untie_final_proj=True), 94_371_712),
    "hubert_large_ll60k": ("hubert", dict(LARGE_FAIRSEQ, **LAYER_NORM_FAIRSEQ, untie_final_proj=True), 315_435_136),
    "wav2vec_small": ("wav2vec2", BASE_FAIRSEQ, 94_371_712),
    "libri960_big": ("wav2vec2", dict(LARGE_FAIRSEQ, feature_grad_mult=0.1), 315_428_992),
    "xlsr2_300m": ("wav2vec2", dict(LARGE_FAIRSEQ, **LAYER_NORM_FAIRSEQ, conv_bias=True), 315_438_720),
}

LARGE_HF = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
STABLE_HF = dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
# facebook/… -> class of the published weights, what its config.json sets, parameters as above
HF = {
    "hubert-base-ls960": ("Hubert", "Model", {}, 94_371_712),
    "hubert-large-ll60k": ("Hubert", "Model", dict(LARGE_HF, **STABLE_HF), 315_438_720),
    "wav2vec2-base": ("Wav2Vec2", "ForPreTraining", {}, 94_371_712),
    "wav2vec2-large": ("Wav2Vec2", "ForPreTraining", LARGE_HF, 315_428_992),
    "wav2vec2-xls-r-300m": ("Wav2Vec2", "ForPreTraining", dict(LARGE_HF, **STABLE_HF), 315_438_720),
    "w2v-bert-2.0": ("Wav2Vec2Bert", "Model", {}, 580_493_120),
}


def fairseq_checkpoint(model, settings):
    """(configuration, state dict without values)."""
    with FakeTensorMode():
        if model == "hubert":
            cfg = HubertConfig(**settings, label_rate=50.0)
            module = HubertModel(cfg, HubertPretrainingConfig(), [range(CODES)])
        else:
            cfg = Wav2Vec2Config(**settings, quantize_targets=True)
            module = Wav2Vec2Model(cfg)
    return {"_name": model, **settings}, module.state_dict()


def shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def count(state):
    return sum(tensor.numel() for tensor in state.values())


@pytest.mark.parametrize("name", FAIRSEQ)
def test_fairseq(name):
    model, settings, parameters = FAIRSEQ[name]
    cfg, state = fairseq_checkpoint(model, settings)
    config = config_from_fairseq({"model": cfg})
    mapped = names_fairseq.WAV2VEC.to_ours(names_fairseq.with_projection(state, config), config, None, name)
    with torch.device("meta"):
        assert shapes(mapped) == shapes(StudentEncoder(config).state_dict())
    assert count(mapped) == parameters
    heads = HUBERT_HEADS if model == "hubert" else WAV2VEC_HEADS
    assert state.keys() - names_fairseq.WAV2VEC.select(state).keys() == heads
    # and back: what is written has the names and shapes of the official file
    encoder = {key: tensor for key, tensor in state.items() if key not in heads}
    assert shapes(names_fairseq.hubert_weights(mapped, config)) == shapes(encoder)


def published_names(state, prefix):
    """As the files have them: the prefix of a model with heads, and torch's older weight normalization."""
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    for new, before in old.items():
        state = {name.replace(new, before): tensor for name, tensor in state.items()}
    assert sum(name.startswith(prefix) for name in state) > 200
    return state


@pytest.mark.parametrize("name", HF)
def test_hugging_face(name):
    family, head, settings, parameters = HF[name]
    with torch.device("meta"):
        model = getattr(transformers, family + head)(getattr(transformers, f"{family}Config")(**settings))
    config = config_from_hf(dict(settings, model_type=model.config.model_type))
    names = names_hf.layout_of(config).names
    mapped = {}
    for state in (model.state_dict(), published_names(model.state_dict(), "" if head == "Model" else "wav2vec2.")):
        mapped = names.to_ours(state, config, None, name)
        with torch.device("meta"):
            assert shapes(mapped) == shapes(StudentEncoder(config).state_dict())
        assert count(mapped) == parameters
        left_over = {key.removeprefix("wav2vec2.") for key in state} - names.select(state).keys()
        assert left_over == (HF_WAV2VEC_HEADS if head == "ForPreTraining" else set())
    base = shapes(model.state_dict() if head == "Model" else model.wav2vec2.state_dict())
    assert shapes(names.to_theirs(mapped)) == base
