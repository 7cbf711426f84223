"""What has to be the same on a GPU as on a CPU: parts of `gpu.py`, each yielding rows with a name and whether it is ok.

Losses and criterions are those that the tests run on their second device (`tests/device_cases.py`); corpus and teachers
are theirs, too: tones, and small random models.
"""

import copy
import functools
import math
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

import device_cases
import synthetic
import torch
from commands import TINY_ENCODER, TRAINING, call, losses
from torch import Tensor

from colld_fairseq.data.vocabulary_making import make_vocabulary
from colld_fairseq.losses import (
    codebook_loss,
    contrastive_loss,
    discriminative_loss,
    gather_ranges,
    prune_ranges,
    pruned_transducer_loss,
    regression_loss,
    sample_negatives,
    simple_transducer_loss,
    transducer_loss,
)
from colld_fairseq.losses.ctc import ctc_loss
from colld_fairseq.teachers import load_teacher

LOSS_ERROR, CRITERION_ERROR, NORM_ERROR, ROUNDED_ERROR = 1e-4, 1e-3, 2e-2, 0.1
RESUME_ERROR = 1e-3  # GPUs add in another order every time
DECODERS = [
    ("student_ctc", ["--valid-beam", "4"]),
    ("student_s2t", [*device_cases.S2T[:-2], "--valid-beam", "3"]),
    ("transducer_student", ["--valid-beam", "1"]),
    ("transducer_student", ["--valid-beam", "4", "--predictor", "stateless"]),
]


class World(NamedTuple):
    """Corpus, vocabulary and teachers, in a folder that is gone when nobody needs them any more."""

    corpus: Path
    vocab: Path
    teachers: Dict[str, str]
    folder: tempfile.TemporaryDirectory


@functools.lru_cache(maxsize=1)
def world() -> World:
    folder = tempfile.TemporaryDirectory()
    root = Path(folder.name)
    corpus = synthetic.write_corpus(root / "corpus", train=24, valid=10, test=9)
    make_vocabulary([str(corpus / "train.tsv")], root / "vocab", lang_tags=True)
    plain = synthetic.write_teacher(root / "teacher")
    fast = synthetic.write_teacher(root / "fast", width=16, strides=(5, 2, 2, 2, 2, 2, 1))
    coded = synthetic.write_hubert_with_codes(root / "coded.pt")
    teachers = {"plain": plain, "coded": coded, "two": f"slow={plain},fast={fast}"}
    teachers["indexed"] = device_cases.indexed(corpus, plain, root)
    return World(corpus, root / "vocab", teachers, folder)


# -- losses ------------------------------------------------------------------------------------------------------------


def made(*shapes: Tuple[int, ...]) -> List[Tensor]:
    """Random leaves, the same whatever device they go to."""
    torch.manual_seed(0)
    return [torch.randn(*shape).requires_grad_() for shape in shapes]


def with_gradients(function: Callable, *leaves: Tensor) -> Callable[[str], List[Tensor]]:
    """device -> the loss and the gradients of the leaves, all on the CPU."""

    def on(device: str) -> List[Tensor]:
        there = [leaf.detach().to(device).requires_grad_() for leaf in leaves]
        loss = function(*there)
        loss.backward()
        return [loss.detach().cpu(), *(leaf.grad.cpu() for leaf in there)]

    return on


