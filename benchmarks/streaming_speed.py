"""Speed of streaming recognition: real-time factor, time of a step, and what a listener waits for.

    python benchmarks/streaming_speed.py                                # conformer_10m, 80 to 640 ms, one thread
    python benchmarks/streaming_speed.py --models ctc --chunk-ms 160,320 --json speed.json
    python benchmarks/streaming_speed.py --beam 4

A transducer of the preset's encoder (chunk-wise, with a left context of 2.56 s), an LSTM predictor and a joiner, and
the same encoder with a CTC layer; with random weights, made to write about as many labels per second as a recogniser of
speech.
Noise arrives in pieces of 20 ms. Everything from samples to text is timed: filterbanks, encoder, search. For each chunk
size: one stream alone, several streams in one batch, and the same utterance at once under the same context ("whole"),
whose result must be the same. Delays are those of a live stream, whose clock goes on while a step is computed.

Target: conformer_10m on one core with chunks of 320 ms: real-time factor at most 0.3.
"""

import argparse
import json
import logging
import statistics
import time

import numpy as np
import torch

from colld_fairseq.data.fbank import log_mel_fbank
from colld_fairseq.decoding.ctc import CtcDecoder
from colld_fairseq.decoding.real_time import cut, listen
from colld_fairseq.decoding.streaming import StreamingRecogniser
from colld_fairseq.decoding.transducer import GreedySearch, Scorer
from colld_fairseq.decoding.transducer_beam import BeamSearch
from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.streaming import StreamingEncoder
from colld_fairseq.modules.transducer import Joiner, LstmPredictor
from colld_fairseq.profiling import describe_machine

SAMPLE_RATE, PREDICTOR, LEFT_MS = 16000, 320, 2560
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TARGET = {"preset": "conformer_10m", "chunk_ms": 320, "rtf": 0.3}
BISECTIONS = 20


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="conformer_10m")
    parser.add_argument("--models", default="transducer,ctc", help="comma-separated, of these two (default: both)")
    parser.add_argument("--chunk-ms", default="80,160,320,640", help="comma-separated")
    parser.add_argument("--streams", type=int, default=8, help="in the batch of several")
    parser.add_argument("--beam", type=int, default=1, help="1 is greedy search (default)")
    parser.add_argument("--vocabulary", type=int, default=256)
    parser.add_argument("--labels-per-second", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of an utterance")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width-divisor", type=int, default=1, help="narrower encoder, to try the benchmark itself")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="cpu: where other work is done too")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    args = parser.parse_args(arguments)
    args.chunk_ms = [int(chunk) for chunk in args.chunk_ms.split(",")]
    args.models = args.models.split(",")
    if not set(args.models) <= set(MODELS):
        parser.error(f"--models: choose from {', '.join(MODELS)}")
    if min(args.streams, args.beam, args.rounds, args.threads, args.width_divisor, *args.chunk_ms) < 1:
        parser.error("--chunk-ms, --streams, --beam, --rounds, --threads and --width-divisor must be at least 1")
    return args


def build_encoder(preset, width_divisor):
    torch.manual_seed(0)
    fields = dict(PRESETS[preset], context="chunk", causal_conv=True)
    for name in ("embed_dim", "ffn_dim"):
        fields[name] //= width_divisor
    return StudentEncoder(EncoderConfig(**fields)).eval()


def count_parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


