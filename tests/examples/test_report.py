"""The report of a comparison: means over languages and seeds, gains with the right sign, what is missing named."""

import json
import statistics

import pytest
import torch

from colld_fairseq.report.training_log import LogError, read_log
from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import Sentence
from examples.driver import report
from examples.driver.plan import Plan, Result, write_plan
from examples.driver.scores import _collect_result, collect, job_seconds, read_scores, relative_gain, validation_curve

REFERENCE = "one two three four"
LANGUAGES = (("de", "de", 2), ("en", "en", 4), ("de", "en", 5))
# Wrong sentences of 2 German, 4 English and 5 German to English ones, of each system and seed.
BROKEN = {
    ("scratch", 1): (2, 2, 4),
    ("scratch", 2): (2, 4, 5),
    ("big", 1): (1, 1, 3),
    ("small", 1): (1, 4, 4),
    ("sum", 1): (0, 1, 1),
}
CONFIG = "{'_name': None, 'common': {'_name': None, 'seed': 5, 'cpu': False}}\n"
STDOUT = "2026-01-02 03:04:05 | INFO | train_inner | "


def inner(updates, wall):
    record = {"epoch": 1, "update": 0.1, "num_updates": str(updates), "train_wall": "1", "wall": str(wall)}
    return json.dumps(record)


def valid(updates, **metrics):
    record = {"epoch": 1, **{f"dev_{key}": str(value) for key, value in metrics.items()}}
    return json.dumps({**record, "dev_num_updates": str(updates)})


def epoch(updates, wall):
    walls = {"train_train_wall": "9", "train_wall": str(wall)}
    return json.dumps({"epoch": 1, "train_num_updates": str(updates), **walls})


def write_log(path, *lines, prefix=""):
    text = [CONFIG, "StudentS2T(\n", "  (encoder): x\n", *(f"{line}\n" for line in lines), "done training\n"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(prefix + line for line in text), encoding="utf-8")
    return path


def sentences(broken, languages=LANGUAGES):
    return [
        Sentence("x" if i < wrong else REFERENCE, REFERENCE, source, target)
        for (source, target, count), wrong in zip(languages, broken, strict=True)
        for i in range(count)
    ]


def write_profile(out, **models):
    speed = [{"batch_size": 1, "rtf": 0.012345, "seconds": [1.0], "peak_memory_mb": None}]
    sizes = dict(mb_float32=17.24, mb_stored=17.24, gmacs_per_10s=1.21, speed=speed)
    models = [dict(role="x", source=source, parameters=count, **sizes) for source, count in models.values()]
    machine = dict(cpu="Abacus 3000", cores=2, gpu=None, torch="2", python="3")
    (out / "profile.json").write_text(json.dumps(dict(machine=machine, threads=1, models=models)))


@pytest.fixture
def out(tmp_path):
    """Five runs of a first group, and one of a second, of which there is nothing at all."""
    results = []
    for (system, seed), broken in BROKEN.items():
        folder = tmp_path / system / f"seed{seed}"
        (folder / "stage2").mkdir(parents=True)
        (folder / "greedy.json").write_text(json.dumps(build_report(sentences(broken))))
        weights = {"a": torch.zeros(300, 1000), "b": torch.zeros(20000)}
        torch.save({"model": weights}, folder / "stage2" / "checkpoint_best.pt")
        logs = {"stage 1": f"{system}/seed{seed}/stage1.log"} if system != "scratch" else {}
        logs["stage 2"] = f"{system}/seed{seed}/stage2.log"
        for path in logs.values():
            write_log(tmp_path / path, inner(7, 60), valid(7, cer=30.5), prefix=STDOUT)
        scores, checkpoint = [f"{system}/seed{seed}/greedy.json"], f"{system}/seed{seed}/stage2/checkpoint_best.pt"
        results.append(Result(system, f"teacher {system}", seed, "greedy", scores, logs, checkpoint))
    results.append(Result("sum", "teacher sum", 1, "beam", ["b.json"], {"stage 2": "b.log"}, "b.pt"))
    comparisons = [["sum over scratch", "sum", ["scratch"]], ["sum over the best teacher", "sum", ["small", "big"]]]
    encoders = {"student": "sum/seed1/stage2/checkpoint_best.pt", "scratch": "scratch.pt", "teacher": "hf:/x/big"}
    notes = ["Published figures: not of this project."]
    write_plan(tmp_path, Plan("Comparison", results, comparisons, encoders, notes=notes))
    checkpoint = str(tmp_path / encoders["student"])
    write_profile(tmp_path, a=(checkpoint, 50), b=(f"{tmp_path}/scratch.pt", 40), c=("hf:/x/big", 200_000_000))
    return tmp_path


def bleu_of(out, system, seed="1"):
    pairs = json.loads((out / system / f"seed{seed}" / "greedy.json").read_text())["pairs"]
    return next(pair["bleu"] for pair in pairs if pair["src_lang"] != pair["tgt_lang"])


