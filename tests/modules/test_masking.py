import math

import pytest
import torch

from colld_fairseq.modules.masking import sample_channel_mask, sample_span_mask


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def runs(row):
    """Lengths of the unbroken runs of True in a list."""
    return [len(run) for run in "".join("x" if m else " " for m in row).split()]


@pytest.mark.parametrize("mask_prob, mask_length", [(0.65, 10), (0.4, 5), (1.2, 20)])
def test_share_of_long_utterances(mask_prob, mask_length):
    mask = sample_span_mask(torch.full((64,), 1500), mask_prob, mask_length, generator=seeded(0))
    assert mask.float().mean().item() == pytest.approx(1 - math.exp(-mask_prob), abs=0.015)


def test_default_share_is_48_percent():
    mask = sample_span_mask(torch.full((64,), 1500), 0.65, 10, generator=seeded(0))
    assert 0.46 < mask.float().mean() < 0.50


def test_starts_are_uniform():
    # One span of 4 in 10 frames: 7 starts, so the first frame is covered by 1/7 of the masks, the fifth
    # by 4/7.
    mask = sample_span_mask(torch.full((20_000,), 10), 0.4, 4, min_masks=1, generator=seeded(1))
    expected = torch.tensor([1, 2, 3, 4, 4, 4, 4, 3, 2, 1]) / 7
    torch.testing.assert_close(mask.float().mean(0), expected, atol=0.015, rtol=0)
    assert mask.sum(1).eq(4).all()


def test_number_of_spans_is_rounded_at_random():
    # 1.5 spans of one frame: the mean must be 1.5 less the overlap of two equal starts, not 1 or 2.
    mask = sample_span_mask(torch.full((20_000,), 100), 0.015, 1, min_masks=0, generator=seeded(2))
    assert mask.sum(1).float().mean().item() == pytest.approx(1.5 - 0.5 / 100, abs=0.02)
    assert set(mask.sum(1).tolist()) == {1, 2}


def test_runs_are_whole_spans():
    mask = sample_span_mask(torch.full((50,), 200), 0.3, 7, generator=seeded(3))
    assert min(run for row in mask.tolist() for run in runs(row)) == 7


def test_min_masks():
    lengths = torch.full((200,), 1000)
    assert not sample_span_mask(lengths, 1e-6, 5, min_masks=0, generator=seeded(4)).any()
    sums = sample_span_mask(lengths, 1e-6, 5, min_masks=3, generator=seeded(4)).sum(1)
    assert sums.max() == 15 and sums.min() >= 5 and sums.float().mean() > 14


def test_never_on_padding():
    lengths = torch.tensor([40, 3, 17, 0, 11, 1])
    for seed in range(50):
        mask = sample_span_mask(lengths, 0.65, 10, generator=seeded(seed))
        assert mask.shape == (6, 40)
        for row, length in zip(mask, lengths):
            assert not row[length:].any()


@pytest.mark.parametrize("length", [1, 2, 5, 9, 10, 11, 15])
def test_short_utterances_keep_a_frame(length):
    masked = set()
    for seed in range(100):
        mask = sample_span_mask(torch.full((8,), length), 0.65, 10, generator=seeded(seed))
        assert (mask.sum(1) < length).all()
        assert (mask.sum(1) >= min(length - 1, 9)).all()
        masked |= set(mask.float().mean(0).nonzero().flatten().tolist())
    assert masked == (set(range(length)) if length > 1 else set())


def test_zero_probability_masks_nothing():
    assert not sample_span_mask(torch.tensor([30, 20]), 0.0, 10).any()


def test_generator_decides():
    lengths = torch.tensor([300, 200])
    first, again, other = (sample_span_mask(lengths, 0.65, 10, 2, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    first = sample_span_mask(lengths, 0.65, 10)
    torch.manual_seed(5)
    assert torch.equal(first, sample_span_mask(lengths, 0.65, 10))


def test_channel_mask():
    mask = sample_channel_mask(64, 768, 0.25, 16, generator=seeded(0))
    assert mask.shape == (64, 768)
    assert mask.float().mean().item() == pytest.approx(1 - math.exp(-0.25), abs=0.02)
    assert not sample_channel_mask(2, 64, 0.0, 16).any()


@pytest.mark.parametrize("arguments", [(-0.1, 10, 2), (0.5, 0, 2), (0.5, 10, -1)])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="mask_length"):
        sample_span_mask(torch.tensor([10]), *arguments)
