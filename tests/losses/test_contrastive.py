import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from colld_fairseq.losses import contrastive_loss, sample_negatives


def brute_force(predictions, targets, mask, counts, temp):
    """The formula, frame by frame; `counts[u][t][s]`: how often masked frame s is a negative of t."""
    loss, count, correct = 0.0, 0, 0
    for u in range(mask.shape[0]):
        frames = [t for t in range(mask.shape[1]) if mask[u, t]]
        if len(frames) < 2:
            continue
        for i, t in enumerate(frames):

            def score(s):
                p, z = predictions[u, t], targets[u, s]
                return math.exp(float(p @ z / (p.norm() * z.norm())) / temp)

            positive, negatives = score(t), []
            for j, s in enumerate(frames):
                same = bool((targets[u, s] == targets[u, t]).all())
                if not same:
                    negatives += [score(s)] * int(counts[u][i][j])
            loss += -math.log(positive / (positive + sum(negatives)))
            correct += bool(negatives) and positive > max(negatives)
            count += 1
    return loss, count, correct


def negative_counts(plan):
    """Log-counts back to counts, without the positive on the diagonal."""
    return (plan.log_counts.exp() - torch.eye(plan.log_counts.shape[1])).round()


def batch(*shape, dtype=torch.float64, share=0.5):
    predictions = torch.randn(*shape, dtype=dtype)
    targets = torch.randn(*shape, dtype=dtype)
    return predictions, targets, torch.rand(shape[:2]) < share


@pytest.mark.parametrize("num_negatives", [0, 1, 7, 50])
def test_equals_brute_force(num_negatives):
    torch.manual_seed(1)
    predictions, targets, mask = batch(4, 13, 5)
    mask[2] = False
    mask[2, 3] = True  # a lone masked frame
    targets[0, mask[0]] = targets[0, mask[0]][0]  # nothing to tell apart in utterance 0
    twins = mask[1].nonzero().flatten()[:2]
    targets[1, twins[0]] = targets[1, twins[1]]
    predictions[1:] += 0.7 * targets[1:]  # so that some frames are correct
    plan = sample_negatives(mask, num_negatives)
    counts = negative_counts(plan)
    if num_negatives:
        per_row = counts.sum(2)
        assert set(per_row.unique().tolist()) <= {0.0, float(num_negatives)}
    out = contrastive_loss(predictions, targets, plan, logit_temp=0.3)
    loss, count, correct = brute_force(predictions, targets, mask, counts, 0.3)
    assert out.loss_sum.item() == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert (out.count.item(), out.correct.item()) == (count, correct)
    assert 0 < correct < count


@pytest.mark.parametrize("from_batch", [False, True])
@pytest.mark.parametrize("min_distance", [1, 3])
def test_whose_frames_are_negatives(min_distance, from_batch):
    """Of all pairs of masked frames, by their definition: the loss too, with the terms of all pairs written out."""
    torch.manual_seed(4)
    predictions, targets, mask = batch(3, 9, 5)
    mask[1] = False
    mask[1, 4] = True  # alone in its utterance, not in the batch
    mask[0, -1] = mask[2, 0] = True  # neighbors in memory, not in time
    plan = sample_negatives(mask, 0, min_distance=min_distance, from_batch=from_batch)
    expected, count = 0.0, 0
    frames = [(u, t) for u in range(3) for t in range(9) if mask[u, t]]
    similarity = torch.nn.functional.normalize(predictions, dim=-1), torch.nn.functional.normalize(targets, dim=-1)
    for u, t in frames:
        negatives = [
            (v, s) for v, s in frames if (v == u and abs(s - t) >= min_distance and s != t) or (v != u and from_batch)
        ]
        counted = from_batch or mask[u].sum() > 1
        terms = [math.exp(float(similarity[0][u, t] @ similarity[1][v, s]) / 0.3) for v, s in [(u, t), *negatives]]
        expected += -math.log(terms[0] / sum(terms)) if counted else 0.0
        count += bool(counted)
    out = contrastive_loss(predictions, targets, plan, logit_temp=0.3)
    assert out.loss_sum.item() == pytest.approx(expected, rel=1e-6) and out.count.item() == count
    drawn = sample_negatives(mask, 40, min_distance=min_distance, from_batch=from_batch)
    assert ((negative_counts(drawn) > 0) <= (negative_counts(plan) > 0)).all()


