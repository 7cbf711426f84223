"""Manifests of a data set of the campaign:

    python -m examples.campaign.prepare OUT --corpora DIR,DIR [--unlabeled A.tsv,B.tsv] [--label-minutes 10,60]
        [--audio-hours 1,4]

A DIR holds {train,dev,test}.tsv, and where recognition and translation are told apart ..._asr.tsv and ..._st.tsv, as
examples/quickstart/prepare.py writes them. Writes to OUT, with absolute audio paths:

  train.tsv, dev_asr.tsv, ...   the rows of all corpora; without ..._asr.tsv a corpus has none but recognition
  train_10min.tsv, train_asr_10min.tsv   those of so many minutes of every language; a smaller set is part of a larger
  audio.tsv, audio_dev.tsv      utterances of train and --unlabeled, and of dev, each once: to distil from. Those of the
                                development and test sets are not in audio.tsv.
  audio_4h.tsv                  so much of audio.tsv, beginning with the utterances of the least --label-minutes
  untranscribed.tsv, untranscribed_10min.tsv   audio in the languages of train.tsv whose transcripts are not in
                                train.tsv, or not in train_10min.tsv: to be transcribed
  sample_audio.tsv, sample_train.tsv     a few minutes of audio.tsv and train.tsv, for measuring speed
"""

import argparse
import random
from pathlib import Path
from typing import Dict, Iterable, List

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.errors import ManifestError
from colld_fairseq.files import split_paths
from examples.driver.utterances import describe, each_utterance_once, read_rows, unique_ids, with_minutes

SPLITS = ("train", "dev", "test")
SAMPLE_MINUTES = 3.0
SEED = 1  # of the shuffles that choose labels and audio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpora", required=True, help="folders of manifests, comma-separated")
    parser.add_argument("--unlabeled", default="", help="manifests of either format, comma-separated")
    parser.add_argument("--label-minutes", default="", help="of every language, comma-separated")
    parser.add_argument("--audio-hours", default="", help="of all languages together, comma-separated")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write = Writer(args.out)
    rows = {f"{split}{kind}": [] for split in SPLITS for kind in ("", "_asr", "_st")}
    for folder in map(Path, split_paths(args.corpora)):
        for name, own in corpus_rows(folder).items():
            rows[name] += own
    for name, own in rows.items():
        if own:
            write(name, unique_ids(own))
    held_out = {row.audio for name, own in rows.items() if not name.startswith("train") for row in own}
    labeled = rows["train_asr"] + rows["train"]
    unlabeled = read_rows(args.unlabeled) if args.unlabeled else []
    audio = each_utterance_once([*labeled, *unlabeled], held_out)
    write("audio", audio)
    write("audio_dev", each_utterance_once(rows["dev_asr"] + rows["dev"]))
    write("untranscribed", untranscribed(audio, labeled, rows["train"]))
    first: List[Row] = []
    for minutes in sorted(filter(None, args.label_minutes.split(",")), key=float):
        chosen = with_minutes(each_utterance_once(labeled), float(minutes), SEED)
        first = first or chosen
        paths = {row.audio for row in chosen}
        for name in ("train", "train_asr"):
            write(f"{name}_{minutes}min", unique_ids(row for row in rows[name] if row.audio in paths))
        write(f"untranscribed_{minutes}min", untranscribed(audio, chosen, rows["train"]))
    order = in_order(audio, first)
    for hours in filter(None, args.audio_hours.split(",")):
        write(f"audio_{hours}h", up_to(order, 3600 * float(hours)))
    write("sample_audio", up_to(order, 60 * SAMPLE_MINUTES))
    write("sample_train", unique_ids(up_to(in_order(rows["train"], first), 60 * SAMPLE_MINUTES)))


class Writer:
    """Writes NAME.tsv of rows, and says what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, rows: Iterable[Row]) -> None:
        rows = list(rows)
        write_manifest(self.folder / f"{name}.tsv", rows)
        print(describe(f"{name}.tsv", rows))


def corpus_rows(folder: Path) -> Dict[str, List[Row]]:
    """Manifest name -> rows of a corpus. Raises ManifestError where one of train, dev and test is missing."""
    rows: Dict[str, List[Row]] = {}
    for split in SPLITS:
        path = folder / f"{split}.tsv"
        if not path.is_file():
            raise ManifestError(f"no manifest {path}: a corpus needs train.tsv, dev.tsv and test.tsv")
        rows[split] = read_rows(str(path))
        own = {kind: folder / f"{split}_{kind}.tsv" for kind in ("asr", "st")}
        rows[f"{split}_asr"] = read_rows(str(own["asr"])) if own["asr"].is_file() else list(rows[split])
        rows[f"{split}_st"] = read_rows(str(own["st"])) if own["st"].is_file() else []
    return rows


def untranscribed(audio: List[Row], labeled: Iterable[Row], train: Iterable[Row]) -> List[Row]:
    """Audio in the languages of `train` that is not among `labeled`; without text."""
    known, languages = {row.audio for row in labeled}, {row.src_lang for row in train}
    rows = [row for row in audio if row.audio not in known and row.src_lang in languages]
    return [row._replace(tgt_text="", src_text="", tgt_lang=row.src_lang) for row in rows]


def in_order(rows: List[Row], first: Iterable[Row]) -> List[Row]:
    """Those whose audio is in `first`, then the others as a seeded shuffle has them."""
    begin = {row.audio for row in first}
    shuffled = list(rows)
    random.Random(SEED).shuffle(shuffled)
    return sorted(shuffled, key=lambda row: row.audio not in begin)


def up_to(rows: Iterable[Row], seconds: float) -> List[Row]:
    """The first rows that last so long; all where there are fewer."""
    chosen, total = [], 0.0
    for row in rows:
        if total >= seconds:
            break
        chosen.append(row)
        total += row.n_samples / SAMPLE_RATE
    return chosen


if __name__ == "__main__":
    main()
