"""The options of every `colld` command: one function per command, and what several have in common.

Imports neither torch nor fairseq nor what reads audio, so that `colld COMMAND --help` is there at once.
"""

import argparse
import keyword
from typing import Callable, List, Union

from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, POSITIVE, SHARE, Number

Add = Callable[..., argparse.Action]  # add_argument of the command's parser
MANIFESTS = "A.tsv[,B.tsv]"
TEACHER = "hf:DIR, fairseq:FILE.pt, fairseq2:FILE.pt, colld:FILE.pt, onnx:FILE.onnx or python:package.module:Class"
ENCODERS = "hf:DIR (transformers), fairseq:FILE.pt, fairseq2:FILE.pt or colld:FILE.pt (a checkpoint of this project)"
VARIANCE = Number(low=0, high=1, above=True)
SOME_AUDIO = Number(low=0.1)
CODES = Number(whole=True, low=2, high=256)  # of a byte
ENDPOINT = "2.4,1.2,20"
DRAWS = Number(whole=True, low=100)  # an interval of 95 % leaves out 2 of them on either side
# As in modules/input_config.py, teachers/base.py, teachers/cache_storage.py and tasks/multilingual_speech_to_text.py,
# which import torch or lie beside what does.
FBANKS = ("kaldi", "icefall")
KINDS = ("layer", "ffn")
PRECISIONS = ("float32", "bfloat16", "float16")
FAST_BFLOAT16 = "CPUs with AMX or AVX512-BF16"  # as in devices.py
STORAGES = ("float16", "uint8")
DECODERS = ("auto", "attention", "transducer", "ctc")
# As in export/family.py and export/onnx_file.py.
TARGETS = ("onnx", "sherpa-onnx", "onnx-asr")
EXPORTERS = ("dynamo", "torchscript")
# As in corpora/layouts.py.
LAYOUTS = (
    *("librispeech", "mls", "common-voice", "fleurs", "must-c", "voxpopuli", "stm", "folder"),
    *("table", "nemo", "kaldi", "lhotse", "huggingface"),
)


def layers(text: str) -> List[int]:
    """Layer numbers `2,4,6`."""
    return [int(COUNT_OR_NONE(part)) for part in text.split(",")]


def layers_and_output(text: str) -> List[Union[int, str]]:
    """Layer numbers and perhaps "out", what leaves the encoder: `2,4,out`."""
    return [part if part == "out" else int(COUNT_OR_NONE(part)) for part in text.split(",")]


def batch_sizes(text: str) -> List[int]:
    """Numbers of utterances `1,8`."""
    return [int(COUNT(part)) for part in text.split(",")]


def _manifest(add: Add, help: str = "manifests, joined", required: bool = True) -> None:
    add("--manifest", required=required, metavar=MANIFESTS, help=help)


def _audio_root(add: Add) -> None:
    add("--audio-root", metavar="DIR", help="folder that the manifests' paths start from")


def _max_bad(add: Add, share: float = 0.001) -> None:
    add("--max-bad", type=SHARE, default=share, help="share of utterances that may be unreadable, one at least")


def _batches(add: Add) -> None:
    add("--batch-seconds", type=POSITIVE, default=60.0, metavar="SECONDS", help="audio of a batch, padding included")
    add("--device", help="cpu or cuda; default: cuda where there is one")


def _seed(add: Add, help: str) -> None:
    add("--seed", type=COUNT_OR_NONE, default=1, help=help)


def _precision(add: Add) -> None:
    add("--dtype", choices=PRECISIONS, default="float32", help="precision of the teacher")


def _moved_statistics(add: Add) -> None:
    add(
        "--cmvn",
        metavar="FILE",
        default="",
        help="filterbank statistics, where an older checkpoint has no copy of them",
    )


def _text_options(add: Add, where: str) -> None:
    add("--lowercase", action="store_true", help=f"lower-case all text, {where}")
    add(
        "--remove-punctuation",
        action="store_true",
        help=f"replace it by spaces, {where}; apostrophes inside words stay",
    )


