"""SpeechDataset and SpeechToTextDataset: what a batch holds, what is drawn at random, and that draws repeat."""

import numpy as np
import pytest
import torch

from colld_fairseq.checkpoints.statistics import fbank_input
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.augment import SpecAugment
from colld_fairseq.data.datasets import DatasetOptions, SpeechDataset
from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.modules.input_config import InputConfig


@pytest.fixture
def rows(corpus):
    return read_manifest(str(corpus / "test.tsv"))


def make(rows, student_input=None, **options):
    if options.get("train"):
        options.setdefault("epoch_rows", lambda epoch: np.random.default_rng(epoch).permutation(len(rows)))
    return SpeechDataset(rows, student_input or StudentInput(InputConfig.waveforms()), DatasetOptions(**options))


def test_batch_of_waveforms(rows):
    dataset = make(rows, keep_waveform=True)
    batch = dataset.collater([dataset[2], dataset[0]])
    utterances = [read_audio(rows.audio_path(i)) for i in (2, 0)]
    assert batch["id"].tolist() == [2, 0] and batch["utt_id"] == ["test-2", "test-0"]
    assert batch["net_input"]["src_lengths"].tolist() == [len(utterance) for utterance in utterances]
    for row, utterance in enumerate(utterances):
        for tensor in (batch["net_input"]["src_tokens"], batch["teacher_input"]["waveforms"]):
            assert np.array_equal(tensor[row, : len(utterance)].float().numpy(), utterance)
            assert not tensor[row, len(utterance) :].any()
    assert batch["audio_seconds"] == pytest.approx(sum(map(len, utterances)) / 16000)
    assert "teacher_input" not in make(rows).collater([dataset[0]])


def test_filterbanks_and_their_normalization(rows, tmp_path):
    expected = log_mel_fbank(read_audio(rows.audio_path(0)))
    assert np.array_equal(make(rows, StudentInput(InputConfig(normalization="none")))[0]["source"], expected)
    normalized = make(rows, StudentInput())[0]["source"]
    assert np.allclose(normalized.mean(0), 0, atol=1e-4) and np.allclose(normalized.std(0), 1, atol=1e-2)
    statistics = GlobalCmvn.fit([log_mel_fbank(read_audio(rows.audio_path(1)))])
    statistics.save(str(tmp_path / "cmvn.npz"))
    source = make(rows, StudentInput(fbank_input(str(tmp_path / "cmvn.npz"))))[0]["source"]
    assert np.array_equal(source, statistics(expected)) and not np.array_equal(source, normalized)


def test_crops_at_random_in_training_and_at_the_start_otherwise(rows):
    whole = read_audio(rows.audio_path(0))
    fixed = make(rows, max_samples=4000)[0]["source"]
    assert np.array_equal(fixed, whole[:4000])
    dataset = make(rows, max_samples=4000, train=True)
    first = dataset[0]["source"]
    windows = np.lib.stride_tricks.sliding_window_view(whole, 4000)
    assert (windows == first).all(1).any() and not np.array_equal(first, fixed)
    assert dataset.size(0) == 4000 and dataset.num_tokens(0) == 4000


def test_draws_depend_on_seed_epoch_and_row_only(rows):
    """So they do not depend on the loader process, on what was read before, or on a restart."""
    augment = SpecAugment(num_freq_masks=2, num_time_masks=2)
    dataset = make(rows, StudentInput(), spec_augment=augment, train=True)
    first, other_row = dataset[0]["source"], dataset[1]["source"]
    assert np.array_equal(dataset[0]["source"], first)
    fresh = make(rows, StudentInput(), spec_augment=augment, train=True)
    assert np.array_equal(fresh[1]["source"], other_row) and np.array_equal(fresh[0]["source"], first)
    fresh.set_epoch(2)
    assert not np.array_equal(fresh[0]["source"], first)
    assert not np.array_equal(make(rows, StudentInput(), spec_augment=augment, train=True, seed=9)[0]["source"], first)
    evaluated = make(rows, StudentInput(), spec_augment=augment)[0]["source"]
    assert np.array_equal(evaluated, make(rows, StudentInput())[0]["source"])


@pytest.mark.parametrize("train", [False, True])
def test_keeping_utterances_in_memory_changes_nothing(train, rows, monkeypatch):
    augment = SpecAugment(num_freq_masks=1)
    options = dict(train=train, keep_waveform=True, max_samples=15000)
    plain = make(rows, StudentInput(), spec_augment=augment, **options)
    kept = make(rows, StudentInput(), spec_augment=augment, keep_in_memory=True, **options)
    for epoch in (1, 2):
        plain.set_epoch(epoch), kept.set_epoch(epoch)
        for i in range(len(rows)):
            for key, value in plain[i].items():
                assert np.array_equal(kept[i][key], value), (epoch, i, key)
    monkeypatch.setattr("colld_fairseq.data.datasets.read_audio", lambda path: pytest.fail(f"{path} is read again"))
    short = int(np.argmin(rows.n_samples))
    assert kept[short]["utt_id"] == f"test-{short}"


def test_order_of_batches(rows):
    fixed = make(rows).ordered_indices()
    assert np.array_equal(np.sort(fixed), np.arange(9)) and (np.diff(rows.n_samples[fixed]) >= 0).all()
    dataset = make(rows, train=True, epoch_rows=lambda epoch: np.array([4, 4, 2]))
    assert sorted(dataset.ordered_indices()) == [2, 4, 4]
    dataset = make(rows, train=True)
    first = dataset.ordered_indices()
    dataset.set_epoch(2)
    assert sorted(first) == list(range(9)) and not np.array_equal(first, dataset.ordered_indices())
    assert make(rows).can_reuse_epoch_itr_across_epochs and not dataset.can_reuse_epoch_itr_across_epochs


def test_text_of_a_batch(finetuning):
    run = finetuning()
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    batch = dataset.collater([dataset[0], dataset[8]])
    pad, eos = run.task.target_dictionary.pad(), run.task.target_dictionary.eos()
    for row, index in enumerate((0, 8)):
        length = int(batch["target_lengths"][row])
        target = batch["target"][row]
        assert target[length - 1] == eos and (target[length:] == pad).all()
        assert run.task.vocabulary.decode(target) == dataset.rows.row(index).tgt_text
        previous = batch["net_input"]["prev_output_tokens"][row]
        assert previous[0] == eos and torch.equal(previous[1:length], target[: length - 1])
        ctc = batch["ctc_target"][row, : int(batch["ctc_target_lengths"][row])]
        assert torch.equal(ctc, target[: length - 1])
    assert batch["ntokens"] == int(batch["target_lengths"].sum()) and batch["tgt_langs"] == ["xx", "xx"]


def test_nothing_readable_is_an_empty_batch_outside_training(rows):
    assert make(rows).collater([None, None]) == {}
    batch = make(rows, train=True).collater([None])
    assert len(batch["id"]) == 1
