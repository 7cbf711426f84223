"""The options of every `colld` command: one function per command, and what several have in common.

Imports neither torch nor fairseq nor what reads audio, so that `colld COMMAND --help` is there at once.
"""

import argparse
from typing import List, Union

from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, POSITIVE, SHARE, Number

MANIFESTS = "A.tsv[,B.tsv]"
TEACHER = "hf:DIR, fairseq:FILE.pt or colld:FILE.pt"
ENCODERS = "hf:DIR (transformers), fairseq:FILE.pt or colld:FILE.pt (a checkpoint of this project)"
VARIANCE = Number(low=0, high=1, above=True)
SOME_AUDIO = Number(low=0.1)
# As in teachers/base.py, teachers/cache_storage.py and tasks/multilingual_speech_to_text.py, which import torch.
KINDS = ("layer", "ffn")
PRECISIONS = ("float32", "bfloat16", "float16")
STORAGES = ("float16", "uint8")
DECODERS = ("auto", "attention", "transducer", "ctc")


def layers(text: str) -> List[int]:
    """Layer numbers `2,4,6`."""
    return [int(COUNT_OR_NONE(part)) for part in text.split(",")]


def layers_and_output(text: str) -> List[Union[int, str]]:
    """Layer numbers and perhaps "out", what leaves the encoder: `2,4,out`."""
    return [part if part == "out" else int(COUNT_OR_NONE(part)) for part in text.split(",")]


def batch_sizes(text: str) -> List[int]:
    """Numbers of utterances `1,8`."""
    return [int(COUNT(part)) for part in text.split(",")]


def _manifest(parser, help: str = "manifests, joined", required: bool = True) -> None:
    parser.add_argument("--manifest", required=required, metavar=MANIFESTS, help=help)


def _audio_root(parser) -> None:
    parser.add_argument("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")


def _max_bad(parser, share: float = 0.001) -> None:
    parser.add_argument(
        "--max-bad",
        type=SHARE,
        default=share,
        metavar="SHARE",
        help="share of utterances, at least one, that may be unreadable (default: %(default)g)",
    )


def _batches(parser) -> None:
    parser.add_argument(
        "--batch-seconds",
        type=POSITIVE,
        default=60.0,
        metavar="SECONDS",
        help="audio of a batch, padding included (default: %(default)g)",
    )
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")


def _seed(parser, help: str) -> None:
    parser.add_argument("--seed", type=COUNT_OR_NONE, default=1, help=f"{help} (default: %(default)s)")


def _precision(parser) -> None:
    parser.add_argument("--dtype", choices=PRECISIONS, default="float32", help="precision of the teacher")


def _moved_statistics(parser) -> None:
    parser.add_argument(
        "--cmvn",
        metavar="FILE",
        default="",
        help="where the statistics of filterbanks are now, for an older checkpoint that has no copy of them",
    )


def _text_options(parser, where: str) -> None:
    parser.add_argument("--lowercase", action="store_true", help=f"lower-case all text, {where}")
    parser.add_argument(
        "--remove-punctuation",
        action="store_true",
        help=f"replace punctuation by spaces, {where}; apostrophes inside words stay",
    )


def doctor(parser: argparse.ArgumentParser) -> None:
    """All of them are about manifests."""
    _manifest(parser, "check these manifests instead of the installation", required=False)
    parser.add_argument("--vocab", metavar="DIR", help="folder of `colld vocab`: gives the out-of-vocabulary rate")
    _audio_root(parser)
    parser.add_argument("--decode", action="store_true", help="read every sample, not only the headers")
    parser.add_argument("--workers", type=COUNT, help="processes that open audio; default: the machine's cores")


