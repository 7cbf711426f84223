"""`colld average`: the mean of several checkpoints of a run."""

import argparse
import os

import torch

from colld_fairseq.errors import ConfigError
from colld_fairseq.files import written_atomically
from colld_fairseq.models.averaging import average, newest, updates_of
from colld_fairseq.outputs import check_output


def run(args: argparse.Namespace) -> int:
    """Writes the mean. Raises ColldError."""
    if bool(args.checkpoints) == bool(args.dir) or bool(args.dir) != (args.last is not None):
        raise ConfigError("give checkpoints, or --last N and --dir SAVE_DIR: one of the two")
    paths = newest(args.dir, args.last, args.by) if args.dir else args.checkpoints
    check_output(args.out, "--out", paths)
    mean, newest_path = average(paths)
    with written_atomically(args.out) as file:
        torch.save(mean, file)
    count = sum(value.numel() for value in mean["model"].values())
    print(f"{args.out}: the mean of {', '.join(map(os.path.basename, paths))}; {count:,} weights;")
    print(f"settings are those of {newest_path}, after {updates_of(mean)} updates")
    return 0
