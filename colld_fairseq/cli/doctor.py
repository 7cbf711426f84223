"""`colld doctor`: is this installation usable, or, with --manifest, is this data?"""

import argparse
import os

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from colld_fairseq.cli.doctor_installation import USER_DIR, Finding, examine
from colld_fairseq.cli.doctor_manifest import report_manifest
from colld_fairseq.errors import ConfigError

MARKS = {"works": "[green]works[/]", "optional": "[yellow]not there[/]", "broken": "[bold red]broken[/]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `colld doctor`; all of them are about manifests."""
    parser.add_argument("--manifest", metavar="A.tsv[,B.tsv]", help="check these manifests instead of the installation")
    parser.add_argument("--vocab", metavar="DIR", help="folder of `colld vocab`: gives the out-of-vocabulary rate")
    parser.add_argument("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")
    parser.add_argument("--decode", action="store_true", help="read every sample, not only the headers")
    parser.add_argument("--workers", type=int, help="processes that open audio; default: the machine's cores")


def run(args: argparse.Namespace) -> int:
    """0 when all that is needed works (or the manifests have no errors), else 1."""
    if args.manifest:
        dictionary = os.path.join(args.vocab, "dict.txt") if args.vocab else None
        if dictionary and not os.path.isfile(dictionary):
            raise ConfigError(f"no vocabulary in {args.vocab}: make one with `colld vocab`")
        return report_manifest(args.manifest.split(","), dictionary, args.audio_root, args.workers, decode=args.decode)
    return report_installation(Console())


def report_installation(console: Console) -> int:
    """Print what there is, and for each thing that does not work the command that mends it; the exit code."""
    findings = examine()
    table = Table("", "", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(escape(finding.what), MARKS[finding.state], escape(finding.detail))
    console.print(table)
    mend(console, "Not working:", [finding for finding in findings if finding.state == "broken"])
    mend(console, "Optional:", [finding for finding in findings if finding.state == "optional"])
    console.print(f"\nOption for fairseq's commands: --user-dir {USER_DIR}", soft_wrap=True, highlight=False)
    return int(any(finding.state == "broken" for finding in findings))


def mend(console: Console, title: str, findings: list[Finding]) -> None:
    if findings:
        console.print(f"\n{title}")
    for finding in findings:
        console.print(f"  {finding.what}: {finding.remedy}", soft_wrap=True, highlight=False, markup=False)
