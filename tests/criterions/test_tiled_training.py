"""Training with --logits-budget-mb: the numbers of training with all logits, with every kind of distillation."""

import pytest
import torch
from checkpoints import save_untrained
from commands import TINY_ENCODER
from task_setup import assemble, configure, vary
from torch.utils._pytree import tree_leaves

from colld_fairseq.errors import ConfigError

BASE = [
    *["--task", "multilingual_speech_to_text", "--arch", "transducer_student", "--criterion", "transducer"],
    *["--predictor-embed-dim", "16", "--joiner-dim", "24", "--predictor-dropout", "0", "--front-end", "conv2d"],
    *TINY_ENCODER,
]
BUDGET = 0.005  # MB: some frames of these small lattices


@pytest.fixture(scope="module")
def base(corpus, vocab):
    return configure(corpus, *BASE, "--vocab", vocab)


@pytest.fixture(scope="module")
def teacher(base, tmp_path_factory):
    torch.manual_seed(1)
    run = assemble(vary(base, predictor="stateless", joiner_dim=20))
    return save_untrained(run, tmp_path_factory.mktemp("teacher") / "teacher.pt")


@pytest.fixture
def build(base):
    def make(**options):
        run = assemble(vary(base, **options))
        run.task.load_dataset("train")
        dataset = run.task.dataset("train")
        run.batch = dataset.collater([dataset[index] for index in range(3)])
        return run

    return make


class List:
    """Stands for NBestTargets: row 1 has two hypotheses."""

    def of(self, index):
        return {1: [("abc", 0.7), ("ad", 0.3)]}.get(index, [])

    def __len__(self):
        return 2


def outcome(run, batch):
    """Loss, what is logged and all gradients, in float64."""
    run.model.zero_grad()
    loss, _, log = run.criterion(run.model, batch)
    loss.backward()
    logged = {name: float(value) for name, value in log.items()}
    return float(loss), logged, {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


def assert_same(own, expected):
    assert own[0] == pytest.approx(expected[0], rel=1e-9)
    assert own[1] == pytest.approx(expected[1], rel=1e-9)
    assert own[2].keys() == expected[2].keys()
    for name, gradient in own[2].items():
        wanted = expected[2][name]
        assert torch.allclose(gradient, wanted, rtol=1e-6, atol=1e-9 * float(wanted.abs().max()) + 1e-12), name


CASES = [
    dict(fastemit_lambda=0.1, delay_penalty=0.01),
    dict(topology="modified"),
    dict(kd="one_best", kd_shift=1, kd_window=3, kd_temperature=2.0),
    dict(kd="three_class", kd_shift=2, kd_mean="node"),
    dict(kd="lattice", kd_shift=1, kd_temperature=0.5),
    dict(kd="lattice", topology="modified", joiner_activation="relu", kd_weight=0.3),
]


@pytest.mark.parametrize("nbest, short", [(False, False), (True, True)])
@pytest.mark.parametrize("options", CASES)
def test_same_numbers_as_with_all_logits(options, nbest, short, build, teacher):
    """Also with n-best lists, and an utterance without a single frame."""
    if "kd" in options:
        options = {**options, "teacher_transducer": teacher}
    plain, tiled = build(**options), build(logits_budget_mb=BUDGET, **options)
    tiled.model.load_state_dict(plain.model.state_dict())
    if nbest:
        plain.task.nbest_of = lambda rows: List()
        plain.task.load_dataset("train")
        dataset = plain.task.dataset("train")
        plain.batch = dataset.collater([dataset[index] for index in range(3)])
    batch = plain.batch
    if short:
        batch["net_input"]["src_lengths"][2] = 2
        if "kd" in options:
            batch["teacher_input"]["src_lengths"][2] = 2
    batch["net_input"]["src_tokens"] = batch["net_input"]["src_tokens"].double()
    for run in (plain, tiled):
        run.model.double().train()
        if "kd" in options:
            run.task.teacher_transducer.network.double()
    joined = []
    tiled.model.joiner.output.register_forward_hook(lambda module, inputs, output: joined.append(output.shape))
    assert_same(outcome(tiled, batch), outcome(plain, batch))
    assert not joined  # the logits of the lattice are not the joiner's


def test_a_batch_of_utterances_without_frames(build, teacher):
    for options in (
        {},
        *(dict(kd=kind, teacher_transducer=teacher) for kind in ("one_best", "three_class", "lattice")),
    ):
        run = build(logits_budget_mb=BUDGET, **options)
        for part in ("net_input", "teacher_input") if options else ("net_input",):
            run.batch[part]["src_lengths"][:] = 2
        loss, log, gradients = outcome(run, run.batch)
        assert loss == 0.0 and log["no_path"] == 3
        assert all(gradient.eq(0).all() for gradient in gradients.values())


def test_what_the_forward_returns_leads_to_every_parameter(build, teacher):
    """As DistributedDataParallel looks for parameters without use: along the graph of the output."""
    run = build(logits_budget_mb=BUDGET, kd="one_best", teacher_transducer=teacher)
    seen, asked = set(), []
    run.model.register_forward_hook(lambda module, inputs, output: asked.append(output))
    run.criterion(run.model, run.batch)
    leaves = tree_leaves(asked)
    steps = [x.grad_fn for x in leaves if isinstance(x, torch.Tensor) and x.grad_fn is not None]
    reached = set()
    while steps:
        step = steps.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if hasattr(step, "variable"):
            reached.add(id(step.variable))
        steps.extend(following for following, _ in step.next_functions)
    trained = {name: id(p) for name, p in run.model.named_parameters() if p.requires_grad}
    assert not [name for name, key in trained.items() if key not in reached]


def test_a_budget_is_for_the_full_lattice(build):
    run = build(logits_budget_mb=64.0, prune_range=4)
    with pytest.raises(ConfigError, match="--logits-budget-mb 64: .*--prune-range 4"):
        run.criterion(run.model, run.batch)
    with pytest.raises(ConfigError, match="--logits-budget-mb -1: must be a finite number at least 0"):
        build(logits_budget_mb=-1.0)
