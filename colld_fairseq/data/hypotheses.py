"""n-best lists on disk: one JSON line an utterance, written by `colld transcribe --nbest`.

    {"id": "clip-1", "hypotheses": [{"text": "a b", "tokens": [5, 4, 6], "score": -1.2, "log_prob": -1.3}, ...]}

`tokens` are ids of the vocabulary that the recogniser was trained with; the other fields are those of
:class:`Transcript`. Hypotheses are in order of their score, best first.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Set, Tuple, Union

from colld_fairseq.errors import ManifestError
from colld_fairseq.files import written_whole
from colld_fairseq.json_lines import json_line


@dataclass
class Transcript:
    """One hypothesis.

    Attributes:
        text: without unknown tokens, special symbols and language tags.
        tokens: ids of the labels, without tag and end of sentence.
        score: what hypotheses are ranked by (natural logarithms; language model and length score included).
        log_prob: ln p of its best path (CTC, transducer) or of the tokens (attention).
    """

    text: str
    tokens: List[int]
    score: float
    log_prob: float

    @property
    def mean_log_prob(self) -> float:
        """ln p a token: a confidence that clips of different lengths can be compared by."""
        return self.log_prob / max(1, len(self.tokens))


def write_hypotheses(path: Union[str, Path], n_best: Iterable[Tuple[str, Sequence[Transcript]]]) -> None:
    """Write (id, n-best list) pairs, whole or not at all."""
    with written_whole(path) as file:
        for name, transcripts in n_best:
            file.write(json_line({"id": name, "hypotheses": [asdict(transcript) for transcript in transcripts]}))


def read_hypotheses(path: Union[str, Path]) -> Dict[str, List[Transcript]]:
    """n-best lists by id; ManifestError names file and line of what :func:`write_hypotheses` cannot have written."""
    found: Dict[str, List[Transcript]] = {}
    for place, name, hypotheses in read_entries(path):
        try:
            found[name] = [Transcript(**fields) for fields in hypotheses]
        except TypeError as error:
            raise ManifestError(f"{place}: no n-best list as `colld transcribe` writes it ({error})") from error
    return found


def read_entries(path: Union[str, Path]) -> Iterator[Tuple[str, str, List[Dict[str, Any]]]]:
    """(file:line, id, hypotheses with at least a text and a score) of every utterance, one line at a time.

    Raises ManifestError naming file and line.
    """
    names: Set[str] = set()
    try:
        file = open(path, "rb")
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                entry = json.loads(line)
                name, hypotheses = str(entry["id"]), list(entry["hypotheses"])
                finite = all(math.isfinite(h["score"]) and isinstance(h["text"], str) for h in hypotheses)
            except (ValueError, KeyError, TypeError) as error:
                raise ManifestError(f"{place}: no n-best list as `colld transcribe` writes it ({error})") from error
            if not hypotheses or not finite:
                raise ManifestError(f"{place}: an n-best list has at least one hypothesis, with a text and a number")
            if name in names:
                raise ManifestError(f"{place}: id {name!r} is there already; every utterance has one line")
            names.add(name)
            yield place, name, hypotheses


def hypotheses_path(manifest: str) -> str:
    """Where the n-best lists of a manifest are."""
    return os.path.splitext(manifest)[0] + ".hypotheses.jsonl"