def doctor(add: Add) -> None:
    """All of them are about manifests."""
    _manifest(add, "check these manifests instead of the installation", required=False)
    add("--vocab", metavar="DIR", help="folder of `colld vocab`: gives the out-of-vocabulary rate")
    _audio_root(add)
    add("--decode", action="store_true", help="read every sample, not only the headers")
    add("--workers", type=COUNT, help="processes that open audio; default: the machine's cores")


def quickstart(add: Add) -> None:
    add("out", nargs="?", default="runs/quickstart", metavar="OUT", help="folder of results (default: runs/quickstart)")
    data = "folder of {train,dev,test}_asr.tsv and test_st.tsv (default: the prompts that come with the package)"
    add("--data", metavar="DIR", help=data)
    whisper = "Hugging Face directory of a Whisper of base's width (default: base, fetched)"
    add("--whisper", metavar="DIR", help=whisper)
    add("--updates", type=COUNT, metavar="N", help="of one window (default: 900, 1700 in bfloat16)")
    precision = f"of the distillation (default: bfloat16 where the processor has units for it, as {FAST_BFLOAT16})"
    add("--precision", choices=("auto", *PRECISIONS[:2]), default="auto", help=precision)
    _seed(add, "of the distillation")


def prepare(add: Add) -> None:
    add("layout", choices=LAYOUTS, metavar="LAYOUT", help=f"what lies where: {', '.join(LAYOUTS)}")
    add("folder", metavar="DIR", help="the corpus as it was unpacked; of tables and manifests also the file itself")
    add("--out", required=True, metavar="DATA", help="folder to write to; a stopped run goes on where it was")
    add("--splits", default="", metavar="A,B", help="to take, also under another name: train=A,B,dev=C (default: all)")
    add("--languages", default="", metavar="de,fr", help="spoken ones to take; the language where no file says it")
    add("--translate-into", default="", metavar="en", help="languages whose translations are written, too")
    add("--translations", default="", metavar="DIR", help="folder of CoVoST 2's tables (default: beside the corpus)")
    add("--columns", default="", metavar="text=NAME", help="columns of tables that have unusual names")
    add("--raw-text", action="store_true", help="text as written, where the corpus also has it normalized")
    add("--audio-root", metavar="DIR", help="where relative paths in tables begin (default: beside the table)")
    _text_options(add, "in the manifests")
    add("--zip", action="store_true", help="pack the audio into uncompressed zip archives")
    add("--name", default="", help="added to the names of all files, for several corpora in one folder")
    add("--vocab-kind", choices=("char", "sentencepiece"), help="make a vocabulary of the training manifests, too")
    add("--vocab-size", type=COUNT, help="its pieces or letters, as --size of `colld vocab`")
    add("--workers", type=COUNT, help="processes that open audio; default: the machine's cores")
    _max_bad(add)


def vocab(add: Add) -> None:
    _manifest(add, "speech-to-text manifests, joined")
    add("--kind", choices=("char", "sentencepiece"), default="char", help="tokens")
    add(
        "--size",
        type=COUNT,
        help="pieces, with the 4 special symbols (default: 1000), or the most frequent letters (default: all)",
    )
    add("--out", required=True, metavar="DIR", help="folder to write to; made if it does not exist")
    grown = "vocabulary of letters to begin with: its symbols and settings, then what is new in the manifests"
    add("--extend", metavar="DIR", default="", help=grown)
    add("--column", choices=("tgt_text", "src_text"), default="tgt_text", help="of the manifests")
    add("--lang-tags", action="store_true", help="add <lang:xx> for every target language")
    _text_options(add, "here and in training")
    add(
        "--temperature",
        type=Number(low=1),
        default=1.0,
        help="pieces see languages by share^(1/T); above 1 favors small ones",
    )
    add(
        "--character-coverage", type=VARIANCE, default=1.0, help="share of character occurrences that pieces must cover"
    )


