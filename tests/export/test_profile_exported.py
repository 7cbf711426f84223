"""`colld profile --exported`: sizes are those of the files, times those of graphs that give the student's output."""

import json

import numpy as np
import onnx
import pretrained
import pytest
import torch

from colld_fairseq.cli import main
from colld_fairseq.cli.profile.exported import exported_loaders
from colld_fairseq.cli.profile.plot import Plot
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions
from colld_fairseq.export.folder import write_folder
from colld_fairseq.models.assembly import assemble
from colld_fairseq.recogniser import load_recogniser

CPU = torch.device("cpu")
QUICK = ["--seconds", "0.5", "--runs", "3", "--batch-sizes", "1,2", "--threads", "1", "--device", "cpu"]


def test_a_checkpoint_beside_its_export(checkpoint, exported, tmp_path, capsys):
    folder, path = exported("conformer", "sherpa-onnx").folder, checkpoint("conformer")
    outputs = ["--json", str(tmp_path / "p.json"), "--plot", str(tmp_path / "p.png"), "CER", "4", "4", "4.0", "5.5"]
    assert main(["profile", *QUICK, "--student", path, "--exported", f"onnx:{folder}", *outputs]) == 0
    models = json.loads((tmp_path / "p.json").read_text())["models"]
    assert [model["role"] for model in models] == ["student", "PyTorch", "ONNX, 32 bits", "ONNX, 8 bits"]
    for name in ("parameters", "layers", "width", "frame_rate_hz", "mb_float32", "mb_float16"):
        assert len({model[name] for model in models}) == 1, name
    assert models[0]["gmacs_per_10s"] == models[1]["gmacs_per_10s"] and models[2]["gmacs_per_10s"] is None
    assert models[0]["mb_float16"] == models[0]["mb_float32"] / 2
    for model, name in zip(models[2:], ("model.onnx", "model.int8.onnx")):
        assert model["mb_stored"] == (folder / name).stat().st_size / 1e6
    for model in models:
        assert [speed["batch_size"] for speed in model["speed"]] == [1, 2]
        for speed in model["speed"]:
            assert speed["rtf"] == pytest.approx(np.median(speed["seconds"]) / (0.5 * speed["batch_size"]))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "MB as float16" in printed and "ONNX, 8 bits" in printed and "behind the encoder: CTC layer" in printed


@pytest.mark.parametrize("shape, target", [("icefall", "onnx-asr"), ("stateless", "onnx-asr"), ("attention", "onnx")])
def test_folders_of_several_graphs(shape, target, exported, tmp_path):
    """onnx-asr's, whose graphs lie in a folder of their own; encoders are measured, decoders are not."""
    folder, out = exported(shape, target).folder, tmp_path / "p.json"
    assert main(["profile", *QUICK, "--exported", f"onnx:{folder}", "--json", str(out)]) == 0
    models = json.loads(out.read_text())["models"]
    assert [model["role"] for model in models] == ["PyTorch", "ONNX, 32 bits", "ONNX, 8 bits"]
    graphs = [next(folder.rglob(name)) for name in ("encoder.onnx", "encoder.int8.onnx")]
    assert [model["mb_stored"] for model in models[1:]] == [path.stat().st_size / 1e6 for path in graphs]
    assert all(speed["rtf"] > 0 for model in models for speed in model["speed"])


