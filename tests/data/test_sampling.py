import numpy as np
import pytest

from colld_fairseq.data.sampling import group_probabilities, sampling_indices
from colld_fairseq.errors import ConfigError

LANGUAGES = np.array(["de"] * 800 + ["en"] * 150 + ["mdw"] * 50)[np.random.default_rng(0).permutation(1000)]


def counts(languages):
    return {name: int((languages == name).sum()) for name in ("de", "en", "mdw")}


def test_probabilities():
    assert np.allclose(group_probabilities(np.array([1, 3]), 1.0), [0.25, 0.75])
    assert np.allclose(group_probabilities(np.array([1, 3]), 0.0), [0.5, 0.5])
    assert np.allclose(group_probabilities(np.array([10, 90]), 0.5), [0.25, 0.75])  # square roots 1 : 3
    with pytest.raises(ConfigError, match="alpha"):
        group_probabilities(np.array([1, 3]), 1.5)


def test_alpha_one_is_a_permutation():
    indices = sampling_indices(LANGUAGES, alpha=1.0, epoch=1, seed=1)
    assert indices.dtype == np.int64
    assert np.array_equal(np.sort(indices), np.arange(1000)) and not np.array_equal(indices, np.arange(1000))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7])
def test_expected_counts(alpha):
    weights = np.array([0.8, 0.15, 0.05]) ** alpha
    expected = 1000 * weights / weights.sum()
    totals = np.zeros(3)
    for epoch in range(40):
        indices = sampling_indices(LANGUAGES, alpha, epoch, seed=3)
        assert len(indices) == 1000
        drawn = np.array(list(counts(LANGUAGES[indices]).values()))
        assert np.abs(drawn - expected).max() <= 1
        totals += drawn
    assert np.abs(totals / 40 - expected).max() < 0.3


def test_rare_groups_are_not_rounded_away():
    """A group that deserves 0.4 rows an epoch is drawn in 40 % of the epochs."""
    keys = np.array([0] * 999 + [1])
    weights = np.array([999.6, 0.4])
    drawn = sum((sampling_indices(keys, 1.0, epoch, seed=0, weights=weights) == 999).sum() for epoch in range(500))
    assert abs(drawn / 500 - 0.4) < 0.08


def test_no_row_twice_before_all_were_drawn():
    indices = sampling_indices(LANGUAGES, alpha=0.0, epoch=2, seed=0)
    repeats = np.bincount(indices, minlength=1000)
    for name in ("de", "en", "mdw"):
        own = repeats[LANGUAGES == name]
        assert own.max() - own.min() == 1
    assert repeats[LANGUAGES == "mdw"].min() == 6 and repeats[LANGUAGES == "de"].max() == 1


def test_depends_on_seed_and_epoch_only():
    first = sampling_indices(LANGUAGES, 0.5, epoch=4, seed=7)
    np.random.seed(123)
    assert np.array_equal(first, sampling_indices(LANGUAGES, 0.5, epoch=4, seed=7))
    for epoch, seed in ((5, 7), (4, 8), (7, 4)):
        other = sampling_indices(LANGUAGES, 0.5, epoch, seed)
        assert not np.array_equal(first, other) and not np.array_equal(np.sort(first), np.sort(other))


def test_order_is_mixed():
    drawn = LANGUAGES[sampling_indices(LANGUAGES, 0.3, 1, 1)]
    assert (drawn[1:] != drawn[:-1]).mean() > 0.4


def test_nothing_to_sample_from():
    with pytest.raises(ConfigError, match="no rows"):
        sampling_indices([], 0.5, 0, 0)


def test_weights_take_the_place_of_shares():
    groups = np.repeat([4, 7, 9], [900, 90, 10])
    rows = sampling_indices(groups, 1.0, epoch=1, seed=1, weights=np.array([1.0, 2.0, 1.0]))
    counts = [int((groups[rows] == group).sum()) for group in (4, 7, 9)]
    assert len(rows) == 1000 and counts == [250, 500, 250]
    assert len(set(rows[groups[rows] == 4])) == 250  # no row twice while another is missing
