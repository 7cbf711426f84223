"""`colld convert`: an encoder from one library's files into another's, with the proof that it is the same."""

import argparse
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from rich.table import Column, Table

from colld_fairseq.checkpoints import ctc_directory, names_colld, names_hf, student_card, whisper_directory
from colld_fairseq.checkpoints.encoder import FORMATS, EncoderCheckpoint, read_encoder, write_encoder
from colld_fairseq.checkpoints.files import resolve_file
from colld_fairseq.checkpoints.verify import Difference, compare, open_native
from colld_fairseq.checkpoints.whisper_card import other_silence
from colld_fairseq.cli.options import ENCODERS
from colld_fairseq.cli.terminal import Console
from colld_fairseq.data import vocabulary_copy
from colld_fairseq.data.audio import SAMPLE_RATE, read_audio
from colld_fairseq.data.fairseq_config import vocabulary_folder
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.outputs import check_folder
from colld_fairseq.parsing import parse_json

# Files that --to hf:DIR may replace, by what is written beside the encoder.
WRITTEN = {"": names_hf.WRITTEN, "--head": ctc_directory.WRITTEN, "--decoder-from": whisper_directory.WRITTEN}
SECONDS = 2  # of the signal that is generated where no --wav is given


def run(args: argparse.Namespace) -> int:
    """Writes the target unless it differs from the source. Raises ColldError."""
    more = "--decoder-from" if args.decoder_from else "--head" if args.head else ""
    scheme, target = parse_target(args.target, args.overwrite, WRITTEN[more])
    if more and scheme != "hf":
        raise ConfigError(f"{more} goes with --to hf:DIR: {args.target} holds an encoder alone")
    if args.head and (args.decoder_from or not args.source.startswith("colld:")):
        raise ConfigError("--head writes the CTC layer of a checkpoint of this project: --from colld:FILE.pt, alone")
    if args.scores and not args.head:
        raise ConfigError("--scores are for the card of a recognizer: they go with --head")
    check_folder(target.parent, "--to", target)
    check_apart(target, args)
    waveform = read_audio(args.wav) if args.wav else generated_signal()
    encoder = read_encoder(args.source)
    if encoder.lacks:
        raise ConfigError(
            f"{args.source}: {encoder.lacks} has no place in the student encoder; it can start a student (--init-from)"
            " but not be converted"
        )
    source, training = open_native(args.source), training_of(args.source)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if args.decoder_from:
            whisper_directory.write(temporary, encoder, args.decoder_from, training)
        elif scheme == "hf":
            write_student(args, temporary, encoder, training)
        else:
            write_encoder(scheme, temporary, encoder)
        differences = compare(source, open_native(f"{scheme}:{temporary}", complete=True), waveform)
        wrong = [row.layer for row in differences[1:] if not row.within(args.tolerance)]
        if not wrong:
            install(temporary, target)
    finally:
        remove(temporary)
    console = Console()
    print_differences(console, args.source, args.target, differences)
    if wrong:
        console.say(f"Nothing was written: {', '.join(wrong)} differ by more than {args.tolerance:g}.", style="red")
        return 1
    console.say(describe(scheme, args.target, encoder))
    if args.head and ctc_directory.has_code(target):
        console.say("its code is in the directory: transformers runs it with trust_remote_code=True")
    if args.decoder_from and (warning := other_silence(encoder.config.input, training)):
        console.say(warning, style="yellow")
    return 0


def check_apart(target: Path, args: argparse.Namespace) -> None:
    """ConfigError where the target would replace what is read, which may hold more than the encoder that is written."""
    specs = {"--from": args.source, "--decoder-from": args.decoder_from}
    named = {option: (spec or "").partition(":")[2] for option, spec in specs.items()}
    named.update({"--scores": args.scores, "--wav": args.wav})
    same = [option for option, path in named.items() if path and Path(path).expanduser().resolve() == target.resolve()]
    if same:
        raise ConfigError(f"--to {args.target} is what {same[0]} reads, and would be lost: give another name")


def write_student(
    args: argparse.Namespace, directory: Path, encoder: EncoderCheckpoint, training: Dict[str, Any]
) -> None:
    """A directory of transformers with its card: a recognizer with --head, else an encoder."""
    recognizer = None
    if args.head:
        recognizer = write_recognizer(directory, encoder, args.source, args.vocab, read_scores(args.scores))
    else:
        write_encoder("hf", directory, encoder)
    student_card.write(directory, encoder, training, earlier_training(training), recognizer)


