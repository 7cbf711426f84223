"""multi_teacher against loops over single frames; which utterances a drawn teacher gets."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from torch import nn

from colld_fairseq.criterions.distillation import draw_rows
from colld_fairseq.criterions.multi_teacher import MultiTeacherConfig, MultiTeacherCriterion
from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.balance import LossScales
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
            self.layers = [torch.randn(len(STUDENT), max(STUDENT), 5).double() for _ in heads]

        def forward(self, src_tokens, src_lengths):
            layers = None if self.training else self.layers
            return StudentOutput(list(self.predictions), lengths, mask, layers=layers)

    sample = {
        "net_input": {"src_tokens": torch.zeros(len(STUDENT), max(STUDENT), 80), "src_lengths": lengths},
        "ntokens": sum(STUDENT),
        "nsentences": len(STUDENT),
        "audio_seconds": sum(STUDENT) / 25,
    }
    task = SimpleNamespace(teachers=sources, combination=combination, loss_scales=LossScales())
    return SimpleNamespace(model=Student(), task=task, sample=sample, mask=mask, sources=sources)


def run(here, training=True, **cfg):
    criterion = MultiTeacherCriterion(MultiTeacherConfig(**cfg), here.task).train(training)
    here.model.train(training)
    return criterion(here.model, here.sample)


def logged(*logs):
    """What fairseq prints of the logging outputs of some batches."""
    with metrics.aggregate(new_root=True) as totals:
        MultiTeacherCriterion.reduce_metrics(logs)
        return totals.get_smoothed_values()


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
    assert "loss_wide" in logged(log) and "loss_narrow" not in logged(log)


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


# -- teachers of unlike worth ------------------------------------------------------------------------------------------


def test_each_teacher_has_a_normalization_of_its_own():
    here = world(pairs=SAME)
    loss, _, _ = run(here, target_norm="wide=layer,narrow=instance")
    expected = 0.0
    for row in range(4):
        frames = common(None, row)
        wide = F.layer_norm(here.sources["wide"].features[4][row, :frames], (10,))
        narrow = here.sources["narrow"].features[6][row, :frames].numpy()
        narrow = torch.from_numpy((narrow - narrow.mean(0)) / np.sqrt(narrow.var(0) + 1e-5))
        for index, (target, weight) in enumerate(((wide, 0.75), (narrow, 0.25))):
            expected += weight * float((here.model.predictions[index][row, :frames] - target).abs().mean(-1).sum())
    assert float(loss) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("norm, message", [("wide=x", "'x' is not one of none, instance, layer"), ("big=layer", "big")])
def test_a_normalization_that_there_is_not(norm, message):
    with pytest.raises(ConfigError, match=f"--target-norm.*{message}"):
        run(world(), target_norm=norm)


def test_share_of_the_loss():
    here = world()
    loss, _, log = run(here)
    values = logged(log, log)
    for name in WEIGHTS:
        part = WEIGHTS[name] * float(log[f"loss_{name}"])
        assert values[f"share_{name}"] == pytest.approx(part / float(loss), abs=1e-3)
        assert values[f"loss_{name}"] == pytest.approx(float(log[f"loss_{name}"] / log[f"frames_{name}"]), abs=1e-4)


def test_losses_are_divided_by_their_own_running_means():
    """Every update's divisor is made of the updates before; the first one, before which there are none, has its own."""
    here = world(widths={"wide": 10, "narrow": 6})
    here.sources["wide"].features = {layer: 50 * value for layer, value in here.sources["wide"].features.items()}
    plain, expected = [], []
    for update in range(5):
        here.model.predictions[0].data.mul_(0.5)
        _, size, log = run(here)
        means = {name: float(log[f"loss_{name}"] / size) for name in WEIGHTS}
        running = {name: np.mean([one[name] for one in plain[-2:]]) for name in WEIGHTS} if plain else means
        if len(plain) > 2:  # the mean over two updates, of which the older ones fade out
            running = {name: (expected[-1][name] + plain[-1][name]) / 2 for name in WEIGHTS}
        expected.append(running)
        plain.append(means)
        loss, size, log = run(here, balance_updates=2)
        wanted = sum(WEIGHTS[name] * means[name] / running[name] for name in WEIGHTS)
        assert float(loss / size) == pytest.approx(wanted, rel=1e-9)
        criterion = MultiTeacherCriterion(MultiTeacherConfig(balance_updates=2), here.task)
        halves = [{name: value / 2 for name, value in log.items()}] * 2  # of two batches, or two workers
        criterion.after_update(halves)
        if not update:
            share = logged(log)["share_wide"]
            assert share == 0.75 and logged(run(here)[2])["share_wide"] > 0.95
    assert here.task.loss_scales.start == pytest.approx(plain[0], rel=1e-9)


def test_validation_is_in_terms_of_the_first_update():
    """Whose losses never change: by a running mean every validation would be 1."""
    here = world()
    for name, start, now in (("wide", 4.0, 0.5), ("narrow", 2.0, 0.1)):
        for mean in (start, now):
            here.task.loss_scales.add(name, mean, updates=1)
    loss, size, log = run(here, training=False, balance_updates=1)
    means = {name: float(log[f"loss_{name}"] / size) for name in WEIGHTS}
    assert float(loss / size) == pytest.approx(0.75 * means["wide"] / 4 + 0.25 * means["narrow"] / 2, rel=1e-9)


def test_an_average_has_nothing_to_balance():
    with pytest.raises(ConfigError, match="--balance-updates: --teacher-combination average has one loss"):
        run(world("average", SAME, {"wide": 6, "narrow": 6}), balance_updates=9)


def center(features):
    return features - features.mean(0)


def cka_by_hand(x, y):
    """By Gram matrices of all frames (Kornblith et al. 2019, equation 3)."""
    x, y = center(x), center(y)
    x, y = x @ x.T, y @ y.T
    return np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))


def test_what_the_student_keeps_of_each_teacher():
    """Over the frames of all batches and workers; of two layer pairs the mean; nothing in training."""
    here, other = world(), world()
    assert not any(name.startswith("_") for name in run(here)[2])
    logs = [run(one, training=False)[2] for one in (here, other)]
    values = logged(*logs)
    # Two workers' sums are added up by fairseq, in one vector with all else.
    together = logged({name: logs[0][name] + logs[1][name] for name in logs[0]})
    sizes = [common(None, row) for row in range(4)]
    expected = {"wide": [], "narrow": []}
    for index, pair in enumerate(PAIRS):
        x, y = [], []
        for one in (here, other):
            for row, frames in enumerate(sizes):
                x.append(one.model.layers[index][row, :frames].numpy())
                y += [feature(one, pair, row, t).numpy()[None] for t in range(frames)]
        expected[pair.teacher].append(cka_by_hand(np.concatenate(x), np.concatenate(y)))
    for name, pairs in expected.items():
        assert values[f"cka_{name}"] == pytest.approx(np.mean(pairs), abs=1e-4)
        assert together[f"cka_{name}"] == values[f"cka_{name}"]
