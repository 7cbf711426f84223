"""One student at every latency: its jobs, its table, and all of it in miniature."""

import json
import shutil
from pathlib import Path

import pytest
from job_checks import changes, check_command, run_here

from examples.any_latency import run as any_latency
from examples.any_latency.run import arguments, make_jobs, write_table


@pytest.fixture
def data(corpus, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(corpus, folder)
    (folder / "valid.tsv").rename(folder / "dev.tsv")
    return folder


def test_systems_differ_in_the_distillation_alone(data, tmp_path):
    teacher = tmp_path / "teacher.pt"
    teacher.touch()
    args = arguments(["out", "--data", str(data), "--teacher-ctc", str(teacher), "--pieces", "60"])
    jobs = {job.name: job for job in make_jobs(args)}
    programs = [check_command(job, Path("out").resolve()) for job in jobs.values()]
    assert programs.count("fairseq-hydra-train") == 3 and programs.count("fairseq-generate") == 3 * 5
    plain, own, other = (jobs[f"{system}/seed1/train"].config for system in ("plain", "self", "teacher"))
    assert changes(plain, own).pop("criterion.ctc_kd") == ("none", "self")
    assert set(changes(plain, own)) == {"criterion.ctc_kd", "checkpoint.save_dir"}
    assert set(changes(own, other)) == {"criterion.ctc_kd", "checkpoint.save_dir", "task.teacher_ctc"}
    started = make_jobs(arguments(["out", "--data", str(data), "--student", str(teacher)]))
    assert "cmvn" not in [job.name for job in started] and len(started) == 1 + 2 * (1 + 2 * 5 + 1)


@pytest.mark.slow
def test_all_of_it_in_miniature(data, tmp_path, monkeypatch):
    monkeypatch.setattr(any_latency, "LATENCIES", ["80", "full"])
    words = [str(tmp_path / "out"), "--data", str(data), "--shape", "1x16/20/2", "--updates", "2"]
    args = arguments([*words, "--max-tokens", "60000", "--settings", "common.cpu=true"])
    run_here(args.out, make_jobs(args))
    (args.out / "latency.md").write_text(write_table(args))
    table = [line.split(" | ") for line in (args.out / "latency.md").read_text().splitlines()[2:]]
    assert [line[2] for line in table] == ["80", "full", "80", "full"]
    delay = json.loads((args.out / "self/seed1/delay.json").read_text())["delays"]
    assert [row["labels"] for row in delay][0] > 0 and table[1][6] == "0"
    logs = [(args.out / f"{system}/seed1/train.log").read_text() for system in ("self", "plain")]
    assert ['ctc_kd_loss": "' in log for log in logs] == [True, False]
