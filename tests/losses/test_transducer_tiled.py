"""The transducer loss in tiles against enumerated alignments and against the losses of whole logits, in float64."""

import math
from typing import NamedTuple

import pytest
import torch
from peak_memory import PeakMemory
from torch.utils._python_dispatch import TorchDispatchMode
from transducer_reference import batch_losses, enumerated_loss, pack

from colld_fairseq.losses import (
    HiddenNodes,
    JoinerParts,
    LatticeTeacher,
    Nodes,
    lattice_divergence,
    path_loss,
    three_class_loss,
    tiled_path_loss,
    tiled_transducer_loss,
    transducer_loss,
)
from colld_fairseq.losses.joiner_tiles import rectangles, tile_rows
from colld_fairseq.losses.transducer_arcs import LogitLayout

TOPOLOGIES = ["regular", "modified"]
ONE_NODE, SOME, ALL = 1e-9, 4e-3, 100.0  # MB
V, J = 6, 4


class Batch(NamedTuple):
    parts: JoinerParts
    labels: torch.Tensor
    frames: torch.Tensor
    counts: torch.Tensor

    @property
    def leaves(self):
        return self.parts[:4]


def make_batch(frames=(6, 5, 4, 4, 1), counts=(4, 2, 0, 4, 1), width=J, vocabulary=V, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    batch, longest = len(frames), max(counts)
    tensors = leaf(batch, max(frames), width), leaf(batch, longest + 1, width), leaf(vocabulary, width)
    labels = torch.randint(1, vocabulary, (batch, longest), generator=generator)
    parts = JoinerParts(*tensors, leaf(vocabulary), torch.tanh)
    return Batch(parts, labels, torch.tensor(frames), torch.tensor(counts))


def all_logits(parts):
    """`[B, T, U+1, V]`"""
    hidden = parts.activation(parts.frames[:, :, None] + parts.symbols[:, None])
    return torch.nn.functional.linear(hidden, parts.weight, parts.bias)


def results(losses, batch):
    """Values, and gradients of their weighted sum."""
    weights = torch.linspace(0.5, 1.5, len(losses), dtype=losses.dtype)
    return [losses.detach(), *torch.autograd.grad((weights * losses).sum(), batch.leaves)]


def assert_equal(result, expected, tolerance=1e-9):
    for name, a, b in zip(("losses", "frames", "symbols", "weight", "bias"), result, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


OPTIONS = [{}, dict(fastemit_lambda=0.4), dict(delay_penalty=0.7), dict(fastemit_lambda=0.1, delay_penalty=0.05)]


@pytest.mark.parametrize("budget", [ONE_NODE, SOME, ALL])
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_sum_over_enumerated_alignments(options, topology, budget):
    batch = make_batch()
    expected = batch_losses(enumerated_loss, all_logits(batch.parts), *batch[1:], topology=topology, **options)
    result = tiled_transducer_loss(*batch, budget_mb=budget, topology=topology, **options)
    assert_equal(results(result.losses, batch), results(expected, batch))
    assert result.loss_sum.item() == pytest.approx(expected.sum().item()) and result.count.item() == 5
    assert result.divergences is None


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("activation", [torch.tanh, torch.relu])
def test_equals_the_loss_of_whole_logits(activation, topology, packed):
    """Padded and packed, long enough for tiles of several frames."""
    batch = make_batch([31, 12, 24], [7, 11, 0], width=8, vocabulary=13)
    batch = batch._replace(parts=batch.parts._replace(activation=activation))
    logits = all_logits(batch.parts)
    logits = pack(logits, *batch[2:]) if packed else logits
    expected = transducer_loss(logits, *batch[1:], topology=topology)
    result = tiled_transducer_loss(*batch, budget_mb=0.02, topology=topology)
    torch.testing.assert_close(result.blank_arcs, expected.blank_arcs)
    torch.testing.assert_close(result.label_arcs, expected.label_arcs)
    assert_equal(results(result.losses, batch), results(expected.losses, batch))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradcheck(topology):
    batch = make_batch([3, 2], [2, 1], width=3, vocabulary=4)
    known = teacher_of(batch, [3, 3], temperature=1.5)

    def losses(*leaves):
        parts = JoinerParts(*leaves, torch.tanh)
        out = tiled_transducer_loss(parts, *batch[1:], budget_mb=4e-4, topology=topology, teacher=known)
        return out.losses, out.divergences

    assert torch.autograd.gradcheck(losses, batch.leaves)


def teacher_of(batch, frames, seed=9, **options):
    """Random logits `[B, T~, U+1, V]` as a teacher of the batch."""
    generator = torch.Generator().manual_seed(seed)
    shape = len(frames), max(frames), batch.parts.symbols.shape[1], len(batch.parts.weight)
    logits = torch.randn(*shape, generator=generator, dtype=batch.parts.weight.dtype)
    return LatticeTeacher(lambda nodes: logits[nodes], frames, **options)


@pytest.mark.parametrize("budget", [ONE_NODE, SOME, ALL])
@pytest.mark.parametrize("shift, temperature", [(0, 1.0), (2, 1.0), (0, 0.5), (1, 2.0)])
def test_full_lattice_in_the_same_tiles(shift, temperature, budget):
    """A teacher of more frames, as many, or fewer; alone, and beside the transducer loss."""
    batch = make_batch()
    known = teacher_of(batch, [7, 3, 4, 1, 1], shift=shift, temperature=temperature)
    layout = LogitLayout(batch.frames.tolist(), (batch.counts + 1).tolist(), packed=True)
    for share in (0.0, 1.0):
        logits = pack(all_logits(batch.parts), *batch[2:])
        plain = transducer_loss(logits, *batch[1:])
        kd = lattice_divergence(logits, layout, known.logits, known.frames, shift=shift, temperature=temperature)
        expected = results(share * plain.losses + kd.losses, batch)
        result = tiled_transducer_loss(*batch, budget_mb=budget, teacher=known)
        assert_equal(results(share * result.losses + result.divergences, batch), expected)


@pytest.mark.parametrize("budget", [ONE_NODE, ALL])
def test_three_classes_through_the_arcs(budget):
    batch = make_batch()
    nodes = [(b, t, u) for b in range(5) for t in range(batch.frames[b]) for u in range(batch.counts[b])]
    text, frame, label = torch.tensor(nodes).T
    known = torch.randn(len(nodes), 3, dtype=torch.float64).log_softmax(-1)[:, :2].unbind(1)

    def loss_of(arcs):
        mine = arcs.blank_arcs[text, frame, label], arcs.label_arcs[text, frame, label]
        return three_class_loss(*mine, *known, Nodes(text, frame, label), 5).losses + arcs.losses

    expected = loss_of(transducer_loss(all_logits(batch.parts), *batch[1:]))
    assert_equal(results(loss_of(tiled_transducer_loss(*batch, budget_mb=budget)), batch), results(expected, batch))


@pytest.mark.parametrize("budget", [ONE_NODE, SOME, ALL])
def test_one_best_paths(budget):
    """With a window, of which only the least counts, and nodes that have no frame."""
    torch.manual_seed(1)
    hidden = torch.randn(5, 3, J, dtype=torch.double, requires_grad=True)
    weight, bias = (torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in ((V, J), (V,)))
    known = torch.randn(5, V, dtype=torch.double)
    present = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).bool()
    compared = present, torch.tensor([0, 0, 2, 2, 2]), 3
    expected = path_loss(torch.nn.functional.linear(hidden, weight, bias), known, *compared, temperature=1.5)

    def tiled(hidden, weight, bias):
        parts = HiddenNodes(hidden, weight, bias)
        return tiled_path_loss(parts, lambda rows: known[rows], *compared, budget_mb=budget, temperature=1.5)

    leaves, scale = (hidden, weight, bias), torch.tensor([0.5, 2.0, 3.0]).double()
    result = tiled(*leaves)
    assert result.counts.tolist() == expected.counts.tolist() == [2, 0, 2]
    torch.testing.assert_close(result.losses, expected.losses)
    gradients = (torch.autograd.grad((scale * losses).sum(), leaves) for losses in (result.losses, expected.losses))
    for own, wanted in zip(*gradients):
        torch.testing.assert_close(own, wanted)
    assert torch.autograd.gradcheck(lambda *leaves: tiled(*leaves).losses, leaves)
    none = torch.zeros(0, 1, dtype=torch.bool), torch.zeros(0, dtype=torch.int64), 2
    empty = HiddenNodes(hidden[:0, :1], weight, bias)
    losses, counts = tiled_path_loss(empty, lambda rows: known[rows], *none, budget_mb=budget)
    assert losses.tolist() == [0, 0] and counts.tolist() == [0, 0]
    losses.sum().backward()


@pytest.mark.parametrize("rows", [1, 3, 7, 50, 10**6])
def test_rectangles_cover_what_is_asked_for_once(rows):
    generator = torch.Generator().manual_seed(rows)
    first = torch.randint(0, 9, (40,), generator=generator).tolist()
    end = [max(low + int(torch.randint(-2, 6, (), generator=generator)), 0) for low in first]
    seen = torch.zeros(40, 20, dtype=torch.int64)
    for t, u in rectangles(first, end, rows):
        assert 0 < (t.stop - t.start) * (u.stop - u.start) <= rows
        seen[t, u] += 1
    assert seen.max() == 1
    for t, (low, high) in enumerate(zip(first, end)):
        assert seen[t, low:high].all()


def test_rectangles_of_whole_frames_have_nothing_else():
    assert list(rectangles([0] * 5, [4] * 5, 8)) == [(slice(t, min(t + 2, 5)), slice(0, 4)) for t in (0, 2, 4)]
    assert list(rectangles([0], [5], 2)) == [(slice(0, 1), slice(u, min(u + 2, 5))) for u in (0, 2, 4)]
    assert list(rectangles([9, 9], [0, 0], 4)) == list(rectangles([], [], 4)) == []


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_budget_gradients_and_lattice(dtype, distilled):
    """Of logits of 9 MB; what is made of the parts, and the lattice, counts as it is."""
    frames, counts, vocabulary, budget = [40, 35], [30, 25], 1000, 0.3
    made = make_batch(frames, counts, width=16, vocabulary=vocabulary, dtype=torch.float32)
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in made.leaves]
    known = torch.randn(1, 1, vocabulary)
    teacher = LatticeTeacher(lambda nodes: known.repeat(len(nodes.frame), len(nodes.label), 1), frames)
    with PeakMemory() as memory:
        parts, given = JoinerParts(*leaves, torch.tanh), made[1:]
        out = tiled_transducer_loss(parts, *given, budget_mb=budget, teacher=teacher if distilled else None)
        loss = out.loss_sum + out.divergences.sum() if distilled else out.loss_sum
        torch.autograd.grad(loss, leaves)
    parameters = 4 * sum(leaf.numel() for leaf in leaves)  # their gradients, and those of half ones before rounding
    lattice = 8 * (70 * 31 * 4) * 8  # the recursion's tensors
    assert memory.peak < 1e6 * budget + 2 * parameters + lattice < 1.2e6


