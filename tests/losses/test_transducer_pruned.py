import itertools

import pytest
import torch
from transducer_reference import alignments, arcs_of, batch_losses, enumerated_loss

from colld_fairseq.losses import (
    gather_ranges,
    prune_ranges,
    pruned_transducer_loss,
    simple_transducer_loss,
    transducer_arcs,
    transducer_loss,
)

TOPOLOGIES = ["regular", "modified"]


def make_batch(frames, counts, vocabulary=5, scale=2.0, dtype=torch.float64, seed=0):
    """am `[B, T, V]`, lm `[B, U+1, V]`, labels `[B, U]` and lengths."""
    generator = torch.Generator().manual_seed(seed)
    batch, longest = len(frames), max(counts)
    am = scale * torch.randn(batch, max(frames), vocabulary, generator=generator, dtype=dtype)
    lm = scale * torch.randn(batch, longest + 1, vocabulary, generator=generator, dtype=dtype)
    labels = torch.randint(1, vocabulary, (batch, longest), generator=generator)
    return am.requires_grad_(), lm.requires_grad_(), labels, torch.tensor(frames), torch.tensor(counts)


def joined(am, lm):
    """Logits `[B, T, U+1, V]` of the simple joiner."""
    return am[:, :, None] + lm[:, None]


def assert_equal_with_gradients(losses, expected, inputs, **tolerance):
    torch.testing.assert_close(losses, expected, **tolerance)
    weights = torch.linspace(0.5, 2.0, len(losses), dtype=losses.dtype)
    result = torch.autograd.grad((losses * weights).sum(), inputs)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs)
    for a, b in zip(result, wanted, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_simple_loss_equals_the_full_loss_of_an_additive_joiner(topology):
    am, lm, *rest = make_batch([9, 7, 4, 1], [5, 2, 0, 1])
    options = dict(topology=topology, fastemit_lambda=0.1, delay_penalty=0.05)
    simple = simple_transducer_loss(am, lm, *rest, **options)
    full = transducer_loss(joined(am, lm), *rest, **options)
    assert_equal_with_gradients(simple.losses, full.losses, (am, lm), rtol=1e-10, atol=1e-10)
    assert simple.loss_sum.item() == pytest.approx(full.loss_sum.item())
    assert simple.count.item() == full.count.item() == 4


def test_simple_loss_gradcheck():
    am, lm, *rest = make_batch([4, 3], [2, 3], vocabulary=4)
    assert torch.autograd.gradcheck(
        lambda a, b: simple_transducer_loss(a, b, *rest, lm_only_scale=0.25).losses, (am, lm)
    )


def test_lm_only_scale_mixes_in_the_predictors_own_probabilities():
    am, lm, labels, frames, counts = make_batch([5, 4], [3, 2])
    result = simple_transducer_loss(am, lm, labels, frames, counts, lm_only_scale=0.25).losses
    expected = []
    for b, (t, u) in enumerate(zip(frames.tolist(), counts.tolist())):
        y = labels[b, :u].tolist()
        both = arcs_of(joined(am, lm)[b, :t, : u + 1], y)
        alone = arcs_of(lm[b, : u + 1].expand(t, u + 1, -1), y)
        blank, label = (0.75 * x + 0.25 * z for x, z in zip(both, alone, strict=True))
        paths = alignments(t, u, "regular")
        scores = [sum((label if is_label else blank)[i, j] for is_label, i, j in path) for path in paths]
        expected.append(-torch.stack(scores).logsumexp(0))
    assert_equal_with_gradients(result, torch.stack(expected), (am, lm), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pieces", [1, 2**18])
@pytest.mark.parametrize(("scale", "tolerance"), [(60.0, 1e-4), (1e4, 5e-3)])
def test_simple_loss_where_the_factors_of_the_normalizer_underflow(monkeypatch, scale, tolerance, pieces):
    monkeypatch.setattr(transducer_arcs, "PIECE_CPU", pieces)
    am, lm, *rest = make_batch([6, 5], [3, 4], dtype=torch.float32)
    am, lm = ((scale * x.detach().sign()).requires_grad_() for x in (am, lm))
    simple = simple_transducer_loss(am, lm, *rest).losses
    full = transducer_loss(joined(am, lm), *rest).losses
    assert_equal_with_gradients(simple, full, (am, lm), rtol=1e-5, atol=tolerance)


def test_simple_loss_does_not_depend_on_padding():
    am, lm, labels, frames, counts = make_batch([6, 4], [3, 1])
    losses = simple_transducer_loss(am, lm, labels, frames, counts).losses
    expected = torch.autograd.grad(losses.sum(), (am, lm))
    padded = [torch.full((2, n + 2, 5), torch.nan, dtype=torch.float64) for n in (6, 4)]
    for x, y, lengths in zip(padded, (am, lm), (frames, counts + 1), strict=True):
        for b, n in enumerate(lengths):
            x[b, :n] = y[b, :n].detach()
        x.requires_grad_()
    result = simple_transducer_loss(*padded, labels, frames, counts).losses
    assert torch.equal(result, losses)
    for x, y in zip(torch.autograd.grad(result.sum(), padded), expected, strict=True):
        assert torch.equal(x[:, : y.shape[1]], y) and x[:, y.shape[1] :].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_simple_loss_of_half_precision(dtype):
    am, lm, *rest = make_batch([30, 20], [9, 12], dtype=torch.float32)
    half = [x.detach().to(dtype).requires_grad_() for x in (am, lm)]
    losses = simple_transducer_loss(*half, *rest).losses
    exact = [x.detach().double().requires_grad_() for x in half]
    expected = simple_transducer_loss(*exact, *rest).losses
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=0)
    for a, b in zip(torch.autograd.grad(losses.sum(), half), torch.autograd.grad(expected.sum(), exact), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_simple_loss_whose_backward_pass_is_under_autocast():
    """Its arithmetic stays float32 there, too."""
    gradients = []
    for enabled in (False, True):
        am, lm, *rest = make_batch([4, 3], [2, 3], dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            simple_transducer_loss(am, lm, *rest).loss_sum.backward()
        gradients.append((am.grad, lm.grad))
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_posteriors_are_the_share_of_the_alignments_through_each_arc(topology):
    am, lm, labels, frames, counts = make_batch([5, 3], [3, 2])
    with torch.no_grad():
        result = simple_transducer_loss(am, lm, labels, frames, counts, topology=topology)
    expected = torch.zeros(2, 2, 5, 4, dtype=torch.float64)
    for b, (t, u) in enumerate(zip(frames.tolist(), counts.tolist())):
        blank, label = arcs_of(joined(am, lm)[b, :t, : u + 1], labels[b, :u].tolist())
        total = -batch_losses(enumerated_loss, joined(am, lm), labels, frames, counts, topology=topology)[b]
        for path in alignments(t, u, topology):
            share = (sum((label if is_label else blank)[i, j] for is_label, i, j in path) - total).exp()
            for is_label, i, j in path:
                expected[int(is_label), b, i, j] += share.item()
    torch.testing.assert_close(torch.stack([result.blank_posterior, result.label_posterior]), expected)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_band_over_all_labels_gives_the_full_loss(topology):
    am, lm, *rest = make_batch([9, 7, 6, 1], [5, 2, 0, 1])
    simple = simple_transducer_loss(am, lm, *rest, topology=topology)
    ranges = prune_ranges(simple.blank_posterior, simple.label_posterior, *rest[1:], 6, topology)
    assert torch.equal(ranges, torch.arange(6).expand(4, 9, 6))
    assert torch.equal(gather_ranges(lm, ranges), lm[:, None].expand(4, 9, 6, -1))
    options = dict(topology=topology, fastemit_lambda=0.1, delay_penalty=0.05)
    logits = (am[:, :, None] * gather_ranges(lm, ranges)).cos()
    pruned = pruned_transducer_loss(logits, ranges, *rest, **options)
    full = transducer_loss((am[:, :, None] * lm[:, None]).cos(), *rest, **options)
    assert_equal_with_gradients(pruned.losses, full.losses, (am, lm), rtol=1e-10, atol=1e-10)
    assert pruned.count.item() == 4


def best_window(blank, label, size):
    """By the definition, one window at a time: blank, label `[U+1]` of one frame."""
    gains = []
    for s in range(len(blank) - size + 1):
        gains.append(blank[s : s + size].sum() - (label[s - 1] if s else 0.0))
    return int(torch.stack(gains).argmax())


def repaired(best, slope):
    """k2's repair of windows, from the last frame back: none behind a later one, none too far before it."""
    begins = list(best)
    for t in reversed(range(len(begins) - 1)):
        begins[t] = min(begins[t], begins[t + 1])
    for t in reversed(range(len(begins) - 1)):
        begins[t] = max(begins[t], begins[t + 1] - slope)
    return [min(begin, slope * t) for t, begin in enumerate(begins)]


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_windows_are_the_best_ones_repaired(topology):
    """Random numbers for posteriors: no two windows of a frame are equally good, and many need the repair."""
    frames, counts = [40, 25, 31, 12, 3], [18, 20, 2, 12, 0]
    generator = torch.Generator().manual_seed(4)
    posteriors = [torch.rand(5, 40, 21, generator=generator, dtype=torch.float64) for _ in range(2)]
    begin = prune_ranges(*posteriors, torch.tensor(frames), torch.tensor(counts), 5, topology)[..., 0]
    as_they_are = 0
    for b, (t, u) in enumerate(zip(frames, counts)):
        best = [best_window(*(p[b, i, : max(u, 4) + 1] for p in posteriors), 5) for i in range(t - 1)]
        best.append(max(u - 4, 0))
        expected = repaired(best, 4 if topology == "regular" else 1)
        assert begin[b].tolist() == expected + expected[-1:] * (40 - t)
        as_they_are += sum(map(int.__eq__, best, expected))
    assert 20 < as_they_are < sum(frames)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("seed", range(5))
def test_bands_hold_a_path(topology, seed):
    frames, counts = [40, 25, 31, 12, 3], [18, 20, 2, 12, 0]
    am, lm, labels, *lengths = make_batch(frames, counts, scale=3.0, seed=seed)
    simple = simple_transducer_loss(am, lm, labels, *lengths, topology=topology)
    posteriors = simple.blank_posterior, simple.label_posterior
    ranges = prune_ranges(*posteriors, *lengths, 5, topology)
    assert ranges.shape == (5, 40, 5) and torch.equal(ranges - ranges[..., :1], torch.arange(5).expand_as(ranges))
    begin = ranges[..., 0]
    step = begin.diff(dim=1)
    assert begin.min() == 0 and begin[:, 0].eq(0).all() and ranges.max() <= 20
    assert step.min() >= 0 and step.max() <= (4 if topology == "regular" else 1)
    for b, (t, u) in enumerate(zip(frames, counts)):
        assert begin[b, t - 1 :].eq(max(u - 4, 0)).all()

    logits = am[:, :, None] + gather_ranges(lm, ranges)
    losses = pruned_transducer_loss(logits, ranges, labels, *lengths, topology=topology).losses
    full = transducer_loss(joined(am, lm), labels, *lengths, topology=topology).losses
    assert (losses >= full - 1e-9).all() and losses.isfinite().all()
    torch.testing.assert_close(losses[[2, 4]], full[[2, 4]])  # U + 1 <= S: nothing is cut off


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_pruned_loss_equals_the_alignments_inside_the_pruned_range(topology):
    _, _, labels, frames, counts = make_batch([5, 4], [3, 4])
    begins = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]])
    ranges = begins[..., None] + torch.arange(3)
    logits = torch.randn(2, 5, 3, 5, dtype=torch.float64, requires_grad=True)
    result = pruned_transducer_loss(logits, ranges, labels, frames, counts, topology=topology, delay_penalty=0.1).losses
    expected = []
    for b, (t, u) in enumerate(zip(frames.tolist(), counts.tolist())):
        whole = torch.zeros(t, u + 1, 5, dtype=torch.float64)
        inside = {(i, int(j)) for i in range(t) for j in ranges[b, i]}
        rows, columns = torch.arange(t)[:, None].expand(t, 3), ranges[b, :t]
        whole = whole.index_put((rows, columns), logits[b, :t])
        blank, label = arcs_of(whole, labels[b, :u].tolist(), delay_penalty=0.1)
        scores = [
            sum((label if is_label else blank)[i, j] for is_label, i, j in path)
            for path in alignments(t, u, topology)
            if all((i, j) in inside for _, i, j in path)
        ]
        assert scores
        expected.append(-torch.stack(scores).logsumexp(0))
    assert_equal_with_gradients(result, torch.stack(expected), (logits,), rtol=1e-10, atol=1e-10)


