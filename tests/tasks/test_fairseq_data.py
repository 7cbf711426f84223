"""The tasks on data directories that fairseq's own speech-to-text scripts made."""

import shutil

import numpy as np
import pytest
from commands import TINY_ENCODER
from task_setup import set_up

from colld_fairseq.cli import main as colld
from colld_fairseq.data.fbank import fbank_samples
from colld_fairseq.data.stored_fbank import read_stored_fbank
from colld_fairseq.errors import ManifestError

WAVEFORM = ["--front-end", "waveform", "--conv-feature-layers", "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2"]


@pytest.fixture
def finetune(fairseq_data, vocab):
    def build(*more, folder=fairseq_data):
        task = ["--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--arch", "student_ctc"]
        return set_up(folder, *task, "--vocab", vocab, *TINY_ENCODER, *more)

    return build


def test_batches_of_stored_filterbanks(finetune):
    task = finetune("--cmvn", "none").task
    task.load_dataset("dev")
    dataset = task.dataset("dev")
    batch = dataset.collater([dataset[1], dataset[5]])
    for row, index in enumerate((1, 5)):
        expected = read_stored_fbank(dataset.rows.audio_path(index), 80)
        frames = int(batch["net_input"]["src_lengths"][row])
        assert np.array_equal(batch["net_input"]["src_tokens"][row, :frames], expected)
        assert dataset.size(index) == fbank_samples(frames)


def test_limits_in_seconds_are_those_of_the_frames(finetune, fairseq_data):
    run = finetune("--max-seconds", "1.0", "--min-seconds", "0.5")
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    frames = {dataset[i]["source"].shape[0] for i in dataset.ordered_indices()}
    assert 48 <= min(frames) and max(frames) <= 98  # a frame takes 25 ms, the next one begins 10 ms later
    lengths = np.loadtxt(fairseq_data / "train.tsv", delimiter="\t", skiprows=1, usecols=2, dtype=int, comments=None)
    assert len(dataset.ordered_indices()) == ((lengths >= 48) & (lengths <= 98)).sum()


def test_batches_are_limited_in_samples(finetune):
    run = finetune()
    run.task.load_dataset("dev")
    dataset = run.task.dataset("dev")
    batches = run.task.get_batch_iterator(dataset, max_tokens=40000, seed=1).frozen_batches
    longest = int(dataset.sizes.max())
    assert len(batches) > 1 and sorted(i for batch in batches for i in batch) == list(range(10))
    assert all(len(batch) * dataset.sizes[batch].max() <= max(40000, longest) for batch in batches)


def test_a_waveform_front_end_says_what_to_do(finetune):
    run = finetune(*WAVEFORM)
    with pytest.raises(ManifestError, match=r"dev\.tsv:2: .*this student needs the waveform.*--front-end fbank_stack"):
        run.task.load_dataset("dev")


def test_other_bins_are_refused_before_training(finetune, fairseq_data, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((50, 40), dtype=np.float32))
    header, first, *rest = (fairseq_data / "dev.tsv").read_text().splitlines(keepends=True)
    fields = first.split("\t")
    (tmp_path / "dev.tsv").write_text(header + "\t".join([fields[0], "a.npy", "50", *fields[3:]]) + "".join(rest))
    run = finetune(folder=tmp_path)
    with pytest.raises(ManifestError, match=r"dev\.tsv:2: filterbanks of 40 bins, but the student takes 80"):
        run.task.load_dataset("dev")


def distil(folder, teacher, *more):
    options = ["--task", "speech_distillation", "--teacher", teacher, "--arch", "colld_student", "--criterion", "colld"]
    return set_up(folder, *options, "--layer-map", "sparse:2", *TINY_ENCODER, *more)


def test_a_teacher_needs_the_waveform(fairseq_data, teacher):
    run = distil(fairseq_data, teacher)
    with pytest.raises(ManifestError, match=r"train\.tsv:2: .*the teacher needs the waveform.*--teacher-cache"):
        run.task.load_dataset("train")


def test_a_cache_stands_in_for_the_teacher(fairseq_data, corpus, teacher, tmp_path):
    """Made of the audio with the same ids; the student reads the stored filterbanks."""
    cache = tmp_path / "cache"
    audio = str(corpus / "train.tsv")
    assert colld(["features", "--manifest", audio, "--teacher", teacher, "--layers", "2,4", "--out", str(cache)]) == 0
    shutil.copy(fairseq_data / "train.tsv", tmp_path)
    run = distil(tmp_path, teacher, "--teacher-cache", cache)
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    batch = dataset.collater([dataset[i] for i in (0, 3, 4)])
    assert "teacher_input" not in batch
    loss, sample_size, _ = run.criterion(run.model.train(), batch)
    assert np.isfinite(loss.item()) and sample_size > 0
