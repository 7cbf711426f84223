"""Heads are not hidden_size / 64, nor what a documentation page prints: omniASR has 16 of every width.

No weight shows the heads: a wrong number loads without a message and gives other features.
"""

import pytest
import torch
import transformers

from colld_fairseq.checkpoints.names_hf import config_from_hf
from colld_fairseq.errors import ConfigError
from colld_fairseq.teachers import load_teacher


@pytest.mark.parametrize("layers, width", [(24, 1024), (48, 1280), (60, 2048), (128, 2048)])
def test_published_shapes_have_16(layers, width):
    audio = dict(num_hidden_layers=layers, hidden_size=width)
    settings = dict(model_type="omniasr_ctc", audio_config=audio)
    assert config_from_hf(settings).attention_heads == 16  # transformers' default, where config.json says nothing
    for heads in (width // 64, 32):
        audio["num_attention_heads"] = heads
        if heads != 16:
            with pytest.raises(ConfigError, match=f"num_attention_heads is {heads}, but omniASR .* has 16"):
                config_from_hf(settings)


def test_other_heads_would_give_other_features(tmp_path):
    torch.manual_seed(0)
    audio = dict(hidden_size=160, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, conv_dim=[8] * 7)
    audio.update(num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    features = []
    for heads in (2, 5):
        config = transformers.OmniASRCTCConfig(audio_config={**audio, "num_attention_heads": heads}, vocab_size=4)
        torch.manual_seed(0)
        model = transformers.OmniASRForCTC(config)
        for value in model.model.audio_tower.layers.parameters():
            value.data.add_(0.3 * torch.randn_like(value))
        model.save_pretrained(tmp_path / str(heads))
        teacher = load_teacher(f"hf:{tmp_path}/{heads}", [1])
        torch.manual_seed(1)
        features.append(teacher(torch.randn(1, 4000), torch.tensor([4000])).features[1])
    assert features[0].shape == features[1].shape and (features[0] - features[1]).abs().max() > 0.01
