"""prepared.json: what a folder's manifests were made from, and their names."""

from pathlib import Path
from typing import Any, Dict, Set

from colld_fairseq.parsing import parse_json

RECORD, LEFT_OUT = "prepared", "left_out"  # of a preparation with a name: prepared_NAME.json, left_out_NAME.tsv


def read_record(path: Path) -> Dict[str, Any]:
    """What it says; nothing where there is none."""
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def written_into(folder: Path) -> Set[str]:
    """Names of the tables that preparations have written into a folder."""
    names: Set[str] = set()
    for path in folder.glob(f"{RECORD}*.json"):
        manifests = read_record(path).get("manifests")
        if isinstance(manifests, dict):
            names |= {*manifests, f"{LEFT_OUT}{path.stem[len(RECORD) :]}.tsv"}
    return names
