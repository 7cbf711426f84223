"""The result of the quickstart as tables and a plot: python report.py RUN_DIR

Reads what the stages left in RUN_DIR: profile.json and, for each arm, distil.log, finetune.log, asr.json and
st.json. Writes report.md, report.json and report.png there, and prints the tables. What is missing is named,
and the rest reported; the exit code is then 1.
"""

import math
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import (  # noqa: E402
    Table,
    attempt,
    hardware,
    number,
    publish,
    read_profile,
    read_scores,
    relative_gain,
    rtf_note,
    size_and_speed,
    training,
)
from training_log import TrainingLog, read_log  # noqa: E402

ARMS = {"colld": "CoLLD mix", "l1cos": "L1 + cosine", "scratch": "from scratch"}
BASELINE = "scratch"
SCORE_TITLES = ["WER", "CER", "BLEU", "chrF"]
TRAINING_HEADER = ["", "distillation", "fine-tuning", "minutes", "seed"]
TASKS = {"asr": ("wer", "cer"), "st": ("bleu", "chrf")}  # score file of an arm -> what is read from it


def main(argv: List[str]) -> int:
    if len(argv) != 1 or not Path(argv[0]).is_dir():
        print(f"usage: report.py RUN_DIR (a folder of the quickstart); got {argv}", file=sys.stderr)
        return 2
    run_dir = Path(argv[0])
    report = collect(run_dir)
    notes, last = [hardware(report)], [rtf_note(list(report["encoders"].values()))]
    from report_plot import save_plot

    return publish(run_dir, report, build_tables(report), "Quickstart report", notes, save_plot, last)


# -- reading --


def collect(run_dir: Path) -> Dict[str, Any]:
    """Everything the report says, ready for JSON; `missing` names what could not be read."""
    missing: List[str] = []
    profile = attempt(missing, lambda: read_profile(run_dir / "profile.json")) or {}
    report = {
        "machine": profile.get("machine"),
        "threads": profile.get("threads"),
        "encoders": {encoder["role"]: encoder for encoder in profile.get("encoders", [])},
        "arms": {arm: _collect_arm(run_dir / arm, arm, missing) for arm in ARMS},
        "missing": missing,
    }
    baseline = report["arms"][BASELINE]
    for arm, entry in report["arms"].items():
        if arm != BASELINE:
            entry["gain_percent"] = {
                score: relative_gain(score, _overall(entry, task, score), _overall(baseline, task, score))
                for task, scores in TASKS.items()
                for score in scores
            }
    return report


def _collect_arm(folder: Path, arm: str, missing: List[str]) -> Dict[str, Any]:
    entry: Dict[str, Any] = {"label": ARMS[arm], "seeds": {}, "stages": {}, "curve": []}
    for task, names in TASKS.items():
        entry[task] = attempt(missing, lambda: read_scores(folder / f"{task}.json", names))
    for stage in ("distil", "finetune"):
        if stage == "distil" and arm == BASELINE:
            continue
        log = attempt(missing, lambda: read_log(folder / f"{stage}.log"))
        if log is not None:
            entry["seeds"][stage] = log.seed
            entry["stages"][stage] = {"updates": log.updates, "minutes": log.seconds / 60}
            if stage == "finetune":
                entry["curve"] = _curve(log)
    return entry


def _curve(log: TrainingLog) -> List[Dict[str, float]]:
    """Validation scores over updates: CER of the CTC transcripts, mean chrF of the translation directions."""
    points = []
    for validation in log.validations:
        directions = [
            value
            for key, value in validation.items()
            if key.startswith("chrf_") and len(set(key[len("chrf_") :].split("-"))) == 2
        ]
        points.append(
            {
                "updates": validation["num_updates"],
                "minutes": validation["seconds"] / 60,
                "cer": validation.get("ctc_cer", validation.get("cer", math.nan)),
                "chrf": sum(directions) / len(directions) if directions else math.nan,
            }
        )
    return points


def _overall(entry: Dict[str, Any], task: str, score: str) -> Optional[float]:
    return entry[task]["all"][score] if entry[task] else None


# -- tables --


def build_tables(report: Dict[str, Any]) -> List[Table]:
    return [
        _summary(report),
        _gains(report),
        _by_pair(report, "asr", "Recognition of held-out prompts: WER / CER, percent"),
        _by_pair(report, "st", "Translation of held-out prompts: BLEU / chrF"),
        _training(report),
    ]


def _summary(report: Dict[str, Any]) -> Table:
    student, teacher = (report["encoders"].get(role) for role in ("student", "teacher"))
    header = ["", "parameters", "MB", "GMACs", "RTF", *SCORE_TITLES]
    rows = []
    for entry in report["arms"].values():
        cells = [number(_overall(entry, task, score)) for task, scores in TASKS.items() for score in scores]
        rows.append([entry["label"], *size_and_speed(student), *cells])
    rows.append(["teacher", *size_and_speed(teacher), "", "", "", ""])
    return Table("Student and teacher (scores over all held-out prompts)", header, rows)


def _gains(report: Dict[str, Any]) -> Table:
    rows = []
    for entry in report["arms"].values():
        if "gain_percent" in entry:
            gains = entry["gain_percent"].values()
            rows.append([entry["label"], *("-" if gain is None else f"{gain:+.1f} %" for gain in gains)])
    title = "Gain over the same student from scratch, relative (positive is better)"
    return Table(title, ["", *SCORE_TITLES], rows)


def _by_pair(report: Dict[str, Any], task: str, title: str) -> Table:
    found: Dict[str, Any] = {}
    for entry in report["arms"].values():
        found.update(entry[task] or {})
    pairs = [*sorted(found.keys() - {"all"}), *(["all"] if "all" in found else [])]
    rows = []
    for entry in report["arms"].values():
        cells = []
        for pair in pairs:
            scores = (entry[task] or {}).get(pair)
            cells.append(" / ".join(number(scores[name]) for name in TASKS[task]) if scores else "-")
        rows.append([entry["label"], *cells])
    rows.append(["utterances", *(str(found[pair]["sentences"]) for pair in pairs)])
    return Table(title, ["", *(pair.replace("-", " → ") for pair in pairs)], rows)


def _training(report: Dict[str, Any]) -> Table:
    rows = []
    for entry in report["arms"].values():
        stages = [entry["stages"].get(stage) for stage in ("distil", "finetune")]
        cells = [training(stage) for stage in stages]
        total = sum(stage["minutes"] for stage in stages if stage)
        seeds = ", ".join(sorted({str(seed) for seed in entry["seeds"].values()}))
        rows.append([entry["label"], *cells, f"{total:.1f}", seeds or "-"])
    return Table("Training (wall clock, validation included)", TRAINING_HEADER, rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
