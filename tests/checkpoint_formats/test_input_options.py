"""Options of the input, against each other and against what a checkpoint says."""

import numpy as np
import pytest

from colld_fairseq.checkpoints.input_options import InputOptions
from colld_fairseq.checkpoints.statistics import Statistics, write_statistics
from colld_fairseq.errors import AudioError, ConfigError
from colld_fairseq.modules.input_config import FBANKS, InputConfig


@pytest.fixture
def files(tmp_path):
    """Statistics of each variant."""
    paths = {fbank: str(tmp_path / f"{fbank}.npz") for fbank in FBANKS}
    for fbank, path in paths.items():
        write_statistics(path, Statistics(np.full(80, 3.0), np.ones(80), fbank))
    return paths


def corpus(fbank):
    return InputConfig(fbank=fbank, normalization="corpus", mean=[3.0] * 80, std=[1.0] * 80)


def test_a_new_student(files):
    def settled(default=None, **options):
        return InputOptions(**options).settle("fbank", None, "new.pt", default)

    assert settled() == InputConfig()
    assert settled(fbank="icefall") == InputConfig(fbank="icefall")
    assert settled(fbank="icefall", cmvn="none") == InputConfig(fbank="icefall", normalization="none")
    for fbank in FBANKS:  # the statistics say of which filterbanks they are
        assert settled(cmvn=files[fbank]) == settled(cmvn=files[fbank], fbank=fbank) == corpus(fbank)
    # what the data's configuration says holds beside --fbank
    default = InputConfig(normalization="none")
    assert settled(default) == default
    assert settled(default, fbank="icefall") == InputConfig(fbank="icefall", normalization="none")
    assert settled(corpus("icefall"), fbank="icefall") == corpus("icefall")
    with pytest.raises(ConfigError, match="--fbank icefall, but the data's statistics are of kaldi filterbanks"):
        settled(corpus("kaldi"), fbank="icefall")
    with pytest.raises(AudioError, match="kaldi.npz: .* of kaldi filterbanks, but icefall ones are asked for"):
        settled(fbank="icefall", cmvn=files["kaldi"])
    with pytest.raises(ConfigError, match="fbank='htk' is not known"):
        settled(fbank="htk")


def test_a_student_of_a_checkpoint(files):
    def settled(known, **options):
        return InputOptions(**options).settle("fbank", known, "old.pt")

    for fbank in FBANKS:
        assert settled(corpus(fbank), fbank=fbank) == settled(corpus(fbank), cmvn=files[fbank]) == corpus(fbank)
    message = "--fbank icefall asks for icefall filterbanks .*, but old.pt was trained on kaldi filterbanks"
    for known in (InputConfig(), InputConfig(normalization="none"), corpus("kaldi")):
        with pytest.raises(ConfigError, match=message):
            settled(known, fbank="icefall")
    message = "--cmvn .*icefall.npz asks for icefall filterbanks .*, but old.pt was trained on kaldi filterbanks"
    with pytest.raises(ConfigError, match=message):
        settled(corpus("kaldi"), cmvn=files["icefall"])


@pytest.mark.parametrize("kind, takes", [("waveform", "waveforms"), ("log_mel", "Whisper's log-mels")])
@pytest.mark.parametrize("fbank", FBANKS)
def test_other_kinds_of_input_have_no_filterbanks(kind, takes, fbank):
    with pytest.raises(ConfigError, match=f"--fbank {fbank}: this student takes {takes}, no filterbanks"):
        InputOptions(fbank=fbank).settle(kind, None, "new.pt")
