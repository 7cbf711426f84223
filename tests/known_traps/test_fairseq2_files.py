"""What public code gets wrong in fairseq2's files: heads by width, `strict=False`, waveforms as they are, lost shards.

Each loads there without a message and gives other features; here each is refused, with its name.
"""

from pathlib import Path

import pytest
import torch
import yaml
from fairseq2_files import omniasr, save, save_shards, state_of, wav2vec

from colld_fairseq.checkpoints.fairseq2_config import PUBLISHED, Description, settle
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers import load_teacher

OMNIASR = {"large_lv60k": (24, 1024), "1b": (48, 1280), "3b": (60, 2048), "7b": (128, 2048)}


def seen(layers, width, inner=None, norm_first=True, extractor_norm="layer"):
    """What weights show of an encoder."""
    shown = dict(layers=layers, embed_dim=width, ffn_dim=inner or 4 * width, norm_first=norm_first)
    return dict(
        shown, extractor_norm=extractor_norm, conv_bias=True, channels=[512] * 7, conv_pos=128, conv_pos_groups=16
    )


def settled(shown, **given):
    return settle(shown, Description(**given), "x.pt", Path("x.yaml"))


@pytest.mark.parametrize("arch", OMNIASR)
def test_all_omniasr_have_16_heads_and_normalized_waveforms(arch):
    layers, width = OMNIASR[arch]
    config = settled(seen(layers, width))
    assert config.attention_heads == 16 and config.input.normalization == "utterance"
    for heads in {width // 64, 32, 8} - {16}:
        with pytest.raises(ConfigError, match=f"attention_heads is {heads}, but fairseq2's {arch} .* has 16"):
            settled(seen(layers, width), attention_heads=heads)


def test_one_width_has_several_heads():
    """So none is guessed: of a shape that is not published they are to be given."""
    assert {heads for (_, width, *_), (_, heads) in PUBLISHED.items() if width == 2048} == {16, 32}
    with pytest.raises(ConfigError, match="no published shape, and no weight shows the heads: .* into x.yaml"):
        settled(seen(16, 2048, 12288))
    assert settled(seen(16, 2048, 12288), attention_heads=32).attention_heads == 32
    with pytest.raises(ConfigError, match="attention_heads is 3; the width 2048 is no multiple"):
        settled(seen(16, 2048, 12288), attention_heads=3)


def test_other_heads_would_give_other_features(tmp_path, utterance):
    state = state_of(omniasr(80))
    features = []
    for heads in (2, 5):
        teacher = load_teacher(save(tmp_path / "x.pt", state, attention_heads=heads), [1])
        features.append(teacher(*utterance).features[1])
    assert (features[0] - features[1]).abs().max() > 0.01


@pytest.fixture
def utterance():
    torch.manual_seed(5)
    return torch.randn(1, 4000), torch.tensor([4000])


def test_waveforms_are_normalized_whatever_their_loudness(tmp_path, utterance):
    teacher = load_teacher(save(tmp_path / "x.pt", state_of(omniasr(12)), attention_heads=2), [3])
    waveform, lengths = utterance
    quiet, loud = (teacher(scale * waveform + offset, lengths).features[3] for scale, offset in ((1, 0), (5, 0.3)))
    torch.testing.assert_close(quiet, loud, atol=1e-3, rtol=0)


def test_waveforms_as_they_are_are_refused(tmp_path):
    spec = save(tmp_path / "x.pt", state_of(omniasr(12)), attention_heads=2, normalize=False)
    with pytest.raises(TeacherError, match="trained on normalized waveforms.*take `normalize: false` out of .*x.yaml"):
        load_teacher(spec, [1])
    spec = save(tmp_path / "base.pt", state_of(wav2vec(feat_extract_norm="group")), attention_heads=2)
    with pytest.raises(TeacherError, match="write `normalize: true` or `false`, as in its training"):
        load_teacher(spec, [1])
    assert settled(seen(12, 768, norm_first=False, extractor_norm="group")).input.normalization == "none"


Q_PROJ = "encoder.layers.2.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "old, new, message",
    [
        (Q_PROJ, None, rf"1 missing \({Q_PROJ}\)"),
        (Q_PROJ, "encoder.layers.2.self_attn.query.weight", rf"missing \({Q_PROJ}\).*without a place .*query.weight"),
        (Q_PROJ, "transformer.layers.2.q.weight", r"of no part of .* \(transformer.layers.2.q.weight\)"),
        ("encoder.layer_norm.weight", "encoder_frontend.layer_norm.weight", "without a place .encoder.layer_norm.bias"),
        (None, "encoder_frontend.layer_norm.weight", r"1 without a place \(encoder_frontend.layer_norm.weight\)"),
        (None, "encoder.layers.1.conv.weight", r"without a place \(encoder.layers.1.conv.weight\)"),
        ("encoder_frontend.pos_encoder.conv.weight_v", None, "has no encoder_frontend.pos_encoder.conv.weight_v"),
        ("encoder_frontend.feature_extractor.layers.6.conv.weight", None, "convolutions of kernels"),
    ],
)  # fmt: skip
def test_missing_extra_and_renamed_weights_are_named(old, new, message, tmp_path):
    """Also in blocks that the teacher would not need."""
    state = state_of(omniasr(12))
    value = state.pop(old) if old else torch.zeros(24)
    if new:
        state[new] = value
    with pytest.raises(TeacherError, match=message):
        load_teacher(save(tmp_path / "x.pt", state, attention_heads=2), [1])


