import numpy as np
import pytest

from colld_fairseq.data.augment import SpecAugment


def features(frames=300, bins=80):
    return np.random.default_rng(1).normal(size=(frames, bins)).astype(np.float32)


def masked_cells(policy, original, seed):
    """Which cells changed, and that all of them hold the mean."""
    augmented = policy(original, np.random.default_rng(seed))
    changed = augmented != original
    assert np.all(augmented[changed] == original.mean())
    return changed


def longest_runs(flags):
    """Lengths of the runs of True in a 1-D array."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_frequency_masks_cover_whole_channels():
    policy = SpecAugment(num_freq_masks=1, max_freq_width=27, num_time_masks=0)
    widths = []
    for seed in range(300):
        changed = masked_cells(policy, features(), seed)
        assert np.array_equal(changed.any(axis=0), changed.all(axis=0))
        runs = longest_runs(changed.any(axis=0))
        assert len(runs) <= 1
        widths.append(int(runs.sum()))
    assert max(widths) == 27 and min(widths) == 0
    assert abs(np.mean(widths) - 13.5) < 1.5


def test_time_masks_cover_whole_frames():
    policy = SpecAugment(num_freq_masks=0, num_time_masks=2, max_time_width=40)
    counts = []
    for seed in range(300):
        changed = masked_cells(policy, features(), seed)
        assert np.array_equal(changed.any(axis=1), changed.all(axis=1))
        counts.append(int(changed.all(axis=1).sum()))
    assert 40 < max(counts) <= 80
    assert abs(np.mean(counts) - 40) < 4


def test_time_fraction_protects_short_utterances():
    policy = SpecAugment(num_freq_masks=0, num_time_masks=1, max_time_width=100, max_time_fraction=0.2)
    assert max(masked_cells(policy, features(50), seed).all(axis=1).sum() for seed in range(100)) == 10


def test_every_position_can_be_masked():
    policy = SpecAugment(num_freq_masks=2, num_time_masks=2, max_time_width=20)
    assert np.logical_or.reduce([masked_cells(policy, features(60), seed) for seed in range(200)]).all()


def test_deterministic_and_without_side_effects():
    original = features()
    before = original.copy()
    first, second, other = (SpecAugment()(original, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert np.array_equal(original, before) and first.dtype == np.float32


@pytest.mark.parametrize("shape", [(0, 80), (1, 80), (300, 5)])
def test_small_inputs(shape):
    assert SpecAugment()(features(*shape), np.random.default_rng(0)).shape == shape