class Transducer:
    """Encoder, predictor and joiner with random weights, as a search sees them."""

    def __init__(self, args):
        self.encoder = build_encoder(args.preset, args.width_divisor)
        self.predictor = LstmPredictor(args.vocabulary, PREDICTOR, 1, 0.0, 0, 1).eval()
        self.joiner = Joiner(self.encoder.width, PREDICTOR, PREDICTOR, args.vocabulary, "tanh").eval()
        # Fresh layers give nearly the same scores whatever the input.
        self.joiner.output.weight.data.mul_(5)
        self.joiner.encoder_projection.weight.data.mul_(3)
        self.scorer = Scorer([self], [PREDICTOR], 0, [1])
        self.search = BeamSearch(args.beam) if args.beam > 1 else GreedySearch()
        self.parameters = self.encoder.num_parameters() + count_parameters(self.predictor, self.joiner)

    def project(self, x):
        return self.joiner.encoder_projection(x)

    def start(self, rows, tags=None):
        return self.extend(self.predictor.start_tokens(rows), self.predictor.start(rows, tags))

    def extend(self, tokens, state):
        output, state = self.predictor.step(tokens, state)
        return self.joiner.predictor_projection(output), state

    def join(self, frames, symbols):
        return self.joiner(frames, symbols)

    def ask_for_more(self, much):
        """A beam: by its length bonus; greedy search: by the penalty on the blank, which changes no beam's order."""
        beam = isinstance(self.search, BeamSearch)
        target, name = (self.search, "length_bonus") if beam else (self.scorer, "blank_penalty")
        object.__setattr__(target, name, much)  # a search is frozen, for all who share it; this one is ours alone


class Ctc:
    """Encoder and CTC layer with random weights."""

    def __init__(self, args):
        self.encoder = build_encoder(args.preset, args.width_divisor)
        self.output = torch.nn.Linear(self.encoder.width, args.vocabulary)
        self.output.weight.data.mul_(5)
        self.scorer, self.search = None, CtcDecoder(0, [1], args.beam).search
        self.parameters = self.encoder.num_parameters() + count_parameters(self.output)
        self.blank_penalty = 0.0

    def project(self, x):
        logits = self.output(x)
        logits[..., 0] -= self.blank_penalty
        return logits.log_softmax(-1)

    def ask_for_more(self, much):
        self.blank_penalty = much


MODELS = {"transducer": Transducer, "ctc": Ctc}


