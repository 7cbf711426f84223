"""``colld score``: WER, CER, BLEU, chrF per language pair, with signatures and a language-confusion count.

Reads what fairseq-generate or ``colld transcribe`` wrote (with the manifest, for languages), or plain text files.
Every row of the manifest must have a hypothesis: one that is missing is an error, never a silently better
score.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Dict, Tuple

from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.data.text import TextNormaliser
from colld_fairseq.errors import ColldError
from colld_fairseq.files import write_whole
from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import read_generate_output, read_text_files, read_transcripts


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
