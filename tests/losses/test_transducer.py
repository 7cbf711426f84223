import math

import pytest
import torch
from peak_memory import PeakMemory
from transducer_reference import batch_losses, enumerated_loss, node_by_node_loss, pack

from colld_fairseq.losses import transducer_arcs, transducer_loss

TOPOLOGIES = ["regular", "modified"]


def make_batch(frames, counts, vocabulary=5, scale=2.0, dtype=torch.float64, seed=0, blank=0):
    """Logits `[B, T, U+1, V]`, labels `[B, U]` and lengths."""
    generator = torch.Generator().manual_seed(seed)
    batch, longest = len(frames), max(counts)
    logits = scale * torch.randn(batch, max(frames), longest + 1, vocabulary, generator=generator, dtype=dtype)
    labels = (blank + torch.randint(1, vocabulary, (batch, longest), generator=generator)) % vocabulary
    return logits.requires_grad_(), labels, torch.tensor(frames), torch.tensor(counts)


def value_and_gradient(losses, logits):
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), gradient


def ours(batch, **options):
    return value_and_gradient(transducer_loss(*batch, **options).losses, batch[0])


def reference(loss, batch, **options):
    return value_and_gradient(batch_losses(loss, *batch, **options), batch[0])


def assert_equal(result, expected, atol=1e-6, rtol=1e-6):
    for name, a, b in zip(("losses", "gradient"), result, expected, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=rtol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("blank", [0, 3])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_equals_the_sum_over_enumerated_alignments(topology, blank):
    batch = make_batch([6, 5, 4, 4, 1, 1], [4, 2, 4, 0, 1, 0], blank=blank)
    expected = reference(enumerated_loss, batch, topology=topology, blank=blank)
    assert_equal(ours(batch, topology=topology, blank=blank), expected, 1e-9, 1e-9)
    out = transducer_loss(*batch, topology=topology, blank=blank)
    assert out.loss_sum.item() == pytest.approx(expected[0].sum().item())
    assert out.count.item() == 6


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_longer_utterances_equal_the_textbook_recursion(topology):
    batch = make_batch([23, 9, 17], [7, 9, 0], vocabulary=11)
    assert_equal(ours(batch, topology=topology), reference(node_by_node_loss, batch, topology=topology), 1e-9, 1e-9)


def test_more_labels_than_frames():
    batch = make_batch([2, 1, 3], [5, 4, 4])
    assert_equal(ours(batch), reference(enumerated_loss, batch), 1e-9, 1e-9)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_gradcheck(topology, packed):
    logits, *rest = make_batch([4, 3, 2], [3, 0, 2], vocabulary=4)
    if packed:
        logits = pack(logits, *rest[1:]).detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: transducer_loss(z, *rest, topology=topology, delay_penalty=0.2).losses, (logits,)
    )


