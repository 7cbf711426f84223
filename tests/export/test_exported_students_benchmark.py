"""benchmarks/exported_students.py on a tiny student: what it counts."""

import json

import exported_students
import numpy as np
import pytest
import soundfile

from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest


def test_a_student_beside_its_export(checkpoint, recogniser, exported, waveforms, tmp_path, capsys):
    rows, spoken = [], [own.text for (own,) in recogniser("conformer").transcribe(waveforms)]
    for index, (waveform, text) in enumerate(zip(waveforms, spoken)):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, waveform, 16000, subtype="FLOAT")
        rows.append(Row(str(index), str(path), len(waveform), text.upper() if index else text + " e"))
    write_manifest(tmp_path / "test.tsv", rows)
    folder = exported("conformer", "sherpa-onnx").folder
    arguments = ["--checkpoint", checkpoint("conformer"), "--folder", folder, "--manifest", tmp_path / "test.tsv"]
    exported_students.main(
        [*map(str, arguments), "--timed", "2", "--rounds", "2", "--json", str(tmp_path / "out.json")]
    )
    result = json.loads((tmp_path / "out.json").read_text())
    student, runtime, client, *eight_bits = result["systems"]
    assert result["hypotheses"]["PyTorch"] == spoken
    assert student["cer"] > 0 and [system["same"] for system in (student, runtime, client)] == [6, 6, 6]
    assert runtime["cer"] == client["cer"] == student["cer"] and not result["exceptions"]
    assert all(system["mb"] < runtime["mb"] for system in eight_bits)  # weights of matrix products only
    assert len(client["rounds"]) == 2 and client["seconds_per_second"] > 0
    assert client["seconds_per_second"] == pytest.approx(np.median(client["rounds"]))
    assert "6 of 6" in capsys.readouterr().out


def test_what_differs_is_listed():
    systems = [
        exported_students.System("PyTorch", ["a b", "c"], 1, []),
        exported_students.System("sherpa-onnx, 32 bits", ["a b", "d"], 1, []),
        exported_students.System("sherpa-onnx, 8 bits", ["x", "d"], 1, []),
    ]
    assert exported_students.differences(systems, ["u1", "u2"]) == ["u2: sherpa-onnx, 32 bits 'd', PyTorch 'c'"]
    row = exported_students.figures(systems[1], systems[0], ["a b", "c"], 1.0)
    assert row["same"] == 1 and row["wer"] == pytest.approx(100 / 3) and row["seconds_per_second"] is None
