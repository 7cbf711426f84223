"""The result of the quickstart as tables and a plot: python report.py RUN_DIR

Reads what the stages left in RUN_DIR: profile.json and, for each arm, distil.log, finetune.log, asr.json and
st.json. Writes report.md, report.json and report.png there, and prints the tables. What is missing is named,
and the rest reported; the exit code is then 1.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from training_log import LogError, TrainingLog, read_log

ARMS = {"colld": "CoLLD mix", "l1cos": "L1 + cosine", "scratch": "from scratch"}
BASELINE = "scratch"
LOWER_IS_BETTER = {"wer": True, "cer": True, "bleu": False, "chrf": False}
SCORE_TITLES = ["WER", "CER", "BLEU", "chrF"]
TRAINING_HEADER = ["", "distillation", "fine-tuning", "minutes", "seed"]
TASKS = {"asr": ("wer", "cer"), "st": ("bleu", "chrf")}  # score file of an arm -> what is read from it


class Table(NamedTuple):
    """Rows of text under a header; the first column is the row's name."""

    title: str
    header: List[str]
    rows: List[List[str]]


def main(argv: List[str]) -> int:
    if len(argv) != 1 or not Path(argv[0]).is_dir():
        print(f"usage: report.py RUN_DIR (a folder of the quickstart); got {argv}", file=sys.stderr)
        return 2
    run_dir = Path(argv[0])
    report = collect(run_dir)
    tables = build_tables(report)
    _write(run_dir / "report.json", json.dumps(_without_nan(report), indent=2, ensure_ascii=False) + "\n")
    _write(run_dir / "report.md", to_markdown(report, tables))
    from report_plot import save_plot

    save_plot(report, run_dir / "report.png")
    print_tables(report, tables, run_dir)
    return 1 if report["missing"] else 0


# -- reading --


