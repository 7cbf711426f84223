"""The comparison as tables and a plot: python report.py OUT

Reads what run.py left in OUT, also of a run that is not complete: what is missing is named, and the rest reported.
Writes report.md, report.json (every score of every run, for programs) and report.png there, and prints the tables.
"""

import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from comparison_plot import save_plot  # noqa: E402
from tables import (  # noqa: E402
    Table,
    attempt,
    hardware,
    mean_and_deviation,
    number,
    publish,
    read_json,
    read_profile,
    read_scores,
    relative_gain,
    rtf_note,
    size_and_speed,
    training,
    with_deviation,
)
from training_log import read_log  # noqa: E402

SCORES = ("wer", "cer")
LABELS = {
    "deep_thin/scratch": "D&T, from scratch",
    "deep_thin/regression": "D&T, regression",
    "deep_thin/discriminative": "D&T, regression + discriminative",
    "shallow_wide/scratch": "S&W, from scratch",
    "shallow_wide/regression": "S&W, regression",
    "shallow_wide/discriminative": "S&W, regression + discriminative",
    "deep_thin_fbank/scratch": "D&T on filterbanks, from scratch",
    "deep_thin_fbank/discriminative": "D&T on filterbanks, not adapted",
    "deep_thin_fbank/adapted": "D&T on filterbanks, adapted",
    "teacher/fine_tuned": "teacher, fine-tuned",
}
# What is asked, the arm it is asked of, and the arm it is compared with.
QUESTIONS = (
    ("discriminative over regression, D&T", "deep_thin/discriminative", "deep_thin/regression"),
    ("discriminative over regression, S&W", "shallow_wide/discriminative", "shallow_wide/regression"),
    ("D&T over S&W, regression", "deep_thin/regression", "shallow_wide/regression"),
    ("D&T over S&W, discriminative", "deep_thin/discriminative", "shallow_wide/discriminative"),
    ("filterbanks over waveform, not adapted", "deep_thin_fbank/discriminative", "deep_thin/discriminative"),
    ("filterbanks over waveform, adapted", "deep_thin_fbank/adapted", "deep_thin/discriminative"),
    ("adaptation over none", "deep_thin_fbank/adapted", "deep_thin_fbank/discriminative"),
    ("D&T over scratch", "deep_thin/discriminative", "deep_thin/scratch"),
    ("S&W over scratch", "shallow_wide/discriminative", "shallow_wide/scratch"),
    ("D&T on filterbanks over scratch", "deep_thin_fbank/adapted", "deep_thin_fbank/scratch"),
    ("teacher over D&T", "teacher/fine_tuned", "deep_thin/discriminative"),
)


def main(argv: List[str]) -> int:
    if len(argv) != 1 or not (Path(argv[0]) / "settings.json").is_file():
        print(f"usage: report.py OUT (a folder of run.py); got {argv}", file=sys.stderr)
        return 2
    out = Path(argv[0])
    report = collect(out)
    title, notes = "HuBERT students for recognition with few labels", [hardware(report), rtf_note(report["encoders"])]
    return publish(out, report, build_tables(report), title, notes, save_plot, width=140)


# -- reading --


def collect(out: Path) -> Dict[str, Any]:
    """Everything the report says, ready for JSON; `missing` names what could not be read."""
    missing: List[str] = []
    settings = read_json(out / "settings.json")
    profile = attempt(missing, lambda: read_profile(out / "profile.json")) or {}
    results = [
        collect_run(out, student, arm, seed, minutes, settings, missing)
        for student, arm, seed in settings["runs"]
        for minutes in settings["label_minutes"]
    ]
    return {
        "settings": settings,
        "machine": profile.get("machine"),
        "threads": profile.get("threads"),
        "encoders": [dict(encoder, student=student_of(encoder)) for encoder in profile.get("encoders", [])],
        "results": results,
        "summary": {
            way: {minutes: summarise(results, minutes, way) for minutes in settings["label_minutes"]}
            for way in ways(settings)
        },
        "missing": missing,
    }


def ways(settings: Dict[str, Any]) -> List[str]:
    return ["greedy"] + (["lm"] if settings.get("lm") not in (None, "None") else [])


def student_of(encoder: Dict[str, Any]) -> str:
    """deep_thin of OUT/deep_thin/ARM/seed1/10min/finetune/checkpoint_best.pt."""
    return "teacher" if encoder["role"] == "teacher" else Path(encoder["source"]).parts[-6]