@pytest.mark.parametrize("fastemit_lambda", [0.0, 0.3])
def test_equals_warprnnt_numba(monkeypatch, fastemit_lambda):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")  # more would resize the thread pool of torch
    peer = pytest.importorskip("warprnnt_numba", reason="peer to compare with: pip install warprnnt_numba numba")
    batch = make_batch([30, 22, 5], [11, 8, 9], vocabulary=17, dtype=torch.float32)
    logits, labels, *lengths = batch
    loss = peer.RNNTLossNumba(blank=0, reduction="none", fastemit_lambda=fastemit_lambda)
    theirs = loss(logits, labels.int(), *(n.int() for n in lengths))
    losses, gradient = value_and_gradient(theirs, logits)
    # Theirs multiplies the value by 1 + lambda too, which FastEmit's gradient is not the gradient of.
    expected = losses / (1 + fastemit_lambda), gradient
    assert_equal(ours(batch, fastemit_lambda=fastemit_lambda), expected, 1e-4, 1e-4)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_fastemit_is_more_gradient_for_label_probabilities(topology):
    batch = make_batch([6, 4, 5], [3, 2, 0])
    plain = ours(batch, topology=topology)
    result = ours(batch, topology=topology, fastemit_lambda=0.4)
    assert_equal(result, reference(enumerated_loss, batch, topology=topology, fastemit_lambda=0.4), 1e-9, 1e-9)
    assert torch.equal(result[0], plain[0])
    assert not torch.allclose(result[1], plain[1])
    torch.testing.assert_close(result[1].sum(-1), torch.zeros_like(result[1][..., 0]))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_delay_penalty_weighs_alignments_by_their_emission_frames(topology):
    batch = make_batch([6, 4, 5], [3, 2, 0])
    result = ours(batch, topology=topology, delay_penalty=0.7)
    assert_equal(result, reference(enumerated_loss, batch, topology=topology, delay_penalty=0.7), 1e-9, 1e-9)
    assert not torch.allclose(result[0][:2], ours(batch, topology=topology)[0][:2])
    # One label in two frames: early at frame 0 (+ penalty / 2) or late at frame 1 (- penalty / 2).
    even = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    loss = transducer_loss(
        even, torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1]), topology=topology, delay_penalty=0.7
    ).losses
    arcs = 3 if topology == "regular" else 2
    assert loss.item() == pytest.approx(arcs * math.log(2) - math.log(math.exp(0.35) + math.exp(-0.35)))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_packed_equals_padded(topology):
    batch = make_batch([9, 7, 4, 8], [5, 2, 0, 6])
    logits, labels, *lengths = batch
    options = dict(topology=topology, fastemit_lambda=0.1, delay_penalty=0.05)
    padded, gradient = ours(batch, **options)
    packed, packed_gradient = ours((pack(logits, *lengths).detach().requires_grad_(), labels, *lengths), **options)
    assert torch.equal(packed, padded)
    assert torch.equal(packed_gradient, pack(gradient, *lengths))


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_padding_and_the_rest_of_the_batch_do_not_matter(topology):
    logits, labels, frames, counts = make_batch([9, 5, 7], [4, 3, 0])
    losses, gradient = ours((logits, labels, frames, counts), topology=topology)
    wild = torch.full((3, 12, 8, 5), math.nan, dtype=torch.float64)
    wild_labels = torch.tensor([[-1, 99, 0, -7, 5, 0, -100]] * 3)
    for b, (t, u) in enumerate(zip(frames, counts)):
        wild[b, :t, : u + 1] = logits[b, :t, : u + 1].detach()
        wild_labels[b, :u] = labels[b, :u]
    result = ours((wild.requires_grad_(), wild_labels, frames, counts), topology=topology)
    assert torch.equal(result[0], losses)
    inside = torch.zeros(3, 12, 8, dtype=torch.bool)
    for b, (t, u) in enumerate(zip(frames, counts)):
        inside[b, :t, : u + 1] = True
        alone = (wild[b : b + 1, :t, : u + 1].detach().requires_grad_(), labels[b : b + 1, :u])
        alone = ours((*alone, frames[b : b + 1], counts[b : b + 1]), topology=topology)
        assert torch.equal(alone[0][0], losses[b])
        assert torch.equal(alone[1][0], result[1][b, :t, : u + 1])
        assert torch.equal(alone[1][0], gradient[b, :t, : u + 1])
    assert result[1][~inside].eq(0).all()


