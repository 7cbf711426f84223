"""The jobs of the small Conformers on the prompts: every command parses with the program it is for."""

import re

import pytest
from job_checks import changes, check_command, refusal

from examples.colld.prompts.run import arguments, layer_map, main, make_plan


def plan(*words):
    args = arguments([str(word) for word in ["out", *words]])
    jobs, made = make_plan(args.out, args)
    return {job.name: job for job in jobs}, made, args.out


def test_commands_parse():
    jobs, _, out = plan("--distil-updates", 20, "--max-tokens", 1000)
    programs = [check_command(job, out) for job in jobs.values()]
    assert programs.count("fairseq-hydra-train") == 5 and programs.count("fairseq-generate") == 9
    assert jobs["colld/distil"].updates == 20
    assert jobs["colld/finetune"].config["dataset"]["max_tokens_valid"] == 8000


def test_systems_are_fine_tuned_alike():
    jobs, _, _ = plan()
    one, other, scratch = (jobs[f"{system}/finetune"].config for system in ("colld", "l1cos", "scratch"))
    assert set(changes(one, other)) == {"model.student", "checkpoint.save_dir"}
    assert set(changes(one, scratch)) == {"model.student", "model.freeze_encoder_updates", "checkpoint.save_dir"}


def test_topline_is_the_teacher_itself(teacher):
    jobs, made, _ = plan("--systems", "l1cos,topline", "--teacher", teacher, "--layers", "1,2,4")
    topline, student = (jobs[f"{system}/finetune"].config for system in ("topline", "l1cos"))
    assert topline["model"]["student"] == teacher and "topline/distil" not in jobs and "colld/distil" not in jobs
    assert set(changes(student, topline)) == {"model.student", "optimization.lr", "checkpoint.save_dir"}
    assert {result.system for result in made.results} == {"l1cos", "topline"}


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--systems", "l1cos,best"], "'best'"),
        (["--data", "nowhere"], "no file .*nowhere/train.tsv"),
        (["--layers", "2,4,9"], "--layers: the teacher has the layers 0 to 6, and not '9'"),
        (["--teacher", "hf:nowhere"], "error: .*nowhere"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(words, reason, tmp_path, monkeypatch, capsys):
    assert re.search(reason, refusal(main, [tmp_path / "out", *words], monkeypatch, capsys))


def test_language_model_is_of_the_training_transcripts():
    jobs, _, out = plan("--ngram-weight", "0.4")
    decoding, ngram = jobs["l1cos/generate_asr_ngram"], jobs["ngram"]
    assert decoding.command[decoding.command.index("--ngram-lm") + 1] == str(out / "words.arpa")
    assert decoding.command[decoding.command.index("--ngram-lm-weight") + 1] == "0.4"
    assert {"ngram", "l1cos/finetune"} <= set(decoding.needs)
    assert ngram.command[ngram.command.index("--manifest") + 1] == str(out / "data" / "train_asr.tsv")


def test_own_corpus_needs_no_preparation(tmp_path):
    for name in ("train", "train_asr", "dev", "dev_asr", "test_asr", "test_st"):
        (tmp_path / f"{name}.tsv").touch()
    jobs, _, _ = plan("--data", tmp_path)
    assert "prepare" not in jobs and jobs["colld/distil"].config["task"]["data"] == str(tmp_path)


def test_every_figure_has_its_file():
    jobs, made, out = plan()
    written = {
        words[words.index("--json") + 1] for words in (job.command for job in jobs.values()) if "--json" in words
    }
    assert {str(out / path) for result in made.results for path in result.scores} == written
    assert {f"{name}.log" for name in jobs} >= {path for result in made.results for path in result.logs.values()}


def test_three_layers_or_an_explanation():
    assert layer_map("4,8,12") == "2:4,4:8,6:12"
    with pytest.raises(SystemExit, match="three teacher layers"):
        layer_map("4,8")
