"""fairseq's batch_by_size drops the last batch when its size is no multiple of required_batch_size_multiple (8)."""

import numpy as np
import pytest
import synthetic
from fairseq.data import data_utils

from colld_fairseq.errors import ConfigError


def seen_ids(task, split):
    iterator = task.get_batch_iterator(
        task.dataset(split), max_tokens=60000, max_sentences=None, required_batch_size_multiple=8
    ).next_epoch_itr(shuffle=split == "train")
    return sorted(index for batch in iterator for index in batch["id"].tolist())


@pytest.mark.parametrize("count", [5, 20])
def test_ids_in_are_ids_out(count, distillation, tmp_path):
    synthetic.write_corpus(tmp_path, train=count, valid=count, test=count)
    run = distillation()
    run.task.cfg.data = str(tmp_path)
    for split in ("train", "valid", "test"):
        run.task.load_dataset(split)
        assert seen_ids(run.task, split) == list(range(count))


@pytest.mark.parametrize("count", [5, 20])
def test_finetuning_loses_none_either(count, finetuning, tmp_path):
    synthetic.write_corpus(tmp_path, train=count, valid=count, test=count)
    run = finetuning()
    run.task.cfg.data = str(tmp_path)
    for split in ("train", "valid", "test"):
        run.task.load_dataset(split)
        assert seen_ids(run.task, split) == list(range(count))


def test_the_trap_is_still_there():
    """When this fails fairseq has been mended and the guard in SpeechTask.get_batch_iterator can go."""
    batches = data_utils.batch_by_size(
        np.arange(20), num_tokens_fn=lambda i: 1, num_tokens_vec=np.ones(20, dtype=np.int64), max_tokens=8,
        required_batch_size_multiple=8,
    )  # fmt: skip
    assert sum(map(len, batches)) < 20


def test_what_no_batch_is_large_enough_for_is_told(finetuning, tmp_path, caplog):
    """fairseq leaves it out with a list of numbers; here with hours, and with what would take it in."""
    synthetic.write_corpus(tmp_path, train=8, valid=2, test=2)
    run = finetuning()
    run.task.cfg.data = str(tmp_path)
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    longest = int(dataset.sizes.max())
    limit = longest - 1
    for _ in range(2):
        batches = run.task.get_batch_iterator(
            dataset, max_tokens=limit, max_positions=limit, ignore_invalid_inputs=True
        )
    kept = {index for batch in batches.frozen_batches for index in batch}
    assert kept == set((dataset.sizes <= limit).nonzero()[0].tolist()) and len(kept) < 8
    (said,) = [record.getMessage() for record in caplog.records if "LEFT OUT" in record.getMessage()]
    assert said.startswith(f"{8 - len(kept)} of 8 training utterances") and said.endswith(f"(--max-tokens {longest})")
    caplog.clear()
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    run.task.get_batch_iterator(dataset, max_tokens=longest, max_positions=longest, ignore_invalid_inputs=True)
    assert "LEFT OUT" not in caplog.text
    with pytest.raises(ConfigError, match="8 of 8 training utterances .* LEFT OUT: --max-tokens 10 is"):
        run.task.load_dataset("train")
        run.task.get_batch_iterator(run.task.dataset("train"), max_tokens=10, max_positions=10)
