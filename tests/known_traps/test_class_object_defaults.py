"""fairseq's forks use class objects as dataclass defaults: TransformerConfig().encoder is shared by all models."""

import copy

from fairseq.models.transformer import TransformerConfig


def snapshot():
    config = TransformerConfig()
    return {
        name: {key: copy.deepcopy(value) for key, value in vars(part).items() if not key.startswith("__")}
        for name, part in (("encoder", config.encoder), ("decoder", config.decoder))
    }


def test_building_a_translator_leaves_them_alone(finetuning):
    before = snapshot()
    small = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "40"]
    run = finetuning(*small, "--decoder-attention-heads", "2", arch="student_s2t")
    assert run.model.decoder.embed_tokens.weight.size(1) == 32
    assert {name: {k: str(v) for k, v in part.items()} for name, part in snapshot().items()} == {
        name: {k: str(v) for k, v in part.items()} for name, part in before.items()
    }
