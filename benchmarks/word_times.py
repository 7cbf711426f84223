"""How far the words' times of `colld transcribe --words` are from a forced alignment of the transcript.

    python benchmarks/word_times.py --manifest data/test.tsv --checkpoint runs/asr/checkpoint_best.pt
    python benchmarks/word_times.py --manifest ... --checkpoint ... --aligner runs/teacher/ctc.pt --json times.json

Each utterance is recognized, and its transcript (tgt_text) is aligned with the frames by a CTC layer: the most probable
path of its labels, on which a word begins with its first token's first frame and ends behind its last token's last one.
Words that are right (the same, by edit distance) are compared: ends as `--words` writes them minus ends of the
alignment, likewise beginnings. The aligner is the model's own CTC layer, or that of --aligner: a larger model, or a
one that takes in the whole utterance. CTC is late and short: a path leaves a label as soon as it can, so the ends are
those of the label, not of the sound. What an aligner of another kind says is not measured here.
"""

import argparse
import json
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

import colld_fairseq  # noqa: F401  (registers)
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import Row, read_manifests
from colld_fairseq.decoding.ctc import align_labels
from colld_fairseq.decoding.hypothesis import Word
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.recogniser import Recogniser, load_recogniser

WITHIN_MS = (50, 100, 200)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, help="utterances with their transcripts")
    parser.add_argument("--checkpoint", required=True, help="CTC or transducer")
    parser.add_argument("--aligner", help="checkpoint with a CTC layer; default: the same")
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--utterances", type=int, help="at most; default: all")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    return parser.parse_args(arguments)


class Errors(NamedTuple):
    """Of the words that are right, in seconds: beginning and end as written minus those of the alignment."""

    starts: List[float]
    ends: List[float]


@torch.no_grad()
def ctc_log_probs(recogniser: Recogniser, waveform: np.ndarray) -> np.ndarray:
    """[T, V] of the model's CTC layer. Raises ConfigError where it has none."""
    if getattr(recogniser.models[0], "ctc", None) is None:
        raise ConfigError("this model has no CTC layer to align with: give one that has (--aligner)")
    model, source = recogniser.models[0], torch.from_numpy(recogniser.input(waveform))
    encoded = model.encoder.encode(source[None].to(recogniser.device), torch.tensor([len(source)]))
    return torch.log_softmax(model.ctc(encoded.x).float(), dim=-1)[0].cpu().numpy()


def aligned(recogniser: Recogniser, waveform: np.ndarray, text: str) -> List[Word]:
    """The words of a transcript where the CTC layer places them. Raises ColldError where it is too long."""
    log_probs = ctc_log_probs(recogniser, waveform)
    tokens = recogniser.vocabulary.encode(text, append_eos=False).tolist()
    return words_of(recogniser, log_probs, tokens)


def words_of(recogniser: Recogniser, log_probs: np.ndarray, tokens: Sequence[int]) -> List[Word]:
    alignment, seconds = align_labels(log_probs, tokens), recogniser.words_of.frame_seconds
    return [
        Word(text, alignment.starts[members[0]] * seconds, alignment.ends[members[-1]] * seconds, 1.0)
        for text, members in recogniser.words_of.groups(tokens)
    ]


def compare(hypothesis: Sequence[Word], reference: Sequence[Word]) -> Errors:
    """Of the words that are in both, in order."""
    pairs = list(same([word.text for word in hypothesis], [word.text for word in reference]))
    starts = [hypothesis[i].start - reference[j].start for i, j in pairs]
    return Errors(starts, [hypothesis[i].end - reference[j].end for i, j in pairs])


def same(ours: Sequence[str], theirs: Sequence[str]) -> Iterator["tuple[int, int]"]:
    """Indices of words that edit distance leaves as they are."""
    for block in Levenshtein.opcodes(ours, theirs):
        if block.tag == "equal":
            yield from zip(range(block.src_start, block.src_end), range(block.dest_start, block.dest_end))


def summary(errors: Sequence[float]) -> Dict[str, float]:
    """Milliseconds and percent."""
    if not errors:
        return {"words": 0}
    values = 1000 * np.array(errors)
    result = {
        "words": len(values),
        "mean_ms": round(float(values.mean()), 1),
        "mean_absolute_ms": round(float(np.abs(values).mean()), 1),
        "median_absolute_ms": round(float(np.median(np.abs(values))), 1),
    }
    within = {
        f"within_{limit}_ms": round(100 * float((np.abs(values) <= limit + 1e-6).mean()), 1) for limit in WITHIN_MS
    }
    return {**result, **within}


def measure(recogniser: Recogniser, aligner: Recogniser, rows: Sequence[Row], paths: Sequence[str]) -> Dict:
    """{"starts": ..., "ends": ..., "transcript_words": ..., "left_out": ...}: the last are utterances."""
    starts, ends, total, left_out = [], [], 0, 0
    for row, path in zip(rows, paths):
        waveform = read_audio(path)
        languages = [row.tgt_lang] if recogniser.needs_language else None
        (hypothesis, *_), *_ = recogniser.transcribe([waveform], languages)
        try:
            reference = aligned(aligner, waveform, row.tgt_text)
        except ConfigError:
            raise
        except ColldError:
            left_out += 1
            continue
        errors = compare(hypothesis.words, reference)
        starts, ends, total = starts + errors.starts, ends + errors.ends, total + len(reference)
    return {"starts": summary(starts), "ends": summary(ends), "transcript_words": total, "left_out": left_out}


def main() -> None:
    args = parse_arguments()
    recogniser = load_recogniser(args.checkpoint, args.beam)
    aligner = load_recogniser(args.aligner, decoder="ctc") if args.aligner else recogniser
    manifest = read_manifests(args.manifest)
    chosen = range(min(len(manifest), args.utterances or len(manifest)))
    rows, paths = [manifest.row(index) for index in chosen], [manifest.audio_path(index) for index in chosen]
    result = measure(recogniser, aligner, rows, paths)
    for name, values in result.items():
        print(f"{name}: {values}")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
