"""A run that writes nothing but blanks is named in its log while it runs."""

import logging
import re


def stats(updates, cer, chrf=0.0, **more):
    return {"loss": 3.1, "cer": cer, "chrf": chrf, "num_updates": updates, "best_loss": 3.0, "note": "x", **more}


def warnings_of(run, caplog, *validations):
    run.task.validations.clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for one in validations:
            run.task.post_validate(run.model, one, None)
    return [record.getMessage() for record in caplog.records if "plateau" in record.getMessage()]


def test_plateaus_are_named_as_long_as_they_last(finetuning, caplog):
    run = finetuning("--max-update", "1000")
    blank = [stats(updates, 100.0) for updates in (50, 100, 200, 300)]
    messages = warnings_of(run, caplog, *blank, stats(400, 60.0, 30.0), stats(500, 100.0))
    assert len(messages) == 2  # after 200 and 300: the first is before a tenth of the updates, and one is not enough
    assert messages[0].startswith("plateau: validation CER 100.0 after 200 of 1000 updates, hypotheses are blank")
    assert "--lr" in messages[0] and "--student" in messages[0]
    assert not warnings_of(run, caplog, *(stats(u, 120.0, 14.0) for u in (300, 400)))  # too long, with words
    (message,) = warnings_of(run, caplog, *(stats(u, 317.0, 2.0) for u in (300, 400)))
    assert "CER 317.0 after 400 of 1000 updates, hypotheses are long and wrong" in message


def test_the_first_tenth_of_a_run_by_epochs_may_be_blank(finetuning, caplog):
    run = finetuning("--max-epoch", "40")
    run.task.load_dataset("train")
    with caplog.at_level(logging.WARNING):
        for epoch in range(1, 7):
            run.task.datasets["train"].set_epoch(epoch)
            run.task.post_validate(run.model, stats(10 * epoch, 100.0), None)
    messages = [record.getMessage() for record in caplog.records if "plateau" in record.getMessage()]
    assert [re.search("after (.*?) updates", one)[1] for one in messages] == ["50 of 400", "60 of 400"]


def test_of_several_validation_sets_the_first_counts(finetuning, caplog):
    run = finetuning("--max-update", "1000")
    assert not warnings_of(run, caplog, stats(300, 100.0), stats(300, 100.0))
    assert not warnings_of(run, caplog, *(one for u in (300, 400) for one in (stats(u, 50.0, 40.0), stats(u, 100.0))))


def test_of_a_translator_the_transcripts_count(finetuning, caplog):
    run = finetuning("--max-update", "1000")
    translating = [stats(u, 100.0, 0.0, ctc_cer=40.0, ctc_chrf=50.0) for u in (300, 400)]
    assert not warnings_of(run, caplog, *translating)
    assert warnings_of(run, caplog, *(stats(u, 70.0, 20.0, ctc_cer=100.0, ctc_chrf=0.0) for u in (300, 400)))
