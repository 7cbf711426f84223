"""The comparison as tables and a plot: python report.py OUT

Reads what run.py left in OUT, also of a run that is not complete: what is missing is named, and the rest reported.
Writes report.md, report.json (every score of every run, for programs) and report.png there, and prints the tables.
"""

import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import (  # noqa: E402
    LOWER_IS_BETTER,
    Table,
    attempt,
    hardware,
    mean_and_deviation,
    number,
    publish,
    read_json,
    read_profile,
    relative_gain,
    rtf_note,
    size_and_speed,
    training,
    with_deviation,
)
from training_log import LogError, read_log  # noqa: E402
from transducer_plot import save_plot  # noqa: E402

SCORES = ("wer", "cer", "bleu", "chrf")
# What is scored how: recognition by errors, translation by matches.
MEASURES = {"asr": ("wer", "cer"), "st": ("bleu", "chrf")}
NAMES = {"wer": "WER", "cer": "CER", "bleu": "BLEU", "chrf": "chrF"}
LABELS = {
    "scratch": "from scratch",
    "sum": "all teachers, sum",
    "random": "all teachers, random",
    "average": "all teachers, average",
    "unlabelled": "all teachers + unlabelled audio",
    "kd": "all teachers + KD",
    "kd_unlabelled": "all teachers + unlabelled audio + KD",
}
CONTEXT = (
    "For context, not of this project: the abstract of 2303.10917 has 17.5 % and 10.6 % fewer word errors by several"
    " teachers than without (streaming and non-streaming students, which is which is not stated) and 55.0 % with"
    " unlabelled audio, at full size, with 100 h of labels."
)


def main(argv: List[str]) -> int:
    if len(argv) != 1 or not (Path(argv[0]) / "settings.json").is_file():
        print(f"usage: report.py OUT (a folder of run.py); got {argv}", file=sys.stderr)
        return 2
    out = Path(argv[0])
    report = collect(out)
    notes = [hardware(report), rtf_note(report["encoders"]), CONTEXT]
    title = "Transducers from one teacher and from several"
    return publish(out, report, build_tables(report), title, notes, save_plot, width=180)


# -- reading --


def collect(out: Path) -> Dict[str, Any]:
    """Everything the report says, ready for JSON; `missing` names what could not be read."""
    missing: List[str] = []
    settings = read_json(out / "settings.json")
    profile = attempt(missing, lambda: read_profile(out / "profile.json")) or {}
    results = [collect_run(out, *run, settings["ways"][run[0]], missing) for run in settings["runs"]]
    return {
        "settings": settings,
        "machine": profile.get("machine"),
        "threads": profile.get("threads"),
        "encoders": profile.get("encoders", []),
        "results": results,
        "summary": {
            student: {way: summarise(results, student, way) for way in ways}
            for student, ways in settings["ways"].items()
        },
        "missing": missing,
    }


def collect_run(out: Path, student: str, arm: str, seed: str, ways: List[str], missing: List[str]) -> Dict[str, Any]:
    """Scores of one transducer and how it came about."""
    folder = out / student / arm / f"seed{seed}"
    result: Dict[str, Any] = {"student": student, "arm": arm, "seed": seed}
    for way in ways:
        result[way] = attempt(missing, lambda: read_scores_by_kind(folder / f"{way}.json"))
    for stage in ("stage1", "stage2"):
        path = folder / f"{stage}.log"
        # There is none from scratch, or where another arm's serves.
        log = attempt(missing, lambda: read_log(path)) if stage == "stage2" or path.is_file() else None
        if log is not None:
            result[stage] = {"updates": log.updates, "minutes": log.seconds / 60, "validations": log.validations}
    result["parameters"] = attempt(missing, lambda: count_parameters(folder / "stage2" / "checkpoint_best.pt"))
    return result


def read_scores_by_kind(path: Path) -> Dict[str, Dict[str, Dict[str, float]]]:
    """{"asr": {"de": {score: percent}, ..., "mean": ...}, "st": {"de-en": ...}} of what colld score --json wrote; a
    kind without rows is left out. In the mean every language (pair) counts alike, however much of it is tested."""
    kinds: Dict[str, Dict[str, Dict[str, float]]] = {}
    try:
        for pair in read_json(path)["pairs"]:
            source, target = pair["src_lang"], pair["tgt_lang"]
            kind = "asr" if source in ("", target) else "st"
            name = target if kind == "asr" else f"{source} → {target}"
            kinds.setdefault(kind, {})[name] = {score: pair[score] for score in SCORES}
    except (KeyError, TypeError) as error:
        raise LogError(f"{path}: lacks {error}; write it with colld score --json") from error
    for found in kinds.values():
        found["mean"] = {score: statistics.fmean(one[score] for one in found.values()) for score in SCORES}
    return kinds


def count_parameters(path: Path) -> int:
    """Of the whole model in a checkpoint."""
    try:
        model = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["model"]
    except (OSError, RuntimeError, KeyError) as error:
        raise LogError(f"{path}: cannot be read ({error})") from error
    return sum(value.numel() for value in model.values())


