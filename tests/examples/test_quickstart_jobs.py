"""The quickstart's jobs: every command parses with the program it is for, and nothing waits for what never comes."""

import argparse
import sys
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


def write(path, text):
    return [sys.executable, "-c", f"import time; time.sleep(0.2); open({str(path)!r}, 'a').write({text!r})"]


def test_lanes_run_in_order_wait_for_each_other_and_resume(run, tmp_path):
    trace = tmp_path / "trace"
    first = run.Job("first", write(trace, "1"))
    other = [run.Job("other/second", write(trace, "2"), needs="first"), run.Job("other/third", write(trace, "3"))]
    run.Lanes(tmp_path, threads=1).run([first], other)
    assert trace.read_text() == "123"
    assert (tmp_path / "other" / "third.done").is_file() and (tmp_path / "other" / "third.log").is_file()
    lanes = run.Lanes(tmp_path, threads=1)
    lanes.run([first], other)  # everything is done: nothing runs again
    lanes.run([run.Job("fourth", write(trace, "4"))])  # one Lanes may run several times
    assert trace.read_text() == "1234"


def test_a_job_that_fails_stops_the_lanes_and_is_named(run, tmp_path):
    bad = run.Job("bad", [sys.executable, "-c", "raise SystemExit('no such teacher')"])
    never = run.Job("never", write(tmp_path / "trace", "x"), needs="bad")
    with pytest.raises(SystemExit, match="(?s)bad failed, see .*no such teacher"):
        run.Lanes(tmp_path, threads=1).run([bad], [never])
    assert not (tmp_path / "trace").exists() and not (tmp_path / "bad.done").exists()