def test_nothing_is_computed_again_far_from_certain_alignments():
    """Counted in the nodes that the activation is asked for; and the gradient is that of the whole logits."""
    frames, labels = 36, 12
    batch = make_batch([frames], [labels], width=labels + 2, vocabulary=labels + 1)
    weight, bias = torch.zeros(labels + 1, labels + 2).double(), torch.zeros(labels + 1).double()
    batch.labels[0] = torch.arange(1, labels + 1)
    weight[0, 0], weight[1:, 1:-1], bias[2] = 100.0, 100 * torch.eye(labels), 99.0  # label 2 disturbs
    due = torch.arange(frames)[:, None] // 3 >= torch.arange(labels + 1)  # emit at every third frame
    due[:, labels] = False
    asked = []

    def activation(x):
        """Blank unless label u is due at t, which frames and symbols say together."""
        asked.append(x.shape[:2].numel())
        t, u = x[..., 0].round().long(), x[..., 1].round().long()
        hidden = torch.zeros_like(x)
        emits = due.double()[t, u]
        hidden[..., 0] = 1 - emits
        hidden.scatter_(-1, (u + 1)[..., None], emits[..., None])
        return hidden + 0.0 * x

    with torch.no_grad():
        batch.parts.frames.zero_()[..., 0] = torch.arange(frames).double()
        batch.parts.symbols.zero_()[..., 1] = torch.arange(labels + 1).double()
    leaves = weight.requires_grad_(), bias.requires_grad_()
    parts = JoinerParts(batch.parts.frames, batch.parts.symbols, *leaves, activation)
    result = tiled_transducer_loss(parts, *batch[1:], budget_mb=0.02)
    nodes, asked[:] = sum(asked), []
    gradients = torch.autograd.grad(result.loss_sum, leaves)
    assert nodes == frames * (labels + 1) and 0 < sum(asked) < 0.5 * nodes
    expected = torch.autograd.grad(transducer_loss(all_logits(parts), *batch[1:]).loss_sum, leaves)
    for own, wanted in zip(gradients, expected):
        torch.testing.assert_close(own, wanted)
        assert wanted.abs().max() > 0.1


