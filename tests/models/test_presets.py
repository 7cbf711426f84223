"""Shapes of the named students against published and documented sizes."""

import re

import pytest
import torch
from commands import REPOSITORY
from fairseq.models import ARCH_MODEL_INV_REGISTRY

from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder


def meta_encoder(name):
    with torch.device("meta"):
        return StudentEncoder(EncoderConfig.from_dict(PRESETS[name]))


# Parameters of the students of Wang et al. (2210.15631), of DistilHuBERT (2110.01900) and of the 12-layer half of
# 2207.06867, counted from their authors' configurations: heads and mask embedding left out.
EXACT = {
    "deep_thin": 22_937_856,
    "deep_thin_fbank": 19_107_008,
    "shallow_wide": 23_491_200,
    "distilhubert": 23_491_200,
    "half_l2l": 26_872_960,
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_sizes(name):
    assert meta_encoder(name).num_parameters() == EXACT[name]


# Millions of parameters without heads. Published: DistilHuBERT 23.49 (2110.01900), 12-L HALF 26.87
# (2207.06867), LightHuBERT a_Small 27.0 (2203.15610), USAD Small 24 (2506.18843), half of w2v-BERT 2.0: 290.
SIZES = {
    "half_l2l": (26.87, 0.01),
    "lighthubert_small": (27.0, 0.2),
    "usad_small": (24.0, 1.5),
    "conformer_1024": (290.0, 3.0),
    # Conformer S and M have 10.3 and 30.7 with predictor and joiner (2005.08100): 1.3 and 4.5 of them, and ours use
    # rotary positions and fewer channels in the subsampling.
    "conformer_10m": (9.0, 1.1),
    "conformer_30m": (26.2, 2.0),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    millions, tolerance = SIZES[name]
    assert meta_encoder(name).num_parameters() / 1e6 == pytest.approx(millions, abs=tolerance)


def test_fithubert_is_published_with_its_last_head():
    """22.49 M = encoder, two upsamplers (480 -> 480, kernel 2) and the last layer's Linear (480 -> 768)."""
    heads = 2 * (480 * 480 * 2 + 480) + (480 * 768 + 768)
    assert (meta_encoder("fithubert").num_parameters() + heads) / 1e6 == pytest.approx(22.49, abs=0.005)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_computes(name):
    """At its own depth and front-end, narrowed to what a test can afford."""
    torch.manual_seed(0)
    config = EncoderConfig.from_dict(dict(PRESETS[name], embed_dim=32, ffn_dim=32, attention_heads=4))
    encoder = StudentEncoder(config).eval()
    source = torch.randn(1, 4000) if config.front_end == "waveform" else torch.randn(1, 24, config.fbank_bins)
    with torch.no_grad():
        output = encoder(source)
    assert output.x.shape == (1, int(output.lengths[0]), 32) and torch.isfinite(output.x).all()
    assert encoder.frame_rate_hz == (25 if name in ("tiny", "fithubert", "conformer_10m", "conformer_30m") else 50)


# Of the encoders in transformers' WhisperModel of these sizes, positions included.
@pytest.mark.parametrize("name, count", [("tiny", 8208384), ("base", 20590592), ("large_v3", 636968960)])
def test_whisper_presets_have_the_published_sizes(name, count):
    assert meta_encoder(f"whisper_{name}").num_parameters() == count


def test_tiny_fits_the_quickstart():
    assert meta_encoder("tiny").num_parameters() < 5e6


# Architectures of which something is said somewhere, and a few more of the same kind: 30, beside the models' own names.
ARCHITECTURES = {
    "colld_student": [
        *[f"colld_student_{name}" for name in ("conformer_1024", "base", "small", "tiny")],
        *[f"colld_student_{name}" for name in ("conformer_10m", "conformer_30m")],
        *[f"colld_student_{name}" for name in ("distilhubert", "fithubert", "half_l2l", "lighthubert_small")],
        *["colld_student_usad_small", "hubert_student_deep_thin", "hubert_student_deep_thin_fbank"],
        *["hubert_student_shallow_wide", "fithubert", "half_l2l"],
        *[f"colld_student_whisper_{name}" for name in ("tiny", "base", "small", "medium", "large", "large_v3")],
    ],
    "student_ctc": ["student_ctc_base", "student_ctc_small", "student_ctc_tiny"],
    "student_s2t": ["student_s2t_base", "student_s2t_small", "student_s2t_tiny"],
    "transducer_student": ["transducer_student_conformer_10m", "transducer_student_conformer_30m"],
}


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_architectures_are_those_that_make_sense(model):
    assert sorted(ARCH_MODEL_INV_REGISTRY[model]) == sorted([model, *ARCHITECTURES[model]])


def test_architectures_named_in_documents_exist():
    """README, docs, recipes and their pages."""
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("examples/**/*.*")]
    pattern = re.compile(rf"\b(?:{'|'.join(ARCHITECTURES)}|hubert_student)_(?!base_ls)[a-z0-9_]*[a-z0-9]\b")
    named = {
        name for page in pages if page.suffix in (".md", ".py", ".yaml") for name in pattern.findall(page.read_text())
    }
    assert "student_s2t_small" in named
    assert not named - {name for names in ARCHITECTURES.values() for name in names}


INPUTS = {"waveform": "waveform", "whisper": "Whisper's log-mels"}  # all others: filterbanks


def test_the_page_for_a_first_run_says_every_shape():
    table = (REPOSITORY / "docs" / "first_run.md").read_text().split("## Shapes of students")[1]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE))
    assert rows == {name: " | ".join(shape(meta_encoder(name))) for name in PRESETS}


def shape(encoder):
    config = encoder.config
    yield f"{config.layers} x {config.embed_dim} {config.block.capitalize()}"
    yield f"{encoder.num_parameters() / 1e6:.1f}"
    yield INPUTS.get(config.front_end, "filterbanks")
    yield f"{encoder.frame_rate_hz:g}"
