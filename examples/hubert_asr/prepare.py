"""Few labels out of many:

    python -m examples.hubert_asr.prepare OUT --data DIR [--unlabeled A.tsv,B.tsv] [--label-minutes 10,60]

DIR holds train_asr.tsv, dev_asr.tsv and test_asr.tsv (speech-to-text manifests, tgt_text = transcript). Writes to OUT,
with absolute audio paths:

  train_10min.tsv, ...   so many minutes of every language (src_lang), chosen by a seeded shuffle; a smaller set is part
                         of every larger one
  train_unlabeled.tsv   audio to distil from: the rows of --unlabeled (default: train_asr.tsv), each utterance once
  dev_asr.tsv, test_asr.tsv   the rows of DIR
"""

import argparse
from pathlib import Path

from colld_fairseq.data.manifest_writer import write_manifest
from examples.driver.utterances import amount, describe, read_rows, with_minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--unlabeled", default="", help="manifests of either format, comma-separated")
    parser.add_argument("--label-minutes", default="10,60", help="of every language, comma-separated")
    parser.add_argument("--label-seed", type=int, default=1, help="of the shuffle that chooses the labels")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    train = read_rows(str(args.data / "train_asr.tsv"))
    for minutes in args.label_minutes.split(","):
        chosen = with_minutes(train, float(minutes), args.label_seed)
        write_manifest(args.out / f"train_{minutes}min.tsv", chosen)
        print(describe(f"train_{minutes}min.tsv", chosen))
    for split in ("dev_asr", "test_asr"):
        write_manifest(args.out / f"{split}.tsv", read_rows(str(args.data / f"{split}.tsv")))
    unlabeled = list({row.id: row for row in (read_rows(args.unlabeled) if args.unlabeled else train)}.values())
    write_manifest(args.out / "train_unlabeled.tsv", unlabeled)
    print(amount("train_unlabeled.tsv", unlabeled))


if __name__ == "__main__":
    main()
