"""The report of the transducer comparison: recognition and translation apart, gains with the right sign, gaps named."""

import json
import statistics

import pytest
import torch
from commands import REPOSITORY
from job_checks import load_script

from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import Sentence

REFERENCE = "one two three four"
# Wrong sentences of 2 German, 4 English and 5 German to English ones, of each arm and seed.
BROKEN = {
    ("scratch", "1"): (2, 2, 4),
    ("scratch", "2"): (2, 4, 5),
    ("big", "1"): (1, 1, 3),
    ("small", "1"): (1, 4, 4),
    ("sum", "1"): (0, 1, 1),
}
LANGUAGES = (("de", "de", 2), ("en", "en", 4), ("de", "en", 5))


@pytest.fixture(scope="module")
def report():
    return load_script(REPOSITORY / "examples" / "multi_teacher_transducer" / "report.py", "multi_teacher_report")


@pytest.fixture
def out(tmp_path):
    """Five runs of the student full, decoded greedily; of the student streaming nothing at all."""
    for (arm, seed), broken in BROKEN.items():
        folder = tmp_path / "full" / arm / f"seed{seed}"
        (folder / "stage2").mkdir(parents=True)
        sentences = [
            Sentence("x" if i < wrong else REFERENCE, REFERENCE, source, target)
            for (source, target, count), wrong in zip(LANGUAGES, broken, strict=True)
            for i in range(count)
        ]
        (folder / "greedy.json").write_text(json.dumps(build_report(sentences)))
        torch.save(
            {"model": {"a": torch.zeros(300, 1000), "b": torch.zeros(20000)}}, folder / "stage2/checkpoint_best.pt"
        )
        valid = {"dev_cer": "30.5", "dev_num_updates": "7"}
        for stage, lines in {"stage1": [], "stage2": [valid]}.items():
            if arm != "scratch" or stage == "stage2":
                lines = [{"num_updates": "7", "wall": "60"}, *lines]
                (folder / f"{stage}.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [("full", *run) for run in BROKEN] + [("streaming", "sum", "1")]
    ways = {"full": ["greedy"], "streaming": ["greedy", "whole"]}
    settings = dict(runs=runs, ways=ways, students=list(ways), teacher_names=["small", "big"])
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    return tmp_path


def bleu_of(out, arm, seed="1"):
    pairs = json.loads((out / "full" / arm / f"seed{seed}" / "greedy.json").read_text())["pairs"]
    return next(pair["bleu"] for pair in pairs if pair["src_lang"] != pair["tgt_lang"])


def test_scores_and_gains(report, out, capsys):
    assert report.main([str(out)]) == 1
    result = json.loads((out / "report.json").read_text())
    arms = result["summary"]["full"]["greedy"]
    seeds = [100 * (1 + 2 / 4) / 2, 100.0]  # WER of German and English; translation has none
    assert arms["scratch"]["asr"]["mean"]["wer"] == pytest.approx([statistics.mean(seeds), statistics.stdev(seeds)])
    assert arms["scratch"]["st"]["de → en"]["bleu"][0] == pytest.approx((bleu_of(out, "scratch") + 0) / 2, abs=1e-6)
    row = {}
    for table in (report.scores_table(result, "full", "greedy"), report.gains_table(result, "full", "greedy")):
        row.update({cells[0]: dict(zip(table.header, cells, strict=True)) for cells in table.rows}["all teachers, sum"])
    assert row["parameters"] == "0.32 M" and row["WER"] == "12.5"
    assert row["WER over scratch"] == f"{100 * (87.5 - 12.5) / 87.5:+.1f}"
    assert row["WER over big"] == f"{100 * (37.5 - 12.5) / 37.5:+.1f}"  # the better one of the teachers
    gain = 100 * (bleu_of(out, "sum") / arms["scratch"]["st"]["mean"]["bleu"][0] - 1)
    assert row["BLEU over scratch"] == f"{gain:+.1f}" and gain > 0  # more is better
    printed = capsys.readouterr().out
    for page in (printed, (out / "report.md").read_text()):
        assert "87.5 ± 17.7" in page and "7 updates, 1.0 min" in page and "30.5" in page
        assert "not of this project" in page  # beside the published figures
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_named(report, out):
    missing = report.collect(out)["missing"]
    names = {text.split(":")[0].removeprefix(f"{out}/") for text in missing}
    run = "streaming/sum/seed1"
    assert names == {
        "profile.json",
        *(f"{run}/{name}" for name in ("greedy.json", "whole.json", "stage2.log", "stage2/checkpoint_best.pt")),
    }


def test_folder_that_is_none(report, tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "run.py" in capsys.readouterr().err
