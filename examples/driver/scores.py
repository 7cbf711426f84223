"""Reads what a comparison left: its plan, scores, training logs and the profile of its encoders."""

import json
import statistics
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch

from colld_fairseq.report.training_log import LogError, read_log
from colld_fairseq.scoring.measures import LOWER_IS_BETTER, MEASURES, kind_of, pair_name
from examples.driver.jobs import failures
from examples.driver.shown import shown_utterances

COUNTS = ("sentences", "overlong")
NEXT_TO_NOTHING = {"bleu": 1.0, "chrf": 5.0}  # percent: below, a baseline has no more in common with a text than chance
Scores = Dict[str, Dict[str, Dict[str, float]]]  # "asr" or "st" -> "de", "de → en", "mean" or "all" -> measure


def collect(out: Path, plan_file: Optional[Path] = None) -> Dict[str, Any]:
    """Everything the report says, ready for JSON; `missing` names what failed or could not be read.

    plan_file: OUT/plan.json by default; where its `encoders` are None, they were not profiled.
    """
    missing = failures(out)
    plan = read_json(plan_file or out / "plan.json")
    profile: Dict[str, Any] = {}
    if plan["encoders"] is not None:
        profile = _attempt(missing, lambda: read_profile(out / "profile.json", plan["encoders"])) or {}
    results = [_collect_result(out, result, missing) for result in plan["results"]]
    groups = dict.fromkeys(result["group"] for result in results)
    summary = {group: summarize([result for result in results if result["group"] == group]) for group in groups}
    kept = {key: plan[key] for key in ("title", "notes", "average", "comparisons", "settings")}
    shown = shown_utterances(out, plan["results"]) if plan.get("show") else []
    empty: Dict[str, Any] = {"shown": shown, "machine": None, "threads": None, "encoders": {}}
    return {**kept, **empty, **profile, "results": results, "summary": summary, "missing": list(dict.fromkeys(missing))}


def _collect_result(out: Path, result: Dict[str, Any], missing: List[str]) -> Dict[str, Any]:
    """Adds its `scores` (None where one is missing), `stages` and `parameters`."""
    parts = [_attempt(missing, lambda: read_scores(out / path)) for path in result["scores"]]
    scores: Optional[Scores] = {kind: part[kind] for part in parts if part for kind in part} or None
    stages = {}
    for stage, path in result["logs"].items():
        log = _attempt(missing, lambda: read_log(out / path))
        if log is not None:
            minutes = max(log.seconds, job_seconds(out / path)) / 60
            stages[stage] = {"updates": log.updates, "minutes": minutes, "validations": log.validations}
    sizes = _attempt(missing, lambda: count_parameters(out / result["checkpoint"])) or (None, None)
    return {**result, "values": scores, "stages": stages, "parameters": sizes[0], "encoder_parameters": sizes[1]}


def job_seconds(log: Path) -> float:
    """How long the job of a log took, 0 where it is not finished. fairseq's own clock stands still in a run that goes
    on from a checkpoint."""
    done = log.with_suffix(".done")
    return float(json.loads(done.read_text())["seconds"]) if done.is_file() else 0.0


def _attempt(missing: List[str], read: Callable[[], Any]) -> Any:
    """What `read` returns, or None; then `missing` gets the reason."""
    try:
        return read()
    except LogError as error:
        missing.append(str(error))
        return None


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise LogError(f"{path}: is not JSON ({error})") from error


def read_profile(path: Path, names: Dict[str, str]) -> Dict[str, Any]:
    """machine, threads and encoders: name -> {role, parameters, ..., rtf}. names: name -> source, as in a plan."""
    content = read_json(path)
    keys = ("role", "source", "parameters", "mb_float32", "gmacs_per_10s")
    encoders = {}
    try:
        for model in content["models"]:
            known = (name for name, source in names.items() if model["source"] == source)
            inside = (name for name, source in names.items() if model["source"].endswith(f"/{source}"))
            name = next(known, next(inside, model["source"]))
            encoders[name] = {**{key: model[key] for key in keys}, "rtf": model["speed"][0]["rtf"]}
        return {"machine": content["machine"], "threads": content["threads"], "encoders": encoders}
    except (KeyError, TypeError, IndexError) as error:
        raise LogError(f"{path}: lacks {error}; write it with colld profile --json") from error


