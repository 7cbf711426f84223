"""`colld report`: one HTML page of an experiment, or of several side by side, that asks for nothing from anywhere."""

import argparse
from pathlib import Path
from typing import Sequence

from colld_fairseq.cli.terminal import Console
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import split_paths, write_atomically
from colld_fairseq.outputs import check_output
from colld_fairseq.report.experiments import PLAN, read_experiment
from colld_fairseq.report.files import Problems
from colld_fairseq.report.page import render


def run(args: argparse.Namespace) -> int:
    """Writes the page; 1 if something is missing in it, else 0. Raises ColldError."""
    if not args.folders:
        raise ConfigError("give the output folder of a recipe or of a run, or several of them")
    if not args.out and len(args.folders) > 1:
        raise ConfigError("give --out PAGE.html: of several folders none is the page's own")
    check_folders(args.folders)
    first = Path(args.folders[0])
    claim = first.name.removesuffix(f".{PLAN}") if first.name.endswith(f".{PLAN}") else ""
    out = Path(args.out or (first.with_name(f"{claim}.html") if claim else first / "report.html"))
    manifests = split_paths(args.manifest or "") if args.manifest else []
    for manifest in manifests:
        if not Path(manifest).is_file():
            raise ConfigError(f"--manifest {manifest}: there is no such file")
    if first.exists():
        check_output(out, "--out", manifests)
    problems = Problems()
    folders = [Path(folder) for folder in args.folders]
    experiments = [read_experiment(folder, problems, manifests, args.audio_root) for folder in folders]
    page = render(experiments, problems, args.baseline, args.utterances, args.audio_mb, args.resamples).encode()
    write_atomically(out, page)
    console = Console()
    for problem in problems:
        console.say(f"missing: {problem}", style="yellow")
    console.say(f"{out}: {len(page) / 1e6:.1f} MB")
    return 1 if problems else 0


def check_folders(folders: Sequence[str]) -> None:
    """ConfigError for one that is given twice, which would be compared with itself."""
    resolved = [Path(folder).resolve() for folder in folders]
    for index, folder in enumerate(resolved):
        if folder in resolved[:index]:
            raise ConfigError(f"{folders[index]}: is given twice; give every folder once")
