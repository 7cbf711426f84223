"""The GPU's script in miniature on the CPU: every part runs, and a difference is told."""

import importlib
import json
import sys

import pytest
import torch
from commands import REPOSITORY


@pytest.fixture
def gpu(monkeypatch):
    """benchmarks/gpu.py; what it does to torch and to the path is undone."""
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    threads = torch.get_num_threads()
    yield importlib.import_module("gpu")
    torch.set_num_threads(threads)


def run(gpu, tmp_path, *parts):
    code = gpu.run(gpu.parse_arguments(["--device", "cpu", "--out", str(tmp_path), "--only", ",".join(parts)]))
    return code, json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()


def test_losses_and_measures(gpu, tmp_path):
    """Each loss against itself: no difference; each measurement is a time."""
    names = ("losses", "transducer losses", "joiner and loss", "distillation step", "encoders")
    code, result, page = run(gpu, tmp_path, *names)
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


def test_teachers_criterions_decoders_training_and_resume(gpu, tmp_path):
    code, result, page = run(gpu, tmp_path, "teachers", "criterions", "decoders", "training", "resume", "ways")
    assert code == 0, result
    assert [len(part["rows"]) for part in result["parts"]] == [2, 4, 2, 2, 1, 2]
    assert all(row["ok"] for part in result["parts"] for row in part["rows"])


def test_a_difference_fails_and_the_rest_goes_on(gpu, tmp_path, monkeypatch, capsys):
    checks = importlib.import_module("gpu_checks")
    monkeypatch.setattr(checks, "LOSS_ERROR", 0.0)  # nothing is below it
    monkeypatch.setitem(gpu.PARTS, "encoders", lambda args: 1 / 0)
    code, result, page = run(gpu, tmp_path, "encoders", "losses")
    assert code == 1 and "**failed**: ZeroDivisionError" in page and "FAILED" in page
    assert "FAILED losses: contrastive" in capsys.readouterr().out
    args = gpu.parse_arguments(["--device", "cpu", "--out", str(tmp_path), "--only", "losses", "--minutes", "-1"])
    assert gpu.run(args) == 1 and "left out" in (tmp_path / "gpu.md").read_text()
    with pytest.raises(SystemExit):
        gpu.parse_arguments(["--only", "losses,nothing"])