def _text(add: Add) -> None:
    add("files", nargs="*", metavar="FILE", help="text in UTF-8, by lines; - is standard input")
    add("--vocab", required=True, metavar="DIR", help="folder written by `colld vocab`")
    _manifest(add, "also the text of speech-to-text manifests", required=False)
    add("--column", choices=("tgt_text", "src_text"), default="tgt_text", help="of the manifests")
    add("--out", required=True, metavar="FILE", help="file to write")


def encode(add: Add) -> None:
    _text(add)


def ngram(add: Add) -> None:
    _text(add)
    add("--order", type=Number(whole=True, low=2), default=4, metavar="N", help="symbols of the longest n-grams")
    add("--unit", choices=("word", "token"), default="word", help="what the model counts; see --ngram-lm-unit")


def cmvn(add: Add) -> None:
    _manifest(add)
    add("--out", required=True, metavar="STATS.npz", help="file to write")
    add("--fbank", choices=FBANKS, default=FBANKS[0], help="filterbanks, as in training; default: kaldi")
    _audio_root(add)
    add("--max-hours", type=POSITIVE, help="hours of audio drawn at random (default: everything)")
    _seed(add, "of the draw")
    _max_bad(add)


def join(add: Add) -> None:
    _manifest(add)
    add("--out", required=True, metavar="NAME.tsv", help="manifest to write; its audio is written to NAME/")
    longest = (
        "of a window; each takes utterances until it has as many seconds as are drawn for it, from 0 to this; longer"
        " utterances lose their end, and their text"
    )
    add("--seconds", type=POSITIVE, default=30.0, help=longest)
    add("--padded", type=SHARE, default=0.0, help="share of windows that silence fills up to --seconds")
    add("--copies", type=COUNT, default=1, help="times that each utterance is used, in other windows each time")
    _audio_root(add)
    _seed(add, "of order and lengths")
    _max_bad(add)


def features(add: Add) -> None:
    _manifest(add)
    add("--teacher", required=True, metavar="SPEC", help=TEACHER)
    kinds = "0 = input of the first block; out = what leaves the encoder (Whisper, students of this project)"
    add("--layers", type=layers_and_output, required=True, metavar="2,4,6", help=kinds)
    tail = "silence behind each utterance whose features are kept too, for Whisper-shaped students of Whisper"
    add("--tail-seconds", type=NOT_NEGATIVE, default=0.0, help=tail)
    add("--least-seconds", type=NOT_NEGATIVE, default=0.0, help="so long at least with its silence, likewise")
    add("--out", required=True, metavar="DIR", help="folder of the cache; finished if begun")
    add("--kind", choices=KINDS, default="layer", help="block or feed-forward outputs")
    _precision(add)
    add(
        "--storage",
        choices=STORAGES,
        default="float16",
        help="precision on disk; uint8 takes half. What is lost is measured, printed and kept in index.json",
    )
    _audio_root(add)
    _batches(add)
    add("--part-seconds", type=POSITIVE, default=600.0, help="audio of a file; a stopped run repeats at most that much")
    add("--num-shards", type=COUNT, help="processes that share the work (default: torchrun's, or 1)")
    add("--shard", type=COUNT_OR_NONE, help="which of them this is, from 0 (default: torchrun's, or 0)")
    _max_bad(add)


def cluster(add: Add) -> None:
    add("--layer", type=COUNT_OR_NONE, required=True, help="of the teacher; 0 = input of block 1")
    add("--out", required=True, metavar="FILE.safetensors", help="the codebook; finished if begun")
    add("--num-clusters", type=COUNT, default=500, help="number of codes (default: 500, HuBERT's)")
    add("--passes", type=COUNT, default=2, help="times every utterance is seen (default: 2)")
    _seed(add, "of the first centroids and the order of utterances")
    _manifest(add, "utterances to fit on; default: all of --cache", required=False)
    add("--teacher", metavar="SPEC", help=f"{TEACHER}; with --cache it is checked")
    add("--cache", metavar="DIR", help="features of `colld features`, in place of a teacher")
    add("--kind", choices=KINDS, help="block or feed-forward outputs; default: layer, or --cache's")
    add("--labels", metavar="DIR", help="also write labels for fairseq's hubert_pretraining here")
    add("--label-manifests", nargs="+", default=[], metavar=f"SPLIT={MANIFESTS}", help="the utterances to label")
    _audio_root(add)
    _precision(add)
    _batches(add)
    _max_bad(add)