def test_lengths_and_labels_of_other_integer_types():
    logits, labels, frames, counts = make_batch([5, 3], [2, 3])
    expected = ours((logits, labels, frames, counts))
    assert_equal(ours((logits, labels.int(), frames.int(), counts.short())), expected, 0, 0)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_no_labels_at_all(topology):
    batch = make_batch([4, 1], [0, 0])
    assert batch[1].shape == (2, 0)
    losses, gradient = ours(batch, topology=topology)
    log_probs = batch[0].detach()[:, :, 0].log_softmax(-1)[..., 0]
    torch.testing.assert_close(losses, -torch.stack([log_probs[0].sum(), log_probs[1, 0]]))
    assert_equal((losses, gradient), reference(enumerated_loss, batch, topology=topology), 1e-12, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_logits_of_ten_thousand(topology, dtype):
    logits, *rest = make_batch([6, 4], [3, 4], dtype=dtype)
    batch = (logits.sign().mul(1e4).detach().requires_grad_(), *rest)
    result = ours(batch, topology=topology)
    expected = reference(enumerated_loss, (batch[0].detach().double().requires_grad_(), *rest), topology=topology)
    # A log-probability of -20,000 has a spacing of 0.002 in float32, and posteriors are right to that.
    tolerance = 5e-3 if dtype == torch.float32 else 1e-8
    assert_equal(result, [value.to(dtype) for value in expected], tolerance, 1e-6)
    assert result[0].max() > 9e3
    mixed = (1e4 * logits.detach()).requires_grad_()
    assert all(value.isfinite().all() for value in ours((mixed, *rest), topology=topology))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, *rest = make_batch([40, 31], [12, 9], vocabulary=20, dtype=torch.float32)
    half = logits.detach().to(dtype).requires_grad_()
    result = ours((half, *rest))
    expected = ours((half.detach().double().requires_grad_(), *rest))
    assert result[0].dtype == torch.float32 and result[1].dtype == dtype
    torch.testing.assert_close(result[0].double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(result[1].double(), expected[1], atol=torch.finfo(dtype).eps, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(ours((half, *rest)), result, 0, 0)


def test_a_minute_of_audio_keeps_its_digits_in_float32():
    logits, *rest = make_batch([1500], [200], vocabulary=6, dtype=torch.float32)
    (loss,), gradient = ours((logits, *rest))
    (exact,), exact_gradient = ours((logits.detach().double().requires_grad_(), *rest))
    assert exact > 1000
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    assert (gradient - exact_gradient).abs().max() < 2e-5


def test_gradient_is_scaled_by_what_arrives():
    batch = make_batch([5, 4], [2, 3])
    losses = transducer_loss(*batch).losses
    (weighted,) = torch.autograd.grad((losses * torch.tensor([0.25, -3.0])).sum(), batch[0], retain_graph=True)
    (plain,) = torch.autograd.grad(losses.sum(), batch[0])
    torch.testing.assert_close(weighted, plain * torch.tensor([0.25, -3.0])[:, None, None, None])


def test_backward_passes_over_the_same_graph():
    batch = make_batch([5, 4], [2, 3])
    losses = transducer_loss(*batch).losses
    first, second = (torch.autograd.grad(losses.sum(), batch[0], retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_logits_that_are_not_contiguous():
    batch = make_batch([5, 4], [2, 3])
    turned = batch[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    assert_equal(ours((turned, *batch[1:])), ours(batch), 0, 0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [1, 60, 10**6])
def test_size_of_the_pieces_does_not_matter(monkeypatch, size, packed):
    batch = make_batch([9, 6], [4, 2])
    if packed:
        batch = (pack(batch[0], *batch[2:]).detach().requires_grad_(), *batch[1:])
    expected = ours(batch)
    monkeypatch.setattr(transducer_arcs, "PIECE_CPU", size)
    assert_equal(ours(batch), expected, 1e-14, 1e-14)


@pytest.mark.parametrize("pieces", [200, 2**18])
def test_nothing_is_computed_far_from_certain_alignments(monkeypatch, pieces):
    monkeypatch.setattr(transducer_arcs, "PIECE_CPU", pieces)
    logits, labels, frames, counts = make_batch([36, 24], [12, 8], scale=0.5)
    t, u = torch.arange(36)[:, None], torch.arange(13)
    certain = torch.zeros_like(logits)
    certain[..., 0] = 40.0 * (3 * u + 2 > t)  # emit at every third frame, and wait otherwise
    emits = 40.0 * (3 * u + 2 <= t)[:, :12, None].double()
    certain.scatter_(3, labels[:, None, :, None].expand(2, 36, 12, 1), emits.expand(2, -1, -1, -1))
    batch = ((logits + certain).detach().requires_grad_(), labels, frames, counts)
    result = ours(batch)
    assert_equal(result, reference(node_by_node_loss, batch), 1e-9, 1e-9)
    assert result[1][0].ne(0).any(-1).float().mean() < 0.5


def test_without_gradient():
    batch = make_batch([5, 4], [2, 3])
    expected = ours(batch)[0]
    with torch.no_grad():
        torch.testing.assert_close(transducer_loss(*batch).losses, expected)
    assert not transducer_loss(batch[0].detach(), *batch[1:]).losses.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("packed", [False, True])
def test_gradient_in_the_memory_of_the_logits(packed, dtype):
    leaf, *rest = make_batch([6, 4], [3, 2], dtype=dtype)
    expected = ours((leaf, *rest))[1]
    if packed:
        leaf, expected = (pack(x, *rest[1:]).detach() for x in (leaf, expected))
        leaf.requires_grad_()
    logits = leaf * 1.0  # as from a joiner
    seen = []
    logits.register_hook(lambda grad: seen.append(grad.data_ptr()))
    loss = transducer_loss(logits, *rest, overwrite_logits=True).loss_sum
    loss.backward(retain_graph=True)
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-5, atol=1e-6)
    assert seen == [logits.data_ptr()] and torch.equal(logits, leaf.grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_overwritten_logits_that_another_loss_needs_are_an_error():
    leaf, *rest = make_batch([6, 4], [3, 2])
    logits = leaf * 1.0
    other = logits.square().sum()
    loss = transducer_loss(logits, *rest, overwrite_logits=True).loss_sum
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss + other).backward()


def test_nan_stays_in_its_utterance():
    batch = make_batch([5, 4, 6], [2, 3, 1])
    expected = ours(batch)
    broken = batch[0].detach().clone()
    broken[1, 2, 1, 3] = math.nan
    losses, gradient = ours((broken.requires_grad_(), *batch[1:]))
    assert losses[1].isnan() and gradient[1].isnan().any()
    for b in (0, 2):
        assert torch.equal(losses[b], expected[0][b]) and torch.equal(gradient[b], expected[1][b])


def test_utterances_without_a_path():
    batch = make_batch([5, 2, 6], [2, 3, 1])
    with pytest.raises(ValueError, match="utterance de_17: no path, 3 labels in 2 frames.*regular topology"):
        transducer_loss(*batch, topology="modified", utterance_ids=["a", "de_17", "b"])
    with pytest.raises(ValueError, match="utterance 1: no path"):
        transducer_loss(*batch, topology="modified")
    out = transducer_loss(*batch, topology="modified", zero_infinity=True)
    losses, gradient = value_and_gradient(out.losses, batch[0])
    assert out.count.item() == 2 and losses[1] == 0 and gradient[1].eq(0).all()
    for b in (0, 2):
        alone = reference(enumerated_loss, [x[b : b + 1] for x in batch], topology="modified")
        assert losses[b].item() == pytest.approx(alone[0].item())


def test_logits_that_rule_out_every_path():
    batch = make_batch([5, 4], [2, 3])
    blocked = batch[0].detach().clone()
    blocked[1, 3, 3, 0] = -math.inf  # the last blank, which every alignment passes
    batch = (blocked.requires_grad_(), *batch[1:])
    with pytest.raises(ValueError, match="utterance x2: no path of non-zero probability.*zero_infinity"):
        transducer_loss(*batch, utterance_ids=["x1", "x2"])
    out = transducer_loss(*batch, zero_infinity=True)
    losses, gradient = value_and_gradient(out.losses, batch[0])
    assert out.count.item() == 1 and losses[1] == 0 and gradient[1].eq(0).all()
    assert losses[0] > 0 and gradient[0].ne(0).any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(logits=torch.zeros(2, 5, 5)), r"must be \[B, T, U\+1, V\], or packed"),
        (dict(logits=torch.zeros(2, 4, 4, 5)), r"too small.*\(2, 5, 4, 5\)"),
        (dict(logits=torch.zeros(2, 5, 3, 5)), r"too small"),
        (dict(logits=torch.zeros(3, 5, 4, 5)), r"too small"),
        (dict(logits=torch.zeros(30, 5)), r"30 rows, the lengths ask for 31"),
        (dict(labels=torch.tensor([[1, 2, 0], [1, 0, 2]])), r"utterance 1: label 0 at position 1.* the blank, 0"),
        (dict(labels=torch.tensor([[1, 5, 0], [1, 2, 2]])), r"utterance 0: label 5 at position 1; labels are 0 to 4"),
        (dict(labels=torch.tensor([[1, -1, 0], [1, 2, 2]])), r"utterance 0: label -1"),
        (dict(labels=torch.tensor([1, 2])), r"labels \(2,\) must be \[B, U\]"),
        (dict(logit_lengths=torch.tensor([5, 4, 1])), r"logit_lengths \(3,\)"),
        (dict(logit_lengths=torch.tensor([0, 4])), r"utterance 0: 0 frames and 2 labels; there must be at least one"),
        (dict(label_lengths=torch.tensor([2, 4])), r"utterance 1: 4 frames and 4 labels.*0 to 3 labels"),
        (dict(label_lengths=torch.tensor([2, -1])), r"utterance 1"),
        (dict(blank=5), r"blank=5"),
        (dict(topology="constrained"), r"topology 'constrained': must be one of regular, modified"),
    ],
)
def test_input_that_does_not_fit(change, reason):
    arguments = dict(
        logits=torch.zeros(2, 5, 4, 5),
        labels=torch.tensor([[1, 2, 0], [1, 2, 2]]),
        logit_lengths=torch.tensor([5, 4]),
        label_lengths=torch.tensor([2, 3]),
    )
    transducer_loss(**arguments)
    with pytest.raises(ValueError, match=reason):
        transducer_loss(**(arguments | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("overwrite", [False, True])
def test_memory_beyond_logits_and_gradient(monkeypatch, dtype, overwrite):
    monkeypatch.setattr(transducer_arcs, "PIECE_CPU", 2**14)  # in proportion to these small logits
    logits, *rest = make_batch([60, 50, 40, 45], [20, 16, 18, 10], vocabulary=257, dtype=dtype)
    size = logits.untyped_storage().nbytes()
    with PeakMemory() as memory:
        logits = logits.clone()  # as from a joiner
        out = transducer_loss(logits, *rest, overwrite_logits=overwrite)
        torch.autograd.grad(out.loss_sum, logits)
    tensors = 1 if overwrite else 2  # the logits, and their gradient
    assert tensors * size <= memory.peak <= (tensors + 0.3) * size