@pytest.mark.parametrize("num_negatives", [0, 6])
def test_gradcheck(num_negatives):
    torch.manual_seed(2)
    predictions, targets, mask = batch(2, 6, 3)
    mask[0, :3] = True
    plan = sample_negatives(mask, num_negatives)
    predictions.requires_grad_()
    targets.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, z: contrastive_loss(p, z, plan, 0.5).loss_sum, (predictions, targets))


@pytest.mark.parametrize("num_negatives", [25, 100, 0])
def test_untrained_loss_is_log_of_choices(num_negatives):
    torch.manual_seed(3)
    predictions, targets, _ = batch(2, 120, 768, dtype=torch.float32)
    mask = torch.ones(2, 120, dtype=torch.bool)
    out = contrastive_loss(predictions, targets, sample_negatives(mask, num_negatives), 0.1)
    choices = (num_negatives or 119) + 1
    assert (out.loss_sum / out.count).item() == pytest.approx(math.log(choices), rel=0.05)
    assert out.correct / out.count < 0.06


def test_perfect_predictions_are_all_correct():
    torch.manual_seed(4)
    _, targets, mask = batch(2, 30, 64, dtype=torch.float32)
    out = contrastive_loss(3 * targets, targets, sample_negatives(mask, 20), 0.1)
    assert out.correct == out.count == mask.sum()
    assert (out.loss_sum / out.count).item() < 0.1


def test_identical_targets_are_never_correct():
    predictions = torch.randn(1, 9, 4)
    targets = torch.ones(1, 9, 4)
    targets[0, 3, 0] = 0.0
    targets[0, 4] = targets[0, 3]
    targets[0, :, 1] = 0.0
    targets[0, 5, 1] = -0.0  # equal to 0.0
    plan = sample_negatives(torch.tensor([[True] * 3 + [False] * 2 + [True] * 4]), 0)
    out = contrastive_loss(predictions, targets, plan)
    assert (out.loss_sum.item(), out.count.item(), out.correct.item()) == (0.0, 7, 0)


@pytest.mark.parametrize("num_negatives", [0, 10])
def test_padding_and_unmasked_frames_do_not_matter(num_negatives):
    torch.manual_seed(5)
    predictions, targets, mask = batch(3, 20, 8)
    mask[0, 4:] = False
    plan = sample_negatives(mask, num_negatives, torch.Generator().manual_seed(0))
    before = contrastive_loss(predictions, targets, plan)
    pad = torch.full((3, 5, 8), float("nan"), dtype=torch.float64)
    outside = ~mask[..., None]
    predictions = torch.cat([predictions.masked_fill(outside, float("nan")), pad], 1).requires_grad_()
    targets = torch.cat([targets.masked_fill(outside, float("inf")), pad], 1)
    mask = torch.cat([mask, torch.zeros(3, 5, dtype=torch.bool)], 1)
    plan = sample_negatives(mask, num_negatives, torch.Generator().manual_seed(0))
    after = contrastive_loss(predictions, targets, plan)
    assert after.loss_sum.item() == pytest.approx(before.loss_sum.item(), rel=1e-12)
    assert after.correct == before.correct
    after.loss_sum.backward()
    assert predictions.grad[~mask].eq(0).all()
    assert predictions.grad[mask].abs().amin() > 0


def test_batch_order_and_composition_do_not_matter():
    torch.manual_seed(6)
    predictions, targets, mask = batch(4, 17, 6)

    def loss_of(rows):
        plan = sample_negatives(mask[rows], 0)
        return contrastive_loss(predictions[rows], targets[rows], plan).loss_sum.item()

    alone = sum(loss_of([u]) for u in range(4))
    assert loss_of([0, 1, 2, 3]) == pytest.approx(alone, rel=1e-12)
    assert loss_of([2, 0, 3, 1]) == pytest.approx(alone, rel=1e-12)


