"""The quickstart's report: figures of a run, gains with the right sign, missing files named."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import Sentence

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
CONFIG = "{'_name': None, 'common': {'_name': None, 'seed': 5, 'cpu': False}}\n"
STDOUT = "2026-01-02 03:04:05 | INFO | train_inner | "


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("report")
    sys.path.remove(str(FOLDER))


@pytest.fixture
def training_log(report):
    return importlib.import_module("training_log")


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


def hypotheses(pairs, broken):
    reference = "one two three four five six"
    return [Sentence(reference if i >= broken else "one", reference, *pair) for i, pair in enumerate(pairs)]


@pytest.fixture
def run_dir(tmp_path):
    """A whole run: CoLLD makes one mistake, L1 + cosine two, scratch four (of four)."""
    speed = [{"batch_size": 1, "rtf": 0.012345, "seconds": [1.0], "peak_memory_mb": None}]
    sizes = {"mb_float32": 17.24, "mb_stored": 17.24, "gmacs_per_10s": 1.21, "speed": speed}
    models = [
        {"role": role, "source": f"{role}.pt", "parameters": count, **sizes}
        for role, count in {"student": 4_309_696, "teacher": 20_589_568}.items()
    ]
    machine = {"cpu": "Abacus 3000", "cores": 2, "gpu": None, "torch": "2.9", "python": "3.11"}
    profile = {"machine": machine, "threads": 2, "models": models}
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    for arm, broken in {"colld": 1, "l1cos": 2, "scratch": 4}.items():
        first = {"chrf_es-en": 10, "chrf_fr-en": 30, "chrf_en-en": 90}
        second = {"chrf_es-en": 20, "chrf_es-es": "nan"}
        lines = [inner(10, 30), valid(10, ctc_cer=50, **first)]
        lines += [inner(20, 60), valid(20, ctc_cer=40, **second), epoch(20, 90)]
        write_log(tmp_path / arm / "finetune.log", *lines)
        if arm != "scratch":
            write_log(tmp_path / arm / "distil.log", inner(10, 120), prefix=STDOUT)
        for name, pairs in {"asr": ["es", "fr", "es", "fr"], "st": ["es", "fr", "es", "fr"]}.items():
            pairs = [(code, code if name == "asr" else "en") for code in pairs]
            scores = build_report(hypotheses(pairs, broken))
            (tmp_path / arm / f"{name}.json").write_text(json.dumps(scores), encoding="utf-8")
    return tmp_path


def test_whole_run(report, run_dir, capsys):
    assert report.main([str(run_dir)]) == 0
    result = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    assert result["missing"] == []
    colld, scratch = result["arms"]["colld"], result["arms"]["scratch"]
    assert colld["asr"]["all"]["wer"] == pytest.approx(100 * 5 / 24)  # one word of six left, once in four
    assert colld["asr"]["es"]["sentences"] == colld["st"]["es-en"]["sentences"] == 2
    assert colld["gain_percent"]["wer"] == pytest.approx(75)  # a quarter of the errors of scratch
    assert colld["gain_percent"]["chrf"] > result["arms"]["l1cos"]["gain_percent"]["chrf"] > 0
    assert "gain_percent" not in scratch and "distil" not in scratch["stages"]
    assert colld["stages"]["distil"] == {"updates": 10, "minutes": 2.0}
    assert colld["stages"]["finetune"] == {"updates": 20, "minutes": 1.5}
    assert colld["seeds"] == {"distil": 5, "finetune": 5}
    assert (run_dir / "report.png").read_bytes().startswith(b"\x89PNG")
    printed, markdown = capsys.readouterr().out, (run_dir / "report.md").read_text(encoding="utf-8")
    figures = ["4.31 M", "20.59 M", "0.0123", "20.8", "+75.0 %", "es → en", "Abacus 3000"]
    for text in [*figures, "20 updates, 1.5 min"]:
        assert text in printed and text in markdown
    assert "report.png" in markdown


def test_curve_leaves_out_english_to_english(report, run_dir):
    first, second = report.collect(run_dir)["arms"]["colld"]["curve"]
    assert first == {"updates": 10, "minutes": 0.5, "cer": 50, "chrf": 20}
    assert (second["minutes"], second["cer"], second["chrf"]) == (1.0, 40, 20)


@pytest.mark.parametrize("score, better, worse", [("cer", 20, 30), ("wer", 20, 30), ("chrf", 30, 20), ("bleu", 3, 2)])
def test_gain_is_positive_when_better(report, score, better, worse):
    assert report.relative_gain(score, better, worse) == pytest.approx(100 * abs(better - worse) / worse)
    assert report.relative_gain(score, worse, better) < 0
    assert report.relative_gain(score, None, 1.0) is None
    assert report.relative_gain(score, 1.0, 0.0) is None


def test_missing_files_are_named_and_the_rest_reported(report, run_dir, capsys):
    (run_dir / "profile.json").unlink()
    (run_dir / "scratch" / "st.json").unlink()
    (run_dir / "l1cos" / "asr.json").write_text("{")
    (run_dir / "colld" / "asr.json").write_text('{"pairs": []}')
    write_log(run_dir / "colld" / "finetune.log")
    assert report.main([str(run_dir)]) == 1
    printed = capsys.readouterr().out
    for name, reason in {
        "profile.json": "cannot be read",
        "scratch/st.json": "cannot be read",
        "l1cos/asr.json": "is not JSON",
        "colld/asr.json": "lacks 'overall'",
        "colld/finetune.log": "--log-format json",
    }.items():
        assert f"{run_dir}/{name}: " in printed and reason in printed
    markdown = (run_dir / "report.md").read_text(encoding="utf-8")
    assert "## Missing" in markdown and "10 updates, 2.0 min" in markdown


def test_nothing_there_at_all(report, tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert len(json.loads((tmp_path / "report.json").read_text())["missing"]) == 1 + 3 * 3 + 2
    assert report.main([str(tmp_path / "no")]) == 2
    assert "RUN_DIR" in capsys.readouterr().err


def test_log_of_a_run_that_was_killed_and_restarted(training_log, tmp_path):
    lines = [inner(10, 5), valid(10, cer=9), inner(20, 8), valid(20, cer=8), inner(25, 9), '{"epoch": 2, "up']
    lines += [CONFIG, inner(15, 7), inner(20, 9), valid(20, cer=7), epoch(20, 12)]
    log = training_log.read_log(write_log(tmp_path / "x.log", *lines))
    assert [(v["num_updates"], v["cer"]) for v in log.validations] == [(10, 9), (20, 7)]
    assert (log.updates, log.seconds, log.seed) == (20, 12, 5)


def test_log_on_standard_output_reads_the_same(training_log, tmp_path):
    lines = [inner(10, 5), valid(10, cer=9), epoch(10, 8)]
    assert training_log.read_log(write_log(tmp_path / "a.log", *lines)) == training_log.read_log(
        write_log(tmp_path / "b.log", *lines, prefix=STDOUT)
    )


def test_simple_log_says_what_to_do(training_log, tmp_path):
    path = tmp_path / "x.log"
    path.write_text("2026-01-01 00:00:00 | INFO | train_inner | epoch 001: loss=1, num_updates=2, wall=9\n")
    with pytest.raises(training_log.LogError, match="x.log: holds no figures; train with --log-format json"):
        training_log.read_log(path)