def loss_functions(size: int) -> Dict[str, Callable[[str], List[Tensor]]]:
    """Name -> device -> loss and gradients; size: factor on frames, labels and classes."""
    frames, labels, classes = 20 * size, 6 * size, 30 * size
    lengths, counts = torch.tensor([frames, frames - 5]), torch.tensor([labels, labels - 2])
    torch.manual_seed(1)
    text = torch.randint(2, classes, (2, labels))
    mask = torch.arange(frames) < lengths[:, None]
    plan = sample_negatives(mask, 10, torch.Generator().manual_seed(2))
    codes = torch.randint(0, classes, (2, frames, 3))
    predictions, targets = made((2, frames, 32), (2, frames, 32))
    student, teacher = made((2, frames, classes), (2, frames, classes))
    (lattice,) = made((2, frames, labels + 1, classes))
    am, lm = made((2, frames, classes), (2, labels + 1, classes))
    (books,) = made((2, frames, 3 * classes))

    def given(function: Callable) -> Callable:
        """With lengths, labels and masks on the leaves' device."""
        return lambda *leaves: function(
            *leaves, **{key: value.to(leaves[0].device) for key, value in dict(x=lengths, u=counts, y=text).items()}
        )

    def pruned(am: Tensor, lm: Tensor, x: Tensor, u: Tensor, y: Tensor) -> Tensor:
        simple = simple_transducer_loss(am, lm, y, x, u)
        ranges = prune_ranges(simple.blank_posterior, simple.label_posterior, x, u, 4)
        logits = torch.tanh(am[:, :, None] + gather_ranges(lm, ranges))
        return simple.loss_sum + pruned_transducer_loss(logits, ranges, y, x, u).loss_sum

    def negatives(p: Tensor, z: Tensor) -> Tensor:
        moved = type(plan)(*(part.to(p.device) if isinstance(part, Tensor) else part for part in plan))
        return contrastive_loss(p, z, moved).loss_sum

    packed = torch.cat(
        [lattice.detach()[i, : lengths[i], : counts[i] + 1].flatten(0, 1) for i in range(2)]
    ).requires_grad_()
    return {
        "contrastive": with_gradients(negatives, predictions, targets),
        "regression": with_gradients(
            lambda p, z: regression_loss(p, z, mask.to(p.device), mse=1.0, cosine=1.0).loss_sum, predictions, targets
        ),
        "discriminative": with_gradients(
            lambda s: discriminative_loss(s, teacher.detach().to(s.device), mask.to(s.device)).loss_sum, student
        ),
        "codebooks": with_gradients(lambda s: codebook_loss(s, codes.to(s.device), mask.to(s.device)).loss_sum, books),
        "ctc": with_gradients(given(lambda s, x, u, y: ctc_loss(s, x, y, u, 0, 1).loss_sum), student),
        "transducer": with_gradients(given(lambda s, x, u, y: transducer_loss(s, y, x, u).loss_sum), lattice),
        "transducer, packed": with_gradients(given(lambda s, x, u, y: transducer_loss(s, y, x, u).loss_sum), packed),
        "transducer, modified": with_gradients(
            given(lambda s, x, u, y: transducer_loss(s, y, x, u, topology="modified").loss_sum), lattice
        ),
        "transducer, pruned": with_gradients(given(pruned), am, lm),
        "transducer distillation": lambda device: [torch.tensor(device_cases.distilled_losses(device))],
        "transducer, tiled": lambda device: [torch.tensor(device_cases.tiled_losses(device))],
    }


def apart(values: List[Tensor], expected: List[Tensor]) -> float:
    """The largest difference over the largest value, of the worst tensor."""
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in zip(values, expected))


def check_losses(args) -> Iterator[Dict]:
    for name, function in loss_functions(1 if args.tiny else 6).items():
        error = apart(function(args.device), function("cpu"))
        yield dict(name=name, error=error, ok=error < LOSS_ERROR)


# -- teachers, criterions with their models, decoders ------------------------------------------------------------------


def chosen(cases: List, args) -> List:
    return cases[:2] if args.tiny else cases


def check_teachers(args) -> Iterator[Dict]:
    """Features of a padded batch in float32 as on the CPU, in bfloat16 nearly so."""
    torch.manual_seed(3)
    waveforms, lengths = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])

    def features(spec: str, dtype: str, device: str) -> List[Tensor]:
        teacher = load_teacher(spec, [0, 2, 4], dtype=dtype, device=device)
        output = teacher(waveforms.to(device), lengths.to(device))
        return [value.float().cpu() for value in output.features.values()]

    for name in ("plain", "coded"):
        spec = world().teachers[name]
        expected = features(spec, "float32", "cpu")
        error = apart(features(spec, "float32", args.device), expected)
        rounded = apart(features(spec, "bfloat16", args.device), expected)
        kind = {"plain": "Hugging Face", "coded": "fairseq"}[name]
        yield dict(name=kind, error=error, bfloat16=rounded, ok=error < CRITERION_ERROR and rounded < ROUNDED_ERROR)


