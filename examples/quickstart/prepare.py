"""Write manifests from a corpus table:

    python -m examples.quickstart.prepare OUT [--table TSV --zip ZIP ...] [--pairs es-en,en-en]

A table has one row a recording, `id file seconds speaker lang split text [trans_XX ...]`; `file` is a member of the zip
(stored, not compressed), `text` the transcript, `trans_XX` the translation into XX. For each split (train, dev, test):

  SPLIT.tsv       recordings of the pairs; tgt_text = translation (or the transcript where both languages are the same),
                  src_text = transcript. A recording with several targets has a row for each, its id ends in the target
  SPLIT_asr.tsv   every recording of the source languages; tgt_text = transcript: to distil from, to score recognition
  SPLIT_st.tsv    the rows of SPLIT.tsv whose target is another language: to score translation

A manifest that would have no row is not written.
"""

import argparse
import csv
import math
import random
from collections import Counter
from pathlib import Path
from typing import Dict, List

from colld_fairseq.data.audio import SAMPLE_RATE, find_zip_members
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", default=[HERE / "prompts.tsv"])
    parser.add_argument("--zip", type=Path, nargs="+", default=[HERE / "prompts.zip"], help="one for each table")
    parser.add_argument("--pairs", default="en-en,es-en,fr-en,it-en,ru-en", help="source-target language pairs")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="leave out longer recordings (Whisper: 30)")
    parser.add_argument("--train-hours", type=float, default=None, help="keep a random part of the training split")
    args = parser.parse_args()
    every = [row for table, archive in zip(args.table, args.zip) for row in read_table(table, archive)]
    rows = [row for row in every if float(row["seconds"]) <= args.max_seconds]
    if len(rows) < len(every):
        print(
            f"{len(every) - len(rows)} of {len(every)} recordings are longer than {args.max_seconds:g} s and left out"
        )
    pairs = [pair.split("-") for pair in args.pairs.split(",")]
    targets = Counter(source for source, _ in pairs)
    args.out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        chosen = [row for row in rows if row["split"] == split]
        if split == "train" and args.train_hours is not None:
            chosen = part(chosen, args.train_hours)
        recognition = [
            manifest_row(row, row["lang"], row["id"])
            for row in chosen
            if row["lang"] in {source for source, _ in pairs}
        ]
        both = [
            manifest_row(row, target, f"{row['id']}-{target}" if targets[source] > 1 else row["id"])
            for source, target in pairs
            for row in chosen
            if row["lang"] == source and text_in(row, target)
        ]
        translation = [row for row in both if row.tgt_lang != row.src_lang]
        for name, own in ((split, both), (f"{split}_asr", recognition), (f"{split}_st", translation)):
            if own:  # a manifest without rows is an error to all that read it
                write_manifest(args.out / f"{name}.tsv", own)


def read_table(table: Path, archive: Path) -> List[Dict[str, str]]:
    members = find_zip_members(str(archive.resolve()))
    with open(table, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [dict(row, audio=members[row["file"]]) for row in rows]


def part(rows: List[Dict[str, str]], hours: float) -> List[Dict[str, str]]:
    """Rows drawn at random (seed 1) until they last `hours`."""
    rows, kept, seconds = list(rows), [], 0.0
    random.Random(1).shuffle(rows)
    for row in rows:
        if seconds < hours * 3600:
            kept.append(row)
            seconds += float(row["seconds"])
    return kept


def text_in(row: Dict[str, str], language: str) -> str:
    return row["text"] if row["lang"] == language else row.get(f"trans_{language}", "")


def manifest_row(row: Dict[str, str], target: str, name: str) -> Row:
    samples = round(float(row["seconds"]) * SAMPLE_RATE)
    text = text_in(row, target)
    return Row(name, row["audio"], samples, text, row["speaker"], row["text"], row["lang"], target)


if __name__ == "__main__":
    main()