def test_a_file_of_fairseq2_is_none_of_fairseq(tmp_path):
    save(tmp_path / "x.pt", state_of(omniasr(12)), attention_heads=2)
    with pytest.raises(TeacherError, match="holds no model configuration .*fairseq2:FILE.pt"):
        load_teacher(f"fairseq:{tmp_path}/x.pt", [1])


def test_lost_shards_are_refused(tmp_path):
    inner = save_shards(tmp_path / "run", state_of(omniasr(12)), 3)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"attention_heads": 2}))
    spec = f"fairseq2:{tmp_path}/run"
    assert load_teacher(spec, [1]).width == 24
    last = (inner / "sdp_02.pt").rename(tmp_path / "last.pt")
    with pytest.raises(
        TeacherError, match=r"output_proj.weight is \[16, 24\], and must be square; are all shards there"
    ):
        load_teacher(spec, [1])
    last.rename(inner / "sdp_02.pt")
    (inner / "sdp_01.pt").rename(tmp_path / "middle.pt")
    with pytest.raises(TeacherError, match="sdp_01.pt is missing; copy all shards"):
        load_teacher(spec, [1])
    (tmp_path / "middle.pt").rename(inner / "sdp_01.pt")
    (inner.parent / "tp_01").mkdir()
    with pytest.raises(TeacherError, match="cut by layer or by channel"):
        load_teacher(spec, [1])


def test_shards_of_another_run_are_refused(tmp_path):
    inner = save_shards(tmp_path / "run", state_of(omniasr(12)), 2)
    other = save_shards(tmp_path / "other", state_of(omniasr(80)), 2)
    (other / "sdp_01.pt").rename(inner / "sdp_01.pt")
    with pytest.raises(TeacherError, match="the shards of .* do not go together"):
        load_teacher(f"fairseq2:{inner}", [1])


def test_a_file_cut_short_is_refused(tmp_path):
    spec = save(tmp_path / "x.pt", state_of(omniasr(12)), attention_heads=2)
    content = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(TeacherError, match="is it whole"):
        load_teacher(spec, [1])


@pytest.mark.parametrize(
    "text, message",
    [
        ("attention_heads: 2\nheads: 3\n", "heads is no field; there are attention_heads, normalize"),
        ("attention_heads: many\n", "attention_heads is 'many'"),
        ("attention_heads: 2\nnormalize: 1\n", "normalize is 1; it can be true or false"),
        ("- 2\n", "list is no field"),
        ("{", "is not YAML"),
    ],
)
def test_descriptions_that_are_none(text, message, tmp_path):
    spec = save(tmp_path / "x.pt", state_of(omniasr(12)))
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(TeacherError, match=message):
        load_teacher(spec, [1])