def set_ups(args) -> Iterator[Tuple[str, Callable]]:
    here = world()
    for which, criterion, options in chosen(device_cases.DISTILLATIONS, args):
        yield (
            f"{criterion}, {which} teacher",
            functools.partial(device_cases.set_up_distillation, here.corpus, here.teachers, which, criterion, options),
        )
    for arch, options in chosen(device_cases.RECOGNISERS, args):
        what = " ".join(word.lstrip("-") for word in options[:4])
        yield (
            f"{arch} {what}",
            functools.partial(device_cases.set_up_recogniser, here.corpus, here.vocab, arch, options),
        )


def check_criterions(args) -> Iterator[Dict]:
    """Loss and gradients in float32, and what validation says, as on the CPU; in bfloat16 nearly so."""
    for name, make in set_ups(args):
        torch.manual_seed(1)
        run = make()
        sample = device_cases.small_batch(run)
        loss, norms, valid = device_cases.step(run, sample, "cpu")
        run.task.valid_decoders = None  # they hold the model that they were built for
        there, there_norms, there_valid = device_cases.step(run, sample, args.device)
        rounded, gradients, _ = device_cases.step(run, sample, args.device, torch.bfloat16)
        error = abs(there / loss - 1)
        norm_error = max(abs(there_norms[key] - norms[key]) / (norms[key] + 1e-2) for key in norms)
        valid_error = max(abs(there_valid[key] - valid[key]) / (abs(valid[key]) + 1) for key in ("loss",))
        rounded_error = abs(rounded / loss - 1)
        ok = error < CRITERION_ERROR and norm_error < NORM_ERROR and there_norms.keys() == norms.keys()
        ok = ok and valid_error < CRITERION_ERROR
        ok = ok and rounded_error < ROUNDED_ERROR and all(map(math.isfinite, gradients.values()))
        yield dict(name=name, loss=error, gradients=norm_error, validation=valid_error, bfloat16=rounded_error, ok=ok)


def check_decoders(args) -> Iterator[Dict]:
    """Hypotheses of a beam search: their errors in validation are counted the same."""
    here = world()
    for arch, options in chosen(DECODERS, args):
        torch.manual_seed(1)
        run = device_cases.set_up_recogniser(here.corpus, here.vocab, arch, options)
        sample, counts = device_cases.small_batch(run), []
        for device in ("cpu", args.device):
            run.task.valid_decoders = None
            model = copy.deepcopy(run.model).to(device).eval()
            moved = device_cases.moved(sample, device, torch.float32)
            with torch.no_grad():
                log = run.task.valid_step(moved, model, run.criterion.eval())[2]
            counts.append({key: value.tolist() for key, value in log.items() if key.startswith("_")})
        yield dict(name=f"{arch} {' '.join(options[-4:])}", ok=counts[0] == counts[1] and bool(counts[0]))


# -- training ----------------------------------------------------------------------------------------------------------


def training_options(which: str) -> List[str]:
    """Of fairseq-train, without --save-dir, --max-update and precision."""
    here = world()
    name, *own = which.split()
    if name in ("student_ctc", "student_s2t", "transducer_student"):
        criterion = "transducer" if name == "transducer_student" else "ctc_attention"
        task = ["--task", "multilingual_speech_to_text", "--vocab", here.vocab, "--arch", name]
        own += device_cases.S2T[:-2] if name == "student_s2t" else []
    else:
        criterion = name
        teacher = here.teachers[{"hubert_distillation": "coded", "multi_teacher": "two"}.get(name, "plain")]
        task = ["--task", "speech_distillation", "--arch", "colld_student", "--teacher", teacher]
        if name == "multi_codebook":
            own += ["--layer-map", "1:2", "--teacher-codebooks", f"{here.folder.name}/{device_cases.CODEBOOKS}"]
        else:
            special = {"hubert_distillation": device_cases.CODES, "multi_teacher": device_cases.TWO}
            own += special.get(name, ["--layer-map", "sparse:2"])
    words = [here.corpus, *task, *TINY_ENCODER, "--criterion", criterion, *TRAINING, *own]
    return [str(word) for word in words]


