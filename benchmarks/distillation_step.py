"""Where the time of one CoLLD update goes: teacher, student, heads, loss, data.

    python benchmarks/distillation_step.py                          # CPU, everything scaled down together
    python benchmarks/distillation_step.py --device cuda --preset full

`full` is a 24 x 1024 w2v-BERT 2.0 teacher, its 12 x 1024 half as student, 12 layer pairs, 100 negatives and
80 s of audio in utterances of 10 s. `cpu` keeps depth, pairs, negatives and utterance length, and takes a quarter of
the width and of the batch. All weights are random: time does not depend on them. The parts are timed one
after the other on the same batch, and each row is the median over --runs updates after --warm-up ones. Peak
memory is that of the whole process (CPU, including the libraries) or of the tensors (CUDA). Target: heads
and loss take at most 10 % of the step.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections import defaultdict

import numpy as np
import soundfile
import torch

from colld_fairseq.data.datasets import DatasetOptions, SpeechDataset
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.losses import contrastive_loss, normalize_targets, sample_negatives
from colld_fairseq.models.encoder_presets import PRESETS as STUDENTS
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.heads import DistillationHeads
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.modules.masking import sample_span_mask
from colld_fairseq.profiling import count_macs
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.alignment import align_frames

PRESETS = {
    "full": dict(width=1024, batch_seconds=80.0),
    "cpu": dict(width=256, batch_seconds=20.0),
}
HEAD_WIDTH = 64  # of one attention head, as in w2v-BERT 2.0
STUDENT_LAYERS, TEACHER_LAYERS = 12, 24
TIMED = (
    "teacher forward",
    "student forward + backward",
    "heads forward + backward",
    "loss forward + backward",
)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="default: full on cuda, else cpu")
    parser.add_argument("--width", type=int, help="of teacher and student (a multiple of 64)")
    parser.add_argument("--batch-seconds", type=float, help="audio in one batch")
    parser.add_argument("--utterance-seconds", type=float, default=10.0)
    parser.add_argument("--pairs", type=int, default=12, help="distilled layer pairs, 1 to 12")
    parser.add_argument("--negatives", type=int, default=100, help="a frame; 0 = all other masked frames")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="of weights and features, as fairseq's --bf16 has it; default: bfloat16 on cuda, else float32",
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    args = parser.parse_args(arguments)
    on_gpu = args.device.startswith("cuda")
    args.preset = args.preset or ("full" if on_gpu else "cpu")
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.width % HEAD_WIDTH or not 1 <= args.pairs <= STUDENT_LAYERS:
        parser.error(f"--width must be a multiple of {HEAD_WIDTH}, --pairs from 1 to {STUDENT_LAYERS}")
    return args


class Stopwatch:
    """Collects the seconds of named parts; waits for the device at both ends of each."""

    def __init__(self, device):
        self.device = torch.device(device)
        self.seconds = defaultdict(list)

    def now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def measure(self, name, function):
        start = self.now()
        result = function()
        self.seconds[name].append(self.now() - start)
        return result


def make_teacher(args, layers):
    """A w2v-BERT 2.0 of random weights, written to disk and loaded the way every teacher is."""
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = Wav2Vec2BertConfig(
        hidden_size=args.width,
        intermediate_size=4 * args.width,
        num_attention_heads=args.width // HEAD_WIDTH,
        num_hidden_layers=TEACHER_LAYERS,
        output_hidden_size=args.width,
    )
    with tempfile.TemporaryDirectory() as directory:
        Wav2Vec2BertModel(config).save_pretrained(directory)
        return load_teacher(f"hf:{directory}", layers, kind="ffn", dtype=args.dtype, device=args.device)


def make_corpus(directory, utterances, seconds):
    """Noise with a varying level as FLAC files, and their manifest."""
    generator = np.random.default_rng(0)
    samples = int(seconds * 16000)
    lines = [directory]
    for index in range(utterances):
        level = 0.1 * np.abs(np.sin(np.arange(samples) / 4000 + index))
        waveform = level * generator.standard_normal(samples)
        soundfile.write(os.path.join(directory, f"{index}.flac"), waveform.clip(-1, 1), 16000)
        lines.append(f"{index}.flac\t{samples}")
    path = os.path.join(directory, "train.tsv")
    with open(path, "w", encoding="utf-8") as manifest:
        manifest.write("\n".join(lines) + "\n")
    return path


def measure_data(args, utterances_per_batch, workers=2):
    """One batch, and the seconds of audio that loader workers read a second (files are in the page cache)."""
    with tempfile.TemporaryDirectory() as directory:
        rows = read_manifest(make_corpus(directory, 16 * utterances_per_batch, args.utterance_seconds))
        dataset = SpeechDataset(rows, StudentInput(), DatasetOptions(keep_waveform=True))
        batches = np.arange(len(dataset)).reshape(-1, utterances_per_batch).tolist()
        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=batches * 4, collate_fn=dataset.collater, num_workers=workers
        )
        batch, times = None, []
        for batch in loader:  # noqa: B007 - the last one is returned
            times.append(time.perf_counter())
    warm = len(times) // 4  # starting the workers is no part of the rate
    rate = (len(times) - 1 - warm) * utterances_per_batch * args.utterance_seconds / (times[-1] - times[warm])
    return batch, rate


def train_step(args, watch, batch, teacher, encoder, heads, pairs):
    """One update without the optimizer, cut at features and predictions so that each part is timed."""
    source = batch["net_input"]["src_tokens"].to(args.device, getattr(torch, args.dtype))
    source_lengths = batch["net_input"]["src_lengths"].to(args.device)
    waveforms = batch["teacher_input"]["waveforms"].to(args.device)
    samples = batch["teacher_input"]["lengths"].to(args.device)
    for module in (encoder, heads):
        module.zero_grad(set_to_none=True)

    features_of_teacher = watch.measure(TIMED[0], lambda: teacher(waveforms, samples))

    start = watch.now()
    output = encoder(
        source,
        source_lengths,
        mask=lambda lengths: sample_span_mask(lengths, 0.65, 10),
        layers=[student for student, _ in pairs],
    )
    student_seconds = watch.now() - start

    features = [output.features[student].detach().requires_grad_() for student, _ in pairs]
    start = watch.now()
    predictions = heads(features)
    head_seconds = watch.now() - start

    leaves = [prediction.detach().requires_grad_() for prediction in predictions]

    def loss():
        total, plan = 0.0, None
        for leaf, (_, layer) in zip(leaves, pairs):
            target, lengths = align_frames(
                features_of_teacher.features[layer],
                features_of_teacher.lengths,
                features_of_teacher.frame_rate_hz,
                encoder.frame_rate_hz,
                "none",
                output.lengths,
            )
            padding = lengths_to_padding_mask(lengths)
            frames = padding.shape[1]
            if plan is None:
                plan = sample_negatives(output.mask[:, :frames] & ~padding, args.negatives)
            target = normalize_targets(target, padding, "instance")
            total = total + contrastive_loss(leaf[:, :frames], target, plan).loss_sum
        (total / (len(pairs) * plan.count)).backward()

    watch.measure(TIMED[3], loss)

    start = watch.now()
    torch.autograd.backward(predictions, [leaf.grad for leaf in leaves])
    watch.seconds[TIMED[2]].append(head_seconds + watch.now() - start)

    start = watch.now()
    torch.autograd.backward([output.features[student] for student, _ in pairs], [feature.grad for feature in features])
    watch.seconds[TIMED[1]].append(student_seconds + watch.now() - start)


def model_flops(args, batch, teacher, encoder, heads, pairs):
    """Floating-point operations that one update needs: of the teacher forward, of student and heads three times that
    (forward, and the gradients of inputs and of weights). Losses are not counted."""
    waveforms, samples = (batch["teacher_input"][name].to(args.device) for name in ("waveforms", "lengths"))
    source = batch["net_input"]["src_tokens"].to(args.device, getattr(torch, args.dtype))

    def student():
        output = encoder(source, layers=[layer for layer, _ in pairs])
        heads([output.features[layer] for layer, _ in pairs])

    return 2 * (count_macs(lambda: teacher(waveforms, samples)) + 3 * count_macs(student))


def peak_memory_mb(device):
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def hardware(args):
    if args.device.startswith("cuda"):
        return torch.cuda.get_device_name(args.device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def run(args):
    torch.manual_seed(0)
    # Pair k of K: student layer k * 12 / K and the teacher layer at the same relative depth.
    pairs = [(STUDENT_LAYERS * k // args.pairs, TEACHER_LAYERS * k // args.pairs) for k in range(1, args.pairs + 1)]
    utterances = max(round(args.batch_seconds / args.utterance_seconds), 1)
    batch, audio_rate = measure_data(args, utterances)
    teacher = make_teacher(args, [layer for _, layer in pairs])
    config = dict(STUDENTS["conformer_1024"], embed_dim=args.width, ffn_dim=4 * args.width)
    config["attention_heads"] = args.width // HEAD_WIDTH
    dtype = getattr(torch, args.dtype)
    encoder = StudentEncoder(EncoderConfig(**config)).to(args.device, dtype)
    heads = DistillationHeads([args.width] * args.pairs, [args.width] * args.pairs).to(args.device, dtype)

    for _ in range(args.warm_up):
        train_step(args, Stopwatch(args.device), batch, teacher, encoder, heads, pairs)
    watch = Stopwatch(args.device)
    for _ in range(args.runs):
        train_step(args, watch, batch, teacher, encoder, heads, pairs)

    seconds = {name: statistics.median(watch.seconds[name]) for name in TIMED}
    step = sum(seconds.values())
    flops = model_flops(args, batch, teacher, encoder, heads, pairs)
    return {
        "hardware": hardware(args),
        "torch": torch.__version__,
        "settings": {
            name: getattr(args, name)
            for name in ("preset", "dtype", "width", "pairs", "negatives", "utterance_seconds", "runs")
        }
        | {"batch_seconds": utterances * args.utterance_seconds},
        "teacher_parameters": sum(p.numel() for p in teacher.module.parameters()),
        "student_parameters": sum(p.numel() for p in encoder.parameters()),
        "seconds": seconds,
        "all_seconds": dict(watch.seconds),
        "step_seconds": step,
        "model_flops": flops,
        "model_flops_per_second": flops / step,
        "heads_and_loss_share": (seconds[TIMED[2]] + seconds[TIMED[3]]) / step,
        "data_audio_seconds_per_second": audio_rate,
        "step_audio_seconds_per_second": utterances * args.utterance_seconds / step,
        "peak_memory_mb": peak_memory_mb(args.device),
    }


def verdict(met):
    return "met" if met else "missed"


def print_table(result):
    settings, step = result["settings"], result["step_seconds"]
    print(f"{result['hardware']}, torch {result['torch']}, {settings['dtype']}")
    print(
        f"teacher {result['teacher_parameters'] / 1e6:.1f} M parameters, "
        f"student {result['student_parameters'] / 1e6:.1f} M, width {settings['width']}, "
        f"{settings['pairs']} pairs, {settings['negatives']} negatives, "
        f"{settings['batch_seconds']:g} s of audio\n"
    )
    print(f"{'part':<30}{'ms':>10}{'share':>9}")
    for name, seconds in result["seconds"].items():
        print(f"{name:<30}{1e3 * seconds:>10.1f}{seconds / step:>9.1%}")
    print(f"{'step (without optimizer)':<30}{1e3 * step:>10.1f}{1:>9.1%}\n")
    share = result["heads_and_loss_share"]
    print(f"heads and loss: {share:.1%} of the step (target: at most 10 %: {verdict(share <= 0.1)})")
    have, need = result["data_audio_seconds_per_second"], result["step_audio_seconds_per_second"]
    print(
        f"data: 2 workers read {have:.0f} s of audio a second, the step takes {need:.2g} "
        f"(target: at least as much: {verdict(have >= need)})"
    )
    print(
        f"arithmetic: {result['model_flops'] / 1e12:.2f} TFLOP, {result['model_flops_per_second'] / 1e12:.2f} a second"
    )
    print(f"peak memory: {result['peak_memory_mb']:.0f} MB")


def main():
    args = parse_arguments()
    result = run(args)
    print_table(result)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(result, out, indent=1)


if __name__ == "__main__":
    main()