def test_same_bits_every_time_and_padding_is_never_read():
    batch = make_batch([31, 12, 24], [7, 11, 0], width=8, vocabulary=13)
    known = teacher_of(batch, [31, 12, 24])

    def run(batch):
        out = tiled_transducer_loss(*batch, budget_mb=0.02, teacher=known)
        return results(out.losses + out.divergences, batch)

    first, second = run(batch), run(batch)
    wild = [part.detach().clone() for part in batch.leaves]
    for b, (t, u) in enumerate(zip(batch.frames, batch.counts)):
        wild[0][b, t:], wild[1][b, u + 1 :] = math.nan, math.nan
    third = run(batch._replace(parts=JoinerParts(*(part.requires_grad_() for part in wild), torch.tanh)))
    for one, again, other in zip(first, second, third):
        assert torch.equal(one, again) and torch.equal(one, other)


def test_backward_passes_over_the_same_graph_and_one_derivative_only():
    batch = make_batch()
    losses = tiled_transducer_loss(*batch, budget_mb=SOME).losses
    first, second = (torch.autograd.grad(losses.sum(), batch.leaves, retain_graph=True) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second))
    with pytest.raises(RuntimeError, match="no second derivative: leave out create_graph=True"):
        torch.autograd.grad(losses.sum(), batch.leaves, create_graph=True)
    with torch.no_grad():
        assert torch.equal(tiled_transducer_loss(*batch, budget_mb=SOME).losses, losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_and_autocast_as_of_whole_logits(dtype):
    """Products in half precision, softmax and sums in float32: as near to float64 as the plain loss is."""
    exact = make_batch([40, 31], [12, 9], width=16, vocabulary=20)
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in exact.leaves]
    batch = exact._replace(parts=JoinerParts(*leaves, torch.tanh))
    exact = exact._replace(parts=JoinerParts(*(x.detach().double().requires_grad_() for x in leaves), torch.tanh))
    wanted = results(transducer_loss(all_logits(exact.parts), *exact[1:]).losses, exact)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        own = tiled_transducer_loss(*batch, budget_mb=0.05)
        plain = transducer_loss(all_logits(batch.parts), *batch[1:])
    assert own.losses.dtype == torch.float32
    torch.testing.assert_close(own.losses, plain.losses)
    for mine, theirs, exactly in zip(results(own.losses, batch), results(plain.losses, batch), wanted):
        assert mine.dtype == theirs.dtype
        error, usual = ((x.double() - exactly).norm() / exactly.norm() for x in (mine, theirs))
        assert error < max(1.5 * usual, 1e-6)


