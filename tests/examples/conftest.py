"""Tiny random teachers with the depth of the published ones."""

import json

import pytest
import torch
import transformers
from synthetic import HUBERT_BASE_32, write_hubert_with_codes


def save(model, folder) -> str:
    with torch.no_grad():  # a fresh model's features hardly depend on the sound
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    return f"hf:{folder}"


@pytest.fixture(scope="session")
def hubert(tmp_path_factory) -> str:
    """Spec of a random HuBERT Base of width 32: its extractor and 12 layers."""
    torch.manual_seed(11)
    config = transformers.HubertConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4)
    return save(transformers.HubertModel(config), tmp_path_factory.mktemp("hubert"))


@pytest.fixture(scope="session")
def coded_hubert(tmp_path_factory) -> str:
    """Spec of a random HuBERT Base of width 32 as fairseq's pre-training leaves it, with 7 code classes."""
    path = tmp_path_factory.mktemp("coded_hubert") / "hubert.pt"
    return write_hubert_with_codes(path, **HUBERT_BASE_32)


@pytest.fixture(scope="session")
def w2v_bert(tmp_path_factory) -> str:
    """Spec of a random w2v-BERT 2.0 of width 32: 24 layers, stacked filterbanks, relative positions."""
    torch.manual_seed(12)
    config = transformers.Wav2Vec2BertConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4)
    return save(transformers.Wav2Vec2BertModel(config), tmp_path_factory.mktemp("w2v_bert"))
