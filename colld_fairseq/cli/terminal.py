"""What the commands print: text as it is, without rich's markup, and progress in hours of audio."""

from typing import TYPE_CHECKING, Optional, Tuple

import rich.console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from colld_fairseq.durations import duration_text

if TYPE_CHECKING:  # it imports torch, which `colld score` does without
    from colld_fairseq.data.utterances import BadUtterances


class Console(rich.console.Console):
    """A console that prints what users name things (`[red]`, `:car:`) letter by letter; styles are given by `style`."""

    def __init__(self, stderr: bool = False, **more) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **more)

    def say(self, text: str, style: Optional[str] = None) -> None:
        """A message, which is not broken into lines."""
        self.print(text, style=style, soft_wrap=True)

    def left_out(self, bad: "BadUtterances") -> None:
        """The utterances that were left out, if any."""
        if bad:
            self.say(bad.report("left out"), style="yellow")

    def on_broken_pipe(self) -> None:
        raise  # again, for `main` to end as other commands do: rich would exit with code 1


def progress(console: Console, name: str, transient: bool = False) -> Progress:
    """An empty display of this name, for `AudioBar` or a task with the field `done`; for a with statement."""
    columns: Tuple = (
        TextColumn(name.replace("{", "{{").replace("}", "}}"), markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[done]}", markup=False),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=transient)


class AudioBar:
    """Progress in seconds of audio: utterances, their length and speed."""

    def __init__(self, display: Progress, utterances: int, seconds: float):
        self.progress, self.utterances = display, utterances
        self.count, self.seconds = 0, 0.0
        self.task = display.add_task("", total=max(seconds, 1e-9), done="")

    def advance(self, utterances: int, seconds: float) -> None:
        self.count += utterances
        self.seconds += seconds
        done = f"{self.count}/{self.utterances} utterances  {duration_text(self.seconds)}"
        self.progress.update(self.task, completed=self.seconds, done=f"{done}  {self.speed:.1f} x real time")

    @property
    def speed(self) -> float:
        """Seconds of audio per second."""
        elapsed = self.progress.tasks[self.task].elapsed
        return self.seconds / elapsed if elapsed else 0.0

    def summary(self, where: str) -> str:
        return f"{where}: {self.count} utterances, {duration_text(self.seconds)}, {self.speed:.1f} times real time"