def codebooks(add: Add) -> None:
    add("--layer", type=COUNT_OR_NONE, required=True, help="of the teacher; 0 = input of block 1")
    add("--out", required=True, metavar="FILE.safetensors", help="the codebooks; kept if they are there")
    add("--num-codebooks", type=COUNT, default=8, help="bytes per frame")
    add("--num-codes", type=CODES, default=256, help="entries of a codebook")
    _manifest(add, "utterances to fit on; default: all of --cache", required=False)
    add(
        "--max-seconds",
        type=NOT_NEGATIVE,
        default=3600.0,
        help="audio of utterances drawn at random for the fit; 0 = all (our choice)",
    )
    _seed(add, "of the draw and the fit")
    add("--teacher", metavar="SPEC", help=f"{TEACHER}; with --cache it is checked")
    add("--cache", metavar="DIR", help="features of `colld features`, in place of a teacher")
    add("--kind", choices=KINDS, help="block or feed-forward outputs; default: layer, or --cache's")
    add("--indexes", metavar="DIR", help="also write indexes here, for --teacher-cache; finished if begun")
    add("--index-manifest", metavar=MANIFESTS, help="utterances of --indexes; default: those of the fit, all of them")
    add("--num-shards", type=COUNT, help="processes that share --indexes (default: torchrun's, or 1)")
    add("--shard", type=COUNT_OR_NONE, help="which of them this is, from 0 (default: torchrun's, or 0)")
    _audio_root(add)
    _precision(add)
    _batches(add)
    _max_bad(add)


def average(add: Add) -> None:
    add("checkpoints", nargs="*", metavar="CKPT", help="checkpoints of one model; or --last and --dir")
    add("--out", required=True, metavar="FILE.pt", help="the mean: weights and settings, no optimizer")
    add("--dir", metavar="SAVE_DIR", help="folder of a run, of which --last are taken")
    add("--last", type=COUNT, metavar="N", help="how many of the newest in --dir")
    add(
        "--by",
        choices=("epoch", "update"),
        default="epoch",
        help="of --dir: checkpoint12.pt, or checkpoint_3_500.pt (update)",
    )


def assemble(add: Add) -> None:
    add("--student", required=True, metavar="SPEC", help=f"the encoder: {ENCODERS}")
    decoder = "the decoder, with its tokenizer: a Whisper of the encoder's width"
    add("--decoder-from", required=True, metavar="hf:DIR", help=decoder)
    tokens = "keep only the decoder's tokens in the targets of these manifests, their languages and single characters"
    add("--decoder-tokens-from", default="", metavar=MANIFESTS, help=tokens)
    tail = "silence behind each utterance, in place of what a Whisper-shaped student was trained with"
    add("--tail-seconds", type=NOT_NEGATIVE, help=tail)
    least = "so long at least with its silence, likewise (a published Whisper: 30; students of short windows: 8)"
    add("--least-seconds", type=NOT_NEGATIVE, help=least)
    add("--out", required=True, metavar="FILE.pt", help="the model, with weights and tokenizer")


