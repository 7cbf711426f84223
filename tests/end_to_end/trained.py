"""A model fine-tuned for a few updates, and what it left."""

from pathlib import Path
from typing import NamedTuple

from commands import call

UPDATES = 8


class Trained(NamedTuple):
    """A finished training run: its last checkpoint and its log."""

    checkpoint: Path
    output: str


def finetune(options, folder, *more):
    output = call("train", *options, *more, "--max-update", UPDATES, "--save-dir", folder)
    return Trained(folder / "checkpoint_last.pt", output)
