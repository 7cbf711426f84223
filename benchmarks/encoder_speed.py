"""Parameters, multiply-accumulates, speed and memory of a HuBERT Base encoder and of its students, side by side.

    python benchmarks/encoder_speed.py                                   # all, CPU, one thread
    python benchmarks/encoder_speed.py --threads 4 --json speed.json

Every figure is from waveforms in memory to the features of the last layer; the front-end is part of it, and so are
Kaldi's filterbanks where the student takes those. The HuBERT Base shape is timed in this package and, with the same
(random) weights and the same input, in transformers (each attention implementation; the fastest counts) and in
fairseq; their outputs must agree to 1e-4. All models run in turn in each round, in one process, in inference mode;
real-time factors are medians over the rounds, ratios are medians of each round's ratio. Peak memory is the weights
and what a forward pass needs beyond them.

Targets at batch 1: deep_thin_fbank at least 2 times as fast as deep_thin, and at least 5 times (aim: 8) as fast as
HuBERT Base; ours at least 1.15 times as fast as either peer on the same HuBERT Base.

On a machine that is busy with other work --clock cpu counts the processor time of this process instead.
"""

import argparse
import json
import logging
import statistics
import time
from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch

from colld_fairseq.checkpoints import names_fairseq, names_hf
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.models.encoder_presets import HUBERT_BASE, PRESETS
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.profiling import count_macs, describe_machine, working_memory

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SAMPLE_RATE, MACS_SECONDS = 16000, 10
TOLERANCE = 1e-4
BASE = "hubert_base"
STUDENTS = ("deep_thin", "shallow_wide", "deep_thin_fbank")
HF_ATTENTION = ("eager", "sdpa")
TRAINING_ONLY = ("mask_emb", "masked_spec_embed")  # no part of an encoder at work
CPU = torch.device("cpu")


@dataclass
class Subject:
    """What is measured. ``run``: float32 waveforms [B, N] -> features of the last layer [B, T, D]."""

    name: str
    model: torch.nn.Module
    run: Callable[[np.ndarray], torch.Tensor]

    @property
    def parameters(self):
        named = self.model.named_parameters()
        return sum(p.numel() for name, p in named if name.rpartition(".")[2] not in TRAINING_ONLY)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of an utterance")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before those that count")
    parser.add_argument("--batch-sizes", default="1,8", help="comma-separated; the targets need a 1")
    parser.add_argument("--width-divisor", type=int, default=1, help="narrower models, to try the benchmark itself")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    args = parser.parse_args(arguments)
    args.batch_sizes = [int(size) for size in args.batch_sizes.split(",")]
    if args.width_divisor not in (1, 2, 4):
        parser.error("--width-divisor must be 1, 2 or 4")
    if min(args.threads, args.rounds, *args.batch_sizes) < 1:
        parser.error("--threads, --rounds and --batch-sizes must be at least 1")
    return args


