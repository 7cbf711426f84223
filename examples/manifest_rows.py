"""Rows of speech-to-text manifests, for the examples: read, chosen by minutes, written."""

import random
from pathlib import Path
from typing import Dict, Iterable, List

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, Row, join_manifests, read_manifest
from colld_fairseq.files import write_whole

COLUMNS = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)


def read_rows(paths: str) -> List[Row]:
    """Of manifests of either format, comma-separated; audio paths are absolute."""
    manifest = join_manifests([read_manifest(path) for path in paths.split(",")])
    return [manifest.row(i) for i in range(len(manifest))]


def labelled(rows: List[Row], minutes: float, seed: int) -> List[Row]:
    """Of each language the first rows of a shuffle until they last `minutes` (all of them where it has less)."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    chosen: List[Row] = []
    seconds: Dict[str, float] = {}
    for row in shuffled:
        if seconds.get(row.src_lang, 0.0) < 60 * minutes:
            chosen.append(row)
            seconds[row.src_lang] = seconds.get(row.src_lang, 0.0) + row.n_samples / SAMPLE_RATE
    return chosen


def by_language(rows: Iterable[Row]) -> Dict[str, float]:
    """Minutes of each language."""
    minutes: Dict[str, float] = {}
    for row in rows:
        minutes[row.src_lang] = minutes.get(row.src_lang, 0.0) + row.n_samples / SAMPLE_RATE / 60
    return dict(sorted(minutes.items()))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A speech-to-text manifest, also of rows without text (for which the distillation does not ask)."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        fields = dict(row._asdict(), n_frames=row.n_samples)
        lines.append("\t".join(str(fields[name]) for name in COLUMNS))
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())