TRAININGS = (
    "student_ctc",
    "multi_codebook",
    "colld",
    "feature_regression",
    "hubert_distillation",
    "multi_teacher",
    "student_s2t",
    "transducer_student",
    "transducer_student --logits-budget-mb 0.2",
    "transducer_student --prune-range 4",
)


def train(which: str, updates: int, folder: Path, args, *more: str) -> List[float]:
    """Losses of all updates."""
    precision = [] if args.cuda else ["--cpu"]
    options = [
        *training_options(which),
        "--save-dir",
        folder,
        "--max-update",
        updates,
        "--disable-validation",
    ]
    return [float(loss) for loss in losses(call("train", *options, *precision, *more))]


def check_training(args) -> Iterator[Dict]:
    """A few updates of each criterion in mixed precision have finite losses near those of float32."""
    # A first scale that fits: an update that is skipped would leave other weights than those of float32.
    scaled = [["--fp16", "--fp16-init-scale", "1"], ["--amp", "--fp16-init-scale", "1"]]
    precisions = [["--bf16"], *(scaled if args.cuda else [])]
    for which in chosen(TRAININGS, args):
        with tempfile.TemporaryDirectory() as folder:
            plain = train(which, 3, Path(folder) / "float32", args)
            row = dict(name=which, loss=plain[-1])
            for option, *more in precisions:
                values = train(which, 3, Path(folder) / option, args, option, *more)
                row[option[2:]] = values[-1] if len(values) == 3 else math.nan
            # A few updates in: far from equal, and far from broken.
            finite = [value for key, value in row.items() if key != "name"]
            yield dict(row, ok=all(math.isfinite(value) and abs(value / plain[-1] - 1) < 0.5 for value in finite))


def check_resume(args) -> Iterator[Dict]:
    """A run that is stopped goes on as if it had not been."""
    for which in ["colld"] if args.tiny else ["colld", "student_ctc", "transducer_student"]:
        with tempfile.TemporaryDirectory() as folder:
            whole = train(which, 4, Path(folder) / "whole", args)
            parts = [train(which, updates, Path(folder) / "parts", args) for updates in (2, 4)]
        error = max(abs(a / b - 1) for a, b in zip(sum(parts, []), whole))
        yield dict(name=which, error=error, ok=len(whole) == 4 == sum(map(len, parts)) and error < RESUME_ERROR)


def check_ways(args) -> Iterator[Dict]:
    """Checkpointed and compiled blocks train as plain ones; the dry run says what its batches take."""
    still = list(device_cases.STILL)
    with tempfile.TemporaryDirectory() as folder:
        plain = train("student_ctc", 2, Path(folder) / "plain", args, *still)
        ways = {"checkpointed": ["--checkpoint-activations"], "dry run": ["--dry-run", "worst"]}
        if not args.tiny:
            ways["compiled"] = ["--compile-encoder"]
        for name, options in ways.items():
            values = train("student_ctc", 2, Path(folder) / name, args, *still, *options)
            error = max(abs(a / b - 1) for a, b in zip(values, plain))
            yield dict(name=name, error=error, ok=len(values) == len(plain) == 2 and error < RESUME_ERROR)


PARTS = {
    "losses": check_losses,
    "teachers": check_teachers,
    "criterions": check_criterions,
    "decoders": check_decoders,
    "training": check_training,
    "resume": check_resume,
    "ways": check_ways,
}
