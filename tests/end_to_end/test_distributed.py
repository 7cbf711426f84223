"""Two worker processes on one machine without GPUs."""

import math
import socket

import pytest
import torch
from commands import call, log_records, losses
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from workers import WORKERS, run_workers, train_distributed

from colld_fairseq.cli import main as colld
from colld_fairseq.teachers.cache import FeatureCache


def test_distillation_and_its_validation(distil_options, distilled, tmp_path):
    output = train_distributed([*distil_options, "--max-update", 3], tmp_path)
    assert len(losses(output)) == 3 and all(math.isfinite(float(loss)) for loss in losses(output))
    assert float(log_records(output, "train_inner")[0]["bsz"]) > float(
        log_records(distilled.output, "train_inner")[0]["bsz"]
    )
    assert math.isfinite(float(log_records(output, "valid")[-1]["valid_loss"]))


def test_validation_scores_of_two_workers_are_those_of_one(finetune_options, recogniser, vocab, corpus, tmp_path):
    """No update is made: both workers only validate the same checkpoint, each on half of the utterances."""
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


@pytest.mark.parametrize("backend", ["pytorch_ddp", "legacy_ddp"])
def test_two_workers_draw_teachers_of_their_own(backend, two_teachers, tmp_path):
    """Batches of one utterance, so each worker trains the heads of one teacher, and fairseq compares the workers'
    gradients at every update. torch's own backend waits for every parameter's gradient."""
    options = [*two_teachers, "--teacher-combination", "random", "--frame-rule", "concat_tanh", "--batch-size", "1"]
    output = train_distributed([*options, "--max-update", "4"], tmp_path, backend)
    records = log_records(output, "train_inner")
    assert len(records) == 4 and all(math.isfinite(float(record["loss"])) for record in records)
    one, two = (torch.load(tmp_path / f"worker{rank}.pt", weights_only=True) for rank in range(WORKERS))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(float(record["bsz"]) == WORKERS for record in records)


def test_balanced_losses_of_two_workers_are_those_of_one(two_teachers, corpus, tmp_path):
    """Each worker has one utterance of two, one worker both: every update divides by the means over both of them."""
    data = tmp_path / "data"
    data.mkdir()
    lines = (corpus / "train.tsv").read_text().splitlines(keepends=True)
    (data / "train.tsv").write_text("".join(lines[:3]))
    (data / "valid.tsv").write_text((corpus / "valid.tsv").read_text())
    options = [data, *two_teachers[1:], "--audio-root", corpus, "--balance-updates", "2", "--max-update", "3"]
    options += ["--dropout", "0"]
    one = call("train", *options, "--batch-size", "2", "--save-dir", tmp_path / "alone")
    two = train_distributed([*options, "--batch-size", "1"], tmp_path)
    expected, records = log_records(one, "train_inner"), log_records(two, "train_inner")
    assert len(records) == len(expected) == 3
    for record, other in zip(records, expected):
        for key in ("loss", "gnorm", "loss_slow", "loss_fast", "share_slow"):
            assert float(record[key]) == pytest.approx(float(other[key]), abs=2e-3), key
    expected, record = log_records(one, "valid")[-1], log_records(two, "valid")[-1]
    for key in ("valid_loss", "valid_cka_slow", "valid_cka_fast"):
        assert float(record[key]) == pytest.approx(float(expected[key]), abs=2e-3), key


def test_two_machines_of_torchrun_make_one_run(two_teachers, tmp_path):
    """Each starts one process, with the environment that torchrun gives it and no option that says so."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    shared = dict(MASTER_ADDR="localhost", MASTER_PORT=str(port), WORLD_SIZE=str(WORKERS), LOCAL_RANK="0")
    options = [*two_teachers, "--batch-size", "1", "--max-update", "2", "--disable-validation"]
    options += [*["--save-dir", tmp_path / "saved"], "--cpu", "--ddp-backend", "legacy_ddp"]
    first, second = run_workers(
        [options] * WORKERS, tmp_path, environments=[{**shared, "RANK": str(rank)} for rank in range(WORKERS)]
    )
    records = log_records(first, "train_inner")
    assert [float(record["bsz"]) for record in records] == [WORKERS] * 2 and not log_records(second, "train_inner")
    one, two = (torch.load(tmp_path / f"worker{rank}.pt", weights_only=True) for rank in range(WORKERS))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_features_under_torchrun(corpus, teacher, teacher_cache, tmp_path):
    """Two processes share the parts of a cache, together they write what one does. The command torchrun calls the same
    `elastic_launch`."""
    arguments = ["--manifest", f"{corpus}/train.tsv,{corpus}/valid.tsv", "--teacher", teacher, "--layers", "2,4"]
    config = LaunchConfig(
        *(1, 1, WORKERS),  # of this machine alone
        **dict(run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="forkserver"),
        logs_specs=DefaultLogsSpecs(str(tmp_path / "logs"), redirects=Std.ALL),
    )
    cache = tmp_path / "cache"
    launch = elastic_launch(config, colld)
    assert launch(["features", *arguments, "--part-seconds", "4", "--out", str(cache)]) == {0: 0, 1: 0}
    printed = "".join(path.read_text() for path in (tmp_path / "logs").rglob("stdout.log"))
    assert "process 1 of 2" in printed and "process 2 of 2" in printed
    assert len(list(cache.glob("part-*.bin"))) > 4 and (cache / "index.json").is_file()
    shared, alone = FeatureCache.open(cache, teacher), FeatureCache.open(teacher_cache)
    assert len(shared) == len(alone) == 34
    for name in alone.places:
        for layer, values in alone.read([name]).features.items():
            torch.testing.assert_close(shared.read([name]).features[layer], values, rtol=1e-3, atol=1e-3)