def vocab(parser: argparse.ArgumentParser) -> None:
    _manifest(parser, "speech-to-text manifests, joined")
    parser.add_argument(
        "--kind", choices=("char", "sentencepiece"), default="char", help="tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--size",
        type=COUNT,
        help="sentencepiece: number of pieces including the 4 special symbols (default: 1000); char: keep "
        "the most frequent SIZE letters (default: all)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to; made if it does not exist")
    parser.add_argument("--column", choices=("tgt_text", "src_text"), default="tgt_text", help="default: %(default)s")
    parser.add_argument("--lang-tags", action="store_true", help="add <lang:xx> for every target language")
    _text_options(parser, "here and in training")
    parser.add_argument(
        "--temperature",
        type=Number(low=1),
        default=1.0,
        help="sentencepiece: languages are seen in proportion to share^(1/T); above 1 favors small ones (default: 1)",
    )
    parser.add_argument(
        "--character-coverage",
        type=VARIANCE,
        default=1.0,
        help="sentencepiece: share of character occurrences the pieces must cover (default: 1, all)",
    )


def encode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="text in UTF-8, by lines; - is standard input")
    parser.add_argument("--vocab", required=True, metavar="DIR", help="folder written by `colld vocab`")
    _manifest(parser, "also the text of speech-to-text manifests", required=False)
    parser.add_argument(
        "--column", choices=("tgt_text", "src_text"), default="tgt_text", help="of the manifests (default: %(default)s)"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")


def cmvn(parser: argparse.ArgumentParser) -> None:
    _manifest(parser)
    parser.add_argument("--out", required=True, metavar="STATS.npz", help="file to write")
    _audio_root(parser)
    parser.add_argument("--max-hours", type=POSITIVE, help="hours of audio drawn at random (default: everything)")
    _seed(parser, "of the draw")
    _max_bad(parser)


def features(parser: argparse.ArgumentParser) -> None:
    _manifest(parser)
    parser.add_argument("--teacher", required=True, metavar="SPEC", help=TEACHER)
    parser.add_argument(
        "--layers",
        type=layers_and_output,
        required=True,
        metavar="2,4,6",
        help="0 = input of the first block; out = what leaves the encoder (Whisper, students of this project)",
    )
    parser.add_argument(
        "--tail-seconds",
        type=NOT_NEGATIVE,
        default=0.0,
        help="silence behind each utterance whose features are kept too, for Whisper-shaped students of Whisper; the"
        " student's own (default: none)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the cache; finished if begun")
    parser.add_argument("--kind", choices=KINDS, default="layer", help="block or feed-forward outputs")
    _precision(parser)
    parser.add_argument(
        "--storage",
        choices=STORAGES,
        default="float16",
        help="precision on disk; uint8 takes half of float16's space. What is lost is measured, printed and kept in "
        "index.json (default: %(default)s)",
    )
    _audio_root(parser)
    _batches(parser)
    parser.add_argument(
        "--part-seconds",
        type=POSITIVE,
        default=600.0,
        help="audio in a file, in seconds; a stopped run does at most that much again (default: %(default)g)",
    )
    parser.add_argument("--num-shards", type=COUNT, help="processes that share the work (default: torchrun's, or 1)")
    parser.add_argument("--shard", type=COUNT_OR_NONE, help="which of them this is, from 0 (default: torchrun's, or 0)")
    _max_bad(parser)


def cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", type=COUNT_OR_NONE, required=True, help="of the teacher; 0 = input of block 1")
    parser.add_argument("--out", required=True, metavar="FILE.safetensors", help="the codebook; finished if begun")
    parser.add_argument("--num-clusters", type=COUNT, default=500, help="number of codes (default: 500, HuBERT's)")
    parser.add_argument("--passes", type=COUNT, default=2, help="times every utterance is seen (default: 2)")
    _seed(parser, "of the first centroids and the order of utterances")
    _manifest(parser, "utterances to fit on; default: all of --cache", required=False)
    parser.add_argument("--teacher", metavar="SPEC", help=f"{TEACHER}; with --cache it is checked")
    parser.add_argument("--cache", metavar="DIR", help="features of `colld features`, in place of a teacher")
    parser.add_argument("--kind", choices=KINDS, help="block or feed-forward outputs; default: layer, or --cache's")
    parser.add_argument("--labels", metavar="DIR", help="also write labels for fairseq's hubert_pretraining here")
    parser.add_argument(
        "--label-manifests", nargs="+", default=[], metavar=f"SPLIT={MANIFESTS}", help="the utterances to label"
    )
    _audio_root(parser)
    _precision(parser)
    _batches(parser)
    _max_bad(parser)


def average(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoints", nargs="*", metavar="CKPT", help="checkpoints of one model; or --last and --dir")
    parser.add_argument("--out", required=True, metavar="FILE.pt", help="the mean: weights and settings, no optimizer")
    parser.add_argument("--dir", metavar="SAVE_DIR", help="folder of a run, of which --last are taken")
    parser.add_argument("--last", type=COUNT, metavar="N", help="how many of the newest in --dir")
    parser.add_argument(
        "--by",
        choices=("epoch", "update"),
        default="epoch",
        help="which checkpoints of --dir: checkpoint12.pt (epoch, default) or checkpoint_3_500.pt (update)",
    )


def assemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", required=True, metavar="SPEC", help=f"the encoder: {ENCODERS}")
    parser.add_argument(
        "--decoder-from",
        required=True,
        metavar="hf:DIR",
        help="the decoder, with its tokenizer: a Whisper of the encoder's width",
    )
    parser.add_argument(
        "--decoder-tokens-from",
        default="",
        metavar=MANIFESTS,
        help="keep only the decoder's tokens in the targets of these manifests, their languages and single characters",
    )
    parser.add_argument("--out", required=True, metavar="FILE.pt", help="the model, with weights and tokenizer")


def transcribe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a fine-tuned model; several with : are an ensemble")
    parser.add_argument("audio", nargs="*", metavar="AUDIO", help="audio files, folders and zip archives")
    _manifest(parser, "instead of AUDIO: manifests, joined", required=False)
    _audio_root(parser)
    parser.add_argument("--out", metavar="O.tsv", help="manifest to write, ready for training; finished if begun")
    parser.add_argument("--decoder", choices=DECODERS, default="auto", help="default: the model's main one")
    parser.add_argument("--beam", type=COUNT, default=1, help="hypotheses kept (default: %(default)s, greedy)")
    parser.add_argument(
        "--nbest",
        type=COUNT,
        default=1,
        help="hypotheses of each utterance; with --out in O.hypotheses.jsonl, with their scores",
    )
    parser.add_argument("--lang", default="", help="target language of everything (default: each row's own)")
    parser.add_argument("--source-lang", default="", help="spoken language, noted in --out where a row has none")
    parser.add_argument("--vocab", metavar="DIR", default="", help="vocabulary folder, if it has moved since training")
    _moved_statistics(parser)
    parser.add_argument(
        "--options",
        metavar="NAME=VALUE,...",
        default="",
        help="more options of decoding, as fairseq-generate has them: blank_penalty, max_symbols, ngram_lm, ...",
    )
    _batches(parser)
    _max_bad(parser, 1.0)
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="decode as audio arrives; for models trained with --encoder-context chunk or causal. AUDIO may be -: raw"
        " PCM on standard input, 16 kHz, mono, 16 bits, little-endian",
    )
    parser.add_argument(
        "--chunk-ms", type=COUNT, help="audio of a step (default: 320); without --streaming: a frame's chunk of context"
    )
    parser.add_argument(
        "--left-context",
        default="trained",
        help="chunks (causal: frames) of context before a frame's own, or full (default: the longest limited one of"
        " the training)",
    )
    parser.add_argument(
        "--endpoint",
        metavar="S,S,S",
        default="2.4,1.2,20",
        help="an utterance ends after so many seconds of silence without a text, of silence after a text, or in all;"
        " none = with the stream (default: %(default)s)",
    )
    parser.add_argument("--streams", type=COUNT, default=1, help="streams decoded side by side (default: %(default)s)")


def score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--generate-output", metavar="FILE", help="written by fairseq-generate (its T- and D- lines are read)"
    )
    _manifest(parser, "the manifests that were decoded, in the same order", required=False)
    parser.add_argument(
        "--references",
        choices=("generate", "manifest"),
        default="generate",
        help="take references from the T- lines (as the model's vocabulary writes them) or from the "
        "manifest's tgt_text (default: %(default)s)",
    )
    parser.add_argument(
        "--transcripts", metavar="O.tsv", help="instead of --generate-output: manifest written by `colld transcribe`"
    )
    parser.add_argument(
        "--hyp", metavar="FILE", help="instead of --generate-output: hypotheses, one per line; - is standard input"
    )
    parser.add_argument("--ref", metavar="FILE", help="references, one per line")
    parser.add_argument(
        "--lang",
        default="",
        help="target language of all lines (ISO 639), or a file with one code (or source<TAB>target) per line",
    )
    _text_options(parser, "on both sides, before scoring")
    parser.add_argument("--json", metavar="FILE", help="also write everything to this file")


