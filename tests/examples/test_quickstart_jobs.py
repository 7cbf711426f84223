"""The quickstart's jobs: every command parses with the program it is for, and nothing waits for what never comes."""
import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY
from fairseq import options

from colld_fairseq.cli import SUBCOMMANDS

QUICKSTART = REPOSITORY / "examples" / "quickstart"


@pytest.fixture(scope="module")
def run():
    spec = importlib.util.spec_from_file_location("quickstart_run", QUICKSTART / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def arguments(**changes):
    values = dict(data=None, teacher="hf:DIR", layers="2,4,6", distil_updates=20, finetune_updates=30)
    return argparse.Namespace(**dict(values, max_tokens=1000, seed=1, **changes))


def test_commands_parse(run):
    jobs = run.jobs(Path("out"), arguments())
    programs = [job.command[0] for job in jobs.values()]
    assert programs.count("fairseq-train") == 5 and programs.count("fairseq-generate") == 6
    for job in jobs.values():
        program, *words = job.command
        if program == "fairseq-train":
            parsed = options.parse_args_and_arch(options.get_training_parser(), words)
            assert job.updates == parsed.max_update
            assert parsed.save_dir == f"out/{job.name}"
        elif program == "fairseq-generate":
            parser = options.get_generation_parser()
            parser.add_argument("--arch", default="wav2vec2")  # as fairseq-generate itself does
            assert options.parse_args_and_arch(parser, words).gen_subset.startswith("test_")
        elif program == "colld":
            module = importlib.import_module(f"colld_fairseq.cli.{words[0]}")
            assert words[0] in SUBCOMMANDS
            parser = argparse.ArgumentParser()
            module.add_arguments(parser)
            parser.parse_args(words[1:])
        else:
            assert Path(words[0]).name == "prepare.py"


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
