"""`colld import`: the same weights and text, ready to decode; folders that are no way back. Training: test_way_back."""

import json
import re
from pathlib import Path

import onnx
import pytest
import soundfile
import torch
from commands import PACKAGE, call
from spoiling import copied

from colld_fairseq.checkpoints.onnx_folder import KEY
from colld_fairseq.checkpoints.onnx_reading import read_metadata
from colld_fairseq.cli import main
from colld_fairseq.export.onnx_file import add_metadata
from colld_fairseq.recogniser import load_recogniser


def imported(folder, tmp_path):
    out = tmp_path / "imported.pt"
    assert main(["import", f"onnx:{folder}", "--out", str(out)]) == 0
    assert [path.name for path in tmp_path.glob("*.pt")] == ["imported.pt"]
    return str(out)


def log_probs(recogniser, waveform):
    source = torch.from_numpy(recogniser.input(waveform))[None]
    with torch.no_grad():
        return recogniser.models[0].get_ctc_log_probs(source, torch.tensor([source.size(1)]))[0]


@pytest.mark.parametrize(
    "shape, target",
    [("conformer", "onnx"), ("subsampled", "sherpa-onnx"), ("icefall", "onnx-asr"), ("hubert", "sherpa-onnx")],
)
def test_the_same_model_comes_back(shape, target, recogniser, exported, waveforms, tmp_path):
    before, after = recogniser(shape), load_recogniser(imported(exported(shape, target).folder, tmp_path), device="cpu")
    for waveform in waveforms[:3]:
        torch.testing.assert_close(log_probs(after, waveform), log_probs(before, waveform), atol=1e-5, rtol=0)
    assert [best.text for (best,) in after.transcribe(waveforms)] == [
        best.text for (best,) in before.transcribe(waveforms)
    ]
    ours, theirs = (one.models[0].state_dict() for one in (before, after))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]) or "pos_conv.weight_" in name, name


@pytest.mark.parametrize("folder", ["another vocabulary", "nothing"])
def test_the_current_folder_is_not_looked_into(
    folder, exported, waveforms, tagged_vocab, tmp_path, monkeypatch, caplog
):
    """It names no folder, and its own vocabulary is in it."""
    path = Path(imported(exported("icefall", "sherpa-onnx").folder, tmp_path)).absolute()
    monkeypatch.chdir(tagged_vocab if folder == "another vocabulary" else tmp_path)
    caplog.clear()
    assert load_recogniser(str(path)).transcribe(waveforms[:1])
    assert "no vocabulary" not in caplog.text


def test_fairseq_generate_and_transcribe_take_it(exported, recogniser, corpus, waveforms, tmp_path, capsys):
    """Without the vocabulary's folder, of which the metadata hold a copy."""
    path = imported(exported("icefall", "sherpa-onnx").folder, tmp_path)
    soundfile.write(tmp_path / "a.wav", waveforms[0], 16000)
    assert main(["transcribe", path, str(tmp_path / "a.wav")]) == 0
    ((expected,),) = recogniser("icefall").transcribe(waveforms[:1])
    assert expected.text and expected.text in capsys.readouterr().out
    task = ["--task", "multilingual_speech_to_text", "--gen-subset", "test", "--num-workers", 0]
    output = call("generate", corpus, "--user-dir", PACKAGE, *task, "--path", path)
    assert sum(line.startswith("D-") for line in output.splitlines()) == 9


def test_no_path_of_the_machine_that_trained_it_is_exported(exported, tmp_path_factory):
    content = read_metadata(exported("subsampled", "sherpa-onnx").graph("model"))[KEY]
    assert str(tmp_path_factory.getbasetemp()) not in content and "/" not in json.dumps(json.loads(content)["model"])


def only_eight_bits(folder):
    (folder / "model.onnx").unlink()


def renamed_eight_bits(folder):
    (folder / "model.int8.onnx").replace(folder / "model.onnx")


def quantized_with_metadata(folder):
    content = read_metadata(folder / "model.onnx")[KEY]
    renamed_eight_bits(folder)
    add_metadata(folder / "model.onnx", {KEY: content})


def damaged(folder):
    add_metadata(folder / "model.onnx", {KEY: read_metadata(folder / "model.onnx")[KEY][:-7]})


def other_version(folder):
    content = json.loads(read_metadata(folder / "model.onnx")[KEY])
    add_metadata(folder / "model.onnx", {KEY: json.dumps({**content, "format": 99})})


def outside(folder):
    content = json.loads(read_metadata(folder / "model.onnx")[KEY])
    content["weights"]["ctc.bias"]["file"] = "../model.onnx"
    add_metadata(folder / "model.onnx", {KEY: json.dumps(content)})


def other_model(folder):
    content = json.loads(read_metadata(folder / "model.onnx")[KEY])
    content["model"]["_name"] = "transformer_lm"
    add_metadata(folder / "model.onnx", {KEY: json.dumps(content)})


def nothing(folder):
    for path in folder.glob("*.onnx"):
        path.unlink()


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (only_eight_bits, "8-bit weights alone .* import the folder with its 32-bit graphs"),
        (renamed_eight_bits, "without the metadata colld_checkpoint.* or quantized"),
        (quantized_with_metadata, "is not where the export noted it .* quantized"),
        (damaged, "metadata colld_checkpoint is damaged"),
        (other_version, "another version"),
        (outside, "a file outside of it"),
        (other_model, "damaged .*transformer_lm"),
        (nothing, "holds no graph"),
    ],
)
def test_what_is_refused(spoil, reason, exported, tmp_path, capsys):
    folder = copied(exported("conformer", "sherpa-onnx"), tmp_path).folder
    spoil(folder)
    assert main(["import", f"onnx:{folder}", "--out", str(tmp_path / "o.pt")]) == 2
    assert re.search(reason, capsys.readouterr().err)
    assert not list(tmp_path.glob("*.pt"))


def test_a_changed_graph_is_not_imported(exported, tmp_path, capsys):
    """Its weights are read as they are; what else it does is not, and shows in its output."""
    folder = copied(exported("conformer", "onnx"), tmp_path).folder
    model = onnx.load(folder / "model.onnx")
    node = next(node for node in model.graph.node if node.op_type == "LogSoftmax")
    node.op_type = "Softmax"
    onnx.save(model, folder / "model.onnx")
    assert main(["import", f"onnx:{folder}", "--out", str(tmp_path / "o.pt")]) == 1
    assert "Nothing was written" in capsys.readouterr().out and not list(tmp_path.glob("*.pt"))


def test_what_is_no_folder_of_an_export(tmp_path, capsys):
    for source, reason in ((str(tmp_path), "write onnx:DIR"), (f"onnx:{tmp_path}/absent", "no such folder")):
        assert main(["import", source, "--out", str(tmp_path / "o.pt")]) == 2
        assert reason in capsys.readouterr().err
