"""``colld score``: WER, CER, BLEU, chrF per language pair, with signatures and a language-confusion count.

Reads what fairseq-generate or ``colld transcribe`` wrote (with the manifest, for languages), or plain text files.
Every row of the manifest must have a hypothesis: one that is missing is an error, never a silently better
score.
"""

import argparse
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from colld_fairseq.data.manifest import AnyManifest, join_manifests, read_manifest
from colld_fairseq.data.text import TextNormaliser
from colld_fairseq.decoding.confusion import language_confusion
from colld_fairseq.decoding.metrics import CorpusScores
from colld_fairseq.errors import ColldError
from colld_fairseq.files import write_whole

# fairseq writes unknown tokens as <<unk>> in references and <unk> in hypotheses. They must never match, and
# sacrebleu's tokenizers would take both apart into "<", "unk", ">": each becomes one character of its own.
REFERENCE_UNKNOWN, HYPOTHESIS_UNKNOWN = "\ufffd", "\u25a1"
_LINE = re.compile(r"([TD])-(\d+)\t(.*)", re.DOTALL)
_SHOWN = 10  # ids named in an error


class Sentence(NamedTuple):
    """One hypothesis beside its reference."""

    hypothesis: str
    reference: str
    src_lang: str
    tgt_lang: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--generate-output", help="file written by fairseq-generate (its T- and D- lines are read)")
    parser.add_argument("--manifest", help="the manifest(s) that were decoded, comma-separated, in the same order")
    parser.add_argument(
        "--references",
        choices=("generate", "manifest"),
        default="generate",
        help="take references from the T- lines (as the model's vocabulary spells them) or from the "
        "manifest's tgt_text (default: %(default)s)",
    )
    parser.add_argument(
        "--transcripts", metavar="O.tsv", help="instead of --generate-output: manifest written by `colld transcribe`"
    )
    parser.add_argument("--hyp", help="instead of --generate-output: hypotheses, one a line")
    parser.add_argument("--ref", help="references, one a line")
    parser.add_argument(
        "--lang",
        default="",
        help="target language of all lines, or a file with one code (or source<TAB>target) a line",
    )
    parser.add_argument("--lowercase", action="store_true", help="lower-case both sides before scoring")
    parser.add_argument("--remove-punctuation", action="store_true", help="replace punctuation by spaces on both sides")
    parser.add_argument("--json", type=Path, help="also write everything to this file")


def run(args: argparse.Namespace) -> int:
    if args.manifest and bool(args.generate_output) != bool(args.transcripts) and not (args.hyp or args.ref):
        manifest = join_manifests([read_manifest(path) for path in args.manifest.split(",")])
        if args.transcripts:
            sentences = read_transcripts(args.transcripts, manifest)
        else:
            sentences = read_generate_output(args.generate_output, manifest, args.references == "manifest")
    elif args.hyp and args.ref and not (args.generate_output or args.transcripts or args.manifest):
        sentences = read_text_files(args.hyp, args.ref, args.lang)
    else:
        raise ColldError("give --generate-output or --transcripts with --manifest, or --hyp with --ref")
    report = build_report(sentences, TextNormaliser(args.lowercase, args.remove_punctuation))
    print_report(report)
    if args.json:
        write_whole(args.json, (json.dumps(report, ensure_ascii=False, indent=2) + "\n").encode())
    return 0


