"""Manifests of a comparison: python prepare.py OUT --train A.tsv,B.tsv --dev C.tsv --test D.tsv [--unlabelled E.tsv]

A to D are speech-to-text manifests of recognition and of translation, in any mix. Writes to OUT, with absolute paths:

  train.tsv, dev.tsv, test.tsv   their rows; of train only --label-minutes of every language (src_lang), if given
  train_audio.tsv, dev_audio.tsv the clips of train.tsv and dev.tsv, each once: what encoders learn from without text
  train_unlabelled.tsv           further clips: of --unlabelled, and of train where its text is left out. Clips of the
                                 development and test sets are not among them.
  train_untranscribed.tsv        those of them in the languages of train.tsv, which a recogniser can write down

An id that comes back with another target language, as one clip does in recognition and translation, gets that language
appended.
"""

import argparse
import sys
from pathlib import Path
from typing import Collection, Dict, Iterable, List

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from manifest_rows import by_language, labelled, read_rows  # noqa: E402

from colld_fairseq.data.audio import SAMPLE_RATE  # noqa: E402
from colld_fairseq.data.manifest import Row  # noqa: E402
from colld_fairseq.data.manifest_writer import write_manifest  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for split in ("train", "dev", "test"):
        parser.add_argument(f"--{split}", required=True, help="speech-to-text manifests, comma-separated")
    parser.add_argument("--unlabelled", default="", help="manifests of either format, comma-separated")
    parser.add_argument("--label-minutes", type=float, help="of every language (default: all)")
    parser.add_argument("--label-seed", type=int, default=1, help="of the shuffle that chooses the labels")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {split: read_rows(getattr(args, split)) for split in ("train", "dev", "test")}
    unlabelled = rows["train"] + (read_rows(args.unlabelled) if args.unlabelled else [])
    if args.label_minutes is not None:
        chosen = labelled(each_clip_once(rows["train"]), args.label_minutes, args.label_seed)
        audio = {row.audio for row in chosen}  # a clip keeps its transcript and its translations
        rows["train"] = [row for row in rows["train"] if row.audio in audio]
    for split in rows:
        write_manifest(args.out / f"{split}.tsv", unique_ids(rows[split]))
    labelled_audio = each_clip_once(rows["train"])
    write_manifest(args.out / "train_audio.tsv", labelled_audio)
    write_manifest(args.out / "dev_audio.tsv", each_clip_once(rows["dev"]))
    known = {row.audio for split in rows for row in rows[split]}
    more = each_clip_once(unlabelled, known)
    write_manifest(args.out / "train_unlabelled.tsv", more)
    languages = {row.src_lang for row in rows["train"]}
    write_manifest(args.out / "train_untranscribed.tsv", [row for row in more if row.src_lang in languages])
    found = ", ".join(f"{n:.1f} min of {language}" for language, n in by_language(labelled_audio).items())
    print(f"train_audio.tsv: {found}")
    print(f"train_unlabelled.tsv: {len(more)} clips, {sum(row.n_samples for row in more) / SAMPLE_RATE / 3600:.2f} h")


def each_clip_once(rows: Iterable[Row], besides: Collection[str] = ()) -> List[Row]:
    """The first row of every clip that is not among the audio paths `besides`."""
    clips: Dict[str, Row] = {}
    for row in rows:
        if row.audio not in besides:
            clips.setdefault(row.audio, row)
    return unique_ids(clips.values())


def unique_ids(rows: Iterable[Row]) -> List[Row]:
    """An id seen before gets its target language appended, and then a number."""
    named: Dict[str, Row] = {}
    for row in rows:
        name, number = row.id, 2
        if name in named:
            name = f"{row.id}:{row.tgt_lang}"
        while name in named:
            name, number = f"{row.id}:{row.tgt_lang}:{number}", number + 1
        named[name] = row._replace(id=name)
    return list(named.values())


if __name__ == "__main__":
    main()
