"""--join-* and --perturb-*: in training alone, alike for student and teacher; what cannot be joined is refused."""

import numpy as np
import pytest
import torch

from colld_fairseq.cli import main as colld
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.datasets import SpeechDataset, SpeechToTextDataset
from colld_fairseq.data.joining import JoinedUtterances
from colld_fairseq.data.perturbation import Perturbation
from colld_fairseq.errors import ConfigError, ManifestError

PERTURBED = ["--perturb-speed", "0.1", "--perturb-volume-db", "6", "--perturb-noise-db", "10"]


@pytest.mark.parametrize("setup", ["distillation", "finetuning"])
def test_perturbation_in_training_alone(setup, request):
    build = request.getfixturevalue(setup)
    task = build(*PERTURBED, "--max-seconds", "12").task
    for split, expected in (("train", Perturbation(0.1, 6.0, 10.0, 192000)), ("test", None)):
        task.load_dataset(split)
        assert task.dataset(split).options.perturbation == expected
    plain = build().task
    plain.load_dataset("train")
    assert plain.dataset("train").options.perturbation is None


def test_student_and_teacher_take_in_the_same(distillation):
    run = distillation(*PERTURBED, "--front-end", "waveform")
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    batch = dataset.collater([dataset[0], dataset[1]])
    waveforms = batch["teacher_input"]["waveforms"]
    assert torch.equal(batch["net_input"]["src_tokens"], waveforms.float())
    original = read_audio(dataset.rows.audio_path(0))
    assert len(original) != int(batch["teacher_input"]["lengths"][0])
    loss, _, _ = run.criterion(run.model, batch)
    assert torch.isfinite(loss)


def test_windows_in_training_alone(distillation):
    task = distillation("--join-seconds", "5", "--join-padded", "0.4").task
    task.load_dataset("train"), task.load_dataset("test")
    joined = task.dataset("train")
    assert isinstance(joined, JoinedUtterances) and type(task.dataset("test")) is SpeechDataset
    assert joined.joining.max_seconds == 5 and joined.joining.padded == 0.4
    rows = [row for window in joined.windows for row in window.rows]
    assert np.array_equal(np.sort(rows), np.arange(len(joined.dataset.rows)))
    batches = task.get_batch_iterator(joined, max_tokens=160000).frozen_batches
    assert sorted(index for batch in batches for index in batch) == list(range(len(joined)))
    assert all(len(batch) * max(joined.sizes[list(batch)]) <= 160000 for batch in batches)


def test_the_decoders_text_is_joined_too(distillation):
    task = distillation("--join-seconds", "30").task
    task.load_dataset("train")
    joined = task.dataset("train")
    plain, options = joined.dataset, joined.dataset.options
    encode = lambda row: torch.tensor([len(row.tgt_text)])  # noqa: E731
    utterances = SpeechToTextDataset(plain.rows, plain.student_input, options, None, encode, encode)
    item = JoinedUtterances(utterances, joined.joining)[0]
    expected = " ".join(plain.rows.row(row).tgt_text for row in joined.windows[0].rows)
    assert item["row"].tgt_text == expected and int(item["target"]) == len(expected)


@pytest.mark.parametrize("options", [["--join-seconds", "5"], ["--perturb-speed", "0.1"]])
def test_a_cache_of_other_audio_is_refused(options, distillation, corpus, teacher, tmp_path):
    manifest = str(corpus / "train.tsv")
    words = ["features", "--manifest", manifest, "--teacher", teacher, "--layers", "2,4", "--out", str(tmp_path)]
    assert colld(words) == 0
    task = distillation(*options, "--teacher-cache", str(tmp_path)).task
    with pytest.raises(ConfigError, match=f"{options[0][:6]}.*--teacher-cache"):
        task.load_dataset("train")


def test_windows_longer_than_whispers_are_refused(distillation):
    task = distillation("--front-end", "whisper", "--join-seconds", "31").task
    with pytest.raises(ConfigError, match="--join-seconds 31.*30 s"):
        task.load_dataset("train")


def test_stored_filterbanks_are_refused(finetuning, fairseq_data):
    run = finetuning("--perturb-volume-db", "3")
    run.task.cfg.data = str(fairseq_data)
    with pytest.raises(ManifestError, match="perturb"):
        run.task.load_dataset("train")