def collect_run(out: Path, student: str, arm: str, seed: str, minutes: str, settings, missing) -> Dict[str, Any]:
    """Scores of one fine-tuned model and how it came about."""
    run = out / student / arm / f"seed{seed}"
    folder = run / f"{minutes}min"
    result: Dict[str, Any] = {"arm": f"{student}/{arm}", "seed": seed, "label_minutes": minutes}
    for way in ways(settings):
        scores = attempt(missing, lambda: read_scores(folder / f"{way}.json", SCORES))
        result[way] = with_mean(scores) if scores else None
    distilled = arm not in ("scratch", "fine_tuned")
    for stage, path in {"distil": run / "distil.log", "finetune": folder / "finetune.log"}.items():
        log = attempt(missing, lambda: read_log(path)) if stage == "finetune" or distilled else None
        if log is not None:
            result[stage] = {"updates": log.updates, "minutes": log.seconds / 60, "validations": log.validations}
    return result


def with_mean(scores: Dict[str, Dict[str, float]]) -> Dict[str, Dict[str, float]]:
    """Adds "mean": every language counts alike, however much of it is tested."""
    languages = [scores[name] for name in scores if name != "all"]
    return {**scores, "mean": {score: statistics.fmean(entry[score] for entry in languages) for score in SCORES}}


def summarise(results: List[Dict[str, Any]], minutes: str, way: str) -> Dict[str, Dict[str, Any]]:
    """arm -> language or "mean" -> score -> [mean over seeds, deviation or None]."""
    arms: Dict[str, List[Dict]] = {}
    for result in results:
        if result["label_minutes"] == minutes and result[way]:
            arms.setdefault(result["arm"], []).append(result[way])
    return {
        arm: {
            name: {score: mean_and_deviation([one[name][score] for one in found]) for score in SCORES}
            for name in found[0]
        }
        for arm, found in arms.items()
    }


# -- tables --


def build_tables(report: Dict[str, Any]) -> List[Table]:
    tables = [sizes(report)]
    for way, by_minutes in report["summary"].items():
        how = "greedy" if way == "greedy" else "with the n-gram model"
        for minutes, summary in by_minutes.items():
            title = f"{minutes} minutes of labels a language, {how}: WER / CER, percent"
            tables.append(scores_table(report, summary, title))
        tables.append(questions_table(by_minutes, how))
    return [table for table in tables if table.rows] + [training_table(report)]


def sizes(report: Dict[str, Any]) -> Table:
    teacher = next((encoder for encoder in report["encoders"] if encoder["student"] == "teacher"), None)
    waveform = next((encoder for encoder in report["encoders"] if encoder["student"] == "deep_thin"), None)
    rows = []
    for encoder in report["encoders"]:
        cells = [
            "-" if other is None else f"{100 * (encoder['parameters'] / other['parameters'] - 1):+.1f} %"
            for other in (teacher, waveform)
        ]
        rows.append([encoder["student"], *size_and_speed(encoder), *cells])
    header = ["encoder", "parameters", "MB", "GMACs", "RTF", "to the teacher", "to deep_thin"]
    return Table("Encoders", header, rows)


def scores_table(report: Dict[str, Any], summary: Dict[str, Any], title: str) -> Table:
    parameters = {encoder["student"]: encoder["parameters"] for encoder in report["encoders"]}
    names = sorted({name for arm in summary.values() for name in arm} - {"all", "mean"}) + ["mean"]
    rows = []
    for arm, label in LABELS.items():
        if arm in summary:
            size = parameters.get(arm.split("/")[0])
            cells = [" / ".join(with_deviation(summary[arm][name][score]) for score in SCORES) for name in names]
            rows.append([label, "-" if size is None else f"{size / 1e6:.2f} M", *cells])
    return Table(title, ["", "parameters", *names], rows)


def questions_table(by_minutes: Dict[str, Dict[str, Any]], how: str) -> Table:
    """Gains of one arm over another, in the mean over languages (and seeds)."""
    rows = []
    for question, arm, baseline in QUESTIONS:
        cells = []
        for summary in by_minutes.values():
            for score in SCORES:
                value, other = (summary[a]["mean"][score][0] if a in summary else None for a in (arm, baseline))
                cells.append(number(relative_gain(score, value, other), "+.1f"))
        if set(cells) != {"-"}:
            rows.append([question, *cells])
    header = ["", *(f"{score.upper()}, {minutes} min" for minutes in by_minutes for score in SCORES)]
    return Table(f"Relative gain, percent (positive = fewer errors), {how}, mean over languages", header, rows)


def training_table(report: Dict[str, Any]) -> Table:
    rows = []
    for result in report["results"]:
        cells = [training(result.get(stage)) for stage in ("distil", "finetune")]
        cells.append(number(min((v["cer"] for v in result.get("finetune", {}).get("validations", [])), default=None)))
        rows.append([LABELS[result["arm"]], f"{result['label_minutes']} min", result["seed"], *cells])
    header = ["", "labels", "seed", "distillation", "fine-tuning", "best dev CER"]
    return Table("Training (wall clock, validation included; one distillation serves all labels)", header, rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
