"""A transducer that learns from another one, in two processes: the same updates as in one."""

import pytest
import torch
from checkpoints import save_transducer
from commands import TINY_ENCODER, TRAINING, log_records
from workers import WORKERS, run_workers, train_distributed

STUDENT = [
    *["--task", "multilingual_speech_to_text", "--arch", "transducer_student", "--criterion", "transducer"],
    *["--predictor-embed-dim", "16", "--joiner-dim", "24", *TINY_ENCODER, "--front-end", "conv2d"],
    *["--predictor-dropout", "0", "--auxiliary-ctc", "--freeze-encoder-updates", "1", "--max-symbols", "1"],
]
PRUNED = ["--prune-range", "4", "--prune-warmup-updates", "4"]
KINDS = {
    "lattice": ["--kd", "lattice", "--kd-mean", "node"],
    "path, pruned": ["--kd", "one_best", "--kd-shift", "1", "--kd-window", "2", *PRUNED],
}
UPDATES = 3


@pytest.fixture(scope="module")
def transducer(corpus, vocab, tmp_path_factory):
    """Checkpoint of a transducer with random weights."""
    folder = tmp_path_factory.mktemp("teacher_transducer")
    return save_transducer(folder / "teacher.pt", corpus, "full", "--vocab", vocab)


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_are_one_with_two_batches_an_update(kind, corpus, vocab, transducer, tmp_path):
    """The encoder is frozen in the first update. Plain gradient descent: Adam's first updates would show the signs of
    gradients that are 0 but for rounding.

    The batches are the same ones. Were they cut otherwise (one of all utterances, say), sums over utterances would be
    the same again, but not what is weighed by a batch's own counts: --kd-mean node, and CTC where targets are too long.
    """
    options = [corpus, *STUDENT, *TRAINING, "--vocab", vocab, "--teacher-transducer", transducer, *KINDS[kind]]
    options += ["--optimizer", "sgd", "--lr", "0.1", "--max-update", UPDATES, "--find-unused-parameters"]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    alone = [*options, "--cpu", "--update-freq", "2", "--save-dir", tmp_path / "one" / "saved"]
    (expected,) = run_workers([alone], tmp_path / "one")
    result = train_distributed(options, tmp_path / "two", "pytorch_ddp")
    for log, count, more in (("train_inner", UPDATES, ("gnorm", "bsz")), ("valid", 1, ("wer", "cer"))):
        records = list(zip(log_records(result, log), log_records(expected, log), strict=True))
        assert len(records) == count
        for mine, theirs in records:
            keys = [key for key in theirs if key.endswith(("loss", *more))]
            assert len(keys) > 5
            for key in keys:
                assert float(mine[key]) == pytest.approx(float(theirs[key]), rel=1e-3), (log, key)
    one = torch.load(tmp_path / "one" / "worker0.pt", weights_only=True)
    two, other = (torch.load(tmp_path / "two" / f"worker{rank}.pt", weights_only=True) for rank in range(WORKERS))
    for name, value in one.items():
        assert torch.equal(two[name], other[name]), name
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
