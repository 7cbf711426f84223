"""What is run on two devices: criterions with their options, and losses, for `test_devices` and `benchmarks/gpu.py`."""

import copy

import torch
from commands import TINY_ENCODER
from task_setup import set_up
from torch.utils._pytree import tree_map

from colld_fairseq.cli import main as colld
from colld_fairseq.losses import (
    HiddenNodes,
    JoinerParts,
    LatticeTeacher,
    Nodes,
    best_path,
    lattice_divergence,
    path_loss,
    three_class_loss,
    tiled_path_loss,
    tiled_transducer_loss,
    transducer_loss,
)
from colld_fairseq.losses.transducer_arcs import LogitLayout

STILL = ["--dropout", "0", "--attention-dropout", "0", "--activation-dropout", "0", "--dropout-input", "0"]
WAVEFORM = [
    *["--front-end", "waveform", "--conv-feature-layers", "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2"],
    *["--encoder-block", "transformer", "--encoder-position", "conv", "--conv-pos", "33", "--conv-pos-groups", "4"],
]
CHUNKS = ["--front-end", "conv2d", "--encoder-context", "chunk", "--chunk-sizes", "4,full"]
# fairseq's beam search resizes a tensor in place, which the second device of the tests cannot.
S2T = ["--decoder-embed-dim", "16", "--decoder-layers", "1", "--decoder-dropout", "0", "--decoder", "ctc"]
TIED = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")  # which a move to that device takes apart
CODES = ["--mask-prob", "0", "--layer-map", "dense", "--code-head", "cosine"]
TWO = ["--fbank-stack", "4", "--layer-map", "slow=1:2,2:4,fast=2:3", "--frame-rule", "concat_tanh"]
CODEBOOKS = "books.safetensors"  # of `indexed`
STATELESS = ["--predictor", "stateless", "--prune-range", "4"]


def moved(sample, device, dtype):
    """A batch as fairseq's trainer hands it over: float32 in the precision of the model."""

    def move(value):
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device=device, dtype=dtype if value.dtype == torch.float32 else value.dtype)

    return tree_map(move, sample)


def step(run, sample, device, dtype=torch.float32):
    """Training loss and norms of the gradients, and what validation logs, of a copy of the model."""
    model, sample = copy.deepcopy(run.model).to(device=device, dtype=dtype), moved(sample, device, dtype)
    torch.manual_seed(5)
    loss, size, _ = run.criterion.train()(model.train(), sample)
    loss.backward()
    trained = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None and name not in TIED]
    norms = {name: float(gradient.norm()) for name, gradient in trained}
    log = run.task.valid_step(sample, model, run.criterion)[2] if dtype == torch.float32 else {}
    valid = {name: float(value) for name, value in log.items() if not name.startswith("_")}
    return float(loss.detach()) / float(size), norms, valid


# (teachers, criterion, options)
DISTILLATIONS = [
    ("plain", "colld", ["--layer-map", "1:1-2,2:4", "--l1-weight", "1", "--teacher-dtype", "bfloat16", *WAVEFORM]),
    ("plain", "feature_regression", ["--layer-map", "2:4", "--frame-rule", "stack", *CHUNKS]),
    ("coded", "hubert_distillation", [*CODES, "--front-end-updates", "5"]),
    ("coded", "hubert_distillation", [*CODES, "--pad-frames", "include"]),
    ("two", "multi_teacher", [*TWO, "--teacher-combination", "random", "--target-shift", "2"]),
    ("indexed", "multi_codebook", ["--layer-map", "1:2", "--mask-prob", "0"]),
]

# (architecture, options)
RECOGNISERS = [
    ("student_ctc", ["--mask-prob", "0.3", "--mask-channel-prob", "0.2"]),
    ("student_ctc", ["--ctc-kd", "self", *CHUNKS]),
    ("transducer_student", ["--predictor-dropout", "0", "--kd", "lattice", "--kd-from", "self", *CHUNKS]),
    ("student_s2t", S2T),
    ("transducer_student", ["--predictor-dropout", "0", "--auxiliary-ctc"]),
    ("transducer_student", ["--predictor-dropout", "0", "--logits-budget-mb", "0.2"]),
    ("transducer_student", ["--predictor-dropout", "0", *STATELESS, "--encoder-position", "relative_key"]),
]


def set_up_distillation(corpus, teachers, which, criterion, options):
    """teachers: what follows --teacher for "plain", "coded", "two" and "indexed" (see `indexed`)."""
    given = ["--teacher", *teachers[which].split(), "--criterion", criterion]
    arguments = ["--task", "speech_distillation", *given, *STILL]
    return set_up(corpus, *arguments, "--arch", "colld_student", *TINY_ENCODER, *options)


