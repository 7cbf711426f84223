"""`colld import` of transducers: the same weights, out of three graphs and more."""

import json

import pytest
import torch

from colld_fairseq.checkpoints.onnx_folder import KEY
from colld_fairseq.checkpoints.onnx_reading import read_metadata
from colld_fairseq.cli import main
from colld_fairseq.recogniser import load_recogniser

STREAM = dict(streaming=True, chunk_ms=160, left_context="12")


@pytest.mark.parametrize("shape, target, options", [("lstm", "sherpa-onnx", {}), ("causal", "sherpa-onnx", STREAM)])
def test_the_same_model_comes_back(shape, target, options, exported, waveforms, tmp_path):
    folder, out = exported(shape, target, **options), str(tmp_path / "imported.pt")
    assert main(["import", f"onnx:{folder.folder}", "--out", out]) == 0
    before, after = folder.family.recogniser, load_recogniser(out, device="cpu")
    ours, theirs = (one.models[0].state_dict() for one in (before, after))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    languages = ["xx"] * 2 if shape == "lstm" else None
    expected, results = (one.transcribe(waveforms[:2], languages) for one in (before, after))
    assert [best.tokens for (best,) in results] == [best.tokens for (best,) in expected]


@pytest.mark.parametrize("shape, options", [("lstm", {}), ("causal", STREAM)])
def test_weights_are_in_the_graphs(shape, options, exported):
    """A second copy in the metadata would make files larger."""
    notes = json.loads(read_metadata(exported(shape, "sherpa-onnx", **options).graph("encoder"))[KEY])["weights"]
    assert [name for name, note in notes.items() if "values" in note] == ["encoder.student.mask_emb"]
