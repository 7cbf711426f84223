"""benchmarks/exported_whisper.py on a tiny random Whisper: every system has its rows; a second run replaces its own."""

import json

import exported_whisper
import pretrained
import pytest
import soundfile
import torch
from test_whisper_folders import SILENCE, WAVEFORMS, quiet_ends

from colld_fairseq.cli import main
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.models.assembly import assemble

LANGUAGES = ["ru", "en", "ru"]


def test_all_systems(tmp_path, capsys):
    pytest.importorskip("onnx_asr")
    source, checkpoint = f"hf:{pretrained.write_whisper(tmp_path / 'whisper')}", str(tmp_path / "model.pt")
    torch.save(assemble(source, source, silence=SILENCE), checkpoint)
    for target in ("sherpa-onnx", "onnx-asr"):
        command = ["export", "--checkpoint", checkpoint, "--to", target, str(tmp_path / target), "--int8"]
        assert main([*command, "--exporter", "torchscript"]) == 0
    rows = []
    for index, (waveform, language) in enumerate(zip(map(quiet_ends, WAVEFORMS), LANGUAGES)):
        soundfile.write(tmp_path / f"{index}.wav", waveform, 16000, subtype="FLOAT")
        spoken = dict(tgt_text="abc", src_lang=language, tgt_lang=language)
        rows.append(Row(str(index), str(tmp_path / f"{index}.wav"), len(waveform), **spoken))
    write_manifest(tmp_path / "test.tsv", rows)
    out = tmp_path / "written.json"
    arguments = ["--checkpoint", checkpoint, "--manifest", str(tmp_path / "test.tsv"), "--out", str(out)]
    arguments += ["--sherpa", str(tmp_path / "sherpa-onnx"), "--onnx-asr", str(tmp_path / "onnx-asr")]
    exported_whisper.main(arguments)
    made = json.loads(out.read_text(encoding="utf-8"))
    names = ["PyTorch", "ONNX Runtime", "sherpa-onnx", "onnx-asr"]
    assert {*names, *(f"{name}, 8 bits" for name in names[1:])} < made.keys()
    assert all(len(result["hypotheses"]) == 3 and result["seconds"] > 0 for result in made.values())
    assert made["ONNX Runtime"]["hypotheses"] == made["PyTorch"]["hypotheses"] and all(made["PyTorch"]["hypotheses"])
    assert "ONNX Runtime | 3 of 3" in capsys.readouterr().out
    exported_whisper.main([*arguments, "--systems", "PyTorch"])
    again = json.loads(out.read_text(encoding="utf-8"))
    assert again.keys() == made.keys() and again["PyTorch"]["hypotheses"] == made["PyTorch"]["hypotheses"]
    with pytest.raises(SystemExit, match="'torch' is none of PyTorch; ONNX Runtime"):
        exported_whisper.main([*arguments, "--systems", "torch"])