def transcribe(add: Add) -> None:
    add("checkpoint", metavar="CHECKPOINT", help="a fine-tuned model; several with : are an ensemble")
    add("audio", nargs="*", metavar="AUDIO", help="audio files, folders and zip archives")
    _manifest(add, "instead of AUDIO: manifests, joined", required=False)
    _audio_root(add)
    add("--out", metavar="O.tsv", help="manifest to write, ready for training; finished if begun")
    words = (
        "words with their times and confidences, a file for each utterance in O.words/: srt, vtt, json, ctm, TextGrid"
    )
    add("--words", metavar="FORMAT,...", default="", help=f"{words}; of CTC and transducers, with --out")
    add("--decoder", choices=DECODERS, default="auto", help="default: the model's main one")
    add("--beam", type=COUNT, default=1, help="hypotheses kept (default: %(default)s, greedy)")
    add(
        "--nbest", type=COUNT, default=1, help="hypotheses of each; with --out in O.hypotheses.jsonl, with their scores"
    )
    precision = f"precision of the model, not of streams: bfloat16 is faster for a Whisper on {FAST_BFLOAT16}"
    add("--dtype", choices=PRECISIONS, default="float32", help=precision)
    add("--lang", default="", help="target language of everything (default: each row's own)")
    add("--src-lang", "--source-lang", default="", help="spoken language, noted in --out where a row has none")
    add("--vocab", metavar="DIR", default="", help="vocabulary folder, if it has moved since training")
    _moved_statistics(add)
    add(
        "--options",
        metavar="NAME=VALUE,...",
        default="",
        help="more, as of fairseq-generate: of CTC and transducers hotwords, ngram_lm, blank_penalty, ..., of attention"
        " decoders no_repeat_ngram_size, max_len_a, max_len_b, lenpen, ...",
    )
    cut = "recordings longer than this are cut where they are quietest and transcribed in pieces (default: never)"
    add("--cut-seconds", type=SOME_AUDIO, default=0.0, metavar="SECONDS", help=cut)
    voice = (
        "cut around speech, which silero-vad finds (extra [vad]), and leave silence out, of short files too;"
        " default of --cut-seconds then"
    )
    add("--vad", action="store_true", help=f"{voice}: the longest of the training")
    _batches(add)
    _max_bad(add, 1.0)
    add(
        "--streaming",
        action="store_true",
        help="decode as audio arrives; for models trained with --encoder-context chunk or causal. AUDIO may be -: raw"
        " PCM on standard input, 16 kHz, mono, 16 bits, little-endian",
    )
    add(
        "--chunk-ms",
        type=chunk_ms,
        metavar="MS",
        help="latency: audio of a step (default: 320); without --streaming: a frame's chunk of context, or full, the"
        " whole utterance",
    )
    _right_context(add)
    add(
        "--left-context",
        default="trained",
        help="chunks (causal: frames) of context before a frame's own, full, or trained: the longest limited one",
    )
    add(
        "--endpoint",
        metavar="S,S,S",
        default=ENDPOINT,
        help="an utterance ends after so many seconds of silence without a text, of silence after a text, or in all;"
        " none = with the stream",
    )
    add("--streams", type=COUNT, default=1, help="streams decoded side by side")


def _right_context(add: Add) -> None:
    help = "latency: audio after its chunk that a frame takes in, too; a step waits for it and computes it twice"
    add("--right-ms", type=COUNT_OR_NONE, default=0, metavar="MS", help=help)


def chunk_ms(text: str) -> Union[int, str]:
    """Milliseconds, or "full"."""
    return text if text == "full" else int(COUNT(text))


def chunks_ms(text: str) -> List[Union[int, str]]:
    """ "80,160,full"."""
    return [chunk_ms(part) for part in text.split(",")]


def delay(add: Add) -> None:
    add("checkpoint", metavar="CHECKPOINT", help="a fine-tuned model that streams, with CTC or a transducer")
    _manifest(add, "utterances with transcripts, joined")
    _audio_root(add)
    add(
        "--chunk-ms",
        type=chunks_ms,
        default=[80, 160, 320, 640],
        metavar="MS,MS,...",
        help="latencies (default: 80,160,320,640); full is the whole utterance",
    )
    _right_context(add)
    add("--left-context", default="trained", help="as of `colld transcribe`")
    add(
        "--reference", metavar="CKPT", default="", help="model with full context to compare with; default: the same one"
    )
    add("--decoder", choices=("auto", "ctc", "transducer"), default="auto", help="default: the model's main one")
    add("--lang", default="", help="target language of everything (default: each row's own)")
    add("--vocab", metavar="DIR", default="", help="vocabulary folder, if it has moved since training")
    _moved_statistics(add)
    _max_bad(add, 1.0)
    add("--device", help="cpu or cuda; default: cuda where there is one")
    add("--json", metavar="FILE", help="also write the figures to this file")


