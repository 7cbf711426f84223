"""Random fairseq models and their checkpoints."""

import argparse

import torch
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

TINY = dict(
    encoder_layers=3,
    encoder_embed_dim=24,
    encoder_ffn_embed_dim=40,
    encoder_attention_heads=2,
    conv_feature_layers="[(8, 10, 5)] + [(8, 3, 4)] * 1 + [(8, 2, 2)]",
    conv_pos=6,
    conv_pos_groups=2,
    final_dim=4,
    latent_vars=4,
)
TASK = dict(normalize=True, sample_rate=16000)


def shake(model):
    """Moves parameters away from their initial values, under which norms would do nothing."""
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
        for key, value in model.named_buffers():
            if "running" in key:
                value.add_(torch.rand_like(value))
    return model.eval()


def build(name, settings, dictionaries=(5,)):
    """A random fairseq model; a HuBERT has dictionaries of these sizes."""
    torch.manual_seed(11)
    if name == "wav2vec2":
        return shake(Wav2Vec2Model(Wav2Vec2Config(**settings, quantize_targets=True)))
    fields = {key: value for key, value in settings.items() if key not in ("latent_vars", "pos_conv_depth")}
    config = HubertConfig(**fields)
    config.label_rate = 50
    for key in ("pos_conv_depth", "conv_pos_batch_norm"):
        if key in settings:
            setattr(config, key, settings[key])
    task = HubertPretrainingConfig(label_rate=50, sample_rate=16000)
    return shake(HubertModel(config, task, [range(size) for size in dictionaries]))


def save(path, model, name, settings, old_layout=False, labels=("km",)):
    """A checkpoint as fairseq's trainer writes it: "cfg" today, "args" before 2020."""
    checkpoint = {"model": model.state_dict(), "optimizer_history": [], "extra_state": {}}
    if old_layout:
        checkpoint["args"] = argparse.Namespace(arch=name, **settings, **TASK)
    else:
        task = {"_name": "audio_pretraining", **TASK, "labels": list(labels)}
        checkpoint["cfg"] = {"model": {"_name": name, **settings}, "task": task}
    torch.save(checkpoint, path)
    return path