@pytest.mark.parametrize("target, batches", [("onnx", [1, 2]), ("sherpa-onnx", [1]), ("onnx-asr", [1, 2])])
def test_whisper_s_encoders_get_the_log_mels_of_their_client(target, batches, tmp_path):
    """Keys that the decoder attends to, of the frames that the student has: its silence is made in the graph."""
    pretrained.write_whisper(tmp_path / "whisper")
    source = f"hf:{tmp_path / 'whisper'}"
    torch.save(assemble(source, source, silence=dict(tail_seconds=0.5, least_seconds=2.0)), tmp_path / "model.pt")
    ours = load_recogniser(str(tmp_path / "model.pt"), device="cpu")
    write_folder(tmp_path / "m", family_of(ours, ExportOptions(target)), False, "torchscript")
    spec, waveform = str(tmp_path / "m"), np.random.default_rng(0).standard_normal(40000).astype(np.float32)
    if target == "sherpa-onnx":  # which has no frame that reaches beyond the end
        waveform[-300:] = 0
    in_torch, graph = [load(spec, CPU) for load in exported_loaders(spec)]
    assert [size for size in (1, 2) if graph.largest_batch is None or size <= graph.largest_batch] == batches
    for size in batches:
        frames = in_torch.run(np.stack([waveform] * size))
        projection = ours.models[0].decoder.network.layers[0].encoder_attn.k_proj
        theirs = torch.from_numpy(graph.run(np.stack([waveform] * size))[0])
        first = theirs[..., : projection.out_features] if target == "onnx-asr" else theirs[0]
        torch.testing.assert_close(first, projection(frames).detach(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape, target", [("conformer", "onnx"), ("hubert", "sherpa-onnx")])
def test_what_is_timed_gives_the_student_s_output(shape, target, recogniser, exported, waveforms):
    """Neither half of the work nor that of another input is timed."""
    spec, model = str(exported(shape, target).folder), recogniser(shape).models[0]
    in_torch, graph, _ = [load(spec, CPU) for load in exported_loaders(spec)]
    waveform = waveforms[0][None]
    source = torch.from_numpy(recogniser(shape).input(waveform[0]))[None]
    with torch.no_grad():
        encoded = model.encoder.student(source).x
        log_probs, _ = model.get_ctc_log_probs(source, torch.tensor([source.size(1)]))
    torch.testing.assert_close(in_torch.run(waveform), encoded, atol=1e-5, rtol=0)
    theirs = torch.from_numpy(graph.run(waveform)[0])
    torch.testing.assert_close(theirs[..., 4:], log_probs[..., 4:], atol=1e-3, rtol=0)
    assert graph.largest_batch == (1 if shape == "hubert" else None)


def test_a_slot_of_single_utterances_has_no_time_of_a_batch(exported, tmp_path):
    out = str(tmp_path / "p.json")
    assert main(["profile", *QUICK, "--exported", str(exported("hubert", "sherpa-onnx").folder), "--json", out]) == 0
    models = json.loads((tmp_path / "p.json").read_text())["models"]
    assert [model["speed"][1]["rtf"] is None for model in models] == [False, True, True]
    assert all(model["speed"][0]["rtf"] > 0 for model in models)


def test_the_plot_shows_what_was_given():
    models = [
        dict(role="ONNX", source=name, mb_stored=size, speed=[dict(batch_size=1, rtf=rtf)])
        for name, size, rtf in (("a", 30.0, 0.02), ("b", 9.0, None))
    ]
    left, right = Plot("p.png", "WER", [4.5, 5.0]).draw(models).axes
    assert [tuple(line.get_xydata()[0]) for line in left.lines] == [(30.0, 4.5), (9.0, 5.0)]
    assert [tuple(line.get_xydata()[0]) for line in right.lines] == [(0.02, 4.5)]
    assert left.get_ylabel() == "WER" and "batch 1" in right.get_xlabel()


@pytest.mark.parametrize(
    "words, reason",
    [
        (["p.png"], "scores of the 2 models"),
        (["p.png", "WER", "1"], "scores of the 2"),
        (["p.png", "W", "1", "x"], "x"),
    ],
)
def test_scores_that_do_not_fit(words, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=reason):
        Plot.parse(words, 2)


def test_folders_without_an_encoder(tmp_path, capsys):
    assert main(["profile", "--exported", f"onnx:{tmp_path}"]) == 2
    assert "no folder with a graph that `colld export` wrote" in capsys.readouterr().err
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    assert main(["profile", "--exported", f"onnx:{tmp_path}"]) == 2
