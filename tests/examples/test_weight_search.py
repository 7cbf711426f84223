"""The search for teachers' weights: its grid, its jobs, and all of it in miniature."""

import itertools
import json
from pathlib import Path

import pytest
import synthetic
from commands import REPOSITORY
from job_checks import changes, check_command, run_here

from examples.multi_teacher_transducer import weights
from examples.multi_teacher_transducer.weights import WeightSearch, arguments, shares_of, summarize, table


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write_corpus(tmp_path_factory.mktemp("weights"), train=16, dev=8)


@pytest.fixture
def words(teacher, fast_teacher, data):
    """Of a command line, without the folder."""
    named = ["--teachers", f"a={teacher},c={fast_teacher}", "--train", data / "train.tsv", "--dev", data / "dev.tsv"]
    return [str(word) for word in [*named, "--shape", "2x16/20/2", "--predictor-dim", "12", "--max-tokens", "60000"]]


@pytest.mark.parametrize("steps, teachers", [(4, 2), (3, 3), (1, 2), (2, 1)])
def test_the_grid_is_all_of_it(steps, teachers):
    everything = itertools.product(range(steps + 1), repeat=teachers)
    assert sorted(shares_of(steps, teachers)) == [shares for shares in everything if sum(shares) == steps]


def test_runs_differ_in_nothing_but_weights(words, data):
    args, steps = arguments(["out", *words, "--seeds", "1,2", "--stage1-settings", "criterion.balance_updates=9"])
    made, plan = WeightSearch(args, steps).plan()
    jobs = {job.name: job for job in made}
    for job in made:
        check_command(job, str(Path("out").resolve()))
    first = {name: job.config for name, job in jobs.items() if name.endswith("seed1/stage1")}
    assert len(first) == 5 and len(plan.results) == 2 * 5
    one, other = (first[f"full/{name}/seed1/stage1"] for name in ("a1_c3", "a2_c2"))
    assert changes(one, other) == {
        "task.teacher_weights": ("a=1,c=3", "a=2,c=2"),
        "checkpoint.save_dir": (one["checkpoint"]["save_dir"], other["checkpoint"]["save_dir"]),
    }
    alone = first["full/c4/seed1/stage1"]
    assert alone["task"]["teacher"].startswith("c=hf:") and not alone["task"]["teacher_weights"]
    assert all(config["criterion"]["balance_updates"] == 9 for config in first.values())
    assert one["optimization"]["max_update"] == 500
    assert jobs["prepare"].command[-4:] == [*("--dev", str(data / "dev.tsv")), *("--test", str(data / "dev.tsv"))]


@pytest.mark.parametrize(
    "more", [["--steps", "0"], ["--systems", "a"], ["--students", "full,streaming"], ["--teachers", "a=hf:x"]]
)
def test_what_is_no_search_is_refused(more, words, capsys):
    with pytest.raises(SystemExit):
        arguments(["out", *words, *more])
    assert "give several --teachers" in capsys.readouterr().err


@pytest.mark.slow
def test_in_miniature(words, tmp_path, monkeypatch, capsys):
    """Three points of the grid; the table is made of their scores and of the last validation of stage 1."""
    monkeypatch.chdir(REPOSITORY)
    short = ["--stage1-updates", "2", "--stage2-updates", "2"]
    words = [str(tmp_path), *words, "--steps", "2", *short]
    monkeypatch.setattr(weights, "run_jobs", lambda out, jobs, parallel: run_here(out, jobs))
    monkeypatch.setattr("sys.argv", ["weights.py", *words])
    weights.main()
    rows = json.loads((tmp_path / "weights.json").read_text())
    assert {row["weights"] for row in rows} == {"a=2", "a=1,c=1", "c=2"}
    assert [row["scores"]["wer"] for row in rows] == sorted(row["scores"]["wer"] for row in rows)
    both = next(row for row in rows if row["weights"] == "a=1,c=1")
    assert set(both["stage 1"]) == {"share_a", "share_c", "cka_a", "cka_c"}
    assert both["stage 1"]["share_a"] + both["stage 1"]["share_c"] == pytest.approx(1, abs=2e-3)
    pairs = json.loads((tmp_path / "full/a1_c1/seed1/greedy.json").read_text())["pairs"]
    own = [pair["wer"] for pair in pairs if pair["src_lang"] == pair["tgt_lang"]]
    assert both["scores"]["wer"] == pytest.approx(sum(own) / len(own))
    said = capsys.readouterr().out
    assert table(rows) in said and f"best: task.teacher_weights='{rows[0]['weights']}'" in said
    args, steps = arguments(words)
    assert summarize(tmp_path, WeightSearch(args, steps).plan()[1].results) == rows
