"""One held-out utterance of each test set as every system writes it: what a reader looks at first."""

import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

LINE = re.compile(r"^([TD])-(\d+)\t(.*)$", re.MULTILINE)


class Decoded(NamedTuple):
    """Row of the manifest -> text."""

    references: Dict[int, str]
    hypotheses: Dict[int, str]


def shown_utterances(out: Path, results: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """[{"test": "asr", "reference": text, "hypotheses": {label: text}}] for the test sets of the first seed's results.

    Of each test set the reference of median length, so that nobody has picked it.
    """
    shown = []
    for test in dict.fromkeys(Path(path).stem for result in results for path in result["scores"]):
        decoded = {result["label"]: read_decoded(out, result, test) for result in results}
        decoded = {label: one for label, one in decoded.items() if one and one.references}
        if decoded:
            references = next(iter(decoded.values())).references
            row = sorted(references, key=lambda index: (len(references[index]), index))[len(references) // 2]
            hypotheses = {label: one.hypotheses.get(row, "") for label, one in decoded.items()}
            shown.append({"test": test, "reference": references[row], "hypotheses": hypotheses})
    return shown


def read_decoded(out: Path, result: Dict[str, Any], test: str) -> Optional[Decoded]:
    """What fairseq-generate left of a result's test set; None where there is nothing."""
    folders = [out / Path(path).with_suffix("") for path in result["scores"] if Path(path).stem == test]
    files = [file for folder in folders for file in sorted(folder.glob("generate-*.txt"))]
    if not files:
        return None
    lines = LINE.findall(files[0].read_text(encoding="utf-8"))
    references = {int(row): text for kind, row, text in lines if kind == "T"}
    return Decoded(references, {int(row): text.partition("\t")[2] for kind, row, text in lines if kind == "D"})
