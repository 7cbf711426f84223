"""Manifests (formats: manifests/README.md) from a folder of audio, Common Voice, CoVoST 2, or LibriSpeech.

    python make_manifests.py audio       AUDIO_FOLDER OUT.tsv
    python make_manifests.py commonvoice cv-corpus/de train OUT.tsv
    python make_manifests.py covost      cv-corpus/de covost_v2.de_en.tsv train OUT.tsv
    python make_manifests.py librispeech LibriSpeech train-clean-360,train-other-500 OUT.tsv

Lengths come from the files' headers. Audio that cannot be read is left out and counted. Paths are absolute
except for a folder of audio, so that manifests of several corpora can lie in one folder.
"""

import argparse
import csv
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from colld_fairseq.data.audio import AUDIO_SUFFIXES, audio_info
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import checked_name, write_manifest
from colld_fairseq.errors import AudioError, ManifestError


def read_table(path: Path) -> Iterator[Dict[str, str]]:
    """Rows of a TSV with a header; quotes are ordinary characters, as in Common Voice's own files."""
    with open(path, encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)


def utterance(audio: Path, speaker: str, src_text: str, tgt_text: str, src_lang: str, tgt_lang: str) -> Row:
    """Its length is not known yet. The id has the target language: a recording may be translated into several."""
    source, target = (" ".join(text.split()) for text in (src_text, tgt_text))
    name = f"{audio.stem}-{tgt_lang}"
    return Row(name, str(audio.resolve()), 0, target, speaker, source, src_lang, tgt_lang)


def recording(corpus: Path, name: str) -> Path:
    """Common Voice's clips/NAME; CoVoST and old releases leave out the ending."""
    return corpus / "clips" / (name if Path(name).suffix in AUDIO_SUFFIXES else f"{name}.mp3")


def common_voice(corpus: Path, split: str) -> Iterator[Row]:
    """Recognition: CORPUS/SPLIT.tsv. The folder's name is the language where no column says it."""
    for row in read_table(corpus / f"{split}.tsv"):
        language = row.get("locale") or corpus.name
        text = row["sentence"]
        yield utterance(recording(corpus, row["path"]), row["client_id"], text, text, language, language)


def covost(corpus: Path, translations: Path, split: str) -> Iterator[Row]:
    """Translation: covost_v2.SRC_TGT.tsv joined with CORPUS/validated.tsv (Common Voice 4)."""
    source, target = translations.name.split(".")[1].split("_", 1)
    sentences = {row["path"]: row["sentence"] for row in read_table(corpus / "validated.tsv")}
    for row in read_table(translations):
        if row["split"] in (split, f"{split}_covost") and row["path"] in sentences:
            transcript = sentences[row["path"]]
            yield utterance(
                recording(corpus, row["path"]), row["client_id"], transcript, row["translation"], source, target
            )


def librispeech(corpus: Path, subsets: str) -> Iterator[Row]:
    """Recognition: CORPUS/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside its .flac files."""
    for subset in subsets.split(","):
        transcripts = sorted((corpus / subset).glob("*/*/*.trans.txt"))
        if not transcripts:
            raise SystemExit(f"{corpus / subset}: no SPEAKER/CHAPTER/*.trans.txt there")
        for path in transcripts:
            for line in path.read_text(encoding="utf-8").splitlines():
                name, text = line.split(" ", 1)
                yield utterance(path.with_name(f"{name}.flac"), name.split("-")[0], text, text, "en", "en")


def length(path: str) -> int:
    """Samples at 16 kHz, or 0 when the file cannot be read or a manifest cannot hold its name."""
    try:
        return audio_info(checked_name(path, "audio file")).num_samples
    except (AudioError, ManifestError):
        return 0


def write_readable(out: Path, rows: List[Row], folder: Optional[Path] = None) -> int:
    """Write the rows whose audio can be read, with its length; returns how many were left out.

    folder: that audio paths are relative to: the audio-only format.
    """
    with ThreadPoolExecutor() as pool:
        lengths = list(pool.map(length, (str(folder / row.audio) if folder else row.audio for row in rows)))
    readable = (row._replace(n_samples=samples) for row, samples in zip(rows, lengths) if samples)
    return len(rows) - write_manifest(out, readable, folder)


def audio_below(folder: Path) -> List[Row]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    names = [str(path.relative_to(folder)) for path in paths]
    return [Row(id=name, audio=name, n_samples=0) for name in names]


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    readers = {
        "audio": (audio_below, ["folder"]),
        "commonvoice": (common_voice, ["corpus", "split"]),
        "covost": (covost, ["corpus", "translations", "split"]),
        "librispeech": (librispeech, ["corpus", "split"]),
    }
    for kind, (_, names) in readers.items():
        kind_parser = kinds.add_parser(kind)
        for name in names:
            kind_parser.add_argument(name, type=str if name == "split" else Path)
        kind_parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    read, names = readers[args.kind]
    rows = read(*(getattr(args, name) for name in names))
    if args.kind == "audio":
        left_out = write_readable(args.out, rows, args.folder.resolve())
    else:
        left_out = write_readable(args.out, [row for row in rows if row.tgt_text])
    print(f"wrote {args.out}; {left_out} audio files could not be read and were left out", file=sys.stderr)


if __name__ == "__main__":
    main()
