"""Two worker processes on one machine without GPUs (gloo)."""

import math
import subprocess

import pytest
from commands import binary, environment, log_records, losses

WORKERS = 2


def start_workers(options, folder, backend):
    """The worker processes. fairseq counts GPUs where it starts them itself, so they are started here."""
    processes = []
    for rank in range(WORKERS):
        arguments = [
            *[*options, "--save-dir", folder / "saved", "--cpu", "--distributed-backend", "gloo"],
            *["--distributed-world-size", WORKERS, "--distributed-rank", rank, "--distributed-no-spawn"],
            *["--distributed-init-method", f"file://{folder}/rendezvous", *backend],
        ]
        command = [binary("fairseq-train"), *map(str, arguments)]
        processes.append(
            subprocess.Popen(
                command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    return processes


def train_distributed(options, folder, backend=("--ddp-backend", "legacy_ddp")):
    """What the first worker logged."""
    processes = start_workers(options, folder, backend)
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * WORKERS, "\n\n".join(
        text[-1500:] for text in outputs
    )
    return outputs[0]


def test_distillation_and_its_validation(distil_options, distilled, tmp_path):
    output = train_distributed([*distil_options, "--max-update", 3], tmp_path)
    assert len(losses(output)) == 3 and all(math.isfinite(float(loss)) for loss in losses(output))
    assert float(log_records(output, "train_inner")[0]["bsz"]) > float(
        log_records(distilled.output, "train_inner")[0]["bsz"]
    )
    assert math.isfinite(float(log_records(output, "valid")[-1]["valid_loss"]))


def test_validation_scores_of_two_workers_are_those_of_one(
    finetune_options, recogniser, vocab, corpus, tmp_path
):
    """No update is made: both workers only validate the same checkpoint, each on half of the clips."""
    options = [*finetune_options, "--arch", "student_ctc", "--vocab", vocab, "--max-update", "8"]
    (tmp_path / "saved").mkdir()
    options += [
        "--restore-file",
        recogniser.checkpoint,
        "--reset-dataloader",
        "--max-update",
        "9",
        "--lr",
        "0",
    ]
    record = log_records(train_distributed(options, tmp_path), "valid")[-1]
    expected = log_records(recogniser.output, "valid")[-1]
    for key in ("valid_loss", "valid_wer", "valid_cer", "valid_cer_yy-xx", "valid_chrf"):
        assert float(record[key]) == pytest.approx(float(expected[key]), abs=1e-3)
