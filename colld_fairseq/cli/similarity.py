"""`colld similarity`: linear CKA and CCA between the layers of two models, as numbers and as a heat map.

What the measures are, and what they do not change with, stands in :mod:`colld_fairseq.similarity`.
"""

import argparse
from pathlib import Path
from typing import List, Optional, Sequence

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from colld_fairseq.cli import similarity_plot
from colld_fairseq.cli.clips import (
    AudioBar,
    BadClips,
    distinct_rows,
    plan_batches,
    progress,
    read_ahead,
    sample_rows,
    usable,
)
from colld_fairseq.cli.similarity_models import StudentLayers, TeacherLayers, paired_frames
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import write_whole
from colld_fairseq.similarity import SecondMoments, Similarity, compare

COLUMNS = "row_model row_layer column_model column_layer cka cka_chance cca cca_chance row_rank column_rank frames"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `colld similarity`."""
    parser.add_argument("--manifest", required=True, metavar="A.tsv[,B.tsv]", help="manifests, joined")
    parser.add_argument(
        "--student", nargs="+", default=[], metavar="CKPT.pt", help="one student or two, of any stage of training"
    )
    parser.add_argument(
        "--teacher", nargs="+", default=[], metavar="SPEC", help="one teacher or two: hf:DIR or fairseq:FILE.pt"
    )
    parser.add_argument(
        "--out", required=True, metavar="PREFIX", help="writes PREFIX.tsv (all numbers) and PREFIX.png (heat maps)"
    )
    parser.add_argument("--row-layers", metavar="0,2,4", help="layers of the first model (default: all)")
    parser.add_argument("--column-layers", metavar="0,2,4", help="layers of the second model (default: all)")
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=3600.0,
        help="seconds of audio, of clips drawn at random; 0 = everything (default: %(default)g, our choice)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the draw (default: %(default)s)")
    parser.add_argument(
        "--cca-variance",
        type=float,
        default=0.99,
        help="share of each layer's variance whose principal components CCA compares; 1 = plain CCA "
        "(default: %(default)s, as in SVCCA, Raghu et al. 2017)",
    )
    parser.add_argument(
        "--cmvn", default="", help="filterbank normalisation of the students (default: as recorded in their training)"
    )
    parser.add_argument("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")
    parser.add_argument(
        "--batch-seconds", type=float, default=60.0, help="audio of a batch in seconds, padding included"
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument(
        "--max-bad", type=float, default=0.001, help="share of clips, at least one, that may be unreadable"
    )


def run(args: argparse.Namespace) -> int:
    """Writes both files, prints both tables. Raises ColldError."""
    if len(args.student) + len(args.teacher) != 2:
        raise ConfigError("give two models: --student CKPT.pt --teacher SPEC, two students, or two teachers")
    if not 0.0 < args.cca_variance <= 1.0:
        raise ConfigError(f"--cca-variance {args.cca_variance:g}: must be above 0 and at most 1")
    console = Console(highlight=False)
    rows, columns = _load_models(args)
    moments = _gather(args, console, rows, columns)
    found = _compare(args, console, rows, columns, moments)
    out = Path(args.out)
    write_whole(out.with_name(f"{out.name}.tsv"), _tsv(found, rows, columns).encode())
    panels = {"linear CKA": found.cka, f"CCA ({_cca_title(args.cca_variance)})": found.cca}
    figure = similarity_plot.heat_maps(panels, rows.name, rows.layers, columns.name, columns.layers)
    write_whole(out.with_name(f"{out.name}.png"), similarity_plot.png(figure))
    console.print(f"down: layers of {rows.role} {rows.name}", soft_wrap=True)
    console.print(f"across: layers of {columns.role} {columns.name}", soft_wrap=True)
    for title, values in panels.items():
        _print_table(console, title, values, rows.layers, columns.layers)
    console.print(
        f"{found.frames} frames; unrelated features would show up to {float(found.cka_chance.max()):.2f} CKA and "
        f"{float(found.cca_chance.max()):.2f} CCA on as many independent ones",
        soft_wrap=True,
    )
    console.print(f"{out}.tsv, {out}.png", soft_wrap=True)
    return 0


def _load_models(args: argparse.Namespace) -> List:
    """The two models, students first."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = [_parse_layers(name, getattr(args, name)) for name in ("row_layers", "column_layers")]
    models = [("student", path) for path in args.student] + [("teacher", spec) for spec in args.teacher]
    return [
        StudentLayers(name, layers, device, args.cmvn) if role == "student" else TeacherLayers(name, layers, device)
        for (role, name), layers in zip(models, wanted)
    ]


