"""n-best lists on disk: one JSON line per utterance, written by `colld transcribe --nbest`.

    {"id": "utterance-1", "hypotheses": [{"text": "a b", "tokens": [5, 4, 6], "score": -1.2, "log_prob": -1.3}, ...]}

The fields are those of `colld_fairseq.decoding.hypothesis.Hypothesis`, `words` with their times among them where the
model knows these; `tokens` are ids of the vocabulary that
the recogniser was trained with. Hypotheses are in order of their score, best first.
"""

import math
import os
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Set, Tuple, Union

from colld_fairseq.errors import ManifestError
from colld_fairseq.files import written_atomically
from colld_fairseq.json_lines import json_line
from colld_fairseq.parsing import parse_json


def write_hypotheses(path: Union[str, Path], n_best: Iterable[Tuple[str, Sequence[Dict[str, Any]]]]) -> None:
    """Write (id, n-best list of the fields above) pairs, all or no file."""
    with written_atomically(path) as file:
        for name, hypotheses in n_best:
            file.write(json_line({"id": name, "hypotheses": list(hypotheses)}))


def read_entries(path: Union[str, Path]) -> Iterator[Tuple[str, List[Dict[str, Any]]]]:
    """(id, hypotheses with at least a text and a score) of every utterance, one line at a time.

    Raises ManifestError naming file and line.
    """
    names: Set[str] = set()
    try:
        file = open(path, "rb")
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        for line_number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{line_number}"
            try:
                entry = parse_json(line)
                name, hypotheses = str(entry["id"]), list(entry["hypotheses"])
                finite = all(math.isfinite(h["score"]) and isinstance(h["text"], str) for h in hypotheses)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise ManifestError(f"{where}: no n-best list as `colld transcribe` writes it ({error})") from error
            if not hypotheses or not finite:
                raise ManifestError(f"{where}: an n-best list has at least one hypothesis, with a text and a score")
            if name in names:
                raise ManifestError(f"{where}: id {name!r} is there already; every utterance has one line")
            names.add(name)
            yield name, hypotheses


def hypotheses_path(manifest: str) -> str:
    """Where the n-best lists of a manifest are."""
    return os.path.splitext(manifest)[0] + ".hypotheses.jsonl"
