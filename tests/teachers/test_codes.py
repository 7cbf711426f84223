"""The code classes of a teacher: HuBERT's own against fairseq's model, codebooks against distances."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fairseq_models import TINY, build, save
from safetensors.torch import save_file

from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.codebook import Codebook, CodebookHeader
from colld_fairseq.teachers.codes import codes_of, load_codes

VARIANTS = {
    "Base": dict(TINY),
    "Large": dict(TINY, extractor_mode="layer_norm", layer_norm_first=True, conv_bias=True),
    "untied projection": dict(TINY, untie_final_proj=True),
    "gated embeddings": dict(TINY, target_glu=True),
    "no projection width": dict(TINY, final_dim=0),
}


def fairseq_logits(model, waveform, temp):
    """[T, 5] that fairseq's own forward compares with its targets, from one normalized utterance [N].

    Its logits are [positive, all classes with the positive at -inf]; nothing is masked here.
    """
    model.apply_mask = lambda x, padding, targets: (x, torch.zeros(x.shape[:2], dtype=torch.bool))
    model.feat2tar_ratio, model.logit_temp, model.skip_masked = 1.0, temp, True
    targets = torch.randint(0, 5, (1, len(waveform) // 40))
    source = F.layer_norm(waveform, waveform.shape)[None]
    padding = torch.zeros(source.shape, dtype=torch.bool)
    with torch.no_grad():
        output = model(source, [targets], padding)
    logits = output["logit_u_list"][0]
    targets = targets[0, : len(logits)]
    rows = torch.arange(len(logits))
    assert torch.isinf(logits[rows, targets + 1]).all()
    expected = logits[:, 1:].clone()
    expected[rows, targets] = logits[:, 0]
    return expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_fairseqs_pretraining_logits(variant, tmp_path, utterances):
    settings = VARIANTS[variant]
    model = build("hubert", settings)
    spec = f"fairseq:{save(tmp_path / 'model.pt', model, 'hubert', settings)}"
    codes = load_codes(spec)
    assert (codes.layer, codes.kind, codes.num_codes, codes.code_dim) == (3, "layer", 5, settings["final_dim"] or 24)
    waveforms, lengths = utterances
    output = load_teacher(spec, [codes.layer])(waveforms, lengths)
    ours = codes.logits(output.features[3], temp=0.1)
    assert ours.shape == (*output.features[3].shape[:2], 5)
    for row, length in enumerate(lengths.tolist()):
        expected = fairseq_logits(model, waveforms[row, :length], temp=0.1)
        frames = int(output.lengths[row])
        assert expected.std() > 0.1
        torch.testing.assert_close(ours[row, :frames], expected[:frames], atol=1e-4, rtol=0)


def test_logits_are_float32_whatever_the_features(tmp_path):
    spec = f"fairseq:{save(tmp_path / 'model.pt', build('hubert', TINY), 'hubert', TINY)}"
    codes = load_codes(spec).to("cpu")
    features = torch.randn(2, 7, 24).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        result = codes.logits(features, 0.1)
    assert result.dtype == torch.float32
    assert torch.equal(result, codes.logits(features.float(), 0.1))


def test_temperature_divides(tmp_path):
    codes = codes_of(book())
    features = torch.randn(3, 6)
    torch.testing.assert_close(codes.logits(features, 0.5), 2 * codes.logits(features, 1.0))


@pytest.mark.parametrize(
    "missing, reason",
    [
        ("label_embs_concat", "lacks label_embs_concat"),
        ("final_proj.weight", "lacks final_proj.weight"),
    ],
)
def test_a_checkpoint_without_its_head_names_the_way_out(missing, reason, tmp_path):
    model = build("hubert", TINY)
    path = save(tmp_path / "model.pt", model, "hubert", TINY)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["model"][missing]
    torch.save(checkpoint, path)
    with pytest.raises(TeacherError, match=f"{reason}.*colld cluster --teacher fairseq:.*--teacher-codes"):
        load_codes(f"fairseq:{path}")


def test_other_models_name_the_way_out(tmp_path, tiny_teacher):
    path = save(tmp_path / "model.pt", build("wav2vec2", TINY), "wav2vec2", TINY)
    directory = tiny_teacher("hubert-group")[0]
    for spec in (f"fairseq:{path}", f"hf:{directory}"):
        with pytest.raises(TeacherError, match=f"no codes of its own.*colld cluster --teacher {spec} "):
            load_codes(spec)


def test_several_dictionaries_are_refused(tmp_path):
    settings = dict(TINY, untie_final_proj=True)
    model = build("hubert", settings, dictionaries=(5, 6))
    for labels in (["km", "phn"], ["km"]):  # the second: an incomplete configuration
        path = save(tmp_path / "model.pt", model, "hubert", settings, labels=labels)
        with pytest.raises(TeacherError, match="several label dictionaries.*colld cluster"):
            load_codes(f"fairseq:{path}")


def book(content_hash="0", width=6, clusters=4):
    torch.manual_seed(3)
    header = CodebookHeader(content_hash, 2, "ffn", clusters, 1, 7, "1", "hf:é", 50.0, 99, 1.5)
    return Codebook(torch.randn(clusters, width), torch.randn(width), torch.rand(width) + 0.5, header)


def test_a_codebook_survives_its_file(tmp_path):
    made = book()
    made.save(tmp_path / "codes.safetensors")
    result = Codebook.load(tmp_path / "codes.safetensors")
    assert result.header == made.header
    for name in ("centroids", "mean", "std"):
        assert torch.equal(getattr(result, name), getattr(made, name))


def test_codebook_logits_are_negative_distances():
    made = book()
    features = 3 * torch.randn(2, 5, 6)
    normalized = ((features - made.mean) / made.std).double().numpy()
    difference = normalized[:, :, None] - made.centroids.double().numpy()
    codes = codes_of(made)
    assert (codes.layer, codes.kind, codes.metric, codes.num_codes, codes.code_dim) == (2, "ffn", "euclidean", 4, 6)
    expected = -np.square(difference).mean(-1) / 0.3
    torch.testing.assert_close(codes.logits(features, 0.3).double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


def test_a_codebook_belongs_to_one_teacher(tmp_path, tiny_teacher):
    path = tmp_path / "codes.safetensors"
    teachers = {name: load_teacher(f"hf:{tiny_teacher(name)[0]}", [2]) for name in ("hubert-group", "wavlm-group")}
    book(teachers["hubert-group"].content_hash).save(path)
    assert load_codes(teachers["hubert-group"].spec, str(path)).source == str(path)
    with pytest.raises(TeacherError, match="made from hf:é, whose files differ.*colld cluster --teacher hf:"):
        load_codes(teachers["wavlm-group"].spec, str(path))


def test_files_that_are_no_codebook(tmp_path):
    path = tmp_path / "codes.safetensors"
    with pytest.raises(TeacherError, match="cannot be read as a codebook"):
        Codebook.load(path)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(TeacherError, match="cannot be read as a codebook"):
        Codebook.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(TeacherError, match="not a codebook of this version"):
        Codebook.load(path)
    facts = {"format": "colld-codebook-1", "metric": "euclidean", "layer": 2}
    save_file({"centroids": torch.zeros(2, 3)}, path, {"colld": json.dumps(facts)})
    with pytest.raises(TeacherError, match="incomplete codebook"):
        Codebook.load(path)


def test_shapes_of_a_codebook_must_fit(tmp_path):
    made = book()
    for centroids in (made.centroids[:, :5], torch.tensor(1.0)):
        Codebook(centroids, made.mean, made.std, made.header).save(tmp_path / "codes")
        with pytest.raises(TeacherError, match="shapes do not fit"):
            Codebook.load(tmp_path / "codes")


def test_settings_that_differ_are_named():
    header = book().header
    header.must_equal(header, "x")
    with pytest.raises(ConfigError, match="codes is of a fit with another content_hash .0, not 5.; give another --out"):
        book("5").header.must_equal(header, "codes")
