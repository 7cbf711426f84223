"""Greedy search of a transducer for a whole batch, beside loops over utterances.

    python benchmarks/transducer_greedy.py [--quick] [--batch-sizes 1,4,16,32] [--json FILE]

Predictor and joiner are those of `transducer_student` at its default size, with random weights except one unit of the
joiner, which knows when a label is due, as that of a trained network does: about 5 labels per second at 25 frames per
second, utterances of 6 to 16 s. Encoders are not timed. All searches take turns in one process and must find the same
labels; medians of the processor time of this process are compared, which leaves out what other programs take from a
shared machine (on one thread and an idle machine it is the time on the clock, which is recorded too).

- batched: `decoding.transducer.GreedySearch`
- frame by frame: a batch at once too, every utterance at the same frame, the predictor run only where something was
  emitted (icefall's greedy_search_batch; one label a frame at most, so it may find fewer)
- loop over utterances: one utterance after the other, one join a symbol, projections outside the loop, torch's LSTM or
  convolution as the predictor, ln p of what is chosen (all others give it too)
- loop, our steps: the same with the single-step predictors of `transducer_student` and without ln p, the fastest loop
  we can write
- batched, one by one: the first on batches of one utterance
- beam 4, batched: for comparison, modified beam search

Target: at batch 16 the batched search is at least 5 times as fast as the loop over utterances. Exit code 1 if not
(with --quick there is none).
"""

import argparse
import functools
import json
import os
import platform
import random
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

from colld_fairseq.decoding.transducer import GreedySearch, Scorer
from colld_fairseq.decoding.transducer_beam import BeamSearch
from colld_fairseq.modules.transducer import Joiner, LstmPredictor, StatelessPredictor

TARGET, TARGET_BATCH = 5.0, 16
BLANK, PAD, EOS = 0, 1, 2
WIDTH = 320  # of predictor and joiner
FRAME_RATE, LABEL_RATE, SECONDS = 25, 5.0, (12.0, 15.0)
MAX_SYMBOLS = 10


class PlantedNetwork:
    """Unit 0 of the joiner is +1 where a label is due and -1 where none is: its input is half more than the labels
    due by this frame, less the labels emitted, times a large number. The state of the predictor counts them."""

    STEEP = 20.0

    def __init__(self, kind, vocabulary):
        torch.manual_seed(0)
        if kind == "lstm":
            self.predictor = LstmPredictor(vocabulary, WIDTH, 1, 0.0, BLANK, PAD).eval()
        else:
            self.predictor = StatelessPredictor(vocabulary, WIDTH, 2, 0.0, BLANK, PAD).eval()
        self.joiner = Joiner(WIDTH, WIDTH, WIDTH, vocabulary, "tanh").eval()
        self.joiner.output.weight.data[:, 0] = 0.0
        self.joiner.output.weight.data[BLANK, 0] = -20.0
        self.joiner.output.bias.data[[PAD, EOS]] = -torch.inf

    def frames(self, due):
        """[B, T] labels due by each frame -> projected frames [B, T, J]."""
        generator = torch.Generator().manual_seed(1)
        frames = self.joiner.encoder_projection(torch.randn(*due.shape, WIDTH, generator=generator))
        frames[..., 0] = self.STEEP * (due - 0.5)
        return frames

    def start(self, rows, tags=None):
        first = self._step(self.predictor.start_tokens(rows), self.predictor.start(rows))
        return self._counted(*first, torch.zeros(rows))

    def extend(self, tokens, state):
        *own, count = state
        return self._counted(*self._step(tokens, tuple(own)), count + 1)

    def join(self, frames, symbols):
        return self.joiner(frames, symbols)

    def torch_start(self, rows):
        """As `start`, one call of the predictor as it is trained; the state is torch's, or the symbols so far."""
        first = torch.zeros(rows, 1, dtype=torch.int64)
        return self._counted(*self._torch_step(first, None), torch.zeros(rows))

    def torch_extend(self, tokens, state):
        *own, count = state
        return self._counted(*self._torch_step(tokens[:, None], own[0]), count + 1)

    def _torch_step(self, tokens, state):
        if isinstance(self.predictor, LstmPredictor):
            output, state = self.predictor.lstm(self.predictor.embed(tokens), state)
        else:
            state = tokens if state is None else torch.cat((state[:, -1:], tokens), dim=1)
            output = self.predictor(state)
        return self.joiner.predictor_projection(output[:, -1]), (state,)

    def _step(self, tokens, state):
        output, state = self.predictor.step(tokens, state)
        return self.joiner.predictor_projection(output), state

    def _counted(self, symbols, state, count):
        symbols[:, 0] = -self.STEEP * count
        return symbols, (*state, count)


def make_batch(network, size):
    """(frames [B, T, J], lengths [B])"""
    draw = random.Random(size)
    lengths = [round(FRAME_RATE * draw.uniform(*SECONDS)) for _ in range(size)]
    due = torch.zeros(size, max(lengths))
    for row, length in zip(due, lengths):
        for frame in draw.sample(range(length), round(length * LABEL_RATE / FRAME_RATE)):
            row[frame] = 1.0
    return network.frames(due.cumsum(1)), torch.tensor(lengths)


def batched(scorer, frames, lengths):
    return [h.tokens for (h,) in GreedySearch(MAX_SYMBOLS)(scorer, frames, lengths)]


def one_by_one(scorer, frames, lengths):
    rows = zip(frames.split(1), lengths.split(1))
    return [tokens for x, n in rows for tokens in batched(scorer, x[:, : int(n)], n)]


