"""fairseq-train with two teachers of different width and rate."""

import math

import pytest
import torch
from commands import call, log_records, losses

from colld_fairseq.cli import main as colld


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


def test_balanced_losses_resume_exactly(two_teachers, tmp_path):
    """The running means are in the checkpoint, and what is validated with them goes on as well."""
    options = [*two_teachers, "--balance-updates", "3", "--target-norm", "slow=instance", "--mask-prob", "0.3"]
    options += ["--teacher-weights", "slow=3,fast=1"]
    whole = call("train", *options, "--max-update", "5", "--save-dir", tmp_path / "whole")
    parts = [call("train", *options, "--max-update", stop, "--save-dir", tmp_path / "parts") for stop in ("2", "5")]
    assert [loss for part in parts for loss in losses(part)] == losses(whole) and len(losses(whole)) == 5
    records = [log_records(output, "valid")[-1] for output in (whole, parts[-1])]
    for key in ("loss", "share_slow", "share_fast", "cka_slow", "cka_fast"):
        assert records[0][f"valid_{key}"] == records[1][f"valid_{key}"]
    assert 0 < float(records[0]["valid_cka_slow"]) < 1
    states = [torch.load(tmp_path / run / "checkpoint_last.pt", weights_only=True) for run in ("whole", "parts")]
    scales = [state["task_state"]["loss_scales"] for state in states]
    assert scales[0] == scales[1] and scales[0]["counts"] == {"slow": 3, "fast": 3}
    first = log_records(whole, "train_inner")[0]
    assert float(first["loss"]) == 1.0 and float(first["share_slow"]) == 0.75
    for name in ("slow", "fast"):
        assert scales[0]["start"][name] == pytest.approx(float(first[f"loss_{name}"]), abs=1e-4)


def test_codebooks_are_learned(corpus, two_teachers, teacher, fast_teacher, tmp_path):
    """A teacher that runs along, and one of which there is nothing but a folder of indexes."""
    for name, spec, layer in (("slow", teacher, 2), ("fast", fast_teacher, 3)):
        command = f"codebooks --teacher {spec} --layer {layer} --num-codebooks 2 --num-codes 16 --device cpu"
        command += (
            f" --manifest {corpus}/train.tsv,{corpus}/valid.tsv --out {tmp_path}/{name} --indexes {tmp_path}/i_{name}"
        )
        assert colld(command.split()) == 0
    options = [*two_teachers, "--criterion", "multi_codebook", "--layer-map", "slow=2:2,fast=2:3"]
    options += ["--teacher-codebooks", f"slow={tmp_path}/slow,fast={tmp_path}/fast"]
    options += ["--teacher-cache", f"fast={tmp_path}/i_fast", "--balance-updates", "10"]
    output = call("train", *options, "--max-update", "60", "--save-dir", tmp_path / "run")
    first = log_records(output, "train_inner")[0]
    for name in ("slow", "fast"):
        assert float(first[f"loss_{name}"]) == pytest.approx(math.log(16), abs=0.4)
    valid = log_records(output, "valid")[-1]
    assert float(valid["valid_loss"]) < 0.8 and float(valid["valid_agreement"]) > 25  # chance: 6.25
    state = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    heads = {name: value.shape for name, value in state["model"].items() if name.startswith("heads.heads.")}
    assert [heads[f"heads.heads.{k}.weight"] for k in range(2)] == [(2 * 2 * 16, 32), (4 * 2 * 16, 32)]
