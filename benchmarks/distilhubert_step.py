"""One DistilHuBERT update of this package beside the same update of s3prl's distiller.

    python benchmarks/distilhubert_step.py --s3prl DIRECTORY      # a checkout of s3prl
    python benchmarks/distilhubert_step.py                        # a loop around transformers' own HubertModel

An update is teacher forward, student forward, loss, backward, gradient clipping and optimizer, in float32. Both
sides have the same HuBERT Base teacher (random weights: time does not depend on them), the same student (the recipe
examples/baselines/distilhubert.yaml: 2 layers, targets from layers 4, 8 and 12), the same dropout, the same padded
batch and the same number of threads. They take turns in one process; figures are medians over --runs updates
after --warm-up ones. Target: ours at least 1.3 times as fast.

Without dropout and without padding the definitions agree, and losses and gradient norms of the two are compared
(target: 1e-4). What differs otherwise:

- Padded frames: s3prl computes on them and counts them in its means; here they are no part of the loss, and the norm
  of the first convolution leaves them out, so that an utterance's targets do not depend on its batch. The loss of the
  padded batch is printed for both, and once more for ours with padding in the means (criterion
  hubert_distillation, --pad-frames include), where only the statistics of that norm and what the networks make of
  padded frames differ.
- s3prl's runner puts the teacher in train mode, so its dropout is active; here a teacher is always in eval mode.
  The comparison has s3prl's teacher in eval mode too; --as-shipped adds s3prl as its runner has it.
- Optimizer: fairseq's Adam with decoupled weight decay here; s3prl's AdamW (torch's AdamW in the loop around
  transformers).

On a machine that is busy with other work --clock cpu counts the processor time of this process instead.
"""

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import torch
import yaml
from distilhubert_peers import S3prlDistiller, TransformersDistiller, time_calls
from fairseq import optim, tasks
from fairseq.dataclass.configs import CommonConfig, OptimizationConfig
from fairseq.optim.adam import FairseqAdamConfig
from omegaconf import OmegaConf

from colld_fairseq.criterions.feature_regression import FeatureRegressionConfig
from colld_fairseq.criterions.hubert_distillation import HubertDistillationConfig
from colld_fairseq.models.colld_student import ColldStudentConfig
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.tasks.speech_distillation import SpeechDistillationConfig

RECIPE = Path(__file__).resolve().parents[1] / "examples" / "baselines" / "distilhubert.yaml"
BASE_WIDTH, HEAD_WIDTH, SAMPLE_RATE = 768, 64, 16000
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SECTIONS = {
    "common": CommonConfig,
    "task": SpeechDistillationConfig,
    "model": ColldStudentConfig,
    "criterion": FeatureRegressionConfig,
    "padding_counts": HubertDistillationConfig,
    "optimization": OptimizationConfig,
    "optimizer": FairseqAdamConfig,
}
PARTS = ("teacher", "student and loss", "backward", "utterance and optimizer")


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s3prl", metavar="DIR", help="checkout of s3prl's repository to import the distiller from")
    parser.add_argument("--as-shipped", action="store_true", help="also time s3prl with its teacher in train mode")
    parser.add_argument("--seconds", default="8,7.5,7,6.5", help="lengths of the utterances in the batch")
    parser.add_argument("--width", type=int, default=BASE_WIDTH, help="of teacher and student, a multiple of 64")
    parser.add_argument("--teacher-layers", type=int, default=12, help="a multiple of 3: three targets")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    args = parser.parse_args(arguments)
    args.seconds = [float(seconds) for seconds in args.seconds.split(",")]
    if args.width % HEAD_WIDTH or args.teacher_layers % 3:
        parser.error("--width must be a multiple of 64 and --teacher-layers a multiple of 3")
    if args.as_shipped and not args.s3prl:
        parser.error("--as-shipped needs --s3prl")
    return args


