"""The GPU's script in miniature on the CPU: every part runs, and a difference is told."""

import json

import gpu
import gpu_checks
import pytest
from pretended_gpu import pretended_gpu


def run(tmp_path, *parts, device="cpu"):
    options = f"--device {device} --preset tiny --minutes 60 --out {tmp_path}".split()
    code = gpu.run(gpu.parse_arguments([*options, "--only", ",".join(parts)]))
    return code, json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()


def test_losses_and_measures(tmp_path):
    """Each loss against itself: no difference; each measurement is a time."""
    names = ("losses", "transducer losses", "joiner and loss", "distillation step", "encoders")
    code, result, page = run(tmp_path, *names)
    parts = {part["name"]: part for part in result["parts"]}
    assert code == 0 and list(parts) == list(names)
    checked = parts["losses"]["rows"]
    assert len(checked) == 11 and all(row["ok"] and row["error"] == 0 for row in checked)
    for name in names[1:]:
        rows = parts[name]["rows"]
        assert len(rows) >= 2 and all(row["ms"] > 0 for row in rows if "ms" in row)
    step = next(row for row in parts["distillation step"]["rows"] if row["name"] == "step")
    assert 0 < step["share_of_a_matrix_product"] and step["tflops_per_second"] > 0
    assert "## losses" in page and "| transducer, pruned |" in page and "| checkpointed |" in page


def test_teachers_criterions_decoders_training_and_resume(tmp_path):
    code, result, page = run(tmp_path, "teachers", "criterions", "decoders", "training", "resume", "ways")
    assert code == 0, result
    assert [len(part["rows"]) for part in result["parts"]] == [2, 4, 2, 2, 1, 2]
    assert all(row["ok"] for part in result["parts"] for row in part["rows"])


def test_training_on_a_machine_with_a_gpu(tmp_path, monkeypatch):
    """One that is pretended: every criterion in float32, bfloat16, float16 and with autocast."""
    monkeypatch.setattr(gpu_checks, "chosen", lambda cases, args: cases)
    with pretended_gpu():
        code, result, page = run(tmp_path, "training", device="cuda")
    assert code == 0, page
    (rows,) = (part["rows"] for part in result["parts"])
    assert [row["name"] for row in rows] == list(gpu_checks.TRAININGS)
    assert all(row.keys() >= {"bf16", "fp16", "amp"} for row in rows)


def test_a_difference_fails_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_checks, "LOSS_ERROR", 0.0)  # nothing is below it
    monkeypatch.setitem(gpu.PARTS, "encoders", lambda args: 1 / 0)
    code, result, page = run(tmp_path, "encoders", "losses")
    assert code == 1 and "**failed**: ZeroDivisionError" in page and "FAILED" in page
    assert "FAILED losses: contrastive" in capsys.readouterr().out
    args = gpu.parse_arguments(["--device", "cpu", "--out", str(tmp_path), "--only", "losses", "--minutes", "-1"])
    assert gpu.run(args) == 1 and "left out" in (tmp_path / "gpu.md").read_text()
    with pytest.raises(SystemExit):
        gpu.parse_arguments(["--only", "losses,nothing"])