def indexed(corpus, teacher, folder):
    """What names a teacher whose indexes into three codebooks of its layer 2 are cached; both are made in `folder`."""
    books, indexes = folder / CODEBOOKS, folder / "indexes"
    command = f"codebooks --teacher {teacher} --layer 2 --num-codebooks 3 --num-codes 8 --out {books}"
    manifests = f"{corpus}/train.tsv,{corpus}/test.tsv"
    assert colld([*command.split(), "--manifest", manifests, "--indexes", str(indexes)]) == 0
    return f"{teacher} --teacher-codebooks {books} --teacher-cache {indexes}"


def set_up_recogniser(corpus, vocab, arch, options):
    arguments = ["--task", "multilingual_speech_to_text", "--vocab", vocab, "--arch", arch, *STILL]
    arguments += ["--criterion", "transducer" if arch == "transducer_student" else "ctc_attention"]
    return set_up(corpus, *arguments, *TINY_ENCODER, *options)


def small_batch(run):
    """Two utterances of the corpus."""
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    return dataset.collater([dataset[i] for i in dataset.ordered_indices()[[0, 2]]])


def distilled_losses(device):
    """The three losses of a transducer that learns from another one, and the sum of their gradients."""
    torch.manual_seed(4)
    frames, counts, labels = torch.tensor([7, 5, 6]), torch.tensor([4, 2, 0]), torch.randint(1, 5, (3, 4))
    logits, teacher = (torch.randn(3, 7, 5, 5).to(device) for _ in range(2))
    frames, counts, labels = (given.to(device) for given in (frames, counts, labels))
    logits.requires_grad_()

    path = best_path(lambda at: teacher[torch.broadcast_tensors(*at)].argmax(-1) != 0, frames, counts)
    present = torch.ones(len(path.text), 1, dtype=torch.bool, device=device)
    of_path = path_loss(logits[path][:, None], teacher[path], present, path.text, 3)

    u = torch.arange(5, device=device)
    inside = (torch.arange(7, device=device)[:, None] < frames[:, None, None]) & (u < counts[:, None, None])
    nodes = Nodes(*inside.nonzero().unbind(1))
    mine, theirs = (transducer_loss(given, labels, frames, counts) for given in (logits, teacher))
    arcs = (arc[nodes] for output in (mine, theirs) for arc in (output.blank_arcs, output.label_arcs))
    of_classes = three_class_loss(*arcs, nodes, 3)

    layout = LogitLayout(frames.tolist(), [count + 1 for count in counts.tolist()], packed=False)
    of_lattice = lattice_divergence(logits, layout, lambda at: teacher[at], frames.tolist(), shift=1)
    losses = torch.stack([loss.losses for loss in (of_path, of_classes, of_lattice)])
    losses.sum().backward()
    return [*losses.detach().flatten().tolist(), float(logits.grad.square().sum())]


def tiled_losses(device):
    """The same in tiles: full lattice and path beside the transducer loss, and the sums of their gradients."""
    torch.manual_seed(4)
    frames, counts, labels = torch.tensor([7, 5, 6]), torch.tensor([4, 2, 0]), torch.randint(1, 5, (3, 4))
    shapes = (3, 7, 6), (3, 5, 6), (5, 6), (5,)
    teacher, *leaves = (torch.randn(*shape).to(device) for shape in ((3, 7, 5, 5), *shapes))
    frames, counts, labels = (given.to(device) for given in (frames, counts, labels))
    parts = JoinerParts(*(leaf.requires_grad_() for leaf in leaves), torch.tanh)
    lattice = LatticeTeacher(lambda at: teacher[torch.broadcast_tensors(*at)], frames.tolist(), shift=1)
    out = tiled_transducer_loss(parts, labels, frames, counts, budget_mb=2e-3, teacher=lattice)
    hidden = HiddenNodes(torch.tanh(parts.frames[:, :, None] + parts.symbols[:, :1, None]).flatten(0, 1), *leaves[2:])
    text = torch.arange(21, device=device) // 7
    present = torch.ones(21, 1, dtype=torch.bool, device=device)
    of_path = tiled_path_loss(
        hidden, lambda rows: teacher[:, :, 0].flatten(0, 1)[rows], present, text, 3, budget_mb=2e-3
    )
    losses = torch.stack([out.losses, out.divergences, of_path.losses])
    losses.sum().backward()
    return [*losses.detach().flatten().tolist(), *(float(leaf.grad.square().sum()) for leaf in leaves)]