def test_negatives_are_uniform_and_never_the_frame_itself():
    torch.manual_seed(7)
    mask = torch.zeros(2, 40, dtype=torch.bool)
    mask[0, 5:16] = True  # 11 frames
    mask[1, ::8] = True  # 5 frames
    draws = 20_000
    counts = sample_negatives(mask, draws).log_counts.exp()
    for u, frames in enumerate((11, 5)):
        block = counts[u, :frames, :frames]
        assert block.diagonal().eq(1).all()  # the positive
        expected = draws / (frames - 1)
        off_diagonal = block[~torch.eye(frames, dtype=torch.bool)]
        chi_square = ((off_diagonal - expected) ** 2 / expected).sum().item()
        freedom = frames * (frames - 2)
        assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)
    assert counts[1, :5, 5:].eq(0).all()


def test_sampling_follows_the_generator():
    mask = torch.rand(3, 30, generator=torch.Generator().manual_seed(0)) < 0.5

    def draw(seed):
        return sample_negatives(mask, 5, torch.Generator().manual_seed(seed)).log_counts

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation returned, forward or backward."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            # Expanded views have no memory of their own.
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_no_tensor_larger_than_the_similarities():
    torch.manual_seed(8)
    b, t, d, n = 2, 64, 96, 100
    predictions, targets, _ = batch(b, t, d, dtype=torch.float32)
    predictions.requires_grad_()
    mask = torch.ones(b, t, dtype=torch.bool)
    with LargestTensor() as seen:
        contrastive_loss(predictions, targets, sample_negatives(mask, n)).loss_sum.backward()
    assert seen.elements <= b * t * max(t, n, d)  # the gathered negatives would be b * t * n * d


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_give_float32_loss(dtype):
    torch.manual_seed(9)
    predictions, targets, mask = batch(2, 40, 16, dtype=dtype)
    plan = sample_negatives(mask, 10)
    out = contrastive_loss(predictions, targets, plan)
    exact = contrastive_loss(predictions.float(), targets.float(), plan)
    assert out.loss_sum.dtype == torch.float32
    assert out.loss_sum == exact.loss_sum
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert contrastive_loss(predictions, targets, plan).loss_sum == exact.loss_sum


def test_temperature_changes_the_loss():
    torch.manual_seed(10)
    predictions, targets, mask = batch(1, 20, 4)
    plan = sample_negatives(mask, 0)
    assert (
        contrastive_loss(predictions, targets, plan, 0.1).loss_sum
        != contrastive_loss(predictions, targets, plan, 0.2).loss_sum
    )


def test_nothing_masked_gives_a_zero_with_gradient():
    predictions = torch.randn(2, 5, 3, requires_grad=True)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 2] = True
    out = contrastive_loss(predictions, torch.randn(2, 5, 3), sample_negatives(mask, 4))
    assert (out.loss_sum.item(), out.count.item(), out.correct.item()) == (0.0, 0, 0)
    out.loss_sum.backward()
    assert predictions.grad.eq(0).all()


def test_odd_width():
    torch.manual_seed(11)
    predictions, targets, mask = batch(2, 10, 7, dtype=torch.float32)
    plan = sample_negatives(mask, 0)
    loss, count, correct = brute_force(predictions, targets, mask, negative_counts(plan), 0.1)
    out = contrastive_loss(predictions, targets, plan)
    assert out.loss_sum.item() == pytest.approx(loss, rel=1e-4)
    assert (out.count.item(), out.correct.item()) == (count, correct)


def test_bad_arguments():
    mask = torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="num_negatives"):
        sample_negatives(mask, -1)
    with pytest.raises(ValueError, match="bool"):
        sample_negatives(mask.long(), 2)
    with pytest.raises(ValueError, match="min_distance"):
        sample_negatives(mask, 2, min_distance=0)
    with pytest.raises(ValueError, match="shape of the mask"):
        contrastive_loss(torch.randn(1, 5, 2), torch.randn(1, 5, 2), sample_negatives(mask, 2))
