"""`colld doctor`: is this installation usable, or, with --manifest, is this data?"""

import argparse
import os

from rich.table import Table
from rich.text import Text

from colld_fairseq.cli.doctor.installation import USER_DIR, examine
from colld_fairseq.cli.doctor.manifest import report_manifest
from colld_fairseq.cli.terminal import Console
from colld_fairseq.data.text import has_vocabulary
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import split_paths

MARKS = {"works": ("works", "green"), "optional": ("not there", "yellow"), "broken": ("broken", "bold red")}


def run(args: argparse.Namespace) -> int:
    """0 when all that is needed works (or the manifests have no errors), else 1."""
    if args.manifest:
        vocabulary = args.vocab
        if vocabulary and not has_vocabulary(vocabulary):
            vocabulary = os.path.join(vocabulary, "dict.txt")
            if not os.path.isfile(vocabulary):
                raise ConfigError(f"no vocabulary in {args.vocab}: make one with `colld vocab`")
        return report_manifest(
            split_paths(args.manifest), vocabulary, args.audio_root, args.workers, decode=args.decode
        )
    return report_installation(Console())


def report_installation(console: Console) -> int:
    """Print what there is, and for each thing that does not work the command that mends it; the exit code."""
    findings = examine()
    table = Table("", "", "found", box=None, pad_edge=False)
    for finding in findings:
        table.add_row(finding.what, Text(*MARKS[finding.state]), finding.detail)
    console.print(table)
    for title, state in (("Not working:", "broken"), ("Optional:", "optional")):
        to_mend = [finding for finding in findings if finding.state == state]
        if to_mend:
            console.print(f"\n{title}")
        for finding in to_mend:
            console.say(f"  {finding.what}: {finding.remedy}")
    console.say(f"\nOption for fairseq's commands: --user-dir {USER_DIR}")
    return int(any(finding.state == "broken" for finding in findings))
