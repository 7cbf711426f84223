"""Training from a teacher transducer: pruned, stopped and resumed; its pseudo-labels and n-best lists as targets."""

import pytest
import torch
from checkpoints import save_untrained
from commands import TINY_ENCODER, TRAINING, call, log_records
from task_setup import set_up

from colld_fairseq.cli import main as colld

STUDENT = [
    *["--task", "multilingual_speech_to_text", "--arch", "transducer_student", "--criterion", "transducer"],
    *["--predictor-embed-dim", "16", "--joiner-dim", "24", *TINY_ENCODER, "--front-end", "conv2d"],
]


@pytest.fixture(scope="module")
def transducer(corpus, vocab, tmp_path_factory):
    """A transducer with random weights."""
    run = set_up(corpus, *STUDENT, "--vocab", vocab, "--predictor", "stateless", "--joiner-dim", "20")
    return save_untrained(run, tmp_path_factory.mktemp("teacher_transducer") / "teacher.pt")


def train(data, vocab, transducer, folder, updates, *options):
    options = [data, *STUDENT, *TRAINING, "--vocab", vocab, "--teacher-transducer", transducer, *options]
    return call("train", *options, "--save-dir", folder, "--max-update", updates)


def test_stopped_pruned_distillation_resumes_exactly(corpus, vocab, transducer, tmp_path):
    """With SpecAugment, dropout and the warm-up of the pruned loss on; the checkpoint knows the teacher by its hash."""
    options = ["--kd", "one_best", "--kd-shift", "1", "--kd-window", "2", "--auxiliary-ctc", "--dropout", "0.1"]
    options += ["--prune-range", "4", "--prune-warmup-updates", "6", "--specaug-freq-masks", "1"]
    options += ["--disable-validation"]

    def curve(folder, updates):
        output = train(corpus, vocab, transducer, folder, updates, *options)
        return {record["num_updates"]: record for record in log_records(output, "train_inner")}

    whole, parts = curve(tmp_path / "whole", 6), {}
    for stop in (3, 6):
        parts.update(curve(tmp_path / "parts", stop))
    for update, record in whole.items():
        for key in ("loss", "transducer_loss", "simple_loss", "kd_loss", "ctc_loss", "gnorm"):
            assert parts[update][key] == record[key], (update, key)
    assert len(whole) == 6 and float(whole["6"]["kd_loss"]) > 0
    checkpoint = torch.load(tmp_path / "whole" / "checkpoint_last.pt", weights_only=True)
    assert checkpoint["task_state"]["teacher_transducer_hash"]
    assert not any("teacher" in name for name in checkpoint["model"])


def test_pseudo_labels_and_nbest_lists(corpus, vocab, transducer, tmp_path):
    """`colld transcribe` with the teacher; its manifest is training data at once, its lists are found beside it."""
    for split in ("train", "valid"):
        rows = (corpus / f"{split}.tsv").read_text().replace("\t" + split, f"\t{corpus}/{split}")
        (tmp_path / f"{split}.tsv").write_text(rows)
    out = tmp_path / "train_pseudo.tsv"
    arguments = ["--manifest", corpus / "test.tsv", "--out", out, "--beam", "3", "--nbest", "2"]
    assert colld(["transcribe", str(transducer), *map(str, arguments), "--options", "blank_penalty=3"]) == 0
    options = ["--train-subset", "train,train_pseudo", "--nbest-targets", "2", "--kd", "lattice", "--kd-mean", "node"]
    output = train(tmp_path, vocab, transducer, tmp_path / "run", 3, *options)
    assert "n-best lists of 9 rows, 0 without" in output and "33 utterances" in output
    updates, valid = log_records(output, "train_inner"), log_records(output, "valid")
    assert len(updates) == 3 and float(updates[-1]["kd_loss"]) > 0 and float(valid[-1]["valid_kd_loss"]) > 0