def write_recognizer(
    directory: Path, encoder: EncoderCheckpoint, source: str, vocab: str, scores: Dict[str, Any]
) -> student_card.Recognizer:
    """The model of a checkpoint with its CTC layer; returns what its card is to say."""
    path = str(resolve_file(source.partition(":")[2]))
    saved = names_colld.read_model(path)
    task = saved.task
    folder = vocabulary_folder(vocab or task.get("vocab"), task.get("data") or "", task.get("config_yaml"))
    vocabulary, copy = vocabulary_copy.open_vocabulary(folder, path)
    ctc_directory.write(directory, encoder, saved.weights, vocabulary)
    return student_card.Recognizer(vocabulary.codec.kind, vocabulary_copy.languages_of(copy), scores)


def read_scores(path: str) -> Dict[str, Any]:
    """What `colld score --json` wrote; {} without a file."""
    if not path:
        return {}
    try:
        content = parse_json(resolve_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--scores {path}: not readable as JSON ({error}); `colld score --json` writes it") from error
    return content if isinstance(content, dict) else {"pairs": None}


def earlier_training(training: Dict[str, Any]) -> Dict[str, Any]:
    """What is said of the run that made a fine-tuned model's encoder, where its checkpoint is still there."""
    student = (training.get("model") or {}).get("student")
    try:
        return names_colld.training_of(student) if student else {}
    except ColldError:
        return {}


def parse_target(spec: str, overwrite: bool, written: Sequence[str] = names_hf.WRITTEN) -> Tuple[str, Path]:
    """Scheme and path; ConfigError where nothing can, or may, be written there.

    written: files that a directory may hold which is replaced.
    """
    scheme, _, name = spec.partition(":")
    if scheme not in FORMATS or not name:
        raise ConfigError(f"--to {spec!r}: write {ENCODERS}")
    path = Path(name).expanduser().absolute()
    directory = scheme == "hf"
    if not path.exists() or directory and path.is_dir() and not any(path.iterdir()):
        return scheme, path
    if not overwrite:
        raise ConfigError(f"--to {spec}: exists; give another name, or --overwrite to replace it")
    if path.is_dir() != directory:
        raise ConfigError(f"--to {spec}: is {'a folder' if path.is_dir() else 'a file'}; give another name")
    entries = path.iterdir() if directory else []
    others = sorted(e.name for e in entries if e.name not in written and not student_card.is_untouched(e))
    if others:
        raise ConfigError(
            f"--to {spec}: holds files that a conversion does not write ({', '.join(others[:4])}), and would be"
            " replaced as a whole; give another name"
        )
    return scheme, path


def training_of(source: str) -> Dict[str, Any]:
    """What the source says of the run that made it: checkpoints of this project do."""
    scheme, _, name = source.partition(":")
    return names_colld.training_of(name) if scheme == "colld" else {}


def generated_signal() -> np.ndarray:
    """Two seconds of a voice-like tone with noise, the same each time: float32 [N]."""
    time = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * time)) / SAMPLE_RATE
    voice = sum(np.sin(k * pitch) / k for k in range(1, 20)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.1 * voice + 0.01 * noise).astype(np.float32)


def install(temporary: Path, target: Path) -> None:
    """Give what was written its name; an older folder makes way as a whole."""
    if temporary.is_dir() and target.exists():
        old = temporary.with_name(f"{temporary.name}.old")
        os.rename(target, old)
        os.rename(temporary, target)
        remove(old)
    else:
        os.replace(temporary, target)


def remove(path: Path) -> None:
    """Delete a file or folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def print_differences(console: Console, source: str, target: str, differences: List[Difference]) -> None:
    table = Table("layer", *(Column(title, justify="right") for title in ("largest difference", "relative")))
    for row in differences:
        table.add_row(row.layer, f"{row.difference:.1e}", f"{row.relative:.1e}")
    console.say(f"{source} beside {target}")
    console.print(table)
    console.say(
        "input: what each library makes of the audio; layers (0 = input of the first block) and output: on the same"
        " input; relative to the largest value"
    )


def describe(scheme: str, target: str, encoder: EncoderCheckpoint) -> str:
    """What was written, and how to go on from it."""
    config = encoder.config
    size = f"{config.layers} layers × {config.embed_dim}, {encoder.num_parameters():,} parameters"
    text = f"{target}: {size}; input: {config.input}"
    if scheme == "colld":
        text += f"\nfine-tune it with: --student {shlex.quote(target.removeprefix('colld:'))}"
    return text
