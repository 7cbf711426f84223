"""`colld score`: WER, CER, BLEU, chrF per language pair, with signatures and a language-confusion count.

Reads what fairseq-generate or `colld transcribe` wrote (with the manifest, for languages), or plain text files.
Every row of the manifest must have a hypothesis: a missing one is an error, never a silently better score.
"""

import argparse
import json
from typing import Any, Dict, Tuple

from rich.table import Column, Table

from colld_fairseq.cli.terminal import Console
from colld_fairseq.data.manifest import read_manifests
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.errors import ColldError
from colld_fairseq.files import split_paths, write_atomically
from colld_fairseq.outputs import check_output
from colld_fairseq.scoring.languages import is_language
from colld_fairseq.scoring.metrics import OVERLONG
from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import read_generate_output, read_text_files, read_transcripts


def run(args: argparse.Namespace) -> int:
    refuse_unused(args)
    if args.json:
        manifests = split_paths(args.manifest or "")
        given = [args.generate_output, args.transcripts, args.hyp, args.ref, args.lang, *manifests]
        check_output(args.json, "--json", filter(None, given))
    if args.manifest and bool(args.generate_output) != bool(args.transcripts) and not (args.hyp or args.ref):
        manifest = read_manifests(args.manifest)
        if args.transcripts:
            sentences = read_transcripts(args.transcripts, manifest)
        else:
            sentences = read_generate_output(args.generate_output, manifest, args.references == "manifest")
    elif args.hyp and args.ref and not (args.generate_output or args.transcripts or args.manifest):
        sentences = read_text_files(args.hyp, args.ref, args.lang)
    else:
        raise ColldError("give --generate-output or --transcripts with --manifest, or --hyp with --ref")
    report = build_report(sentences, TextNormalizer(args.lowercase, args.remove_punctuation))
    print_report(report)
    if args.json:
        write_atomically(args.json, (json.dumps(report, ensure_ascii=False, indent=2) + "\n").encode())
    return 0


def refuse_unused(args: argparse.Namespace) -> None:
    """ColldError for an option that what is scored has no use for."""
    if args.lang and args.manifest:
        raise ColldError(f"--lang {args.lang}: only of --hyp and --ref; a manifest says the languages of its rows")
    if args.references == "manifest" and not args.generate_output:
        raise ColldError(
            "--references manifest: only of --generate-output; leave it out, other references are as given"
        )


def _row(name: str, scores: Dict[str, Any]) -> Tuple[str, ...]:
    figures = ["-" if scores[key] is None else f"{scores[key]:.2f}" for key in ("wer", "cer", "bleu", "chrf")]
    return (name, f"{scores['sentences']}", f"{scores['words']}", *figures)


def print_report(report: Dict[str, Any]) -> None:
    """The tables of `colld score` on standard output."""
    console = Console()
    figures = ("sentences", "words", "WER", "CER", "BLEU", "chrF")
    table = Table("pair", *(Column(name, justify="right") for name in figures), title="Scores (percent)")
    for pair in report["pairs"]:
        source, target = pair["src_lang"], pair["tgt_lang"]
        table.add_row(*_row(target or "-" if source in ("", target) else f"{source}-{target}", pair))
    if len(report["pairs"]) > 1:
        table.add_section()
        table.add_row(*_row("all", report["overall"]))
    console.print(table)
    if report["overall"]["empty_references"]:
        console.say(f"{report['overall']['empty_references']} references are empty: words said there are insertions")
    if report["overall"]["overlong"]:
        factor, more = OVERLONG
        console.say(
            f"{report['overall']['overlong']} hypotheses have more than {factor} times the reference's words and {more}"
            " more: the decoder may run in circles (Whisper's does in windows of a few seconds: --least-seconds of"
            " colld assemble; else --no-repeat-ngram-size, --max-len-a)"
        )
    for language in sorted({pair["tgt_lang"] for pair in report["pairs"]} - {""}):
        if not is_language(language):
            console.say(f"warning: {language!r} is no code of ISO 639; its BLEU is that of a language with spaces")
    for metric, text in report["signatures"].items():
        console.say(f"{metric}: {text}")

    counted = ("judged", "wrong\nscript", "nearer to\nanother", "references\nmisjudged")
    columns = ["expected", *(Column(name, justify="right") for name in counted), "nearest"]
    table = Table(*columns, title="Language confusion (hypotheses)")
    for language, counts in report["language_confusion"].items():
        nearest = ", ".join(f"{name or '-'} {n}" for name, n in counts["nearest"].items())
        cells = (counts[key] for key in ("judged", "wrong_script", "nearer_to_another", "references_misjudged"))
        table.add_row(language or "-", *("-" if cell is None else str(cell) for cell in cells), nearest)
    console.print(table)
    console.say(
        "wrong script: letters of scripts the references of that language do not use; nearer to another: "
        "by character trigrams of this file's references, whose own error is 'references misjudged'"
    )