def test_pruned_loss_gradcheck():
    _, _, labels, *lengths = make_batch([5, 3], [3, 2], vocabulary=4)
    ranges = torch.tensor([[0, 0, 1, 2, 2], [0, 0, 1, 1, 1]])[..., None] + torch.arange(2)
    logits = torch.randn(2, 5, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: pruned_transducer_loss(z, ranges, labels, *lengths).losses, (logits,))


@pytest.mark.parametrize(("frames", "counts"), [([2], [9]), ([1], [6]), ([4, 30], [11, 3])])
def test_band_grows_where_labels_outnumber_it(frames, counts):
    am, lm, labels, *lengths = make_batch(frames, counts)
    simple = simple_transducer_loss(am, lm, labels, *lengths)
    ranges = prune_ranges(simple.blank_posterior, simple.label_posterior, *lengths, 2)
    assert ranges.shape[2] == -(-counts[0] // frames[0]) + 1
    logits = am[:, :, None] + gather_ranges(lm, ranges)
    assert pruned_transducer_loss(logits, ranges, labels, *lengths).losses.isfinite().all()


def test_a_wider_band_loses_less():
    am, lm, labels, *lengths = make_batch([60], [25], scale=1.0)
    simple = simple_transducer_loss(am, lm, labels, *lengths)
    losses = []
    for size in (2, 4, 8, 16, 26):
        ranges = prune_ranges(simple.blank_posterior, simple.label_posterior, *lengths, size)
        logits = am[:, :, None] + gather_ranges(lm, ranges)
        losses.append(pruned_transducer_loss(logits, ranges, labels, *lengths).loss_sum)
    assert all(a > b for a, b in itertools.pairwise(losses))
    torch.testing.assert_close(losses[-1], simple.loss_sum)


def test_gathering_the_predictor_sends_gradients_back():
    lm = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    ranges = torch.tensor([[0, 1, 2], [0, 0, 1]])[..., None] + torch.arange(2)
    result = gather_ranges(lm, ranges)
    for b, t, s in itertools.product(range(2), range(3), range(2)):
        assert torch.equal(result[b, t, s], lm[b, ranges[b, t, s]])
    assert torch.autograd.gradcheck(lambda x: gather_ranges(x, ranges), (lm,))


def test_errors_name_what_is_wrong():
    am, lm, labels, frames, counts = make_batch([5, 2], [2, 3])
    lengths = frames, counts
    simple = simple_transducer_loss(am, lm, labels, *lengths)
    posteriors = simple.blank_posterior, simple.label_posterior
    with pytest.raises(ValueError, match="prune_range=1"):
        prune_ranges(*posteriors, *lengths, 1)
    with pytest.raises(ValueError, match="utterance b: no path, 3 labels in 2 frames"):
        simple_transducer_loss(am, lm, labels, *lengths, topology="modified", utterance_ids="ab")
    with pytest.raises(ValueError, match=r"must be \[B, T, V\] and \[B, U\+1, V\]"):
        simple_transducer_loss(am, lm[..., :4], labels, *lengths)
    with pytest.raises(ValueError, match=r"am \[B, T, V\] of shape \(2, 4, 5\) is too small"):
        simple_transducer_loss(am[:, :4], lm, labels, *lengths)
    with pytest.raises(ValueError, match=r"lm \[B, U\+1, V\] of shape \(2, 3, 5\) is too small"):
        simple_transducer_loss(am, lm[:, :3], labels, *lengths)
    ranges = prune_ranges(*posteriors, *lengths, 3)
    logits = am[:, :, None] + gather_ranges(lm, ranges)
    with pytest.raises(ValueError, match=r"must be \[B, T, S, V\], ranges \(2, 5, 2\)"):
        pruned_transducer_loss(logits, ranges[..., :2], labels, *lengths)
    with pytest.raises(ValueError, match="ranges lead to node 9, but no utterance has more than 3 labels"):
        pruned_transducer_loss(logits, ranges + 6, labels, *lengths)
    with pytest.raises(ValueError, match="utterance 0, utterance 1: no path"):
        pruned_transducer_loss(logits, torch.zeros_like(ranges) + torch.arange(3).flip(0) + 1, labels, *lengths)


def test_utterances_without_a_path_are_left_out():
    am, lm, labels, *lengths = make_batch([6, 2], [2, 3])
    options = dict(topology="modified", zero_infinity=True)
    simple = simple_transducer_loss(am, lm, labels, *lengths, **options)
    ranges = prune_ranges(simple.blank_posterior, simple.label_posterior, *lengths, 2, "modified")
    pruned = pruned_transducer_loss(am[:, :, None] + gather_ranges(lm, ranges), ranges, labels, *lengths, **options)
    for out in (simple, pruned):
        assert out.count.item() == 1 and out.losses[1] == 0 and out.losses[0] > 0
        for gradient in torch.autograd.grad(out.loss_sum, (am, lm)):
            assert gradient[1].eq(0).all() and gradient[0].ne(0).any()
