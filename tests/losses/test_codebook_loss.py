"""Cross-entropy over codebooks against loops over frames and codebooks, on padded batches."""

import math

import pytest
import torch

from colld_fairseq.losses.codebooks import codebook_loss

LENGTHS, CODEBOOKS, CODES = (11, 4, 7), 3, 5


@pytest.fixture
def batch():
    """logits [3, 11, 15], indexes [3, 11, 3] and mask of what is no padding, some frames of it left out."""
    torch.manual_seed(1)
    logits = torch.randn(3, 11, CODEBOOKS * CODES, dtype=torch.float64)
    indexes = torch.randint(CODES, (3, 11, CODEBOOKS))
    mask = torch.arange(11) < torch.tensor(LENGTHS)[:, None]
    mask[0, 3:6] = False
    return logits.requires_grad_(), indexes, mask


def by_hand(logits, indexes, mask):
    loss, agree = 0.0, 0
    for row, t in mask.nonzero().tolist():
        for c in range(CODEBOOKS):
            values = [math.exp(float(value)) for value in logits[row, t, c * CODES : (c + 1) * CODES]]
            wanted = int(indexes[row, t, c])
            loss -= math.log(values[wanted] / sum(values))
            agree += max(range(CODES), key=values.__getitem__) == wanted
    return loss / CODEBOOKS, agree / CODEBOOKS


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_equals_a_loop(dtype, batch):
    logits, indexes, mask = batch
    result = codebook_loss(logits, indexes.to(dtype), mask)
    loss, agree = by_hand(*batch)
    assert float(result.loss_sum) == pytest.approx(loss, rel=1e-9)
    assert float(result.agree) == pytest.approx(agree, rel=1e-6) and int(result.count) == int(mask.sum()) == 19


def test_equals_torch_with_its_own_mask(batch):
    """torch's cross-entropy leaves out the index -100."""
    logits, indexes, mask = batch
    ignored = indexes.masked_fill(~mask[..., None], -100)
    expected = torch.nn.functional.cross_entropy(
        logits.view(3, 11, CODEBOOKS, CODES).permute(0, 3, 1, 2), ignored, reduction="sum"
    )
    loss = codebook_loss(logits, indexes, mask).loss_sum
    torch.testing.assert_close(loss, expected / CODEBOOKS)
    one, other = (torch.autograd.grad(value, logits)[0] for value in (loss, expected / CODEBOOKS))
    torch.testing.assert_close(one, other)


def test_padding_never_counts(batch):
    logits, indexes, mask = batch
    expected = codebook_loss(logits, indexes, mask).loss_sum
    spoiled = logits.detach().masked_fill(~mask[..., None], math.nan).requires_grad_()
    loss = codebook_loss(spoiled, indexes, mask).loss_sum
    assert float(loss) == float(expected)
    loss.backward()
    assert not spoiled.grad[~mask].any() and spoiled.grad[mask].abs().sum() > 0


def test_half_precision_is_summed_in_single(batch):
    logits, indexes, mask = batch
    expected = codebook_loss(logits.half().double(), indexes, mask).loss_sum
    loss = codebook_loss(logits.half(), indexes, mask).loss_sum
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_no_frame_at_all(batch):
    logits, indexes, mask = batch
    result = codebook_loss(logits, indexes, torch.zeros_like(mask))
    assert float(result.loss_sum) == 0.0 and int(result.count) == 0
    result.loss_sum.backward()
    assert not logits.grad.any()


@pytest.mark.parametrize("shape", [(3, 11, 14), (3, 10, 15), (2, 11, 15)])
def test_shapes(shape, batch):
    with pytest.raises(ValueError, match="must be"):
        codebook_loss(torch.zeros(shape), *batch[1:])
