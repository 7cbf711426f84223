"""A folder's dict.txt was replaced by one of as many symbols: labels of another vocabulary were taken for one's own.

What a model's labels are, the copy of the vocabulary in its checkpoint says, wherever it is compared with another.
"""

import json
import shutil

import pytest
import tiny_whisper
import torch
from checkpoints import save_weights
from commands import TINY_ENCODER
from fairseq import tasks
from task_setup import assemble, configure, vary

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.cli.convert import write_recognizer
from colld_fairseq.data.vocabulary_copy import copy_of_decoder, difference, label_difference
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.averaging import average
from colld_fairseq.teachers.ctc_teacher import load_ctc_teacher
from colld_fairseq.teachers.load_transducer import load_teacher_transducer

TRANSDUCER = ["--arch", "transducer_student", "--criterion", "transducer", "--auxiliary-ctc", "--front-end", "conv2d"]
TRANSDUCER += ["--predictor-embed-dim", "16", "--joiner-dim", "24"]
DOORS = {"--teacher-ctc": load_ctc_teacher, "--teacher-transducer": load_teacher_transducer}


def reverse(folder):
    """The same symbols in the reverse order."""
    path = folder / "dict.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::-1]))


@pytest.fixture(scope="module")
def base(corpus):
    return configure(corpus, "--task", "multilingual_speech_to_text", *TINY_ENCODER, *TRANSDUCER)


@pytest.fixture
def taught(base, vocab, tmp_path):
    """A model with both layers, trained with the vocabulary in `data`."""
    shutil.copytree(vocab, tmp_path / "data")
    return save(vary(base, vocab=str(tmp_path / "data")), tmp_path / "teacher.pt")


def save(cfg, path):
    torch.manual_seed(len(path.name))
    run = assemble(cfg)
    return str(save_weights(run, path, run.model.state_dict(), task_state=run.task.state_dict()))


def without_copy(path):
    state = torch.load(path, weights_only=True)
    del state["task_state"]["vocabulary"]
    torch.save(state, path)


def load(base, path, folder):
    """The teachers of a student with the vocabulary in `folder`."""
    task = tasks.setup_task(vary(base, vocab=str(folder)).task)
    for option, door in DOORS.items():
        try:
            yield option, door(path, task)
        except ConfigError as error:
            yield option, str(error)


@pytest.mark.parametrize("moved", [False, True])
def test_teachers(moved, base, taught, vocab, tmp_path):
    """The folder of the teacher's training now holds another vocabulary, or is gone."""
    reverse(tmp_path / "data")
    now = (tmp_path / "data").rename(tmp_path / "moved") if moved else tmp_path / "data"
    for option, said in load(base, taught, now):
        assert f"{option} {taught}: its vocabulary is not that of {now} (token 4 is " in said
    assert all(teacher.path == taught for _, teacher in load(base, taught, vocab))


def test_teachers_of_the_same_tokens_of_text_in_another_form(base, taught, tmp_path):
    with (tmp_path / "data" / "config.yaml").open("a") as config:
        config.write("text_normalization: {lowercase: true}\n")
    assert all(
        "text_normalization is None, not {'lowercase': True}" in said
        for _, said in load(base, taught, tmp_path / "data")
    )


def test_older_teachers_are_told_by_their_folder_else_by_their_size(
    base, taught, tagged_vocab, vocab, tmp_path, caplog
):
    without_copy(taught)
    assert all(teacher.path == taught for _, teacher in load(base, taught, vocab)) and not caplog.records
    reverse(tmp_path / "data")
    assert all("(token 4 is " in said for _, said in load(base, taught, vocab))
    shutil.rmtree(tmp_path / "data")
    assert all(teacher.path == taught for _, teacher in load(base, taught, vocab))
    assert (
        caplog.messages
        == [f"{taught} holds no copy of its vocabulary, and {tmp_path}/data none: only its size is compared"] * 2
    )
    assert all("tokens, not " in said for _, said in load(base, taught, tagged_vocab))


def test_means_and_directories(base, taught, tmp_path):
    reverse(tmp_path / "data")
    other = save(vary(base, vocab=str(tmp_path / "data")), tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="other.pt: another vocabulary than .*teacher.pt has .token 4 is .*averaged"):
        average([taught, other])
    with pytest.raises(ConfigError, match=f"trained with another vocabulary than that in {tmp_path}/data .token 4 is"):
        write_recognizer(tmp_path / "hf", read_encoder(f"colld:{taught}"), f"colld:{taught}", "", {})


def test_pretrained_decoders_of_several_sizes_share_their_tokens(tmp_path):
    """Their configurations differ, which one model's may not; fewer kept tokens are other labels."""
    for name, width in (("small", 16), ("large", 32)):
        (tmp_path / name).mkdir()
        tiny_whisper.complete_whisper(tmp_path / name, d_model=width)
    small, large = (copy_of_decoder(tmp_path / name) for name in ("small", "large"))
    assert difference(small, large) == "another config.json" and label_difference(small, large) == ""
    kept = json.dumps(
        {"ids": list(range(json.loads((tmp_path / "small" / "config.json").read_text())["vocab_size"]))[1:]}
    )
    fewer = {**small, "kept_tokens.json": torch.frombuffer(bytearray(kept.encode()), dtype=torch.uint8)}
    assert " tokens, not " in label_difference(fewer, large)
