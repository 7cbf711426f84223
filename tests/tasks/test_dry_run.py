"""The dry run: what needs most memory is tried first, and the largest batch that fits is found."""

import re

import numpy as np
import pytest
from commands import TINY_ENCODER, TRAINING, call, losses
from fairseq.trainer import Trainer

from colld_fairseq.errors import ConfigError
from colld_fairseq.tasks.dry_run import CLOSE, STEP, DryRun, Need, largest_that_fits, worst_batches


@pytest.mark.parametrize(
    "fixed, each, limit", [(5e8, 900.0, 4e9), (2e9, 12.5, 2.2e9), (1e7, 3000.0, 9e9), (4e9, 90.0, 4.01e9)]
)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_search_comes_near_what_fits_without_trying_much_more(fixed, each, limit, noise):
    """Needs are a straight line, or nearly."""
    generator, tried = np.random.default_rng(1), []

    def need(tokens):
        tried.append(tokens)
        return Need(tokens, int(fixed + each * tokens * (1 + noise * generator.uniform(-1, 1))))

    best = largest_that_fits(need, need(16000), 10**9, int(limit))
    exact = (limit - fixed) / each
    assert best.bytes <= limit and best.tokens % STEP == 0
    assert best.tokens * CLOSE + STEP >= exact * (1 - 2 * noise) / 1.02
    assert len(tried) <= 12 and max(tried) <= max(exact * (1 + 8 * noise) + STEP, 2 * 16000)


def test_what_runs_out_of_memory_is_bisected():
    best = largest_that_fits(
        lambda tokens: Need(tokens, None if tokens > 70_000 else 10**6), Need(1000, 10**6), 10**9, 10**9
    )
    assert 70_000 / CLOSE - STEP <= best.tokens <= 70_000


def test_a_corpus_that_fits_as_one_batch_ends_the_search():
    best = largest_that_fits(lambda tokens: Need(tokens, tokens), Need(1000, 1000), 5500, 10**9)
    assert best.tokens == 6000


def test_the_worst_batches_are_those_of_a_look_at_all(finetuning):
    run = finetuning()
    run.task.load_dataset("train")
    dataset = run.task.datasets["train"]
    chosen = [tuple(batch) for batch in worst_batches(dataset, 40_000, None)]
    batches = dataset.batch_by_size(dataset.ordered_indices(), 40_000)
    assert len(batches) > 4

    def costs(batch):
        sample = dataset.collater([dataset[index] for index in batch])
        samples, labels = int(sample["samples"].max()), sample["target"].size(1)
        return np.array([len(batch) * samples, len(batch) * samples**2, len(batch) * samples * (labels + 1)])

    expected = np.stack([costs(batch) for batch in batches]).max(axis=0)
    assert np.stack([costs(batch) for batch in chosen]).max(axis=0) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("updates, reached", [(0, True), (500, True), (9, False)])
def test_what_is_frozen_at_first_takes_its_memory_too(updates, reached, finetuning):
    """As far as the run comes to that; afterwards it is frozen again."""
    run = finetuning("--freeze-encoder-updates", "100", "--max-update", str(updates), "--optimizer", "adam")
    run.task.load_dataset("train")
    trainer, gradients = Trainer(run.cfg, run.task, run.model, run.criterion), []
    next(run.model.encoder.student.blocks.parameters()).register_hook(gradients.append)
    DryRun(trainer, run.task.datasets["train"], gb=50).worst()
    assert bool(gradients) == reached
    assert run.model.encoder.num_updates == 0 and all(value.grad is None for value in run.model.parameters())


def test_memory_is_granted_to_a_dry_run_alone(finetuning):
    with pytest.raises(ConfigError, match="--dry-run-gb says nothing without --dry-run"):
        finetuning("--dry-run-gb", "3")


def options(corpus, vocab, folder, *more):
    return [
        *[corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--arch", "student_ctc"],
        *[*TINY_ENCODER, "--vocab", vocab, *TRAINING, "--disable-validation", "--max-update", "2"],
        *["--dropout", "0.1", "--save-dir", folder, *more],
    ]


def test_training_goes_on_as_without_it(corpus, vocab, tmp_path):
    plain = call("train", *options(corpus, vocab, tmp_path / "plain"))
    output = call("train", *options(corpus, vocab, tmp_path / "dry", "--dry-run", "worst"))
    assert losses(output) == losses(plain) and len(losses(plain)) == 2
    said = re.search(
        r"--max-tokens 60000 takes (\d+\.\d+) GB of (\d+\.\d+) GB; largest batch: (\d+) utterances", output
    )
    assert 0.05 < float(said[1]) < float(said[2]) and 1 < int(said[3]) <= 24
    assert output.index("dry run:") < output.index("begin training epoch")
    with pytest.raises(ConfigError, match="takes .* of 0.05 GB: lower --max-tokens .*--dry-run largest"):
        call("train", *options(corpus, vocab, tmp_path / "dry2", "--dry-run", "worst", "--dry-run-gb", "0.05"))


def test_the_largest_is_said_and_nothing_is_trained(corpus, vocab, tmp_path, caplog):
    """All of this corpus fits: the answer is one batch of everything."""
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as ended:
        call("train", *options(corpus, vocab, tmp_path, "--dry-run", "largest"))
    assert ended.value.code == 0 and not list(tmp_path.glob("*.pt"))
    told = [record.getMessage() for record in caplog.records if "dry run:" in record.getMessage()]
    said = next(
        filter(
            None,
            (re.match("the largest batch that fits: --max-tokens ([0-9]+)", r.getMessage()) for r in caplog.records),
        )
    )
    assert "largest batch: 24 utterances" in told[-1] and f"--max-tokens {said[1]} takes" in told[-1]
    assert 2 <= len(told) <= 12
