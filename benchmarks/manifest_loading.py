"""Loading a manifest of a million rows: colld_fairseq beside fairseq's own readers.

    python benchmarks/manifest_loading.py [--rows 1000000] [--repeats 3] [--json FILE]

Both formats are written to a temporary folder. Each reader then loads the same file in a process of its own,
pinned to one core, ours and fairseq's in turn; medians are printed. Peak memory is that of the whole process,
imports (fairseq, torch) included. fairseq's readers are `FileAudioDataset` and
`SpeechToTextDatasetCreator._load_samples_from_tsv` (its csv reading alone, without the dataset it builds from
it afterwards). Exit code 1 if ours takes over 10 s or 700 MB.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List

LIMIT_SECONDS, LIMIT_MB = 10.0, 700.0
FORMATS = ("audio-only", "speech-to-text")
READERS = ("colld_fairseq", "fairseq")
FIGURES = ("seconds", "peak_mb", "imports_mb")
WORDS = "guten Morgen straße привет мир hello world señor où est la gare مرحبا the of and".split()
LANGUAGES = ("de", "en", "fr", "ru", "es")


def write_manifests(folder: Path, rows: int) -> None:
    """Manifests with paths, sentences of 12 words in several scripts and ids as long as real corpora have
    them."""
    with open(folder / "audio-only.tsv", "w", encoding="utf-8") as out:
        out.write("/data/corpus\n")
        for i in range(rows):
            out.write(f"train-clean/{i % 2000:04d}/{i % 37}/{i:08d}.flac\t{16000 + i % 300000}\n")
    sentences = [" ".join(WORDS[(i * 7 + j * (i % 5 + 1)) % len(WORDS)] for j in range(12)) for i in range(4999)]
    with open(folder / "speech-to-text.tsv", "w", encoding="utf-8") as out:
        out.write("id\taudio\tn_frames\ttgt_text\tspeaker\tsrc_text\tsrc_lang\ttgt_lang\n")
        for i in range(rows):
            audio = f"utterances_{i % 100:02d}.zip:{i * 4711}:{20000 + i % 9999}"
            columns = sentences[i % 4999], f"speaker{i % 5000}", sentences[(i * 7) % 4999]
            out.write(f"corpus-{i:08d}\t{audio}\t{16000 + i % 300000}\t" + "\t".join(columns))
            out.write(f"\t{LANGUAGES[i % 5]}\ten\n")


def load(reader: str, kind: str, folder: str) -> Dict[str, float]:
    """Load one file in this process: seconds, peak memory in MB, and the peak that the imports alone
    reach."""
    import resource

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from fairseq.data import FileAudioDataset
    from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDatasetCreator

    import colld_fairseq  # noqa: F401  (both sides import it: it makes the installed fairseq usable)
    from colld_fairseq.data.manifest import read_manifest

    imports = peak()
    started = time.perf_counter()
    if reader == "colld_fairseq":
        manifest = read_manifest(f"{folder}/{kind}.tsv")
    elif kind == "audio-only":
        manifest = FileAudioDataset(f"{folder}/{kind}.tsv", sample_rate=16000)
    else:
        manifest = SpeechToTextDatasetCreator._load_samples_from_tsv(folder, kind)
    seconds = time.perf_counter() - started
    return {"rows": len(manifest), "seconds": seconds, "peak_mb": peak(), "imports_mb": imports}


def measure(reader: str, kind: str, folder: Path) -> Dict[str, float]:
    """:func:`load` in a process of its own."""
    command = [sys.executable, __file__, "--child", reader, kind, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of each manifest")
    parser.add_argument("--repeats", type=int, default=3, help="loads of each; the median is printed")
    parser.add_argument("--json", type=Path, help="JSON file for all raw numbers")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(load(*args.child)))
        return 0

    runs: Dict[str, List[Dict[str, float]]] = {f"{kind} {reader}": [] for kind in FORMATS for reader in READERS}
    with tempfile.TemporaryDirectory() as name:
        write_manifests(Path(name), args.rows)
        for _ in range(args.repeats):
            for kind in FORMATS:
                for reader in READERS:
                    runs[f"{kind} {reader}"].append(measure(reader, kind, Path(name)))

    within_limits = True
    print(f"{args.rows} rows, one core, median of {args.repeats}; peak memory includes the imports")
    for kind in FORMATS:
        medians = {
            reader: {key: statistics.median(run[key] for run in runs[f"{kind} {reader}"]) for key in FIGURES}
            for reader in READERS
        }
        for reader, median in medians.items():
            print(
                f"{kind:15} {reader:14} {median['seconds']:6.2f} s  {median['peak_mb']:6.0f} MB peak "
                f"({median['peak_mb'] - median['imports_mb']:.0f} MB above the imports)"
            )
        ours, theirs = medians["colld_fairseq"], medians["fairseq"]
        print(
            f"{kind:15} ratio fairseq / ours: time {theirs['seconds'] / ours['seconds']:.1f}, "
            f"peak memory {theirs['peak_mb'] / ours['peak_mb']:.1f}"
        )
        within_limits &= ours["seconds"] <= LIMIT_SECONDS and ours["peak_mb"] <= LIMIT_MB
    print(f"limits of {LIMIT_SECONDS:.0f} s and {LIMIT_MB:.0f} MB: {'kept' if within_limits else 'EXCEEDED'}")
    if args.json:
        machine = {
            "python": platform.python_version(),
            "machine": platform.platform(),
            "cores": os.cpu_count(),
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"rows": args.rows, "machine": machine, "runs": runs}, indent=1) + "\n")
    return 0 if within_limits else 1


if __name__ == "__main__":
    sys.exit(main())