def rows_of(table):
    return {cells[0]: dict(zip(table.header, cells, strict=True)) for cells in table.rows}


def test_languages_count_alike_and_seeds_are_averaged(out):
    systems = collect(out)["summary"]["greedy"]
    seeds = [100 * (1 + 2 / 4) / 2, 100.0]  # WER of German and English; translation has none
    assert systems["scratch"]["asr"]["mean"]["wer"] == pytest.approx([statistics.mean(seeds), statistics.stdev(seeds)])
    assert systems["scratch"]["asr"]["en"]["wer"][0] == pytest.approx(75)
    assert systems["scratch"]["st"]["de → en"]["bleu"][0] == pytest.approx((bleu_of(out, "scratch") + 0) / 2, abs=1e-6)
    assert systems["sum"]["asr"]["mean"]["wer"] == (12.5, None)  # of the one seed there is


def test_scores_and_gains(out):
    result = collect(out)
    row = rows_of(report.scores_table(result, "greedy"))["teacher sum"]
    assert row["parameters"] == "0.32 M" and row["WER"] == "12.5"
    rows = rows_of(report.gains_table(result, "greedy"))
    assert rows["sum over scratch"]["WER"] == f"{100 * (87.5 - 12.5) / 87.5:+.1f} %"
    assert rows["sum over the best teacher"]["WER"] == f"{100 * (37.5 - 12.5) / 37.5:+.1f} %"  # big
    scratch = result["summary"]["greedy"]["scratch"]["st"]["mean"]["bleu"][0]
    gain = 100 * (bleu_of(out, "sum") / scratch - 1)
    assert rows["sum over scratch"]["BLEU"] == f"{gain:+.1f} %" and gain > 0  # more is better


def test_overlong_hypotheses_of_all_seeds_together(out):
    assert not report.overlong_table(collect(out), "greedy").rows  # there is none
    path = out / "scratch" / "seed2" / "greedy.json"
    scores = json.loads(path.read_text())
    for pair in scores["pairs"]:
        pair["overlong"] = 2
    path.write_text(json.dumps(scores))
    rows = rows_of(report.overlong_table(collect(out), "greedy"))
    assert (rows["teacher scratch"]["recognition"], rows["teacher scratch"]["translation"]) == ("4 of 12", "2 of 10")
    assert rows["teacher sum"]["recognition"] == "0 of 6"


def test_pages(out, capsys):
    assert report.main([str(out)]) == 1
    printed = capsys.readouterr().out
    for page in (printed, (out / "report.md").read_text()):
        for figure in ("87.5 ± 17.7", "7 updates, 1.0 min", "30.5", "0.0123", "200.00 M", "Abacus 3000", "not of this"):
            assert figure in page
    assert "report.png" in (out / "report.md").read_text()
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "report.json").read_text())["summary"]["greedy"]["sum"]["asr"]["mean"]["wer"][1] is None


def test_encoders_beside_the_first_and_the_last(out):
    rows = rows_of(report.encoders_table(collect(out)))
    assert rows["scratch"]["to student"] == "-20.0 %" and rows["student"]["to teacher"] == "-100.0 %"


def test_what_is_missing_or_failed_is_named_and_the_rest_reported(out, capsys):
    (out / "profile.json").unlink()
    (out / "big" / "seed1" / "greedy.json").write_text("{")
    (out / "small" / "seed1" / "greedy.json").write_text("{}")
    write_log(out / "sum" / "seed1" / "stage2.log")
    (out / "sum" / "seed2").mkdir()
    (out / "sum" / "seed2" / "stage2.failed").write_text('{"code": 137}')
    assert report.main([str(out)]) == 1
    printed = capsys.readouterr().out
    for name, reason in {
        "profile.json": "cannot be read",
        "b.json": "cannot be read",
        "b.log": "cannot be read",
        "b.pt": "cannot be read",
        "big/seed1/greedy.json": "is not JSON",
        "small/seed1/greedy.json": "lacks 'pairs'",
        "sum/seed1/stage2.log": "--log-format json",
        "sum/seed2/stage2.log": "exit code 137",
    }.items():
        (line,) = [line for line in printed.splitlines() if f"{out}/{name}:" in line]
        assert reason in line
    assert len(collect(out)["missing"]) == 8
    markdown = (out / "report.md").read_text(encoding="utf-8")
    assert "## Missing" in markdown and "12.5" in markdown


def test_nothing_there_at_all(tmp_path, capsys):
    result = Result("a", "A", 1, "g", ["a.json"], {"s": "a.log"}, "a.pt")
    write_plan(tmp_path, Plan("T", [result], [["x", "a", ["a"]]], {}))
    assert report.main([str(tmp_path)]) == 1
    assert len(json.loads((tmp_path / "report.json").read_text())["missing"]) == 4
    assert report.main([str(tmp_path / "no")]) == 2
    assert "examples.driver.report OUT" in capsys.readouterr().err


