"""Write the quickstart's manifests: python prepare.py OUT

From prompts.tsv and prompts.zip beside this file, for each split (train, dev, test):
  SPLIT.tsv       every recording; tgt_text = English (a recording in English: its own transcript), src_text = transcript
  SPLIT_asr.tsv   every recording; tgt_text = transcript, to score recognition
  SPLIT_st.tsv    recordings in es, fr, it, ru that have an English counterpart, to score translation
"""
import csv
import os
import sys
from pathlib import Path

from colld_fairseq.data.audio import find_zip_members

HERE = Path(__file__).resolve().parent
COLUMNS = ["id", "audio", "n_frames", "tgt_text", "speaker", "src_text", "src_lang", "tgt_lang"]


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    members = find_zip_members(str(HERE / "prompts.zip"))
    with open(HERE / "prompts.tsv", encoding="utf-8", newline="") as handle:
        prompts = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    for split in ("train", "dev", "test"):
        rows = [row for row in prompts if row["split"] == split]
        foreign = [row for row in rows if row["lang"] != "en" and row["trans_en"]]
        english = [row for row in rows if row["lang"] == "en"]
        write(out / f"{split}.tsv", [to_row(row, members, "en") for row in english + foreign])
        write(out / f"{split}_asr.tsv", [to_row(row, members, row["lang"]) for row in rows])
        write(out / f"{split}_st.tsv", [to_row(row, members, "en") for row in foreign])


def to_row(prompt: dict, members: dict, tgt_lang: str) -> list:
    translated = tgt_lang != prompt["lang"]
    return [
        prompt["id"],
        members[prompt["file"]],
        round(float(prompt["seconds"]) * 16000),
        prompt["trans_en"] if translated else prompt["text"],
        prompt["speaker"],
        prompt["text"],
        prompt["lang"],
        tgt_lang,
    ]


def write(path: Path, rows: list) -> None:
    partial = path.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8") as handle:
        for row in [COLUMNS] + rows:
            handle.write("\t".join(map(str, row)) + "\n")
    os.replace(partial, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
