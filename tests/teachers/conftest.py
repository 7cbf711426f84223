"""Tiny random teachers in Hugging Face layout, and utterances of different lengths."""

import json

import pytest
import torch
import transformers

TINY = dict(
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=40,
    num_conv_pos_embeddings=6,
    num_conv_pos_embedding_groups=2,
)
CONVOLUTIONS = dict(conv_dim=(8, 8, 8), conv_kernel=(10, 3, 2), conv_stride=(5, 4, 2))
GROUP = dict(**TINY, **CONVOLUTIONS, feat_extract_norm="group", do_stable_layer_norm=False)
LAYER = dict(**TINY, **CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
BERT = dict(
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=40,
    conv_depthwise_kernel_size=5,
    left_max_position_embeddings=4,
    right_max_position_embeddings=2,
)

FAMILIES = {
    "wav2vec2-group": ("Wav2Vec2", GROUP),
    "wav2vec2-layer": ("Wav2Vec2", LAYER),
    "hubert-group": ("Hubert", GROUP),
    "hubert-layer": ("Hubert", LAYER),
    "hubert-group-batchnorm": ("Hubert", dict(GROUP, conv_pos_batch_norm=True)),
    "wavlm-group": ("WavLM", GROUP),
    "wavlm-layer": ("WavLM", LAYER),
    "data2vec": (
        "Data2VecAudio",
        dict(TINY, **CONVOLUTIONS, num_conv_pos_embeddings=3, conv_pos_kernel_size=5),
    ),
    "w2v-bert": ("Wav2Vec2Bert", dict(BERT, position_embeddings_type="relative_key")),
    "w2v-bert-relative": ("Wav2Vec2Bert", dict(BERT, position_embeddings_type="relative")),
    "w2v-bert-rotary": ("Wav2Vec2Bert", dict(BERT, position_embeddings_type="rotary")),
}


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory):
    """tiny_teacher(name) -> (directory, model): a random model of FAMILIES, saved as its authors would."""
    made = {}

    def build(name: str):
        if name not in made:
            class_name, settings = FAMILIES[name]
            torch.manual_seed(sum(map(ord, name)))
            config = getattr(transformers, f"{class_name}Config")(**settings)
            model = getattr(transformers, f"{class_name}Model")(config).eval()
            with torch.no_grad():  # the library's initial norms are the identity and would hide a mistake
                for value in model.parameters():
                    value.add_(0.1 * torch.randn_like(value))
                for key, value in model.named_buffers():
                    if "running" in key:
                        value.add_(torch.rand_like(value))
            directory = tmp_path_factory.mktemp(name)
            model.save_pretrained(directory)
            (directory / "preprocessor_config.json").write_text(json.dumps({"do_normalize": "group" in name}))
            made[name] = (directory, model)
        return made[name]

    return build


@pytest.fixture
def utterances():
    """Waveforms [3, N] at different loudness with an offset, garbage in the padding, and their lengths."""
    torch.manual_seed(7)
    lengths = torch.tensor([4801, 3000, 3999])
    waveforms = 0.1 * torch.randn(3, 4801) * torch.tensor([[1.0], [3.0], [0.2]]) + 0.05
    for waveform, length in zip(waveforms, lengths.tolist()):
        waveform[length:] = 0.7
    return waveforms, lengths
