"""What the reports of the examples share: reading results, tables for the terminal and in Markdown."""

import json
import math
import statistics
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from training_log import LogError

from colld_fairseq.files import write_whole

LOWER_IS_BETTER = {"wer": True, "cer": True, "bleu": False, "chrf": False}


class Table(NamedTuple):
    """Rows of text under a header; the first column is the row's name."""

    title: str
    header: List[str]
    rows: List[List[str]]


# -- reading --


def attempt(missing: List[str], read: Callable[[], Any]) -> Any:
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


def read_profile(path: Path) -> Dict[str, Any]:
    """machine, threads and encoders: one {role, source, parameters, ..., rtf: {batch: x}} for each model."""
    content = read_json(path)
    try:
        keys = ("role", "source", "parameters", "mb_float32", "mb_stored", "gmacs_per_10s")
        encoders = [
            {
                **{key: model[key] for key in keys},
                "rtf": {str(speed["batch_size"]): speed["rtf"] for speed in model["speed"]},
            }
            for model in content["models"]
        ]
        return {"machine": content["machine"], "threads": content["threads"], "encoders": encoders}
    except (KeyError, TypeError) as error:
        raise LogError(f"{path}: lacks {error}; write it with colld profile --json") from error


def read_scores(path: Path, names: Tuple[str, ...]) -> Dict[str, Dict[str, float]]:
    """{"es" or "es-en": {score: percent}, ..., "all": {...}} of what colld score --json wrote."""
    content = read_json(path)
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


def relative_gain(score: str, value: Optional[float], baseline: Optional[float]) -> Optional[float]:
    """Percent by which `value` is better than `baseline`, relative to the baseline; positive = better."""
    if value is None or not baseline:
        return None
    change = baseline - value if LOWER_IS_BETTER[score] else value - baseline
    return 100 * change / baseline


def mean_and_deviation(values: List[float]) -> Tuple[float, Optional[float]]:
    """Over seeds; no deviation of a single one."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


# -- writing --


def number(value: Optional[float], form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)


def with_deviation(value: Tuple[float, Optional[float]]) -> str:
    mean, deviation = value
    return number(mean) if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def size_and_speed(encoder: Optional[Dict[str, Any]]) -> List[str]:
    """Cells: parameters, MB, GMACs, RTF."""
    if encoder is None:
        return ["-"] * 4
    return [
        f"{encoder['parameters'] / 1e6:.2f} M",
        f"{encoder['mb_float32']:.1f}",
        f"{encoder['gmacs_per_10s']:.2f}",
        number(next(iter(encoder["rtf"].values()), None), ".4f"),
    ]


def hardware(report: Dict[str, Any]) -> str:
    machine = report["machine"]
    if machine is None:
        return "hardware: not recorded (no profile.json)"
    return (
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, "
        f"Python {machine['python']}; RTF with {report['threads']} threads"
    )


def rtf_note(encoders: List[Dict[str, Any]]) -> str:
    batch = next((b for encoder in encoders for b in encoder["rtf"]), "1")
    return (
        "RTF: real-time factor, the processing time of a second of audio, from the waveform to the features "
        f"of the last layer, batch of {batch}. GMACs: for 10 s of audio. Parameters and MB (float32): those "
        "of the encoder, which is what is distilled."
    )


def markdown(title: str, notes: List[str], tables: List[Table], last: List[str], missing: List[str]) -> str:
    """A page: title, notes, tables, last paragraphs, and what is missing."""
    parts = [f"# {title}", *notes]
    for table in tables:
        lines = [f"## {table.title}", ""]
        lines += ["| " + " | ".join(table.header) + " |"]
        lines += ["|" + "---|" + "---:|" * (len(table.header) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        parts.append("\n".join(lines))
    parts += last
    if missing:
        parts.append("\n".join(["## Missing", "", *(f"- {item}" for item in missing)]))
    return "\n\n".join(parts) + "\n"


def training(stage: Optional[Dict[str, Any]]) -> str:
    """Cell: updates and minutes of a training run."""
    return "-" if stage is None else f"{stage['updates']} updates, {stage['minutes']:.1f} min"


def publish(
    out: Path,
    report: Dict[str, Any],
    tables: List[Table],
    title: str,
    notes: List[str],
    save_plot: Callable[[Dict[str, Any], Path], None],
    last: Sequence[str] = (),
    width: int = 100,
) -> int:
    """Write report.md, report.json and report.png to `out` and print the tables; 1 if something is missing, else 0.

    notes: paragraphs above the tables of the page; last: below them; width: see `print_tables`.
    """
    save_json(out / "report.json", report)
    picture = "![test scores and validation curves](report.png)"
    page = markdown(title, notes, tables, [*last, picture], report["missing"])
    write_whole(out / "report.md", page.encode())
    save_plot(report, out / "report.png")
    written = f"written: {out}/report.md, report.json, report.png"
    print_tables(tables, [*last, *notes, written], report["missing"], width)
    return 1 if report["missing"] else 0


def print_tables(tables: List[Table], notes: List[str], missing: List[str], width: int = 100) -> None:
    """On standard output; `width` is that of a pipe, which has none of its own."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = width
    for table in tables:
        drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
        for column, name in enumerate(table.header):
            drawn.add_column(name, justify="left" if column == 0 else "right", no_wrap=True)
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False)
    for item in missing:
        console.print(f"missing: {item}", style="red", soft_wrap=True, markup=False)


def save_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(_without_nan(value), indent=2, ensure_ascii=False) + "\n").encode())


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
