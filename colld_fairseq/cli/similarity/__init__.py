"""`colld similarity`: linear CKA and CCA between the layers of two models, as numbers and as a heat map.

What the measures are, and what they do not change with, stands in `colld_fairseq.similarity`.
"""

import argparse
from pathlib import Path
from typing import List, Sequence

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from colld_fairseq.cli.similarity import plot
from colld_fairseq.cli.similarity.models import StudentLayers, TeacherLayers, paired_frames
from colld_fairseq.cli.terminal import AudioBar, Console, progress
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.manifest import JoinedManifest, read_manifests
from colld_fairseq.data.utterances import BadUtterances, distinct_rows, plan_batches, sample_rows, usable_batches
from colld_fairseq.devices import pick_device
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import write_atomically
from colld_fairseq.outputs import check_output
from colld_fairseq.similarity import SecondMoments, Similarity, compare

COLUMNS = "row_model row_layer column_model column_layer cka cka_chance cca cca_chance row_rank column_rank frames"


def run(args: argparse.Namespace) -> int:
    """Writes both files, prints both tables. Raises ColldError."""
    if len(args.student) + len(args.teacher) != 2:
        raise ConfigError("give two models: --student CKPT.pt --teacher SPEC, two students, or two teachers")
    console = Console()
    manifest = read_manifests(args.manifest, args.audio_root)
    out = Path(args.out)
    table, picture = (out.with_name(f"{out.name}{end}") for end in (".tsv", ".png"))
    for path in (table, picture):
        check_output(path, "--out", [*manifest.files, *args.student])
    rows, columns = _load_models(args)
    moments = _gather(args, console, manifest, rows, columns)
    result = _compare(args, console, rows, columns, moments)
    write_atomically(table, _tsv(result, rows, columns).encode())
    compared = "all components" if args.cca_variance == 1.0 else f"{100 * args.cca_variance:g} % of the variance"
    panels = {"linear CKA": result.cka, f"CCA ({compared})": result.cca}
    figure = plot.heat_maps(panels, rows.name, rows.layers, columns.name, columns.layers)
    write_atomically(picture, plot.png(figure))
    console.say(f"down: layers of {rows.role} {rows.name}")
    console.say(f"across: layers of {columns.role} {columns.name}")
    for title, values in panels.items():
        _print_table(console, title, values, rows.layers, columns.layers)
    console.say(
        f"{result.frames} frames; unrelated features would show up to {float(result.cka_chance.max()):.2f} CKA and "
        f"{float(result.cca_chance.max()):.2f} CCA on as many independent ones"
    )
    console.say(f"{out}.tsv, {out}.png")
    return 0


def _load_models(args: argparse.Namespace) -> List:
    """The two models, students first."""
    device = pick_device(args.device)
    models = [("student", path) for path in args.student] + [("teacher", spec) for spec in args.teacher]
    return [
        StudentLayers(name, layers, device, args.cmvn) if role == "student" else TeacherLayers(name, layers, device)
        for (role, name), layers in zip(models, (args.row_layers, args.column_layers))
    ]


def _gather(args: argparse.Namespace, console: Console, manifest: JoinedManifest, rows, columns) -> SecondMoments:
    """Moments of both models' layers over the utterances."""
    ids = manifest.ids
    drawn = sample_rows(distinct_rows(ids), manifest.n_samples, args.max_seconds or None, args.seed)
    bad = BadUtterances(len(drawn), args.max_bad)

    def output_lengths(samples: Tensor) -> Tensor:
        return torch.minimum(rows.output_lengths(samples), columns.output_lengths(samples))

    moments = None
    with progress(console, "similarity") as display:
        bar = AudioBar(display, len(drawn), manifest.n_samples[drawn].sum() / SAMPLE_RATE)
        batches = plan_batches(drawn, manifest.n_samples, args.batch_seconds * SAMPLE_RATE)
        longest = min(rows.max_samples, columns.max_samples)
        for names, waveforms in usable_batches(manifest, ids, batches, output_lengths, bad, bar.advance, longest):
            if names:
                x, y = paired_frames(rows, columns, names, waveforms)
                moments = moments or SecondMoments(rows.widths, columns.widths, x.device)
                moments.update(x, y)
    console.left_out(bad)
    if moments is None:
        raise ConfigError(f"{manifest.path}: not one utterance that both models can use")
    return moments


def _compare(args: argparse.Namespace, console: Console, rows, columns, moments: SecondMoments) -> Similarity:
    with progress(console, "pairs of layers") as display:
        task = display.add_task("", total=len(rows.layers) * len(columns.layers), done="")
        try:
            return compare(moments, args.cca_variance, lambda: display.advance(task))
        except ValueError as error:
            remedy = "give more audio (--max-seconds), or a lower --cca-variance"
            raise ConfigError(f"{rows.name} and {columns.name}: {error}; {remedy}") from error


def _tsv(result: Similarity, rows, columns) -> str:
    lines = ["\t".join(COLUMNS.split())]
    for i, row_layer in enumerate(rows.layers):
        for j, column_layer in enumerate(columns.layers):
            numbers = (result.cka, result.cka_chance, result.cca, result.cca_chance)
            cells = [rows.name, row_layer, columns.name, column_layer]
            cells += [f"{float(values[i, j]):.6f}" for values in numbers]
            cells += [result.row_ranks[i], result.column_ranks[j], result.frames]
            lines.append("\t".join(map(str, cells)))
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
        cells = (Text(f"{value:.2f}", style="bold reverse" if value == max(line) else "") for value in line)
        table.add_row(str(layer), *cells)
    console.print(table, width=max(console.width, 6 * (len(column_layers) + 1)), crop=False, no_wrap=True)
