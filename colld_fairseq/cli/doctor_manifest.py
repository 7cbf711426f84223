"""``colld doctor --manifest``: check manifests before training and say what to mend."""

import os
from typing import Collection, Optional, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from colld_fairseq.data.checks import REMEDIES, Finding, ManifestReport, check_manifest
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
    languages: Optional[Collection[str]] = None,
    console: Optional[Console] = None,
) -> int:
    """Check each manifest, print a summary of each, and return the exit code: 1 if any has errors, else 0.

    Parameters as in :func:`colld_fairseq.data.checks.check_manifest`; ``workers`` defaults to the cores of
    the machine.
    """
    console = console or Console()
    failed = 0
    for path in paths:
        try:
            report = _check_with_bar(
                console, path, audio_root, dictionary, languages, workers or os.cpu_count(), decode
            )
        except ManifestError as error:
            console.print(f"[bold red]error[/] {escape(str(error))}", soft_wrap=True)
            failed += 1
            continue
        print_report(console, report, with_dictionary=dictionary is not None, decoded=decode)
        failed += report.has_errors
    return 1 if failed else 0


def _check_with_bar(console, path, audio_root, dictionary, languages, workers, decode) -> ManifestReport:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(escape(f"opening the clips of {path}"), total=None)
        return check_manifest(
            path,
            audio_root=audio_root,
            dictionary=dictionary,
            languages=languages,
            workers=workers,
            decode=decode,
            on_progress=lambda done, rows: progress.update(bar, completed=done, total=rows),
        )


def print_report(console: Console, report: ManifestReport, with_dictionary: bool, decoded: bool) -> None:
    """Totals, then for every kind of finding its count, lines, examples and remedy."""
    console.print(
        f"\n[bold]{escape(report.path)}[/]: {report.rows} rows, {report.seconds / 3600:.2f} h", soft_wrap=True
    )
    languages = sorted(report.seconds_by_language.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{escape(name)} {seconds / 3600:.2f} h" for name, seconds in languages)
    console.print(f"  languages: {shares}", soft_wrap=True)
    if with_dictionary:
        unknown = " ".join(repr(token) for token, _ in report.unknown_tokens.most_common(_TOKENS)) or "none"
        console.print(
            f"  out of vocabulary: {100 * report.oov_rate:.3f} % of {report.tokens} tokens; "
            f"most frequent: {escape(unknown)}",
            soft_wrap=True,
        )
    groups = report.by_kind()
    if groups:
        table = Table("severity", "finding", "rows", "lines", "remedy", title_justify="left")
        for kind, findings in groups.items():
            is_error, remedy = REMEDIES[kind]
            severity = "[red]error[/]" if is_error else "[yellow]warning[/]"
            table.add_row(severity, kind, str(len(findings)), _line_list(findings), remedy)
        console.print(table)
        for kind, findings in groups.items():
            console.print(f"  {kind}:")
            for finding in findings[:_EXAMPLES]:
                text = f"    {report.path}:{finding.line}  {finding.id}  {finding.detail}"
                console.print(escape(text), soft_wrap=True, highlight=False)
            if len(findings) > _EXAMPLES:
                console.print(f"    and {len(findings) - _EXAMPLES} more")
    if report.has_errors:
        console.print("[bold red]  errors found: mend them before training[/]")
    else:
        depth = "every sample was read" if decoded else "headers only; --decode reads every sample"
        console.print(f"[green]  no errors[/] ({depth})")


def _line_list(findings: Sequence[Finding]) -> str:
    lines = sorted({finding.line for finding in findings})
    return ", ".join(map(str, lines[:_LINES])) + (", …" if len(lines) > _LINES else "")
