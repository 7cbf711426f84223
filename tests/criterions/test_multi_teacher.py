"""multi_teacher against loops over single frames; which utterances a drawn teacher gets."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from torch import nn

from colld_fairseq.criterions.distillation import draw_rows
from colld_fairseq.criterions.multi_teacher import MultiTeacherConfig, MultiTeacherCriterion
from colld_fairseq.models.colld_student import StudentOutput
from colld_fairseq.models.layer_map import LayerPair
from colld_fairseq.modules.heads import ConcatTanh

STUDENT = [17, 9, 24, 12]  # frames
SHARED = {"wide": [17, 8, 24, 12], "narrow": [15, 9, 24, 12]}  # frames each teacher shares with the student
PAIRS = [LayerPair(1, (2,), "wide"), LayerPair(2, (3, 4), "wide"), LayerPair(2, (6,), "narrow")]
SAME = [LayerPair(2, (4,), "wide"), LayerPair(2, (6,), "narrow")]
WEIGHTS = {"wide": 0.75, "narrow": 0.25}
WIDTHS = {"wide": 10, "narrow": 6}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


class Source:
    """A teacher that hands over random features [B, T, D], and counts the utterances it was asked for."""

    def __init__(self, name, width, layers):
        self.weight, self.asked = WEIGHTS[name], 0
        self.lengths = torch.tensor(SHARED[name])
        self.features = {layer: torch.randn(len(STUDENT), max(STUDENT), width).double() for layer in layers}

    def targets(self, sample, lengths, rate_hz, rows=None):
        rows = torch.arange(len(self.lengths)) if rows is None else rows
        self.asked += len(rows)
        longest = int(self.lengths[rows].max()) if len(rows) else 0
        return {layer: value[rows, :longest] for layer, value in self.features.items()}, self.lengths[rows]


class Sources(dict):
    @property
    def weights(self):
        return {name: source.weight for name, source in self.items()}


def world(combination="sum", pairs=PAIRS, widths=WIDTHS, masked=False, adapters=None):
    """Student, task and batch that only hand over tensors; predictions are the parameters."""
    heads = pairs if combination != "average" else pairs[: len(pairs) // 2]
    adapters = adapters or {}
    sources = Sources()
    for name in WEIGHTS:
        layers = {layer for pair in pairs if pair.teacher == name for layer in pair.teacher_layers}
        stacked = 2 if any(pairs[index].teacher == name for index in adapters) else 1
        sources[name] = Source(name, stacked * widths[name], layers)
    lengths = torch.tensor(STUDENT)
    valid = torch.arange(max(STUDENT)) < lengths[:, None]
    mask = (torch.rand(valid.shape) < 0.6) & valid if masked else None

    class Student(nn.Module):
        prediction_rate_hz = 25.0

        def __init__(self):
            super().__init__()
            self.predictions = nn.ParameterList(
                torch.randn(len(STUDENT), max(STUDENT), widths[pair.teacher]).double() for pair in heads
            )
            self.heads = SimpleNamespace(adapters=nn.ModuleDict({str(n): value for n, value in adapters.items()}))
            self.pairs = pairs

        def forward(self, src_tokens, src_lengths):
            return StudentOutput(list(self.predictions), lengths, mask)

    sample = {
        "net_input": {"src_tokens": torch.zeros(len(STUDENT), max(STUDENT), 80), "src_lengths": lengths},
        "ntokens": sum(STUDENT),
        "nsentences": len(STUDENT),
        "audio_seconds": sum(STUDENT) / 25,
    }
    task = SimpleNamespace(teachers=sources, combination=combination)
    return SimpleNamespace(model=Student(), task=task, sample=sample, mask=mask, sources=sources)


def run(here, training=True, **cfg):
    criterion = MultiTeacherCriterion(MultiTeacherConfig(**cfg), here.task).train(training)
    return criterion(here.model, here.sample)


def l1(p, z):
    return float((p - z).abs().mean())


def cosine(p, z):
    return 1 - float(F.cosine_similarity(p, z, dim=0))


def feature(here, pair, row, t):
    """[D], the teacher's frame: the mean over the pair's layers."""
    layers = [here.sources[pair.teacher].features[layer][row, t] for layer in pair.teacher_layers]
    return sum(layers) / len(layers)


def by_hand(here, rows_of, weights, head_weights=(0.5, 0.5, 1.0), shift=0, distance=l1, frames_of=None):
    """Loss summed and frames; rows_of, weights: teacher -> its utterances, its weight."""
    loss, counted = 0.0, set()
    for index, pair in enumerate(here.model.pairs):
        for row in rows_of[pair.teacher]:
            for t in range(frames_of(pair.teacher, row) - shift):
                if here.mask is not None and not here.mask[row, t + shift]:
                    continue
                counted.add((row, t))
                p = here.model.predictions[index][row, t + shift]
                loss += weights[pair.teacher] * head_weights[index] * distance(p, feature(here, pair, row, t))
    return loss, len(counted)


def common(teacher, row):
    return min(SHARED["wide"][row], SHARED["narrow"][row])


EVERY = {"wide": range(4), "narrow": range(4)}


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_sum(masked, shift):
    here = world(masked=masked)
    loss, sample_size, log = run(here, target_shift=shift, regression_frames="masked" if masked else "all")
    expected, frames = by_hand(here, EVERY, WEIGHTS, shift=shift, frames_of=common)
    assert int(sample_size) == frames == int(log["frames_wide"]) == int(log["frames_narrow"])
    assert float(loss) == pytest.approx(expected, rel=1e-9)
    assert float(loss) == pytest.approx(0.75 * float(log["loss_wide"]) + 0.25 * float(log["loss_narrow"]), rel=1e-9)


def test_other_distances_and_layer_weights():
    here = world()
    terms = dict(l1_weight=0.0, mse_weight=2.0, cosine_weight=0.5, layer_weights="0.1,0.4,3")
    loss, _, _ = run(here, **terms)

    def distance(p, z):
        return 2 * float((p - z).square().mean()) + 0.5 * cosine(p, z)

    expected, _ = by_hand(here, EVERY, WEIGHTS, (0.1, 0.4, 3), distance=distance, frames_of=common)
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_l1_alone_is_the_default():
    loss, _, log = run(world())
    assert {"mse", "cosine", "log_sigmoid_cosine"}.isdisjoint(log) and float(log["l1"]) == pytest.approx(float(loss))


def test_random_trains_each_utterance_on_one_teacher_that_runs_on_no_other():
    here = world("random")
    torch.manual_seed(1)
    drawn = {name: rows.tolist() for name, rows in draw_rows(WEIGHTS, 4, "cpu").items()}
    assert sorted(drawn["wide"] + drawn["narrow"]) == [0, 1, 2, 3] and drawn["wide"] and drawn["narrow"]
    torch.manual_seed(1)
    loss, sample_size, log = run(here)
    expected, frames = by_hand(
        here, drawn, {"wide": 1.0, "narrow": 1.0}, frames_of=lambda teacher, row: SHARED[teacher][row]
    )
    assert float(loss) == pytest.approx(expected, rel=1e-9) and int(sample_size) == frames
    assert [source.asked for source in here.sources.values()] == [len(drawn["wide"]), len(drawn["narrow"])]


def test_random_is_validated_by_its_expectation():
    here = world("random")
    state = torch.get_rng_state()
    loss, sample_size, _ = run(here, training=False)
    assert torch.equal(torch.get_rng_state(), state)
    here.task.combination = "sum"
    expected, count, _ = run(here, training=False)
    assert float(loss) == float(expected) and int(sample_size) == int(count)


def test_a_teacher_that_nobody_drew_still_gives_its_heads_a_gradient(monkeypatch):
    """Of zero; without it distributed training would wait for one."""
    here = world("random", adapters={2: ConcatTanh(6, 2).double()})
    everything = {"wide": torch.arange(4), "narrow": torch.arange(0)}
    monkeypatch.setattr("colld_fairseq.criterions.distillation.draw_rows", lambda *_: everything)
    loss, sample_size, log = run(here)
    loss.backward()
    assert int(sample_size) == sum(SHARED["wide"]) and int(log["frames_narrow"]) == 0
    for parameter in (here.model.predictions[2], *here.model.heads.adapters.parameters()):
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
    assert here.model.predictions[0].grad.abs().sum() > 0
    with metrics.aggregate(new_root=True) as totals:
        MultiTeacherCriterion.reduce_metrics([log])
    assert "loss_wide" in totals and "loss_narrow" not in totals


def test_draws_follow_the_weights_and_the_seed():
    torch.manual_seed(1)
    first = draw_rows({"a": 0.8, "b": 0.2}, 20000, "cpu")
    assert len(first["a"]) == pytest.approx(16000, abs=200)
    assert len(first["a"]) + len(first["b"]) == 20000
    second = draw_rows({"a": 0.8, "b": 0.2}, 20000, "cpu")
    torch.manual_seed(1)
    again = draw_rows({"a": 0.8, "b": 0.2}, 20000, "cpu")
    assert torch.equal(first["a"], again["a"]) and not torch.equal(first["a"][:9000], second["a"][:9000])


def test_workers_of_one_seed_draw_differently(monkeypatch):
    """fairseq seeds all workers alike; each draws for its own utterances."""
    draws = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in (0, 1, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        torch.manual_seed(1)
        draws.append(draw_rows({"a": 0.5, "b": 0.5}, 64, "cpu")["a"].tolist())
    assert draws[1] == draws[2] != draws[0]


def test_average():
    here = world("average", SAME, {"wide": 6, "narrow": 6})
    loss, sample_size, log = run(here, target_norm="layer")
    expected, frames = 0.0, 0
    for row in range(4):
        for t in range(common(None, row)):
            z = [F.layer_norm(feature(here, pair, row, t), (6,)) for pair in SAME]
            expected += l1(here.model.predictions[0][row, t], 0.75 * z[0] + 0.25 * z[1])
            frames += 1
    assert float(loss) == pytest.approx(expected, rel=1e-9) and int(sample_size) == frames
    assert "loss_average" in log


def test_learned_adapter_is_the_target_and_learns_to_restore():
    adapter = ConcatTanh(6, 2).double()
    here = world(pairs=SAME, widths={"wide": 10, "narrow": 6}, adapters={1: adapter})
    loss, _, log = run(here)
    stacked = here.sources["narrow"].features[6]
    expected, restored = 0.0, 0.0
    for row in range(4):
        for t in range(common(None, row)):
            e = stacked[row, t]
            z = torch.tanh(adapter.encode.weight @ e + adapter.encode.bias)
            restored += l1(adapter.decode.weight @ z + adapter.decode.bias, e)
            expected += 0.75 * l1(here.model.predictions[0][row, t], feature(here, SAME[0], row, t))
            expected += 0.25 * l1(here.model.predictions[1][row, t], z)
    assert float(log["restored"]) == pytest.approx(restored, rel=1e-9)
    assert float(loss) == pytest.approx(expected + restored, rel=1e-9)
    assert float(run(here, training=False)[0]) == pytest.approx(expected, rel=1e-9)
    # The student's loss does not pull its own target.
    pull = torch.autograd.grad(loss, adapter.encode.weight)[0]
    here.model.predictions[1].data.add_(100)
    assert torch.equal(torch.autograd.grad(run(here)[0], adapter.encode.weight)[0], pull)


def test_utterances_shorter_than_the_shift_carry_nothing():
    loss, sample_size, _ = run(world(), target_shift=100)
    assert float(loss) == 0.0 and int(sample_size) == 0
