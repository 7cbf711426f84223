"""An assembled Whisper student and its exports on a manifest: identical text, WER, CPU time.

    python -m benchmarks.exported_whisper --checkpoint model.pt --manifest test.tsv --sherpa DIR \
        --out written.json [--onnx-asr DIR]

DIR are folders of `colld export --int8`. Text is compared with PyTorch's greedy search as it is; WER is of lower-case
text without punctuation. CPU seconds are of whole processes, loading included, for clients; of features, encoder and
search for PyTorch and ONNX Runtime, which are loaded before.
"""

import argparse
import json
import resource
import time
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
from rich.console import Console
from rich.progress import track

from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.rows import Row
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.export.clients import run_client
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import Exported, ExportOptions
from colld_fairseq.export.folder import exported_in
from colld_fairseq.export.whisper import WhisperClient, lead_in
from colld_fairseq.recogniser import Recogniser, load_recogniser
from colld_fairseq.scoring.metrics import CorpusScores

Recognize = Callable[[Sequence[np.ndarray]], List[str]]
SCREEN = Console(stderr=True, highlight=False)


def timed(run: Callable[[], List[str]]) -> Tuple[List[str], float]:
    """What it gives, and CPU seconds of this process and its children."""
    before = cpu_seconds()
    result = run()
    return result, cpu_seconds() - before


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def client_of(recogniser: Recogniser, target: str, folder: str, source: str, language: str) -> Exported:
    """An exported folder, told languages."""
    family = family_of(recogniser, ExportOptions(target, src_lang=source, tgt_lang=language))
    assert isinstance(family, WhisperClient)
    return exported_in(Path(folder).absolute(), family)


def systems(
    recogniser: Recogniser, args: argparse.Namespace, source: str, language: str
) -> Dict[str, Callable[[], Recognize]]:
    """Name -> what opens a system, and gives a function from waveforms to hypotheses."""
    sherpa = client_of(recogniser, "sherpa-onnx", args.sherpa, source, language)

    def in_torch(waveform: np.ndarray) -> str:
        return recogniser.transcribe([waveform], [language], source_languages=[source])[0][0].text

    def runtime(exported: Exported, int8: bool) -> Recognize:
        output = exported.family.runtime(exported, int8)
        return one_by_one(lambda waveform: output(waveform, []).text)

    def client(exported: Exported, int8: bool, given: Callable = lambda waveform: waveform) -> Recognize:
        model = exported.family.client_model(exported, int8)
        return lambda waveforms: [
            " ".join(result.text.split()) for result in run_client(model, [given(one) for one in waveforms])
        ]

    made = {
        "PyTorch": lambda: one_by_one(in_torch),
        "ONNX Runtime": partial(runtime, sherpa, False),
        "ONNX Runtime, 8 bits": partial(runtime, sherpa, True),
        "sherpa-onnx": partial(client, sherpa, False, lead_in),
        "sherpa-onnx, 8 bits": partial(client, sherpa, True, lead_in),
        "sherpa-onnx, without the half frame": partial(client, sherpa, False),
    }
    if args.onnx_asr:
        other = client_of(recogniser, "onnx-asr", args.onnx_asr, source, language)
        made.update(
            {"onnx-asr": partial(client, other, False), "onnx-asr, 8 bits": partial(client, other, True)},
        )
    return made


def one_by_one(recognize: Callable[[np.ndarray], str]) -> Recognize:
    """Of single utterances, with their count on the screen."""
    return lambda waveforms: [recognize(waveform) for waveform in track(waveforms, console=SCREEN, transient=True)]


def parse_arguments(arguments: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--checkpoint", "--manifest", "--sherpa", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--onnx-asr", default="")
    parser.add_argument("--systems", help="some of them, with ; between; what --out holds of others is kept")
    return parser.parse_args(arguments)


def main(arguments: Optional[Sequence[str]] = None) -> None:
    args = parse_arguments(arguments)
    manifest, out = read_manifest(args.manifest), Path(args.out)
    rows = sorted((manifest.row(index) for index in range(len(manifest))), key=languages_of)
    made = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    recogniser = load_recogniser(args.checkpoint, device="cpu")
    groups = {pair: [read_audio(row.audio) for row in group] for pair, group in groupby(rows, key=languages_of)}
    opened = {pair: systems(recogniser, args, *pair) for pair in groups}
    for name in chosen(next(iter(opened.values())), args.systems):
        made[name] = {"hypotheses": [], "seconds": 0.0}
        for pair, waveforms in groups.items():
            recognize = opened[pair][name]()
            written, seconds = timed(partial(recognize, waveforms))
            SCREEN.print(f"{name}, {' -> '.join(pair)}: {len(written)} utterances in {seconds:.0f} CPU seconds")
            made[name]["hypotheses"] += written
            made[name]["seconds"] += seconds
        out.write_text(json.dumps(made, ensure_ascii=False, indent=1), encoding="utf-8")
    report(made, rows)


def languages_of(row: Row) -> Tuple[str, str]:
    return row.src_lang, row.tgt_lang


def chosen(names: Iterable[str], wanted: Optional[str]) -> List[str]:
    """Those of the systems that --systems names. Ends with a message where there is none of a name."""
    names = list(names)
    unknown = [name for name in wanted.split(";") if name not in names] if wanted else []
    if unknown:
        raise SystemExit(f"--systems: {unknown[0]!r} is none of {'; '.join(names)}")
    return wanted.split(";") if wanted else names


def report(made: Dict[str, Dict], rows: List[Row]) -> None:
    """A line for each system."""
    ours = made.get("PyTorch", {"hypotheses": [""] * len(rows)})["hypotheses"]
    for name, result in made.items():
        same = sum(own == text for own, text in zip(ours, result["hypotheses"]))
        scores, normalize = CorpusScores(), TextNormalizer(lowercase=True, remove_punctuation=True)
        for row, text in zip(rows, result["hypotheses"]):
            scores.add(normalize(text), normalize(row.tgt_text))
        print(f"{name} | {same} of {len(rows)} | WER {scores.overall().wer:.2f} | {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
