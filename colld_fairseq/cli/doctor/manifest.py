"""`colld doctor --manifest`: check manifests before training and say what to mend."""

import os
from typing import Optional, Sequence

from rich.table import Table
from rich.text import Text

from colld_fairseq.cli.terminal import Console, progress
from colld_fairseq.data.checks import REMEDIES, ManifestReport, check_manifest
from colld_fairseq.durations import duration_text
from colld_fairseq.errors import ManifestError

_EXAMPLES = 5  # findings shown of each kind
_LINES = 10  # line numbers shown of each kind
_TOKENS = 12  # unknown tokens shown


def report_manifest(
    paths: Sequence[str],
    dictionary: Optional[str] = None,
    audio_root: Optional[str] = None,
    workers: Optional[int] = None,
    decode: bool = False,
    console: Optional[Console] = None,
) -> int:
    """Check each manifest, print a summary of each, and return the exit code: 1 if any has errors, else 0. Parameters
    as in `colld_fairseq.data.checks.check_manifest`; `workers` defaults to the machine's cores."""
    console = console or Console()
    failed = 0
    for path in paths:
        try:
            report = _check_with_bar(console, path, audio_root, dictionary, workers or os.cpu_count(), decode)
        except ManifestError as error:
            console.say(f"error {error}", style="red")
            failed += 1
            continue
        print_report(console, report, with_dictionary=dictionary is not None, decoded=decode)
        failed += report.has_errors
    return 1 if failed else 0


def _check_with_bar(console, path, audio_root, dictionary, workers, decode) -> ManifestReport:
    with progress(console, f"opening the audio of {path}", transient=True) as display:
        bar = display.add_task("", total=None, done="")

        def show(done: int, rows: int) -> None:
            display.update(bar, completed=done, total=rows, done=f"{done}/{rows}")

        return check_manifest(path, audio_root, dictionary, workers, decode, on_progress=show)


def print_report(console: Console, report: ManifestReport, with_dictionary: bool, decoded: bool) -> None:
    """Totals, then for every kind of finding its count, lines, examples and remedy."""
    console.say(f"\n{report.path}: {report.rows} rows, {duration_text(report.seconds)}", style="bold")
    languages = sorted(report.seconds_by_language.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {duration_text(seconds)}" for name, seconds in languages)
    console.say(f"  languages: {shares}")
    if with_dictionary:
        unknown = " ".join(repr(token) for token, _ in report.unknown_tokens.most_common(_TOKENS)) or "none"
        console.say(
            f"  out of vocabulary: {100 * report.oov_rate:.3f} % of {report.tokens} tokens; most frequent: {unknown}"
        )
    groups = report.by_kind()
    if groups:
        table = Table("severity", "finding", "rows", "lines", "remedy", title_justify="left")
        for kind, findings in groups.items():
            is_error, remedy = REMEDIES[kind]
            severity = Text("error", style="red") if is_error else Text("warning", style="yellow")
            lines = sorted({finding.line for finding in findings})
            shown = ", ".join(map(str, lines[:_LINES])) + (", …" if len(lines) > _LINES else "")
            table.add_row(severity, kind, str(len(findings)), shown, remedy)
        console.print(table)
        for kind, findings in groups.items():
            console.say(f"  {kind}:")
            for finding in findings[:_EXAMPLES]:
                console.say(f"    {report.path}:{finding.line}  {finding.id}  {finding.detail}")
            if len(findings) > _EXAMPLES:
                console.say(f"    and {len(findings) - _EXAMPLES} more")
    if report.has_errors:
        console.say("  errors found: mend them before training", style="bold red")
    else:
        depth = "every sample was read" if decoded else "headers only; --decode reads every sample"
        console.say(f"  no errors ({depth})", style="green")
