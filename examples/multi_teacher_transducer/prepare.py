"""Manifests of a comparison:

    python -m examples.multi_teacher_transducer.prepare OUT --train A.tsv,B.tsv --dev C.tsv --test D.tsv \\
        [--unlabeled E.tsv]

A to D are speech-to-text manifests of recognition and of translation, in any mix. Writes to OUT, with absolute paths:

  train.tsv, dev.tsv, test.tsv   their rows; of train only --label-minutes of every language (src_lang), if given
  train_audio.tsv, dev_audio.tsv the utterances of train.tsv and dev.tsv, each once: what encoders learn from, without
                                 transcripts
  train_unlabeled.tsv           further ones: of --unlabeled, and of train where its transcript is left out. Those of
                                 the development and test sets are not among them.
  train_untranscribed.tsv        those of them in the languages of train.tsv, which a recogniser can write down

An id that comes back with another target language, as one utterance does in recognition and translation, gets that
language appended.
"""

import argparse
from pathlib import Path

from colld_fairseq.data.manifest_writer import write_manifest
from examples.driver.utterances import amount, describe, each_utterance_once, read_rows, unique_ids, with_minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for split in ("train", "dev", "test"):
        parser.add_argument(f"--{split}", required=True, help="speech-to-text manifests, comma-separated")
    parser.add_argument("--unlabeled", default="", help="manifests of either format, comma-separated")
    parser.add_argument("--label-minutes", type=float, help="of every language (default: all)")
    parser.add_argument("--label-seed", type=int, default=1, help="of the shuffle that chooses the labels")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {split: read_rows(getattr(args, split)) for split in ("train", "dev", "test")}
    unlabeled = rows["train"] + (read_rows(args.unlabeled) if args.unlabeled else [])
    if args.label_minutes is not None:
        chosen = with_minutes(each_utterance_once(rows["train"]), args.label_minutes, args.label_seed)
        audio = {row.audio for row in chosen}  # an utterance keeps its transcript and its translations
        rows["train"] = [row for row in rows["train"] if row.audio in audio]
    for split in rows:
        write_manifest(args.out / f"{split}.tsv", unique_ids(rows[split]))
    labeled_audio = each_utterance_once(rows["train"])
    write_manifest(args.out / "train_audio.tsv", labeled_audio)
    write_manifest(args.out / "dev_audio.tsv", each_utterance_once(rows["dev"]))
    known = {row.audio for split in rows for row in rows[split]}
    more = each_utterance_once(unlabeled, known)
    write_manifest(args.out / "train_unlabeled.tsv", more)
    languages = {row.src_lang for row in rows["train"]}
    write_manifest(args.out / "train_untranscribed.tsv", [row for row in more if row.src_lang in languages])
    print(describe("train_audio.tsv", labeled_audio))
    print(amount("train_unlabeled.tsv", more))


if __name__ == "__main__":
    main()
