"""What the commands print: names as they are, progress, and streams of any encoding."""

import io

import pytest
from rich.table import Table

from colld_fairseq.cli.terminal import AudioBar, Console, progress

NAMES = ["a[red]b", "[/]", "[/red]x", "[bold", "a[link=file:///x]b[/link]", ":car:", "{0}{done}", "\\[x]", "x[0m"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_letter_by_letter(name):
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.say(f"{name}: a message", style="red")
    table = Table("name")
    table.add_row(name)
    console.print(table)
    with progress(console, name) as display:
        AudioBar(display, 1, 1.0).advance(1, 1.0)
    lines = out.getvalue()
    assert lines.count(name) >= 3


def test_progress_counts_utterances_and_hours():
    with progress(Console(quiet=True), "work") as display:
        bar = AudioBar(display, 10, 14400)
        bar.advance(3, 3600)
        bar.advance(1, 3600)
        assert "4/10 utterances  2.00 h" in display.tasks[0].fields["done"]
        assert bar.summary("there").startswith("there: 4 utterances, 2.00 h")