def collect(run_dir: Path) -> Dict[str, Any]:
    """Everything the report says, ready for JSON; `missing` names what could not be read."""
    missing: List[str] = []
    profile = _attempt(missing, lambda: _read_profile(run_dir / "profile.json")) or {}
    report = {
        "machine": profile.get("machine"),
        "threads": profile.get("threads"),
        "encoders": profile.get("encoders", {}),
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


def relative_gain(score: str, value: Optional[float], baseline: Optional[float]) -> Optional[float]:
    """Percent by which `value` is better than `baseline`, relative to the baseline; positive = better."""
    if value is None or not baseline:
        return None
    change = baseline - value if LOWER_IS_BETTER[score] else value - baseline
    return 100 * change / baseline


def _attempt(missing: List[str], read: Callable[[], Any]) -> Any:
    try:
        return read()
    except LogError as error:
        missing.append(str(error))
        return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise LogError(f"{path}: is not JSON ({error})") from error


def _read_profile(path: Path) -> Dict[str, Any]:
    content = _read_json(path)
    try:
        encoders: Dict[str, Any] = {}
        for model in content["models"]:
            sizes = {key: model[key] for key in ("parameters", "mb_float32", "mb_stored", "gmacs_per_10s")}
            rtf = {str(speed["batch_size"]): speed["rtf"] for speed in model["speed"]}
            encoders.setdefault(model["role"], {**sizes, "rtf": rtf})
        return {"machine": content["machine"], "threads": content["threads"], "encoders": encoders}
    except (KeyError, TypeError) as error:
        raise LogError(f"{path}: lacks {error}; write it with colld profile --json") from error


def _read_scores(path: Path, names: Tuple[str, ...]) -> Dict[str, Dict[str, float]]:
    """{"es" or "es-en": {score: percent}, ..., "all": {...}} of what colld score --json wrote."""
    content = _read_json(path)
    try:
        pairs = {_pair_name(pair): pair for pair in content["pairs"]}
        return {
            name: {score: scores[score] for score in (*names, "sentences")}
            for name, scores in {**pairs, "all": content["overall"]}.items()
        }
    except (KeyError, TypeError) as error:
        raise LogError(f"{path}: lacks {error}; write it with colld score --json") from error


def _pair_name(pair: Dict[str, Any]) -> str:
    source, target = pair["src_lang"], pair["tgt_lang"]
    return target if source in ("", target) else f"{source}-{target}"


def _collect_arm(folder: Path, arm: str, missing: List[str]) -> Dict[str, Any]:
    entry: Dict[str, Any] = {"label": ARMS[arm], "seeds": {}, "stages": {}, "curve": []}
    for task, names in TASKS.items():
        entry[task] = _attempt(missing, lambda: _read_scores(folder / f"{task}.json", names))
    for stage in ("distil", "finetune"):
        if stage == "distil" and arm == BASELINE:
            continue
        log = _attempt(missing, lambda: read_log(folder / f"{stage}.log"))
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


def _number(value: Optional[float], form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)


def _summary(report: Dict[str, Any]) -> Table:
    student, teacher = (report["encoders"].get(role) for role in ("student", "teacher"))
    header = ["", "parameters", "MB", "GMACs", "RTF", *SCORE_TITLES]
    rows = []
    for arm, entry in report["arms"].items():
        cells = [
            _number(_overall(entry, task, score)) for task, scores in TASKS.items() for score in scores
        ]
        rows.append([entry["label"], *_size_and_speed(student), *cells])
    rows.append(["teacher", *_size_and_speed(teacher), "", "", "", ""])
    return Table("Student and teacher (scores over all held-out prompts)", header, rows)


def _gains(report: Dict[str, Any]) -> Table:
    rows = []
    for entry in report["arms"].values():
        if "gain_percent" in entry:
            gains = entry["gain_percent"].values()
            rows.append([entry["label"], *("-" if gain is None else f"{gain:+.1f} %" for gain in gains)])
    title = "Gain over the same student from scratch, relative (positive is better)"
    return Table(title, ["", *SCORE_TITLES], rows)


def _size_and_speed(encoder: Optional[Dict[str, Any]]) -> List[str]:
    if encoder is None:
        return ["-"] * 4
    return [
        f"{encoder['parameters'] / 1e6:.2f} M",
        f"{encoder['mb_float32']:.1f}",
        f"{encoder['gmacs_per_10s']:.2f}",
        _number(next(iter(encoder["rtf"].values()), None), ".4f"),
    ]


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
            cells.append(" / ".join(_number(scores[name]) for name in TASKS[task]) if scores else "-")
        rows.append([entry["label"], *cells])
    rows.append(["utterances", *(str(found[pair]["sentences"]) for pair in pairs)])
    return Table(title, ["", *(pair.replace("-", " → ") for pair in pairs)], rows)


def _training(report: Dict[str, Any]) -> Table:
    rows = []
    for entry in report["arms"].values():
        stages = [entry["stages"].get(stage) for stage in ("distil", "finetune")]
        cells = ["-" if s is None else f"{s['updates']} updates, {s['minutes']:.1f} min" for s in stages]
        total = sum(stage["minutes"] for stage in stages if stage)
        seeds = ", ".join(sorted({str(seed) for seed in entry["seeds"].values()}))
        rows.append([entry["label"], *cells, f"{total:.1f}", seeds or "-"])
    return Table("Training (wall clock, validation included)", TRAINING_HEADER, rows)


def hardware(report: Dict[str, Any]) -> str:
    machine = report["machine"]
    if machine is None:
        return "hardware: not recorded (no profile.json)"
    return (
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"Python {machine['python']}; RTF with {report['threads']} threads"
    )


def rtf_note(report: Dict[str, Any]) -> str:
    batch = next((b for encoder in report["encoders"].values() for b in encoder["rtf"]), "1")
    return (
        "RTF: real-time factor, the processing time of a second of audio, from the waveform to the features "
        f"of the last layer, batch of {batch}. GMACs: for 10 s of audio. Parameters and MB (float32): those "
        "of the encoder, which is what is distilled."
    )


# -- output --


def to_markdown(report: Dict[str, Any], tables: List[Table]) -> str:
    parts = ["# Quickstart report", hardware(report)]
    for table in tables:
        lines = [f"## {table.title}", ""]
        lines += ["| " + " | ".join(row) + " |" for row in [table.header]]
        lines += ["|" + "---|" + "---:|" * (len(table.header) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        parts.append("\n".join(lines))
    parts += [rtf_note(report), "![validation curves and test scores](report.png)"]
    if report["missing"]:
        parts.append("\n".join(["## Missing", "", *(f"- {item}" for item in report["missing"])]))
    return "\n\n".join(parts) + "\n"


def print_tables(report: Dict[str, Any], tables: List[Table], run_dir: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    if not console.is_terminal:  # a pipe has no width: wide enough for every table
        console.width = 100
    for table in tables:
        drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(table.header):
            drawn.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
    for note in (rtf_note(report), hardware(report)):
        console.print(note, soft_wrap=True, markup=False)
    for item in report["missing"]:
        console.print(f"missing: {item}", style="red", soft_wrap=True, markup=False)
    console.print(f"written: {run_dir}/report.md, report.json, report.png", soft_wrap=True, markup=False)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
