"""An assembled Whisper student and its exports on a manifest: identical text, WER, CPU time.

    python -m benchmarks.exported_whisper --checkpoint model.pt --manifest test.tsv --sherpa DIR \
        --out written.json [--onnx-asr DIR]

DIR are folders of `colld export --int8`. Text is compared with PyTorch's greedy search as it is; WER is of lower-case
text without punctuation. CPU seconds are of whole processes, loading included, for clients; of the search alone for
PyTorch and ONNX Runtime.
"""

import argparse
import json
import resource
import time
from itertools import groupby
from pathlib import Path
from typing import Callable, Dict, List

from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.rows import Row
from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.export.clients import run_client
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions
from colld_fairseq.export.folder import exported_in
from colld_fairseq.export.whisper import WhisperClient, lead_in
from colld_fairseq.recogniser import Recogniser, load_recogniser
from colld_fairseq.scoring.metrics import CorpusScores


def timed(run: Callable[[], List[str]]):
    """What it gives, and CPU seconds of this process and its children."""
    before = [time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)]
    result = run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before[1].ru_utime - before[1].ru_stime
    return result, time.process_time() - before[0] + children


def client_of(recogniser: Recogniser, target: str, folder: str, source: str, language: str):
    """An exported folder, told languages."""
    family = family_of(recogniser, ExportOptions(target, src_lang=source, tgt_lang=language))
    assert isinstance(family, WhisperClient)
    return exported_in(Path(folder).absolute(), family)


def systems(recogniser: Recogniser, args: argparse.Namespace, source: str, language: str) -> Dict[str, Callable]:
    """Name -> function from waveforms to hypotheses."""

    def torch_output(waveforms):
        return [recogniser.transcribe([one], [language], source_languages=[source])[0][0].text for one in waveforms]

    sherpa = client_of(recogniser, "sherpa-onnx", args.sherpa, source, language)

    def runtime(int8):
        return lambda waveforms: [sherpa.family.runtime_output(sherpa, one, [], int8).text for one in waveforms]

    def client(exported, int8, given=lambda waveform: waveform):
        model = exported.family.client_model(exported, int8)
        return lambda waveforms: [
            " ".join(result.text.split()) for result in run_client(model, [given(one) for one in waveforms])
        ]

    made = {
        "PyTorch": torch_output,
        "ONNX Runtime": runtime(False),
        "ONNX Runtime, 8 bits": runtime(True),
        "sherpa-onnx": client(sherpa, False, lead_in),
        "sherpa-onnx, 8 bits": client(sherpa, True, lead_in),
        "sherpa-onnx, without the half frame": client(sherpa, False),
    }
    if args.onnx_asr:
        other = client_of(recogniser, "onnx-asr", args.onnx_asr, source, language)
        made.update({"onnx-asr": client(other, False), "onnx-asr, 8 bits": client(other, True)})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--checkpoint", "--manifest", "--sherpa", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--onnx-asr", default="")
    parser.add_argument("--systems", help="some of them, with ; between; what --out holds of others is kept")
    args = parser.parse_args()
    manifest, out = read_manifest(args.manifest), Path(args.out)
    rows = sorted((manifest.row(index) for index in range(len(manifest))), key=lambda row: (row.src_lang, row.tgt_lang))
    made = json.loads(out.read_text()) if out.exists() else {}
    recogniser = load_recogniser(args.checkpoint, device="cpu")
    for (source, language), group in groupby(rows, key=lambda row: (row.src_lang, row.tgt_lang)):
        waveforms = [read_audio(row.audio) for row in group]
        for name, run in systems(recogniser, args, source, language).items():
            if args.systems and name not in args.systems.split(";"):
                continue
            written, seconds = timed(lambda: run(waveforms))
            made.setdefault(name, {"hypotheses": [], "seconds": 0.0})
            made[name]["hypotheses"] += written
            made[name]["seconds"] += seconds
            out.write_text(json.dumps(made, ensure_ascii=False, indent=1))
    report(made, rows)


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
