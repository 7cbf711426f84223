"""What is said when a run begins or goes on."""

from types import SimpleNamespace

import pytest

from colld_fairseq.tasks.speech_task import SpeechTask, remarks


def trainer(updates=0, max_update=100, **model):
    cfg = SimpleNamespace(
        optimization=SimpleNamespace(max_update=max_update),
        checkpoint=SimpleNamespace(restore_file="checkpoint_last.pt"),
        model=SimpleNamespace(**model),
    )
    return SimpleNamespace(cfg=cfg, get_num_updates=lambda: updates)


@pytest.mark.parametrize(
    "run, expected",
    [
        (trainer(student="a.pt", freeze_encoder_updates=50), []),
        (trainer(10, student="a.pt"), ["checkpoint_last.pt at update 10: --student does not count"]),
        (trainer(10, init_from="hf:DIR"), ["at update 10: --init-from does not count"]),
        (trainer(10, student="", init_from=""), []),
        (trainer(freeze_encoder_updates=100), ["--freeze-encoder-updates 100: the encoder learns nothing"]),
        (trainer(max_update=0, freeze_encoder_updates=100), []),
        (trainer(), []),
    ],
)
def test_remarks(run, expected):
    told = remarks(run)
    assert len(told) == len(expected) and all(part in line for part, line in zip(expected, told))


def test_a_start_from_all_weights_of_another_checkpoint():
    (told,) = remarks(trainer(student="a.pt"), "b.pt")
    assert "those of b.pt: --student does not count" in told
    assert remarks(trainer(student="a.pt"), "a.pt") == remarks(trainer(), "b.pt") == []


def test_they_are_told_once_before_the_first_epoch(caplog):
    task = SimpleNamespace(begun=False, restored="", cfg=SimpleNamespace(dry_run="none"))
    for _ in range(2):
        SpeechTask.before_epoch(task, trainer(freeze_encoder_updates=100))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the encoder learns nothing" in caplog.text
