"""Manifests (formats: manifests/README.md) from a folder of audio, Common Voice, CoVoST 2, or LibriSpeech.

    python make_manifests.py audio       AUDIO_FOLDER OUT.tsv
    python make_manifests.py commonvoice cv-corpus/de train OUT.tsv
    python make_manifests.py covost      cv-corpus/de covost_v2.de_en.tsv train OUT.tsv
    python make_manifests.py librispeech LibriSpeech train-clean-360,train-other-500 OUT.tsv

Lengths come from the files' headers. Clips that cannot be read are left out and counted. Paths are absolute
except for a folder of audio, so that manifests of several corpora can lie in one folder.
"""

import argparse
import csv
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from colld_fairseq.data.audio import audio_info
from colld_fairseq.data.manifest import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from colld_fairseq.errors import AudioError
from colld_fairseq.files import written_whole

AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
HEADER = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)


class Utterance(NamedTuple):
    audio: Path
    speaker: str
    src_text: str
    tgt_text: str
    src_lang: str
    tgt_lang: str


def read_table(path: Path) -> Iterator[Dict[str, str]]:
    """Rows of a TSV with a header; quotes are ordinary characters, as in Common Voice's own files."""
    with open(path, encoding="utf-8", newline="") as handle:
        yield from csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)


def clip(corpus: Path, name: str) -> Path:
    """Common Voice's clips/NAME; CoVoST and old releases leave out the ending."""
    return corpus / "clips" / (name if Path(name).suffix in AUDIO else f"{name}.mp3")


def common_voice(corpus: Path, split: str) -> Iterator[Utterance]:
    """Recognition: CORPUS/SPLIT.tsv. The folder's name is the language where no column says it."""
    for row in read_table(corpus / f"{split}.tsv"):
        language = row.get("locale") or corpus.name
        text = row["sentence"]
        yield Utterance(clip(corpus, row["path"]), row["client_id"], text, text, language, language)


def covost(corpus: Path, translations: Path, split: str) -> Iterator[Utterance]:
    """Translation: covost_v2.SRC_TGT.tsv joined with CORPUS/validated.tsv (Common Voice 4)."""
    source, target = translations.name.split(".")[1].split("_", 1)
    sentences = {row["path"]: row["sentence"] for row in read_table(corpus / "validated.tsv")}
    for row in read_table(translations):
        if row["split"] in (split, f"{split}_covost") and row["path"] in sentences:
            transcript = sentences[row["path"]]
            yield Utterance(clip(corpus, row["path"]), row["client_id"], transcript, row["translation"], source, target)


def librispeech(corpus: Path, subsets: str) -> Iterator[Utterance]:
    """Recognition: CORPUS/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside its .flac files."""
    for subset in subsets.split(","):
        transcripts = sorted((corpus / subset).glob("*/*/*.trans.txt"))
        if not transcripts:
            raise SystemExit(f"{corpus / subset}: no SPEAKER/CHAPTER/*.trans.txt there")
        for path in transcripts:
            for line in path.read_text(encoding="utf-8").splitlines():
                name, text = line.split(" ", 1)
                yield Utterance(path.with_name(f"{name}.flac"), name.split("-")[0], text, text, "en", "en")


def length(path: Path) -> Optional[int]:
    """Samples at 16 kHz, or None when the file cannot be read."""
    try:
        return audio_info(str(path)).num_samples
    except AudioError:
        return None


def with_lengths(paths: List[Path]) -> List[Tuple[int, Optional[int]]]:
    """Number and length (see above) of every file."""
    with ThreadPoolExecutor() as pool:
        return list(enumerate(pool.map(length, paths)))


def write(out: Path, head: Iterable[str], lines: Iterable[Optional[Iterable]]) -> int:
    """Write the lines that are not None, all or no file; returns how many were."""
    left_out = 0
    with written_whole(out, "w", encoding="utf-8") as handle:
        handle.write("\t".join(head) + "\n")
        for fields in lines:
            if fields is None:
                left_out += 1
            else:
                handle.write("\t".join(" ".join(str(field).split()) for field in fields) + "\n")
    return left_out


def write_audio_only(folder: Path, out: Path) -> int:
    folder = folder.resolve()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO)
    lines = ((paths[i].relative_to(folder), n) if n else None for i, n in with_lengths(paths))
    return write(out, [str(folder)], lines)


def write_speech_to_text(utterances: Iterable[Utterance], out: Path) -> int:
    rows = [row for row in utterances if row.tgt_text.strip()]
    paths = [row.audio.resolve() for row in rows]

    def line(i: int, samples: Optional[int]):
        row = rows[i]
        name = f"{row.audio.stem}-{row.tgt_lang}"  # a clip may be translated into several languages
        rest = (row.tgt_text, row.speaker, row.src_text, row.src_lang, row.tgt_lang)
        return (name, paths[i], samples, *rest) if samples else None

    return write(out, HEADER, (line(i, samples) for i, samples in with_lengths(paths)))


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    wanted = {
        "audio": ["folder"],
        "commonvoice": ["corpus", "split"],
        "covost": ["corpus", "translations", "split"],
        "librispeech": ["corpus", "split"],
    }
    for kind, names in wanted.items():
        kind_parser = kinds.add_parser(kind)
        for name in names:
            kind_parser.add_argument(name, type=str if name == "split" else Path)
        kind_parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    if args.kind == "audio":
        left_out = write_audio_only(args.folder, args.out)
    else:
        if args.kind == "covost":
            utterances = covost(args.corpus, args.translations, args.split)
        else:
            read = {"commonvoice": common_voice, "librispeech": librispeech}[args.kind]
            utterances = read(args.corpus, args.split)
        left_out = write_speech_to_text(utterances, args.out)
    print(f"wrote {args.out}; {left_out} clips could not be read and were left out", file=sys.stderr)


if __name__ == "__main__":
    main()