def summarise(results: List[Dict[str, Any]], student: str, way: str) -> Dict[str, Any]:
    """arm -> kind -> language (pair) or "mean" -> score -> [mean over seeds, deviation or None]."""
    arms: Dict[str, List[Dict]] = {}
    for result in results:
        if result["student"] == student and result[way]:
            arms.setdefault(result["arm"], []).append(result[way])
    return {
        arm: {
            kind: {
                name: {score: mean_and_deviation([one[kind][name][score] for one in found]) for score in SCORES}
                for name in found[0][kind]
            }
            for kind in found[0]
        }
        for arm, found in arms.items()
    }


# -- tables --


def build_tables(report: Dict[str, Any]) -> List[Table]:
    chosen = [(student, way) for student, ways in report["summary"].items() for way in ways]
    tables = [table(report, *one) for one in chosen for table in (scores_table, gains_table)]
    for student, way in chosen:
        arms = report["summary"][student][way]
        tables += [languages_table(arms, kind, f"{student}, {way}") for kind in MEASURES]
    return [table for table in [*tables, sizes(report)] if table.rows] + [training_table(report)]


def scores_table(report: Dict[str, Any], student: str, way: str) -> Table:
    """Means over languages."""
    arms = report["summary"][student][way]
    parameters = {r["arm"]: r["parameters"] for r in report["results"] if r["student"] == student}
    scores = scores_of(arms)
    rows = []
    for arm, found in arms.items():
        size = parameters.get(arm)
        cells = [with_deviation(found[kind]["mean"][score]) for kind, score in scores]
        rows.append([label(arm), "-" if size is None else f"{size / 1e6:.2f} M", *cells])
    header = ["", "parameters", *(NAMES[score] for _, score in scores)]
    return Table(f"Student {student}, {way}: percent, mean over languages", header, rows)


def gains_table(report: Dict[str, Any], student: str, way: str) -> Table:
    """Over the arm from scratch, and over the best single teacher."""
    arms = report["summary"][student][way]
    scores = scores_of(arms)
    singles = [arm for arm in report["settings"]["teacher_names"] if arm in arms]
    best = min(singles, key=lambda arm: loss_of(arms[arm], *scores[0]), default=None)
    baselines = [arm for arm in ("scratch", best) if arm in arms]
    rows = []
    for arm, found in arms.items():
        cells = []
        for baseline in baselines:
            for kind, score in scores:
                gain = relative_gain(score, mean_of(found, kind, score), mean_of(arms[baseline], kind, score))
                cells.append("" if arm == baseline else number(gain, "+.1f"))
        rows.append([label(arm), *cells])
    header = ["", *(f"{NAMES[score]} over {baseline}" for baseline in baselines for _, score in scores)]
    return Table(
        f"Student {student}, {way}: relative gain, percent, positive = better", header, rows if baselines else []
    )


def scores_of(arms: Dict[str, Any]) -> List[Tuple[str, str]]:
    """(kind, score) of what there is."""
    kinds = [kind for kind in MEASURES if any(kind in arm for arm in arms.values())]
    return [(kind, score) for kind in kinds for score in MEASURES[kind]]


def mean_of(arm: Dict[str, Any], kind: str, score: str) -> float:
    return arm[kind]["mean"][score][0]


def loss_of(arm: Dict[str, Any], kind: str, score: str) -> float:
    """The less the better."""
    return mean_of(arm, kind, score) * (1 if LOWER_IS_BETTER[score] else -1)


def languages_table(arms: Dict[str, Any], kind: str, title: str) -> Table:
    names = sorted({name for arm in arms.values() for name in arm.get(kind, {})} - {"mean"})
    rows = [
        [label(arm), *(" / ".join(with_deviation(found[kind][name][s]) for s in MEASURES[kind]) for name in names)]
        for arm, found in arms.items()
        if kind in found
    ]
    scores = "WER / CER" if kind == "asr" else "BLEU / chrF"
    return Table(f"{scores} by language ({title})", ["", *names], rows)


def sizes(report: Dict[str, Any]) -> Table:
    rows = []
    for encoder in report["encoders"]:
        # OUT/STUDENT/ARM/seed1/stage2/checkpoint_best.pt
        name = encoder["source"] if encoder["role"] == "teacher" else Path(encoder["source"]).parts[-5]
        rows.append([Path(name).name, *size_and_speed(encoder)])
    return Table("Encoders", ["encoder", "parameters", "MB", "GMACs", "RTF"], rows)


def training_table(report: Dict[str, Any]) -> Table:
    rows = []
    for result in report["results"]:
        cells = [training(result.get(stage)) for stage in ("stage1", "stage2")]
        cells.append(number(best_validation(result)))
        rows.append([f"{result['student']}, {label(result['arm'])}", result["seed"], *cells])
    header = ["", "seed", "stage 1", "stage 2", "best dev CER"]
    return Table("Training (wall clock, validation included; arms of the same start share their stage 1)", header, rows)


def best_validation(result: Dict[str, Any]) -> Optional[float]:
    return min((v["cer"] for v in result.get("stage2", {}).get("validations", [])), default=None)


def label(arm: str) -> str:
    return LABELS.get(arm, f"teacher {arm}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
