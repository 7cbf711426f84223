"""`colld export`: a trained student as a folder that a runtime on a device opens."""

import argparse
from pathlib import Path

from rich.table import Table

from colld_fairseq.checkpoints.onnx_reading import check_installed
from colld_fairseq.cli.terminal import Console
from colld_fairseq.data.audio import read_audio
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import Exported, ExportOptions, display, first_difference
from colld_fairseq.export.folder import check_replaceable, exported_in, write_folder
from colld_fairseq.outputs import check_folder
from colld_fairseq.recogniser import load_recogniser


def run(args: argparse.Namespace) -> int:
    """Writes the folder; compares it where --wav is given: 1 where it differs from the student. Raises ColldError."""
    folder = Path(args.folder).expanduser().absolute()
    compares_only = bool(args.wav) and folder.is_dir() and any(folder.iterdir()) and not args.overwrite
    if not compares_only:
        check_replaceable(folder, args.overwrite)
        check_folder(folder.parent, "--to", folder)
    stream = {"chunk_ms": args.chunk_ms, "left_context": args.left_context}
    stream = {name: value for name, value in stream.items() if value is not None}
    if stream and not args.streaming:
        option = f"--{next(iter(stream)).replace('_', '-')}"
        raise ConfigError(f"{option} is of streams: give --streaming, too, or leave it out")
    client = {"sherpa-onnx": ["sherpa_onnx"], "onnx-asr": ["onnx_asr"]}.get(args.to, [])
    check_installed("onnx", "onnxruntime", *(client if args.wav else []))
    given = {"vocab": args.vocab, "tgt_lang": args.lang, "decoder": args.decoder.replace("auto", "")}
    recogniser = load_recogniser(
        args.checkpoint, device="cpu", **{name: value for name, value in given.items() if value}
    )
    if args.lang and (recogniser.decoder == "ctc" or not recogniser.vocabulary.uses_tags):
        raise ConfigError(f"--lang {args.lang}: this model's text does not depend on a target language; leave it out")
    options = ExportOptions(args.to, args.streaming, src_lang=args.src_lang, **stream)
    family, console = family_of(recogniser, options), Console()
    if compares_only:
        exported = exported_in(folder, family)
        console.say(f"{folder} is there already, and is compared; --overwrite writes it again")
    else:
        exported = write_folder(folder, family, args.int8, family.exporter(args.exporter))
        console.say("\n".join([describe(exported), *family.notes()]))
    return compare_on(args.wav, exported, console) if args.wav else 0


def describe(exported: Exported) -> str:
    """What was written."""
    files = sorted(exported.folder.rglob("*.onnx"))
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in files)
    family = exported.family
    slot = f", for the slot {family.slot} of {display(family.client)}" if family.client else ""
    return f"{exported.folder}: {sizes}{slot}; README.md says how to run it"


def compare_on(wav: str, exported: Exported, console: Console) -> int:
    """Prints the stages on an audio file; 1 where one differs."""
    stages = exported.family.stages(exported, read_audio(wav))
    table = Table("stage", "", "result")
    for stage in stages:
        table.add_row(stage.name, {True: "same", False: "DIFFERS", None: "may differ"}[stage.same], stage.detail)
    console.print(table)
    wrong = first_difference(stages)
    if wrong is None:
        return 0
    console.say(f"The first stage that differs: {wrong.name}: {wrong.detail}", style="red")
    return 1