def _lines(path: str) -> List[str]:
    """Lines of a UTF-8 file; only "\\n" ends a line (texts may hold U+2028 and the like)."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ColldError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ColldError(f"{path}: not UTF-8 ({error.reason} at byte {error.start + 1})") from error
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def read_generate_output(path: str, manifest: AnyManifest, manifest_references: bool = False) -> List[Sentence]:
    """Best hypothesis of every row of the manifest, in its order. fairseq-generate's ids are row numbers.

    Raises ColldError: a row without hypothesis or reference line, an id beyond the manifest or twice in the
    file, references that are not those of the manifest.
    """
    references: Dict[int, str] = {}
    hypotheses: Dict[int, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        match = _LINE.match(line)
        if match is None:
            continue
        row, rest = int(match[2]), match[3]
        if row >= len(manifest):
            raise ColldError(
                f"{path}:{number}: id {row}, but {manifest.path} has {len(manifest)} rows; give the "
                "manifest(s) that were decoded"
            )
        if match[1] == "T":
            if row in references:
                raise ColldError(f"{path}:{number}: id {row} occurs twice; the file holds more than one decoding")
            references[row] = rest.replace("<<unk>>", REFERENCE_UNKNOWN)
        else:  # n-best lists are best first
            hypotheses.setdefault(row, rest.partition("\t")[2].replace("<unk>", HYPOTHESIS_UNKNOWN))
    _require_all(
        path,
        manifest,
        hypotheses,
        "D- line",
        "decode again with --required-batch-size-multiple 1 and without --skip-invalid-size-inputs-valid-test",
    )
    if not manifest_references:
        _require_all(path, manifest, references, "T- line", "use --references manifest")
    _check_same_references(path, manifest, references)
    return [
        Sentence(
            hypotheses[row],
            manifest.text("tgt_text", row) if manifest_references else references[row],
            manifest.text("src_lang", row),
            manifest.text("tgt_lang", row),
        )
        for row in range(len(manifest))
    ]


def read_transcripts(path: str, manifest: AnyManifest) -> List[Sentence]:
    """The transcript of every row of the manifest, by its id.

    Raises ColldError: a row without transcript, or with one in another language than its text.
    """
    transcripts = read_manifest(path)
    rows = {transcripts.text("id", row): row for row in range(len(transcripts))}
    found: Dict[int, str] = {}
    sentences = []
    for number in range(len(manifest)):
        row = manifest.row(number)
        if row.id not in rows:
            continue
        found[number] = transcripts.text("tgt_text", rows[row.id])
        written = transcripts.text("tgt_lang", rows[row.id])
        if written and row.tgt_lang and written != row.tgt_lang:
            raise ColldError(
                f"{transcripts.where(rows[row.id])}: {row.id!r} is transcribed in {written!r}, its text in"
                f" {manifest.where(number)} is in {row.tgt_lang!r}; give the manifest(s) that were transcribed"
            )
        sentences.append(Sentence(found[number], row.tgt_text, row.src_lang, row.tgt_lang))
    _require_all(path, manifest, found, "transcript", "transcribe them too, or take them out of the manifest")
    return sentences


def _require_all(path: str, manifest: AnyManifest, found: Dict[int, str], kind: str, remedy: str) -> None:
    missing = [row for row in range(len(manifest)) if row not in found]
    if missing:
        named = ", ".join(f"{row} ({manifest.text('id', row)})" for row in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ColldError(
            f"{path}: {len(missing)} of {len(manifest)} rows of {manifest.path} have no {kind}: ids "
            f"{named}{more}; {remedy}"
        )


def _letters_only(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFC", text).lower() if unicodedata.category(c)[0] == "L")


def _check_same_references(path: str, manifest: AnyManifest, references: Dict[int, str]) -> None:
    """A wrong manifest of the right size would assign wrong languages. Normalisation and unknown letters may
    change some references, not most of them."""
    same = sum(_letters_only(text) == _letters_only(manifest.text("tgt_text", row)) for row, text in references.items())
    known = sum(REFERENCE_UNKNOWN not in text for text in references.values())
    if 2 * same < known:
        raise ColldError(
            f"{path}: only {same} of {len(references)} references are those of {manifest.path}; give the "
            "manifest(s) that were decoded, in the same order"
        )


def read_text_files(hypothesis_path: str, reference_path: str, languages: str = "") -> List[Sentence]:
    """Sentences of two parallel files; ``languages``: a code for all, or a file with ``target`` or
    ``source<TAB>target`` lines."""
    hypotheses, references = _lines(hypothesis_path), _lines(reference_path)
    codes = _lines(languages) if os.path.isfile(languages) else [languages] * len(references)
    for path, lines in ((hypothesis_path, hypotheses), (languages, codes)):
        if len(lines) != len(references):
            raise ColldError(
                f"{path} has {len(lines)} lines, {reference_path} has {len(references)}; they must be parallel"
            )
    pairs = [code.rpartition("\t") for code in codes]
    return [Sentence(h, r, src, tgt) for h, r, (src, _, tgt) in zip(hypotheses, references, pairs)]


def build_report(sentences: Sequence[Sentence], normaliser: TextNormaliser = TextNormaliser()) -> Dict[str, Any]:
    """What is printed, ready for JSON: pairs, overall, signatures, language_confusion, text_normalisation."""
    cleaned = [s._replace(hypothesis=normaliser(s.hypothesis), reference=normaliser(s.reference)) for s in sentences]
    scores = CorpusScores()
    for sentence in cleaned:
        scores.add(*sentence)
    confusion = language_confusion(
        [s.hypothesis for s in cleaned], [s.reference for s in cleaned], [s.tgt_lang for s in cleaned]
    )
    return {
        "pairs": [
            {"src_lang": src, "tgt_lang": tgt, **result.to_json()} for (src, tgt), result in scores.per_pair().items()
        ],
        "overall": scores.overall().to_json(),
        "signatures": scores.signatures(),
        "language_confusion": {language: counts.to_json() for language, counts in confusion.items()},
        "text_normalisation": normaliser.to_config(),
    }


def _pair_name(src_lang: str, tgt_lang: str) -> str:
    return tgt_lang or src_lang or "-" if src_lang in ("", tgt_lang) else f"{src_lang}-{tgt_lang}"


def _row(name: str, scores: Dict[str, Any]) -> Tuple[str, ...]:
    figures = ["-" if scores[key] is None else f"{scores[key]:.2f}" for key in ("wer", "cer", "bleu", "chrf")]
    return (name, f"{scores['sentences']}", f"{scores['words']}", *figures)


def print_report(report: Dict[str, Any]) -> None:
    """The tables of ``colld score`` on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title="Scores (percent)")
    for title in ("pair", "sentences", "words", "WER", "CER", "BLEU", "chrF"):
        table.add_column(title, justify="left" if title == "pair" else "right")
    for pair in report["pairs"]:
        table.add_row(*_row(_pair_name(pair["src_lang"], pair["tgt_lang"]), pair))
    if len(report["pairs"]) > 1:
        table.add_section()
        table.add_row(*_row("all", report["overall"]))
    console.print(table)
    if report["overall"]["empty_references"]:
        console.print(f"{report['overall']['empty_references']} references are empty: words said there are insertions")
    for metric, text in report["signatures"].items():
        console.print(f"{metric}: {text}", soft_wrap=True, markup=False)

    table = Table(title="Language confusion (hypotheses)")
    for title in (
        "expected",
        "judged",
        "wrong\nscript",
        "nearer to\nanother",
        "references\nmisjudged",
        "nearest",
    ):
        table.add_column(title, justify="left" if title in ("expected", "nearest") else "right")
    for language, counts in report["language_confusion"].items():
        nearest = ", ".join(f"{name or '-'} {n}" for name, n in counts["nearest"].items())
        optional = [
            "-" if counts[key] is None else str(counts[key]) for key in ("nearer_to_another", "references_misjudged")
        ]
        table.add_row(language or "-", str(counts["judged"]), str(counts["wrong_script"]), *optional, nearest)
    console.print(table)
    console.print(
        "wrong script: letters of scripts the references of that language do not use; nearer to another: "
        "by character trigrams of this file's references, whose own error is 'references misjudged'",
        soft_wrap=True,
    )
