"""Students out of checkpoints, and the input they were trained on."""

import numpy as np
import pytest
import torch

from colld_fairseq.checkpoints.names_colld import load_student, read_model
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import CheckpointError, ConfigError


def read_input(path, cmvn=None):
    return StudentInput(load_student(path, cmvn).config.input)


@pytest.fixture
def checkpoint(distillation, tmp_path):
    """checkpoint(options of the training) -> path of what fairseq would save."""

    def save(*options):
        from omegaconf import OmegaConf

        run = distillation(*options)
        path = tmp_path / "checkpoint.pt"
        cfg = OmegaConf.to_container(run.cfg, resolve=True, enum_to_str=True)
        torch.save({"cfg": cfg, "model": run.model.state_dict()}, path)
        return str(path)

    return save


def test_input_is_that_of_the_training(checkpoint, corpus, tmp_path):
    waveform = read_audio(str(corpus / "test-0.wav"))
    bins = log_mel_fbank(waveform)
    assert np.array_equal(read_input(checkpoint("--cmvn", "none"))(waveform), bins)
    assert abs(read_input(checkpoint())(waveform).mean()) < 1e-5
    statistics = str(tmp_path / "stats.npz")
    GlobalCmvn(np.full(80, 2.0), np.full(80, 4.0)).save(statistics)
    trained = checkpoint("--cmvn", statistics)
    np.testing.assert_allclose(read_input(trained)(waveform), (bins - 2) / 4, atol=1e-5)
    with pytest.raises(ConfigError, match="--cmvn none asks for .*checkpoint.pt was trained on .*corpus"):
        read_input(trained, cmvn="none")
    read_input(trained, cmvn=statistics)  # says the same
    (tmp_path / "stats.npz").unlink()  # the checkpoint has a copy
    np.testing.assert_allclose(read_input(trained)(waveform), (bins - 2) / 4, atol=1e-5)
    assert load_student(trained).config.input.mean == [2.0] * 80


def test_waveform_students(checkpoint, corpus):
    waveform = read_audio(str(corpus / "test-0.wav"))
    front_end = ["--front-end", "waveform"]
    assert np.array_equal(read_input(checkpoint(*front_end))(waveform), waveform)
    normalized = read_input(checkpoint(*front_end, "--normalize-waveform"))(waveform)
    assert abs(normalized.mean()) < 1e-5 and normalized.std() == pytest.approx(1.0, abs=1e-2)


def test_files_that_hold_no_student(tmp_path):
    with pytest.raises(CheckpointError, match="none.pt: no such file"):
        load_student(str(tmp_path / "none.pt"))
    others = {
        "weights alone": {"model": {}},
        "no settings of a model": {"model": {}, "cfg": {"task": {}}},
        "another program's": {"model": {}, "cfg": {"model": {"_name": "hubert"}}},
        "settings that are none": {"model": {}, "cfg": "text"},
        "no weights": {"cfg": {"model": {"encoder_config": "{}"}}},
    }
    for content in others.values():
        torch.save(content, tmp_path / "other.pt")
        for read in (load_student, read_model):
            with pytest.raises(CheckpointError, match="other.pt is not a checkpoint of a colld_fairseq model"):
                read(str(tmp_path / "other.pt"))
    torch.save([1, 2], tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="other.pt: holds a list, not a checkpoint"):
        load_student(str(tmp_path / "other.pt"))