class Products(TorchDispatchMode):
    """The numbers of rows with which the output layer is asked for."""

    def __init__(self):
        super().__init__()
        self.rows = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.addmm.out:
            self.rows.add(len(args[1]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype, most", [(torch.float32, 100), (torch.bfloat16, 16)])
def test_few_sizes_of_products_in_half_precision(dtype, most):
    """oneDNN keeps code for every size that it has seen; utterances have as many sizes as they have lengths."""
    counts, products = list(range(20)), Products()
    for first in range(0, 20, 5):
        frames, labels = [3 * u + 5 for u in counts[first : first + 5]], counts[first : first + 5]
        made = make_batch(frames, labels, width=8, vocabulary=12, dtype=dtype)
        with products:
            loss = tiled_transducer_loss(*made, budget_mb=0.1).loss_sum
            torch.autograd.grad(loss, made.leaves)
    assert 8 < len(products.rows) <= most and (dtype == torch.bfloat16 or len(products.rows) > 20)


def test_utterances_without_a_path():
    batch = make_batch([5, 2, 6], [2, 3, 1])
    with pytest.raises(ValueError, match="utterance de_17: no path, 3 labels in 2 frames.*regular topology"):
        tiled_transducer_loss(*batch, budget_mb=1, topology="modified", utterance_ids=["a", "de_17", "b"])
    out = tiled_transducer_loss(*batch, budget_mb=1, topology="modified", zero_infinity=True)
    losses, frames, symbols, *_ = results(out.losses, batch)
    assert out.count.item() == 2 and losses[1] == 0 and frames[1].eq(0).all() and symbols[1].eq(0).all()
    assert frames[0].ne(0).any() and frames[2].ne(0).any()


def test_a_teacher_or_parts_without_gradient():
    batch = make_batch()
    parts = batch.parts._replace(weight=batch.parts.weight.detach())
    expected = torch.autograd.grad(tiled_transducer_loss(*batch, budget_mb=1).loss_sum, batch.leaves)
    loss = tiled_transducer_loss(parts, *batch[1:], budget_mb=1).loss_sum
    own = torch.autograd.grad(loss, [parts.frames, parts.symbols, parts.bias])
    for mine, wanted in zip(own, (expected[0], expected[1], expected[3])):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(frames=torch.zeros(2, 4, J)), r"frames \[B, T, J\] of shape \(2, 4, 4\) is too small.*\(2, 5, 4\)"),
        (dict(symbols=torch.zeros(2, 3, J)), r"symbols \[B, U\+1, J\] of shape.*too small"),
        (dict(symbols=torch.zeros(2, 4, J + 1)), r"must be \[B, T, J\], \[B, U\+1, J\], \[V, J\] and \[V\]"),
        (dict(bias=torch.zeros(V + 1)), r"bias \(7,\) must be"),
        (dict(labels=torch.tensor([[1, 2, 0], [1, 0, 2]])), r"utterance 1: label 0 at position 1.* the blank, 0"),
        (dict(budget_mb=0), r"a budget of 0 MB for logits: must be above 0"),
        (dict(budget_mb=math.nan), r"must be above 0"),
        (dict(topology="constrained"), r"topology 'constrained'"),
    ],
)
def test_input_that_does_not_fit(change, reason):
    zeros = torch.zeros
    parts = JoinerParts(zeros(2, 5, J), zeros(2, 4, J), zeros(V, J), zeros(V), torch.tanh)
    arguments = dict(labels=torch.tensor([[1, 2, 0], [1, 2, 2]]), budget_mb=1.0)
    arguments.update(logit_lengths=torch.tensor([5, 4]), label_lengths=torch.tensor([2, 3]))
    tiled_transducer_loss(parts, **arguments)
    named = {name: value for name, value in change.items() if name in parts._fields}
    rest = {name: value for name, value in change.items() if name not in named}
    with pytest.raises(ValueError, match=reason):
        tiled_transducer_loss(parts._replace(**named), **(arguments | rest))


def test_rows_of_a_budget():
    """As many as fit, and one where none does."""
    for dtype, per_logit in ((torch.float32, 4), (torch.bfloat16, 8)):
        rows = tile_rows(64, 8000, 512, dtype)
        assert rows * (8000 * per_logit + 4 * 512 * 4) <= 64e6 < (rows + 1) * (8000 * per_logit + 4 * 512 * 4)
    assert tile_rows(64, 8000, 512, torch.float32, teacher=True) < 0.3 * tile_rows(64, 8000, 512, torch.float32)
    assert tile_rows(1e-6, 8000, 512, torch.float32) == 1