def save_teacher(args, directory):
    """A HuBERT of random weights in Hugging Face layout."""
    from transformers import HubertConfig, HubertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = HubertConfig(
        hidden_size=args.width,
        intermediate_size=4 * args.width,
        num_attention_heads=args.width // HEAD_WIDTH,
        num_hidden_layers=args.teacher_layers,
        conv_dim=(512 * args.width // BASE_WIDTH,) * 7,
        layerdrop=0.0,
    )
    torch.manual_seed(0)
    HubertModel(config).save_pretrained(directory)
    Path(directory, "preprocessor_config.json").write_text('{"do_normalize": false}')  # as HuBERT Base has it


def make_batch(seconds):
    """Noise of varying level: waveforms [B, N], zero padded, and lengths [B] in samples."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([round(second * SAMPLE_RATE) for second in seconds])
    time_axis = torch.arange(int(lengths.max())) / SAMPLE_RATE
    level = 0.1 * torch.sin(3 * time_axis + torch.arange(len(seconds))[:, None]).abs()
    waveforms = level * torch.randn(level.shape, generator=generator)
    return waveforms.masked_fill(lengths_to_padding_mask(lengths, waveforms.size(1)), 0.0), lengths


class Ours:
    """The recipe's task, model, criterion and optimizer, in the order of fairseq's trainer."""

    def __init__(self, args, directory, targets, clock):
        recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        recipe["common"].update(fp16=False)  # float32, as the peer
        del recipe["checkpoint"]  # none is written or gone on from
        recipe["task"].update(teacher=f"hf:{directory}", data=directory)
        recipe["model"].update(
            init_from=f"hf:{directory}",
            layer_map=",".join(f"2:{target}" for target in targets),
            encoder_embed_dim=args.width,
            encoder_ffn_embed_dim=4 * args.width,
            encoder_attention_heads=args.width // HEAD_WIDTH,
            conv_feature_layers=convolutions_as_text(512 * args.width // BASE_WIDTH),
        )
        recipe["padding_counts"] = dict(
            recipe["criterion"], _name="hubert_distillation", discriminative_weight=0.0, pad_frames="include"
        )
        for section, defaults in SECTIONS.items():
            recipe[section] = OmegaConf.merge(OmegaConf.structured(defaults()), recipe[section])
        cfg = OmegaConf.create(recipe)
        self.clip_norm = cfg.optimization.clip_norm
        self.task = tasks.setup_task(cfg.task)
        self.model = self.task.build_model(cfg.model)
        self.criterion = self.task.build_criterion(cfg.criterion)
        self.padding_counts = self.task.build_criterion(cfg.padding_counts)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = optim.build_optimizer(cfg.optimizer, trained)
        self.teacher_seconds = 0.0
        teacher = self.task.teachers.first.teacher
        teacher.extract = time_calls(self, teacher.extract, clock)

    def set_batch(self, waveforms, lengths):
        self.sample = {
            "net_input": {"src_tokens": waveforms, "src_lengths": lengths},
            "teacher_input": {"waveforms": waveforms.double(), "lengths": lengths},
            "utt_id": [str(row) for row in range(len(lengths))],
            "ntokens": int(lengths.sum()),
            "nsentences": len(lengths),
            "audio_seconds": float(lengths.sum()) / SAMPLE_RATE,
        }

    def train(self, mode=True):
        self.model.train(mode)

    def loss(self, criterion=None):
        """Sum over frames, as the criterion returns it; `backward` divides by the frames."""
        loss, self.frames, _ = (criterion or self.criterion)(self.model, self.sample)
        return loss

    def backward(self, loss):
        self.optimizer.backward(loss)
        self.optimizer.multiply_grads(1.0 / self.frames)

    def update(self):
        norm = self.optimizer.clip_grad_norm(self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def mean_loss(self, loss):
        return float(loss.detach()) / float(self.frames)


def convolutions_as_text(channels):
    return f"[({channels},10,5)] + [({channels},3,2)] * 4 + [({channels},2,2)] * 2"


def step(side, clock, seconds=None):
    """One update; the seconds of each part are appended to `seconds`."""
    side.teacher_seconds = 0.0
    times = [clock()]
    loss = side.loss()
    times.append(clock())
    side.backward(loss)
    times.append(clock())
    side.update()
    times.append(clock())
    if seconds is not None:
        forward, backward, update = (end - start for start, end in pairwise(times))
        parts = (times[-1] - times[0], side.teacher_seconds, forward - side.teacher_seconds, backward, update)
        for name, value in zip(("step", *PARTS), parts, strict=True):
            seconds[name].append(value)


def loss_and_gradient(side, batch, **options):
    """Loss without dropout and the norm of its gradient."""
    side.set_batch(*batch)
    side.train(False)
    loss = side.loss(**options)
    side.backward(loss)
    norms = [p.grad.norm() for p in side.model.parameters() if p.requires_grad and p.grad is not None]
    side.optimizer.zero_grad()
    return {"loss": side.mean_loss(loss), "gradient_norm": float(torch.stack(norms).norm())}


def compare_losses(ours, peer, seconds):
    """Figures of both sides without padding and with it, and ours with padding in the means."""
    full, padded = make_batch([max(seconds)] * len(seconds)), make_batch(seconds)
    compared = {
        "without padding": {"ours": loss_and_gradient(ours, full), "peer": loss_and_gradient(peer, full)},
        "padded": {"ours": loss_and_gradient(ours, padded), "peer": loss_and_gradient(peer, padded)},
    }
    counted = loss_and_gradient(ours, padded, criterion=ours.padding_counts)
    return {**compared, "padding in the means": {"ours": counted, "peer": compared["padded"]["peer"]}}


def run(args):
    torch.set_num_threads(args.threads)
    clock = CLOCKS[args.clock]
    targets = [args.teacher_layers * third // 3 for third in (1, 2, 3)]
    with tempfile.TemporaryDirectory() as directory:
        save_teacher(args, directory)
        ours = Ours(args, directory, targets, clock)
        if args.s3prl:
            peer = S3prlDistiller(args.s3prl, directory, targets, clock)
        else:
            peer = TransformersDistiller(directory, targets, clock)
        ours.model.load_state_dict(peer.student_state(ours.model))

    losses = compare_losses(ours, peer, args.seconds)
    sides = {"ours": (ours, ours.train), peer.name: (peer, peer.train)}
    if args.as_shipped:
        sides[f"{peer.name}, teacher in train mode"] = (peer, peer.train_as_shipped)
    timed = {name: defaultdict(list) for name in sides}
    for round_index in range(args.warm_up + args.runs):
        for name, (side, train) in sides.items():
            train()
            step(side, clock, timed[name] if round_index >= args.warm_up else None)
    medians = {
        name: {part: statistics.median(values) for part, values in parts.items()} for name, parts in timed.items()
    }
    return {
        "hardware": f"{platform.machine()} CPU, {args.threads} threads",
        "torch": torch.__version__,
        "peer": peer.name,
        "settings": {name: value for name, value in vars(args).items() if name not in ("json", "s3prl")},
        "student_parameters": ours.model.encoder.num_parameters(),
        "losses": losses,
        "seconds": medians,
        "all_seconds": {name: dict(parts) for name, parts in timed.items()},
        "speed_ratio": {name: medians[name]["step"] / medians["ours"]["step"] for name in medians if name != "ours"},
    }


def verdict(met):
    return "met" if met else "missed"


def print_table(result):
    settings = result["settings"]
    print(f"{result['hardware']}, torch {result['torch']}; {settings['seconds']} s; peer: {result['peer']}\n")
    print(f"{'without dropout':<38}{'ours':>12}{'peer':>12}{'difference':>12}")
    for name, sides in result["losses"].items():
        for figure in ("loss", "gradient_norm"):
            ours, peer = sides["ours"][figure], sides["peer"][figure]
            label = f"{name}: {figure.replace('_', ' ')}"
            print(f"{label:<38}{ours:>12.6f}{peer:>12.6f}{abs(ours - peer):>12.1e}")
    agreed = result["losses"]["without padding"]
    same = abs(agreed["ours"]["loss"] - agreed["peer"]["loss"]) <= 1e-4
    print(f"same loss where the definitions agree, to 1e-4: {verdict(same)}\n")
    columns = ("step", *PARTS)
    unit = f"ms of {settings['clock']} time, medians"
    print(f"{unit:<40}" + "".join(f"{part:>20}" for part in columns))
    for name, parts in result["seconds"].items():
        print(f"{name:<40}" + "".join(f"{1e3 * parts[part]:>20.0f}" for part in columns))
    print()
    for name, ratio in result["speed_ratio"].items():
        print(f"ours is {ratio:.2f} times as fast as the {name} (target: 1.3: {verdict(ratio >= 1.3)})")


def main():
    args = parse_arguments()
    result = run(args)
    print_table(result)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(result, out, indent=1)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")  # s3prl's calls of deprecated functions
    main()
