"""Two worker processes on one machine without GPUs."""

import math
import subprocess

import pytest
import torch
from commands import binary, environment, log_records, losses, spawn

from colld_fairseq.teachers.cache import FeatureCache

WORKERS = 2


def start_workers(options, folder, backend):
    """The processes of a training (gloo). fairseq counts GPUs where it starts them itself, so they are started here."""
    processes = []
    for rank in range(WORKERS):
        arguments = [
            *[*options, "--save-dir", folder / "saved", "--cpu", "--distributed-backend", "gloo"],
            *["--distributed-world-size", WORKERS, "--distributed-rank", rank, "--distributed-no-spawn"],
            *["--distributed-init-method", f"file://{folder}/rendezvous", *backend],
        ]
        command = [binary("fairseq-train"), *map(str, arguments)]
        processes.append(
            subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    return processes


def train_distributed(options, folder, backend=("--ddp-backend", "legacy_ddp")):
    """What the first worker logged."""
    processes = start_workers(options, folder, backend)
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * WORKERS, "\n\n".join(text[-1500:] for text in outputs)
    return outputs[0]


def test_distillation_and_its_validation(distil_options, distilled, tmp_path):
    output = train_distributed([*distil_options, "--max-update", 3], tmp_path)
    assert len(losses(output)) == 3 and all(math.isfinite(float(loss)) for loss in losses(output))
    assert float(log_records(output, "train_inner")[0]["bsz"]) > float(
        log_records(distilled.output, "train_inner")[0]["bsz"]
    )
    assert math.isfinite(float(log_records(output, "valid")[-1]["valid_loss"]))


def test_validation_scores_of_two_workers_are_those_of_one(finetune_options, recogniser, vocab, corpus, tmp_path):
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


def test_two_workers_draw_teachers_of_their_own(two_teachers, tmp_path):
    """Batches of one clip, so each worker trains the heads of one teacher, and fairseq compares the workers' gradients
    at every update. That torch's DistributedDataParallel is content too, tasks/test_several_teachers.py shows."""
    options = [*two_teachers, "--teacher-combination", "random", "--frame-rule", "concat_tanh", "--batch-size", "1"]
    output = train_distributed([*options, "--max-update", "3", "--disable-validation"], tmp_path)
    records = log_records(output, "train_inner")
    assert len(records) == 3 and all(math.isfinite(float(record["loss"])) for record in records)
    assert all(float(record["bsz"]) == WORKERS for record in records)


def test_features_under_torchrun(corpus, teacher, teacher_cache, tmp_path):
    """Two processes share the parts of a cache; together they write what one does."""
    arguments = ["--manifest", f"{corpus}/train.tsv,{corpus}/valid.tsv", "--teacher", teacher, "--layers", "2,4"]
    workers = ["--standalone", "--nproc-per-node", WORKERS, "--no-python", binary("colld")]
    run = spawn("torchrun", *workers, "features", *arguments, "--part-seconds", "4", "--out", tmp_path)
    assert "process 1 of 2" in run.output and "process 2 of 2" in run.output
    assert len(list(tmp_path.glob("part-*.bin"))) > 4 and (tmp_path / "index.json").is_file()
    shared, alone = FeatureCache.open(tmp_path, teacher), FeatureCache.open(teacher_cache)
    assert len(shared) == len(alone) == 34
    for name in alone.places:
        for layer, values in alone.read([name]).features.items():
            torch.testing.assert_close(shared.read([name]).features[layer], values, rtol=1e-3, atol=1e-3)