def test_all_utterances_alike_where_there_is_one_kind(tmp_path):
    path = tmp_path / "asr.json"
    path.write_text(json.dumps(build_report(sentences((2, 1), LANGUAGES[:2]))))
    (scores,) = read_scores(path).values()
    assert scores["all"]["wer"] == pytest.approx(100 * 3 / 6) and scores["mean"]["wer"] == pytest.approx(62.5)
    assert scores["de"]["sentences"] == 2 and scores["all"]["sentences"] == 6


def test_validation_curves_leave_out_recognition_from_the_translation_scores():
    validations = [
        {"num_updates": 10.0, "ctc_cer": 50.0, "cer": 1.0, "chrf_es-en": 10.0, "chrf_fr-en": 30.0, "chrf_en-en": 90.0},
        {"num_updates": 20.0, "cer": 40.0, "chrf_es-en": 20.0, "chrf_es-es": float("nan")},
        {"num_updates": 30.0, "cer": float("nan")},
    ]
    result = {"stages": {"first": {"validations": []}, "second": {"validations": validations}}}
    assert validation_curve(result, "asr") == [(10, 50), (20, 40)]
    assert validation_curve(result, "st") == [(10, 20), (20, 20)]


@pytest.mark.parametrize("score, better, worse", [("cer", 20, 30), ("wer", 20, 30), ("chrf", 30, 20), ("bleu", 3, 2)])
def test_gain_is_positive_when_better(score, better, worse):
    assert relative_gain(score, better, worse) == pytest.approx(100 * abs(better - worse) / worse)
    assert relative_gain(score, worse, better) < 0
    assert relative_gain(score, None, 1.0) is None
    assert relative_gain(score, 1.0, 0.0) is None
    assert (relative_gain(score, 40.0, 0.9) is None) == (score in ("chrf", "bleu"))
    assert (relative_gain(score, 40.0, 2.1) is None) == (score == "chrf")


def test_log_of_a_run_that_was_killed_and_restarted(tmp_path):
    lines = [inner(10, 5), valid(10, cer=9), inner(20, 8), valid(20, cer=8), inner(25, 9), '{"epoch": 2, "up']
    lines += [CONFIG, inner(15, 7), inner(20, 9), valid(20, cer=7), epoch(20, 12)]
    log = read_log(write_log(tmp_path / "x.log", *lines))
    assert [(v["num_updates"], v["cer"]) for v in log.validations] == [(10, 9), (20, 7)]
    assert (log.updates, log.seconds) == (20, 12)


@pytest.mark.parametrize("prefix", [STDOUT, "[2026-11-29 10:32:32,184][train_inner][INFO] - "])
def test_log_on_standard_output_reads_the_same(prefix, tmp_path):
    lines = [inner(10, 5), valid(10, cer=9), epoch(10, 8)]
    a, b = write_log(tmp_path / "a.log", *lines), write_log(tmp_path / "b.log", *lines, prefix=prefix)
    assert read_log(a) == read_log(b) and read_log(a).updates == 10


def test_of_several_validation_sets_the_first_counts(tmp_path):
    """Also where a run that was restarted validates once more."""
    lines = [
        json.dumps({f"{subset}_num_updates": str(updates), f"{subset}_cer": cer})
        for updates, subset, cer in [
            (5, "dev", 9),
            (5, "far", 8),
            (9, "dev", 7),
            (9, "far", 6),
            (9, "dev", 5),
            (9, "far", 4),
        ]
    ]
    (tmp_path / "x.log").write_text("\n".join(lines))
    assert [(one["num_updates"], one["cer"]) for one in read_log(tmp_path / "x.log").validations] == [(5, 9), (9, 5)]


def test_simple_log_says_what_to_do(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("2026-01-01 00:00:00 | INFO | train_inner | epoch 001: loss=1, num_updates=2, wall=9\n")
    with pytest.raises(LogError, match="x.log: holds no figures; train with --log-format json"):
        read_log(path)


def test_minutes_of_a_stage_that_goes_on_from_another(tmp_path):
    """fairseq says that no time has passed; the job knows better. Without its note the log is believed."""
    (tmp_path / "long.log").write_text(f"{inner(3, 0)}\n{inner(4, 0)}\n")
    (tmp_path / "first.log").write_text(f"{inner(2, 30)}\n")
    assert [job_seconds(tmp_path / name) for name in ("long.log", "first.log")] == [0, 0]
    (tmp_path / "long.done").write_text(json.dumps({"seconds": 150.0}))
    result = {"scores": [], "logs": {"short": "first.log", "long": "long.log"}, "checkpoint": "model.pt"}
    stages = _collect_result(tmp_path, result, [])["stages"]
    assert {name: (stage["updates"], stage["minutes"]) for name, stage in stages.items()} == {
        "short": (2, 0.5),
        "long": (4, 2.5),
    }
