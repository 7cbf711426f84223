"""The quickstart's jobs: every command parses with the program it is for."""

import argparse
from pathlib import Path

import pytest
from commands import REPOSITORY
from job_checks import check_command, load_script


@pytest.fixture(scope="module")
def run():
    return load_script(REPOSITORY / "examples" / "quickstart" / "run.py", "quickstart_run")


def arguments(**changes):
    values = dict(data=None, teacher="hf:DIR", layers="2,4,6", distil_updates=20, finetune_updates=30)
    return argparse.Namespace(**dict(values, max_tokens=1000, seed=1, **changes))


def test_commands_parse(run):
    jobs = run.jobs(Path("out"), arguments())
    programs = [job.command[0] for job in jobs.values()]
    assert programs.count("fairseq-train") == 5 and programs.count("fairseq-generate") == 6
    for job in jobs.values():
        check_command(job, "out")


def test_all_arms_are_fine_tuned_alike(run):
    jobs = run.jobs(Path("out"), arguments())
    distilled, scratch = (jobs[f"{arm}/finetune"].command for arm in ("colld", "scratch"))
    start = ["--student", "out/colld/distil/checkpoint_last.pt", *run.FROM_STUDENT]
    assert [word.replace("out/colld", "out/scratch") for word in distilled if word not in start] == scratch


def test_own_corpus_needs_no_preparation(run, tmp_path):
    jobs = run.jobs(Path("out"), arguments(data=tmp_path))
    assert "prepare" not in jobs
    assert jobs["colld/distil"].command[1] == str(tmp_path)


def test_three_layers_or_an_explanation(run):
    assert run.layer_map("4,8,12") == "2:4,4:8,6:12"
    with pytest.raises(SystemExit, match="three teacher layers"):
        run.layer_map("4,8")
