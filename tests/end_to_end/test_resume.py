"""kill -9 in the middle of a run, start again: the loss curve of an uninterrupted run, digit for digit."""

import os
import signal
import subprocess
import time

import pytest
from commands import binary, call, environment, log_records, losses

UPDATES = 24
KILL_AFTER = 13
PERTURBED = ["--perturb-speed", "0.1", "--perturb-volume-db", "6", "--perturb-noise-db", "10"]
CHECKPOINTS = ["--save-interval-updates", "5", "--keep-interval-updates", "1", "--disable-validation"]


def curve(output):
    """update number -> (loss, gradient norm) as printed."""
    return {int(r["num_updates"]): (r["loss"], r["gnorm"]) for r in log_records(output, "train_inner")}


def run_and_kill(options, log_path):
    """Start training and SIGKILL it (and its loader processes) once update KILL_AFTER is in the log."""
    with open(log_path, "w") as log:
        command = [binary("fairseq-train"), *map(str, options)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), start_new_session=True)
        try:
            deadline = time.time() + 120
            while f'"num_updates": "{KILL_AFTER}"' not in log_path.read_text():
                assert process.poll() is None and time.time() < deadline, log_path.read_text()[-2000:]
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL
    return log_path.read_text()


@pytest.fixture(scope="module")
def curves(distil_options, tmp_path_factory):
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return curve(call("train", *distil_options, *CHECKPOINTS, "--max-update", UPDATES, "--save-dir", folder))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_distillation_resumes_exactly(workers, curves, distil_options, tmp_path):
    assert sorted(curves) == list(range(1, UPDATES + 1))
    options = [
        *distil_options,
        *CHECKPOINTS,
        "--max-update",
        UPDATES,
        "--save-dir",
        tmp_path,
        "--num-workers",
        workers,
    ]
    first = curve(run_and_kill([*options, "--max-update", "1000"], tmp_path / "log.txt"))
    second = curve(call("train", *options))
    assert min(second) > 5 and min(second) <= max(first) + 1  # it went on from a checkpoint
    assert max(second) == UPDATES
    assert {update: curves[update] for update in first if update <= UPDATES} == {
        update: value for update, value in first.items() if update <= UPDATES
    }
    assert {update: curves[update] for update in second} == second


def test_stopped_finetuning_resumes_exactly(finetune_options, vocab, tmp_path):
    """With every random thing on: masks, dropout, layer-drop, SpecAugment, temperature sampling, an initial freeze."""
    options = [
        *[*finetune_options, "--arch", "student_ctc", "--vocab", vocab, "--disable-validation"],
        *[
            "--dropout",
            "0.1",
            "--encoder-layerdrop",
            "0.2",
            "--output-dropout",
            "0.1",
            "--mask-prob",
            "0.3",
        ],
        *[
            "--mask-channel-prob",
            "0.2",
            "--mask-channel-length",
            "4",
            "--specaug-freq-masks",
            "2",
            "--specaug-time-masks",
            "2",
        ],
        *["--sampling-alpha", "0.5", "--freeze-encoder-updates", "4", *PERTURBED],
    ]
    check_stopped_run(options, tmp_path)


def test_stopped_distillation_of_joined_and_perturbed_utterances_resumes_exactly(distil_options, tmp_path):
    """Windows are drawn anew in every epoch, of which these updates make several."""
    options = [*distil_options, "--join-seconds", "4", "--join-padded", "0.3", "--disable-validation", *PERTURBED]
    whole = check_stopped_run(options, tmp_path)
    assert sum(float(loss) > 0 for loss, _ in whole.values()) == 14


def check_stopped_run(options, folder):
    """The curve of a run that is stopped twice is that of a whole one, which is given."""
    whole = curve(call("train", *options, "--max-update", 14, "--save-dir", folder / "whole"))
    parts = {}
    for stop in (6, 11, 14):
        parts.update(curve(call("train", *options, "--max-update", stop, "--save-dir", folder / "parts")))
    assert parts == whole
    return whole


def test_whole_run_does_not_depend_on_workers(curves, distil_options, tmp_path):
    output = call(
        "train",
        *distil_options,
        "--disable-validation",
        "--max-update",
        4,
        "--save-dir",
        tmp_path,
        "--num-workers",
        "2",
    )
    assert curve(output) == {update: curves[update] for update in range(1, 5)}
    assert len(losses(output)) == 4