def beam(scorer, frames, lengths):
    return [h.tokens for (h,) in BeamSearch(4, max_symbols=3)(scorer, frames, lengths)]


def loop(scorer, frames, lengths, ours=False):
    """The textbook: join, take the best symbol, step the predictor."""
    network, results = scorer.networks[0], []
    start, extend = (network.start, network.extend) if ours else (network.torch_start, network.torch_extend)
    for utterance, length in zip(frames, lengths.tolist()):
        tokens, total, t, here = [], 0.0, 0, 0
        symbols, state = start(1)
        while t < length:
            scores = network.join(utterance[t], symbols[0])
            if ours:
                token = scores.argmax().item()
            else:
                scores = scores.log_softmax(-1)
                best, token = (x.item() for x in scores.max(-1))
                total += best if here < MAX_SYMBOLS else scores[scorer.blank].item()
            if token == scorer.blank or here == MAX_SYMBOLS:
                t, here = t + 1, 0
                continue
            tokens.append(token)
            here += 1
            symbols, state = extend(torch.tensor([token]), state)
        results.append(tokens)
    return results


def frame_by_frame(scorer, frames, lengths):
    results = [[] for _ in frames]
    symbols, state = scorer.start(len(frames))
    for t in range(frames.size(1)):
        inside = t < lengths
        tokens = scorer.log_probs(frames[:, t], symbols).argmax(1)
        emitted = ((tokens != scorer.blank) & inside).nonzero()[:, 0]
        if len(emitted):
            for i, token in zip(emitted.tolist(), tokens[emitted].tolist()):
                results[i].append(token)
            changed = scorer.extend(tokens[emitted], tuple(x[emitted] for x in state))
            symbols = symbols.index_copy(0, emitted, changed[0])
            state = tuple(x.index_copy(0, emitted, new) for x, new in zip(state, changed[1]))
    return results


SEARCHES = {
    "batched": batched,
    "frame by frame": frame_by_frame,
    "loop over utterances": loop,
    "loop, our steps": functools.partial(loop, ours=True),
    "batched, one by one": one_by_one,
    "beam 4, batched": beam,
}


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", default="1,4,16,32", help="comma-separated")
    parser.add_argument("--predictors", default="lstm,stateless")
    parser.add_argument("--vocabulary", type=int, default=500)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two runs of small batches, to see that it works")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    args = parser.parse_args(arguments)
    if args.quick:
        args.batch_sizes, args.runs = "2", 2
    args.batch_sizes = [int(size) for size in args.batch_sizes.split(",")]
    return args


def measure(kind, size, args):
    """Figures of one predictor and batch size."""
    network = PlantedNetwork(kind, args.vocabulary)
    scorer = Scorer([network], [WIDTH], BLANK, [PAD, EOS])
    frames, lengths = make_batch(network, size)
    wall, cpu, results = defaultdict(list), defaultdict(list), {}
    for round_index in range(args.runs + 1):  # the first round warms up
        for name, search in SEARCHES.items():
            start = time.perf_counter(), time.process_time()
            results[name] = search(scorer, frames, lengths)
            if round_index:
                wall[name].append(time.perf_counter() - start[0])
                cpu[name].append(time.process_time() - start[1])
    for name in set(SEARCHES) - {"beam 4, batched"}:
        if results[name] != results["batched"]:
            raise AssertionError(f"{kind}, batch {size}: {name} finds other labels than batched")
    median = {name: statistics.median(times) for name, times in cpu.items()}
    return {
        "predictor": kind,
        "batch": size,
        "frames": lengths.tolist(),
        "labels": [len(tokens) for tokens in results["batched"]],
        "audio_seconds": int(lengths.sum()) / FRAME_RATE,
        "cpu_seconds": median,
        "seconds": {name: statistics.median(times) for name, times in wall.items()},
        "all_cpu_seconds": dict(cpu),
        "times_batched": {name: value / median["batched"] for name, value in median.items()},
    }


def run(args):
    result = {
        "hardware": f"{platform.machine()} CPU, {args.threads} threads, load {os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
        "clock": "processor time of the process, medians; searches in turn",
        "vocabulary": args.vocabulary,
        "runs": args.runs,
        "cases": [],
    }
    print(f"{result['hardware']}, torch {result['torch']}, V = {args.vocabulary}, {args.runs} runs")
    for kind in args.predictors.split(","):
        for size in args.batch_sizes:
            case = measure(kind, size, args)
            result["cases"].append(case)
            print(f"\n{kind} predictor, batch {size}: {sum(case['frames'])} frames, {sum(case['labels'])} labels")
            print(f"{'':<24}{'ms':>9}{'CPU ms':>9}{'RTF':>10}{'time / batched':>16}")
            for name, seconds in case["cpu_seconds"].items():
                rtf = seconds / case["audio_seconds"]
                print(
                    f"{name:<24}{1e3 * case['seconds'][name]:>9.1f}{1e3 * seconds:>9.1f}{rtf:>10.5f}"
                    f"{case['times_batched'][name]:>16.2f}"
                )
    return result


def missed(result):
    """Predictors whose batched search misses the target."""
    return [
        case["predictor"]
        for case in result["cases"]
        if case["batch"] == TARGET_BATCH and case["times_batched"]["loop over utterances"] < TARGET
    ]


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        result = run(args)
    if args.json:
        temporary = Path(args.json + ".tmp")
        temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
        os.replace(temporary, args.json)
    names = [] if args.quick else missed(result)
    for name in names:
        print(f"MISSED: {name} predictor, batch {TARGET_BATCH}, target {TARGET:g} times the loop")
    return int(bool(names))


if __name__ == "__main__":
    sys.exit(main())