def score(add: Add) -> None:
    add("--generate-output", metavar="FILE", help="written by fairseq-generate (its T- and D- lines are read)")
    _manifest(add, "the manifests that were decoded, in the same order", required=False)
    add(
        "--references",
        choices=("generate", "manifest"),
        default="generate",
        help="from the T- lines, as the vocabulary writes them, or the manifest's tgt_text",
    )
    add("--transcripts", metavar="O.tsv", help="instead of --generate-output: manifest written by `colld transcribe`")
    add("--hyp", metavar="FILE", help="instead of --generate-output: hypotheses, one per line; - is standard input")
    add("--ref", metavar="FILE", help="references, one per line")
    add(
        "--lang",
        default="",
        help="target language of all lines (ISO 639), or a file with one code (or source<TAB>target) per line",
    )
    _text_options(add, "on both sides, before scoring")
    add("--json", metavar="FILE", help="also write everything to this file")


def report(add: Add) -> None:
    folders = (
        "output folders of recipes, or of your own runs: generate-*.txt, colld score --json, training logs; of the"
        " campaign OUT/CLAIM.plan.json"
    )
    add("folders", nargs="*", metavar="DIR", help=folders)
    add("--out", metavar="PAGE.html", help="the page; default: report.html in DIR, if there is one DIR")
    _manifest(
        add, "of what was decoded, where it is not in DIR; by name: test.tsv of generate-test.txt", required=False
    )
    _audio_root(add)
    add("--baseline", default="", metavar="SYSTEM", help="compare all systems with it; default: what the recipes ask")
    listed = "of each test set, so many of the worst and of the most changed"
    add("--utterances", type=COUNT_OR_NONE, default=6, metavar="N", help=listed)
    add("--audio-mb", type=NOT_NEGATIVE, default=8.0, metavar="MB", help="audio in the page, at most (10^6 bytes)")
    add("--resamples", type=DRAWS, default=1000, metavar="N", help="draws of the bootstrap; default: 1000, sacrebleu's")


def similarity(add: Add) -> None:
    _manifest(add)
    add("--student", nargs="+", default=[], metavar="CKPT.pt", help="one student or two, of any stage of training")
    add("--teacher", nargs="+", default=[], metavar="SPEC", help=f"one teacher or two: {TEACHER}")
    add("--out", required=True, metavar="PREFIX", help="writes PREFIX.tsv (all numbers) and PREFIX.png (heat maps)")
    for name, which in (("row", "first"), ("column", "second")):
        add(f"--{name}-layers", type=layers, metavar="0,2,4", help=f"layers of the {which} model (default: all)")
    add(
        "--max-seconds",
        type=NOT_NEGATIVE,
        default=3600.0,
        help="audio of utterances drawn at random; 0 = all (our choice)",
    )
    _seed(add, "of the draw")
    add(
        "--cca-variance",
        type=VARIANCE,
        default=0.99,
        help="share of a layer's variance whose principal components CCA compares, as SVCCA; 1 = plain CCA",
    )
    _moved_statistics(add)
    _audio_root(add)
    _batches(add)
    _max_bad(add)


