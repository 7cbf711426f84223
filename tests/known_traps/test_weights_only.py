"""torch >= 2.6 refuses fairseq checkpoints unless its classes are registered as safe. The check is never turned off."""

import argparse
import os

import pytest
import torch
from commands import PACKAGE, TINY_ENCODER, call
from fairseq import checkpoint_utils
from fairseq.data import Dictionary

from colld_fairseq import load_student
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers import load_teacher


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture(scope="module")
def checkpoint(corpus, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    call(
        "train", corpus, "--user-dir", PACKAGE, "--task", "speech_distillation", "--teacher", teacher,
        *["--arch", "colld_student", *TINY_ENCODER, "--criterion", "colld", "--layer-map", "sparse:1"],
        *["--optimizer", "adam", "--lr", "0.001", "--max-tokens", "60000", "--max-update", "1"],
        *["--disable-validation", "--num-workers", "0", "--save-dir", folder],
    )  # fmt: skip
    return folder / "checkpoint_last.pt"


def test_our_checkpoint_needs_no_unsafe_class(checkpoint):
    assert torch.serialization.get_unsafe_globals_in_checkpoint(str(checkpoint)) == []
    assert torch.load(checkpoint, weights_only=True)["cfg"]["task"]["_name"] == "speech_distillation"
    assert checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["model"]


def test_old_fairseq_checkpoints_load(tmp_path):
    torch.save({"args": argparse.Namespace(arch="x"), "dictionary": Dictionary()}, tmp_path / "old.pt")
    assert torch.load(tmp_path / "old.pt")["args"].arch == "x"


def test_malicious_files_are_refused_and_not_run(checkpoint, tmp_path):
    marker, path = tmp_path / "was-run", tmp_path / "bad.pt"
    state = torch.load(checkpoint, weights_only=True)
    torch.save({**state, "extra": Malicious(marker)}, path)
    with pytest.raises(ConfigError, match="bad.pt"):
        load_student(str(path))
    with pytest.raises(TeacherError, match="bad.pt"):
        load_teacher(f"fairseq:{path}", layers=[1])
    with pytest.raises(Exception, match="[Ww]eights.only"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not marker.exists()