def read_scores(path: Path) -> Scores:
    """Of what colld score --json wrote, without kinds that have no rows. In the mean every language (pair) counts
    alike, however much of it is tested; in "all", where all rows are of one kind, every utterance."""
    kinds: Scores = {}
    content = read_json(path)
    measures = [measure for pair in MEASURES.values() for measure in pair]
    try:
        for pair in content["pairs"]:
            source, target = pair["src_lang"], pair["tgt_lang"]
            scores = kinds.setdefault(kind_of(source, target), {})
            scores[pair_name(source, target)] = {key: pair[key] for key in (*measures, *COUNTS)}
        for scores in kinds.values():
            scores["mean"] = {key: statistics.fmean(one[key] for one in scores.values()) for key in measures}
        if len(kinds) == 1:
            next(iter(kinds.values()))["all"] = {key: content["overall"][key] for key in (*measures, *COUNTS)}
    except (KeyError, TypeError) as error:
        raise LogError(f"{path}: lacks {error}; write it with colld score --json") from error
    return kinds


def count_parameters(path: Path) -> Tuple[int, int]:
    """Of the whole model in a checkpoint, and of its encoder."""
    try:
        model = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["model"]
    except (OSError, RuntimeError, KeyError) as error:
        raise LogError(f"{path}: cannot be read ({error})") from error
    encoder = sum(value.numel() for name, value in model.items() if name.startswith("encoder."))
    return sum(value.numel() for value in model.values()), encoder


def summarize(results: List[Dict[str, Any]]) -> Dict[str, Any]:
    """system -> kind -> language (pair), "mean" or "all" -> measure -> [mean over seeds, deviation or None]."""
    systems: Dict[str, List[Scores]] = {}
    for result in results:
        if result["values"]:
            systems.setdefault(result["system"], []).append(result["values"])

    def spread(seeds: List[Scores], kind: str, name: str) -> Dict[str, Any]:
        return {key: mean_and_deviation([one[kind][name][key] for one in seeds]) for key in MEASURES[kind]}

    summary: Dict[str, Any] = {}
    for system, seeds in systems.items():
        kinds = [kind for kind in seeds[0] if all(kind in one for one in seeds)]
        summary[system] = {kind: {name: spread(seeds, kind, name) for name in seeds[0][kind]} for kind in kinds}
    return summary


def mean_and_deviation(values: List[float]) -> Tuple[float, Optional[float]]:
    """Over seeds; no deviation of a single one."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def relative_gain(measure: str, value: Optional[float], baseline: Optional[float]) -> Optional[float]:
    """Percent by which `value` is better than `baseline`, relative to the baseline; positive = better. None for a
    baseline that is next to nothing, of which anything would be a thousand percent."""
    if value is None or not baseline or baseline < NEXT_TO_NOTHING.get(measure, 0.0):
        return None
    change = baseline - value if LOWER_IS_BETTER[measure] else value - baseline
    return 100 * change / baseline


def validation_curve(result: Dict[str, Any], kind: str) -> List[Tuple[float, float]]:
    """(updates, score) of the last stage: CER of recognition, or mean chrF of the translation directions."""
    validations = list(result["stages"].values())[-1]["validations"] if result["stages"] else []
    points = [(validation["num_updates"], _validation_score(validation, kind)) for validation in validations]
    return [(updates, score) for updates, score in points if score is not None]


def _validation_score(validation: Dict[str, float], kind: str) -> Optional[float]:
    if kind == "asr":
        scores = [validation.get("ctc_cer", validation.get("cer"))]
    else:
        pairs = {key.removeprefix("chrf_"): value for key, value in validation.items() if key.startswith("chrf_")}
        scores = [value for pair, value in pairs.items() if len(set(pair.split("-"))) == 2]
    scores = [score for score in scores if score is not None and score == score]  # not NaN
    return statistics.fmean(scores) if scores else None