def _parse_layers(option: str, text: Optional[str]) -> Optional[List[int]]:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        option = option.replace("_", "-")
        raise ConfigError(f"--{option} {text!r}: write whole numbers with commas, for example 0,2,4") from error


def _gather(args: argparse.Namespace, console: Console, rows, columns) -> SecondMoments:
    """Moments of both models' layers over the clips."""
    manifest = join_manifests([read_manifest(path, args.audio_root) for path in args.manifest.split(",")])
    ids = manifest.ids
    drawn = sample_rows(distinct_rows(ids), manifest.n_samples, args.max_seconds or None, args.seed)
    bad = BadClips(len(drawn), args.max_bad)

    def output_lengths(samples: Tensor) -> Tensor:
        return torch.minimum(rows.output_lengths(samples), columns.output_lengths(samples))

    moments = None
    with progress(console, "similarity") as display:
        bar = AudioBar(display, len(drawn), manifest.n_samples[drawn].sum() / SAMPLE_RATE)
        batches = plan_batches(drawn, manifest.n_samples, args.batch_seconds * SAMPLE_RATE)
        for clips in read_ahead(manifest, ids, batches):
            failed = {}
            names, waveforms = usable(clips, output_lengths, failed)
            bad.update(failed)
            if names:
                x, y = paired_frames(rows, columns, names, waveforms)
                moments = moments or SecondMoments(rows.widths, columns.widths, x.device)
                moments.update(x, y)
            bar.advance(len(clips), sum(map(len, waveforms)) / SAMPLE_RATE)
    bad.show(console)
    if moments is None:
        raise ConfigError(f"{manifest.path}: not one clip that both models can use")
    return moments


def _compare(args: argparse.Namespace, console: Console, rows, columns, moments: SecondMoments) -> Similarity:
    with progress(console, "pairs of layers") as display:
        task = display.add_task("", total=len(rows.layers) * len(columns.layers), done="")
        try:
            return compare(moments, args.cca_variance, lambda: display.advance(task))
        except ValueError as error:
            remedy = "give more audio (--max-seconds), or a lower --cca-variance"
            raise ConfigError(f"{rows.name} and {columns.name}: {error}; {remedy}") from error


def _cca_title(variance: float) -> str:
    return "all components" if variance == 1.0 else f"{100 * variance:g} % of the variance"


def _tsv(found: Similarity, rows, columns) -> str:
    lines = ["\t".join(COLUMNS.split())]
    for i, row_layer in enumerate(rows.layers):
        for j, column_layer in enumerate(columns.layers):
            numbers = (found.cka, found.cka_chance, found.cca, found.cca_chance)
            lines.append(
                "\t".join(
                    [
                        *(rows.name, str(row_layer), columns.name, str(column_layer)),
                        *(f"{float(values[i, j]):.6f}" for values in numbers),
                        *map(str, (found.row_ranks[i], found.column_ranks[j], found.frames)),
                    ]
                )
            )
    return "\n".join(lines) + "\n"


def _print_table(
    console: Console, title: str, values: Tensor, row_layers: Sequence[int], column_layers: Sequence[int]
) -> None:
    """The largest number of each row is marked."""
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("", justify="right")
    for layer in column_layers:
        table.add_column(str(layer), justify="right", no_wrap=True, min_width=4)
    for layer, line in zip(row_layers, values.tolist()):
        table.add_row(str(layer), *_marked(line))
    console.print(table, width=max(console.width, 6 * (len(column_layers) + 1)), crop=False, no_wrap=True)


def _marked(line: Sequence[float]) -> List[str]:
    best = max(line)
    return [f"[bold reverse]{value:.2f}[/]" if value == best else f"{value:.2f}" for value in line]
