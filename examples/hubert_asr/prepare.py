"""Few labels out of many: python prepare.py OUT --data DIR [--unlabelled A.tsv,B.tsv] [--label-minutes 10,60]

DIR holds train_asr.tsv, dev_asr.tsv and test_asr.tsv (speech-to-text manifests, tgt_text = transcript). Writes to OUT,
with absolute audio paths:

  train_10min.tsv, ...   so many minutes of every language (src_lang), chosen by a seeded shuffle; a smaller set is part
                         of every larger one
  train_unlabelled.tsv   audio to distil from: the rows of --unlabelled (default: train_asr.tsv), each clip once
  dev_asr.tsv, test_asr.tsv   the rows of DIR
"""

import argparse
import random
from pathlib import Path
from typing import Dict, Iterable, List

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import Row, join_manifests, read_manifest
from colld_fairseq.files import write_whole

COLUMNS = ["id", "audio", "n_frames", "tgt_text", "speaker", "src_text", "src_lang", "tgt_lang"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--unlabelled", default="", help="manifests of either format, comma-separated")
    parser.add_argument("--label-minutes", default="10,60", help="of every language, comma-separated")
    parser.add_argument("--label-seed", type=int, default=1, help="of the shuffle that chooses the labels")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train = read_rows(str(args.data / "train_asr.tsv"))
    for minutes in args.label_minutes.split(","):
        chosen = labelled(train, float(minutes), args.label_seed)
        write(args.out / f"train_{minutes}min.tsv", chosen)
        found = ", ".join(f"{n:.1f} min of {language}" for language, n in by_language(chosen).items())
        print(f"train_{minutes}min.tsv: {found}")
    for split in ("dev_asr", "test_asr"):
        write(args.out / f"{split}.tsv", read_rows(str(args.data / f"{split}.tsv")))
    unlabelled = list({row.id: row for row in (read_rows(args.unlabelled) if args.unlabelled else train)}.values())
    write(args.out / "train_unlabelled.tsv", unlabelled)
    hours = sum(row.n_samples for row in unlabelled) / SAMPLE_RATE / 3600
    print(f"train_unlabelled.tsv: {len(unlabelled)} clips, {hours:.2f} h")


def read_rows(paths: str) -> List[Row]:
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


def write(path: Path, rows: Iterable[Row]) -> None:
    """A speech-to-text manifest, also of rows without text (for which the distillation does not ask)."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        fields = dict(row._asdict(), n_frames=row.n_samples)
        lines.append("\t".join(str(fields[name]) for name in COLUMNS))
    write_whole(path, "".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    main()