def encoder_config(fields, divisor):
    config = EncoderConfig(**fields)
    for name in ("embed_dim", "ffn_dim", "conv_pos_groups"):
        setattr(config, name, getattr(config, name) // divisor)
    config.conv_layers = [[channels // divisor, *rest] for channels, *rest in config.conv_layers]
    return config


def our_subject(name, config):
    torch.manual_seed(0)
    encoder = StudentEncoder(config).eval()
    front_end = StudentInput(config.input or InputConfig(config.input_kind, normalization="none"))

    def run(waveforms):
        return encoder(torch.from_numpy(np.stack([front_end(waveform) for waveform in waveforms]))).x

    return Subject(name, encoder, run)


def transformers_subject(state, config, attention):
    from transformers import HubertConfig, HubertModel

    model = HubertModel(HubertConfig(**names_hf.hubert_settings(config)[0], attn_implementation=attention)).eval()
    model.load_state_dict(names_hf.WAV2VEC.to_theirs(state))
    return Subject(f"transformers, {attention}", model, lambda waves: model(torch.from_numpy(waves)).last_hidden_state)


def fairseq_subject(state, config):
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    fields = names_fairseq.hubert_settings(config)[0]
    model = HubertModel(HubertConfig(**fields, label_rate=50), HubertPretrainingConfig(), [None]).eval()
    model.remove_pretraining_modules()
    weights = names_fairseq.hubert_weights(state, config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise RuntimeError(f"fairseq's HuBERT and ours differ in {missing + unexpected}")

    def run(waves):
        return model.extract_features(torch.from_numpy(waves), padding_mask=None, mask=False)[0]

    return Subject("fairseq", model, run)


def make_subjects(divisor):
    base = encoder_config(dict(HUBERT_BASE, layers=12), divisor)
    ours = our_subject(BASE, base)
    state = ours.model.state_dict()
    peers = [transformers_subject(state, base, attention) for attention in HF_ATTENTION]
    peers.append(fairseq_subject(state, base))
    students = [our_subject(name, encoder_config(PRESETS[name], divisor)) for name in STUDENTS]
    return ours, peers, students


def noise(batch_size, seconds):
    """Quiet noise, float32 [B, N]: the time does not depend on what is said."""
    samples = np.random.default_rng(0).standard_normal((batch_size, round(seconds * SAMPLE_RATE)))
    return (0.1 * samples).astype(np.float32)


def check_agreement(ours, peers, waveforms):
    """Largest difference to each peer's features; RuntimeError above the tolerance."""
    expected = ours.run(waveforms)
    differences = {peer.name: (peer.run(waveforms) - expected).abs().max().item() for peer in peers}
    wrong = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        raise RuntimeError(f"features differ from ours by more than {TOLERANCE}: {wrong}")
    return differences


def time_in_turn(subjects, waveforms, rounds, warm_up, clock):
    """Seconds of every round, name -> list."""
    seconds = {subject.name: [] for subject in subjects}
    for round_index in range(warm_up + rounds):
        for subject in subjects:
            start = clock()
            subject.run(waveforms)
            if round_index >= warm_up:
                seconds[subject.name].append(clock() - start)
    return seconds


def ratio(slow, fast):
    """How many times as fast: median over the rounds, in which both ran one after the other."""
    return statistics.median(a / b for a, b in zip(slow, fast))


def compare(seconds, peers):
    """The figures that have targets, from the seconds of batch size 1."""
    hf = min((name for name in peers if name != "fairseq"), key=lambda name: statistics.median(seconds[name]))
    fbank = seconds["deep_thin_fbank"]
    return [
        ("deep_thin_fbank against deep_thin", ratio(seconds["deep_thin"], fbank), 2.0),
        (f"deep_thin_fbank against {BASE}", ratio(seconds[BASE], fbank), 5.0),
        (f"deep_thin_fbank against {BASE} in {hf}", ratio(seconds[hf], fbank), None),
        (f"deep_thin_fbank against {BASE} in fairseq", ratio(seconds["fairseq"], fbank), None),
        (f"{BASE} against {hf}", ratio(seconds[hf], seconds[BASE]), 1.15),
        (f"{BASE} against fairseq", ratio(seconds["fairseq"], seconds[BASE]), 1.15),
    ]


def run(args):
    torch.set_num_threads(args.threads)
    ours, peers, students = make_subjects(args.width_divisor)
    utterance = noise(1, MACS_SECONDS)
    models = {
        subject.name: {
            "parameters": subject.parameters,
            "gmacs_per_10s": count_macs(lambda: subject.run(utterance)) / 1e9,
        }
        for subject in [ours, *peers, *students]
    }
    with torch.inference_mode():
        return measure(args, ours, peers, students, models)


def measure(args, ours, peers, students, models):
    """Everything that is printed, ready for JSON; ``models`` has what needs no timing."""
    subjects = [ours, *peers, *students]
    differences = check_agreement(ours, peers, noise(2, min(args.seconds, 5.0)))
    for name, figures in models.items():
        figures.update(difference_to_ours=differences.get(name), speed={})
    comparisons = []
    for batch_size in args.batch_sizes:
        waveforms = noise(batch_size, args.seconds)
        seconds = time_in_turn(subjects, waveforms, args.rounds, args.warm_up, CLOCKS[args.clock])
        for subject in subjects:
            working = working_memory(lambda: subject.run(waveforms), CPU)
            figures = models[subject.name]
            audio = batch_size * args.seconds
            figures["speed"][str(batch_size)] = {
                "rtf": statistics.median(seconds[subject.name]) / audio,
                "best_rtf": min(seconds[subject.name]) / audio,
                "seconds": seconds[subject.name],
                "peak_memory_mb": None if working is None else (4 * figures["parameters"] + working) / 1e6,
            }
        if batch_size == 1:
            comparisons = compare(seconds, [peer.name for peer in peers])
    return {
        "machine": describe_machine(CPU),
        "settings": {
            name: getattr(args, name) for name in ("threads", "seconds", "rounds", "warm_up", "width_divisor", "clock")
        },
        "models": models,
        "comparisons": [
            {"what": what, "times_as_fast": value, "target": target} for what, value, target in comparisons
        ],
    }


def print_table(result):
    machine, settings = result["machine"], result["settings"]
    sizes = list(next(iter(result["models"].values()))["speed"])
    print(
        f"{machine['cpu']}, {settings['threads']} threads, torch {machine['torch']}, {settings['seconds']:g} s each, "
        f"{settings['clock']} time, {settings['rounds']} rounds\n"
    )
    titles = "".join(f"{'RTF, B=' + size:>12}{'peak MB':>9}" for size in sizes)
    print(f"{'':<22}{'parameters':>12}{'GMACs/10 s':>12}{titles}{'difference':>12}")
    for name, model in result["models"].items():
        speed = "".join(
            f"{figures['rtf']:>12.4f}{_optional(figures['peak_memory_mb'], '.0f'):>9}"
            for figures in model["speed"].values()
        )
        print(
            f"{name:<22}{model['parameters']:>12,}{model['gmacs_per_10s']:>12.2f}{speed}"
            f"{_optional(model['difference_to_ours'], '.1e'):>12}"
        )
    print()
    for row in result["comparisons"]:
        verdict = ""
        if row["target"]:
            met = "met" if row["times_as_fast"] >= row["target"] else "missed"
            verdict = f"  (target: at least {row['target']:g}: {met})"
        print(f"{row['what'] + ':':<62}{row['times_as_fast']:>6.2f} times as fast{verdict}")


def _optional(value, form):
    return "-" if value is None else format(value, form)


def main():
    args = parse_arguments()
    result = run(args)
    print_table(result)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(result, out, indent=1)


if __name__ == "__main__":
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    main()