def convert(add: Add) -> None:
    add("--from", dest="source", required=True, metavar="SPEC", help=f"encoder to read: {ENCODERS}")
    add("--to", dest="target", required=True, metavar="SPEC", help="where to write it, likewise")
    add(
        "--decoder-from",
        metavar="hf:DIR",
        help="write a complete Whisper: the encoder with this one's decoder, tokenizer and settings",
    )
    head = "write a complete CTC recognizer, with tokenizer and feature extractor, and code where transformers has none"
    add("--head", action="store_true", help=head)
    add("--vocab", metavar="DIR", default="", help="of --head: vocabulary of an older checkpoint without a copy of it")
    add("--scores", metavar="FILE", default="", help="of --head: what `colld score --json` wrote, for the model card")
    add("--wav", metavar="FILE", help="audio to compare the two on; default: a generated signal of 2 s")
    add(
        "--tolerance",
        type=NOT_NEGATIVE,
        default=1e-4,
        help="largest difference of a layer, relative to its largest value if above 1; beyond it nothing is written",
    )
    add("--overwrite", action="store_true", help="replace the target if it exists")


def export(add: Add) -> None:
    add("--checkpoint", required=True, metavar="CKPT.pt", help="a fine-tuned or assembled student")
    add("--to", choices=TARGETS, required=True, help="onnx: a graph for ONNX Runtime; else for this client")
    add("folder", metavar="DIR", help="folder to write; with --wav one that was written before is compared alone")
    joint = "default: the model's main one; ctc: a CTC layer that an attention decoder or a transducer has beside it"
    add("--decoder", choices=("auto", "ctc"), default="auto", help=joint)
    add("--int8", action="store_true", help="also write weights in 8 bits, as *.int8.onnx")
    add(
        "--streaming",
        action="store_true",
        help="a transducer of streams, trained with --encoder-context chunk or causal",
    )
    add("--chunk-ms", type=COUNT, help="audio of a step of a stream (default: 320)")
    left = "chunks (causal: frames) of context before a step (default: trained, the longest limited one)"
    add("--left-context", help=left)
    add("--lang", default="", help="target language of a model with tags (default: a decoder for each), or of --wav")
    add("--wav", metavar="FILE", help="run it in ONNX Runtime and in the client, and name what differs from PyTorch")
    add("--src-lang", default="", help="language spoken in --wav, where a Whisper translates (default: --lang)")
    add("--vocab", metavar="DIR", default="", help="vocabulary folder, if it has moved since training")
    exporter = "of torch: dynamo (supported), or torchscript (deprecated, faster); default: what suits the model"
    add("--exporter", choices=EXPORTERS, default="", help=exporter)
    add("--overwrite", action="store_true", help="replace DIR if it exists")


def import_(add: Add) -> None:
    add("source", metavar="onnx:DIR", help="folder that `colld export` wrote, with its 32-bit graphs")
    add("--out", required=True, metavar="CKPT.pt", help="checkpoint to write")


def profile(add: Add) -> None:
    add("--student", nargs="+", default=[], metavar="CKPT.pt", help="student checkpoints, of any stage")
    _moved_statistics(add)
    add(
        "--exported",
        nargs="+",
        default=[],
        metavar="onnx:DIR",
        help="folders of `colld export`: their encoders in ONNX Runtime, and the same weights in PyTorch",
    )
    add("--teacher", nargs="+", default=[], metavar="SPEC", help=f"{TEACHER}, all its layers")
    add(
        "--plot",
        nargs="+",
        metavar=("FILE.png", "NAME SCORE"),
        help="a plot of quality against size and speed: the score's name, and that of each model, as in the table",
    )
    add("--seconds", type=SOME_AUDIO, default=10.0, help="audio of a timed utterance")
    add("--batch-sizes", type=batch_sizes, default=[1, 8], metavar="1,8", help="utterances at once (default: 1,8)")
    add("--runs", type=COUNT, default=5, help="timed runs, of which the median counts")
    add("--threads", type=COUNT, help="threads of the CPU (default: torch's choice)")
    add("--device", help="cpu or cuda; default: cuda where there is one")
    add("--json", metavar="FILE", help="also write everything to this file")


def of(command: str) -> Callable[[Add], None]:
    """The function here that adds a command's options."""
    return globals()[python_name(command)]


def python_name(command: str) -> str:
    """Of a command's module and of its function here: `import` is a word of Python."""
    return f"{command}_" if keyword.iskeyword(command) else command