def noise(seconds, seed):
    """Noise that changes its loudness every 100 ms, float32 [N]."""
    generator = np.random.default_rng(seed)
    loudness = np.repeat(generator.uniform(0.001, 0.3, 1 + int(seconds * 10)), SAMPLE_RATE // 10)
    samples = loudness[: round(seconds * SAMPLE_RATE)]
    return (samples * generator.standard_normal(len(samples))).astype(np.float32)


def normalize(features):
    """In place of a corpus' statistics."""
    return ((features + 7.0) / 3.0).astype(np.float32)


def recognize(network, x):
    """Labels of one utterance at once, encoder frames [1, T, D]."""
    frames = network.project(x)
    return network.search(network.scorer, frames, torch.tensor([frames.size(1)]))[0][0].tokens


def ask_for_labels(network, x, labels):
    """Set what makes hypotheses longer so that the search writes about so many labels."""
    low, high = -50.0, 50.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        network.ask_for_more(middle)
        few = len(recognize(network, x)) < labels
        low, high = (middle, high) if few else (low, middle)
    network.ask_for_more(high)


@torch.inference_mode()
def measure(args):
    """Everything that is printed, ready for JSON."""
    torch.set_num_threads(args.threads)
    utterances = [noise(args.seconds, seed) for seed in range(args.streams)]
    rows, parameters = [], {}
    for name in args.models:
        network = MODELS[name](args)
        parameters[name] = network.parameters
        rows += [measure_chunk(args, network, utterances, chunk_ms, model=name) for chunk_ms in args.chunk_ms]
    return {
        "machine": describe_machine(torch.device("cpu")),
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "left_ms": LEFT_MS,
        "parameters": parameters,
        "chunks": rows,
        "target": TARGET,
    }


def measure_chunk(args, network, utterances, chunk_ms, **row):
    """Everything of one model and one chunk size."""
    chunk = round(chunk_ms * network.encoder.frame_rate_hz / 1000)
    left = round(LEFT_MS / chunk_ms)
    network.encoder.set_chunk(chunk, left)

    def whole():
        features = torch.from_numpy(normalize(log_mel_fbank(utterances[0])))[None]
        return network.encoder(features).x

    x = whole()
    ask_for_labels(network, x, args.labels_per_second * args.seconds)
    recogniser = StreamingRecogniser(
        StreamingEncoder(network.encoder, chunk, left),
        network.scorer,
        network.search,
        project=network.project,
        detokenize=lambda tokens: " ".join(map(str, tokens)),
        normalize=normalize,
        endpoint=None,
    )
    expected = recognize(network, x)
    row.update(chunk_ms=chunk_ms, labels_per_second=len(expected) / args.seconds)
    row.update(time_chunk(args, recogniser, utterances, expected))
    clock, spent = CLOCKS[args.clock], []
    for _ in range(args.rounds):
        begin = clock()
        recognize(network, whole())
        spent.append(clock() - begin)
    return dict(row, whole_rtf=statistics.median(spent) / args.seconds)


def time_chunk(args, recogniser, utterances, expected):
    """One chunk size: medians over the rounds; the first round only warms up."""
    alone, together, timer = [], [], CLOCKS[args.clock]
    for round_index in range(args.rounds + 1):
        tokens_of = {}

        def keep(stream, result, final):
            tokens_of[stream] = result.tokens

        one = listen(recogniser, [cut(utterances[0])], keep, timer=timer)[0]
        if tokens_of.get(0, []) != expected:
            raise RuntimeError(f"the stream says {tokens_of.get(0)}, the whole utterance {expected}")
        several = listen(recogniser, [cut(utterance) for utterance in utterances], keep, timer=timer)
        if round_index:
            alone.append(one)
            together.append(sum(latency.work for latency in several) / sum(latency.audio for latency in several))
    steps = args.seconds / recogniser.chunk_seconds
    return {
        "rtf": statistics.median(one.work / one.audio for one in alone),
        "step_ms": 1000 * statistics.median(one.work for one in alone) / steps,
        "rtf_of_several": statistics.median(together),
        "first_text_s": statistics.median(one.first for one in alone),
        "emission_delay_s": statistics.median(statistics.mean(one.delays) for one in alone),
        "final_s": statistics.median(one.final for one in alone),
    }


def print_table(result):
    machine, settings = result["machine"], result["settings"]
    print(
        f"{machine['cpu']}, {settings['threads']} threads, torch {machine['torch']}; {settings['preset']},"
        f" beam {settings['beam']},"
        f" {max(result['parameters'].values()) / 1e6:.1f} M parameters; {settings['seconds']:g} s of audio,"
        f" {settings['rounds']} rounds, {settings['clock']} time\n"
    )
    several = f"RTF of {settings['streams']}"
    titles = f"model|chunk|RTF|ms a step|{several}|RTF whole|labels/s|first text|delay|after the end".split("|")
    print("".join(f"{title:>14}" for title in titles))
    for row in result["chunks"]:
        figures = [row["model"], f"{row['chunk_ms']} ms", f"{row['rtf']:.4f}", f"{row['step_ms']:.1f}"]
        figures += [f"{row['rtf_of_several']:.4f}", f"{row['whole_rtf']:.4f}", f"{row['labels_per_second']:.1f}"]
        figures += [f"{row[name]:.3f} s" for name in ("first_text_s", "emission_delay_s", "final_s")]
        print("".join(f"{figure:>14}" for figure in figures))
        if (settings["preset"], row["chunk_ms"]) == (TARGET["preset"], TARGET["chunk_ms"]):
            met = "met" if row["rtf"] <= TARGET["rtf"] else "missed"
            print(f"{'':>14}(target: RTF at most {TARGET['rtf']}: {met})")


def main():
    args = parse_arguments()
    result = measure(args)
    print_table(result)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(result, out, indent=1)


if __name__ == "__main__":
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    main()
