"""fairseq-train with two teachers of different width and rate."""

import math

import pytest
import torch
from commands import call, log_records, losses


@pytest.mark.parametrize("combination", ["sum", "random"])
def test_two_updates(combination, two_teachers, tmp_path):
    output = call(
        "train",
        *[*two_teachers, "--teacher-combination", combination, "--teacher-weights", "slow=3,fast=1"],
        *["--frame-rule", "slow=stack,fast=concat_tanh", "--max-update", "2", "--save-dir", tmp_path],
    )
    assert len(losses(output)) == 2 and all(math.isfinite(float(loss)) for loss in losses(output))
    record = log_records(output, "valid")[-1]
    assert float(record["valid_loss"]) == pytest.approx(
        0.75 * float(record["valid_loss_slow"]) + 0.25 * float(record["valid_loss_fast"]), abs=2e-4
    )
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    heads = {name: value.shape for name, value in state["model"].items() if name.startswith("heads.heads.")}
    assert [heads[f"heads.heads.{k}.weight"] for k in range(3)] == [(48, 32), (48, 32), (16, 32)]
    assert state["task_state"]["teacher"].startswith("slow=hf:")


def test_random_teachers_resume_exactly(two_teachers, tmp_path):
    """Drawn teachers and masks come again after a stop."""
    options = [*two_teachers, "--teacher-combination", "random", "--mask-prob", "0.3", "--disable-validation"]
    whole = losses(call("train", *options, "--max-update", "5", "--save-dir", tmp_path / "whole"))
    parts = []
    for stop in ("2", "5"):
        parts += losses(call("train", *options, "--max-update", stop, "--save-dir", tmp_path / "parts"))
    assert parts == whole and len(whole) == 5