def similarity(parser: argparse.ArgumentParser) -> None:
    _manifest(parser)
    parser.add_argument(
        "--student", nargs="+", default=[], metavar="CKPT.pt", help="one student or two, of any stage of training"
    )
    parser.add_argument("--teacher", nargs="+", default=[], metavar="SPEC", help=f"one teacher or two: {TEACHER}")
    parser.add_argument(
        "--out", required=True, metavar="PREFIX", help="writes PREFIX.tsv (all numbers) and PREFIX.png (heat maps)"
    )
    for name, which in (("row", "first"), ("column", "second")):
        parser.add_argument(
            f"--{name}-layers", type=layers, metavar="0,2,4", help=f"layers of the {which} model (default: all)"
        )
    parser.add_argument(
        "--max-seconds",
        type=NOT_NEGATIVE,
        default=3600.0,
        help="seconds of audio, of utterances drawn at random; 0 = everything (default: %(default)g, our choice)",
    )
    _seed(parser, "of the draw")
    parser.add_argument(
        "--cca-variance",
        type=VARIANCE,
        default=0.99,
        help="share of each layer's variance whose principal components CCA compares; 1 = plain CCA "
        "(default: %(default)s, as in SVCCA, Raghu et al. 2017)",
    )
    _moved_statistics(parser)
    _audio_root(parser)
    _batches(parser)
    _max_bad(parser)


def convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", required=True, metavar="SPEC", help=f"encoder to read: {ENCODERS}")
    parser.add_argument("--to", dest="target", required=True, metavar="SPEC", help="where to write it, likewise")
    parser.add_argument("--wav", metavar="FILE", help="audio to compare the two on; default: a generated signal of 2 s")
    parser.add_argument(
        "--tolerance",
        type=NOT_NEGATIVE,
        default=1e-4,
        help="largest difference of a layer, relative to its largest value where that exceeds 1; above it nothing is"
        " written and the exit code is 1 (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the target if it exists")


def profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", nargs="+", default=[], metavar="CKPT.pt", help="student checkpoints, of any stage")
    _moved_statistics(parser)
    parser.add_argument("--teacher", nargs="+", default=[], metavar="SPEC", help=f"{TEACHER}, all its layers")
    parser.add_argument(
        "--seconds", type=SOME_AUDIO, default=10.0, help="audio of a timed utterance (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-sizes", type=batch_sizes, default=[1, 8], metavar="1,8", help="utterances at once (default: 1,8)"
    )
    parser.add_argument(
        "--runs", type=COUNT, default=5, help="timed runs, of which the median counts (default: %(default)s)"
    )
    parser.add_argument("--threads", type=COUNT, help="threads of the CPU (default: torch's choice)")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--json", metavar="FILE", help="also write everything to this file")
