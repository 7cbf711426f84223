"""CKA and CCA against closed forms, a direct implementation on all frames at once, and scikit-learn."""

import numpy as np
import pytest
import torch

from colld_fairseq.similarity import SecondMoments, compare

FRAMES = 400


def features(width, seed=0, frames=FRAMES):
    """[frames, width] float64 with correlated channels of unlike variance, far from mean 0."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(frames, width, generator=generator, dtype=torch.float64) @ mix + 5.0


def moments(rows, columns, sizes=(FRAMES,)):
    """rows, columns: lists of layers [n, D]; sizes: frames of each batch."""
    result = SecondMoments([layer.size(1) for layer in rows], [layer.size(1) for layer in columns])
    for row, column in zip(torch.cat(rows, 1).split(sizes), torch.cat(columns, 1).split(sizes)):
        result.update(row, column)
    return result


def similarity(x, y, variance=1.0):
    result = compare(moments([x], [y], (len(x),)), variance)
    return float(result.cka), float(result.cca)


def rotation(width, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]


@pytest.mark.parametrize("variance", [1.0, 0.99, 0.5])
def test_the_same_features(variance):
    x = features(7)
    assert similarity(x, x, variance) == pytest.approx((1.0, 1.0), abs=1e-9)


@pytest.mark.parametrize("variance", [1.0, 0.9])
def test_rotated_scaled_and_shifted_features_are_the_same(variance):
    x = features(7)
    assert similarity(x, -3.0 * x @ rotation(7) + 100.0, variance) == pytest.approx((1.0, 1.0), abs=1e-9)


def test_cca_sees_through_every_invertible_map_and_cka_does_not():
    x = features(7)
    stretched = x @ torch.diag(torch.tensor([30.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64)) @ rotation(7)
    cka, cca = similarity(x, stretched)
    assert cca == pytest.approx(1.0, abs=1e-9)
    assert 0.05 < cka < 0.95


def test_cca_of_a_subspace_is_one_and_of_a_half_shared_space_one_half():
    """The mean is over the smaller number of components: x of width 3 lies within y of width 8."""
    y = features(8, frames=4000)
    assert similarity(y[:, :3], y)[1] == pytest.approx(1.0, abs=1e-9)
    shared = torch.cat([y[:, :2], features(2, seed=9, frames=4000)], 1)
    assert similarity(shared, y)[1] == pytest.approx(0.5, abs=0.05)


def test_known_correlations():
    """y_i = r_i x_i + sqrt(1 - r_i^2) noise has the canonical correlations r_i and, unit variances, CKA mean r_i^2."""
    n, r = 200_000, torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
    cka, cca = similarity(x, r * x + (1 - r**2).sqrt() * noise)
    assert cca == pytest.approx(float(r.mean()), abs=0.01)
    assert cka == pytest.approx(float(r.square().mean()), abs=0.01)


def test_independent_features_are_near_the_chance_it_states():
    """Pillai's trace of p and q independent Gaussian variables has the expectation p q / (n - 1)."""
    n, p, q = 500, 12, 20
    result = []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(n, width, generator=generator, dtype=torch.float64) for width in (p, q))
        result.append(compare(moments([x], [y], (n,)), 1.0))
    cka = torch.stack([one.cka for one in result]).mean()
    cca = torch.stack([one.cca for one in result]).mean()
    assert float(cka) == pytest.approx(float(result[0].cka_chance), rel=0.05)
    assert 0.9 * float(result[0].cca_chance) < float(cca) <= 1.01 * float(result[0].cca_chance)
    assert float(result[0].cca_chance) == pytest.approx((q / (n - 1)) ** 0.5)


def direct_cka(x, y):
    """Kornblith et al. 2019, section 3: HSIC of centered Gram matrices [n, n]."""
    centering = np.eye(len(x)) - 1 / len(x)
    k, m = centering @ (x @ x.T) @ centering, centering @ (y @ y.T) @ centering
    return np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))


def direct_svcca(x, y, variance):
    """Raghu et al. 2017: singular vectors of the centered features that hold `variance`, then angles between them."""
    kept = []
    for features_ in (x, y):
        left, values, _ = np.linalg.svd(features_ - features_.mean(0), full_matrices=False)
        rank = int(np.searchsorted(np.cumsum(values**2) / (values**2).sum(), variance - 1e-12)) + 1
        kept.append(left[:, :rank])
    return np.linalg.svd(kept[0].T @ kept[1], compute_uv=False).mean(), kept[0].shape[1], kept[1].shape[1]


@pytest.mark.parametrize("variance", [1.0, 0.99, 0.8])
def test_every_pair_agrees_with_the_formulas_on_all_frames_at_once(variance):
    base = features(9, seed=1)
    rows = [base[:, :4], base @ torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))]
    columns = [features(5, seed=3) + base[:, :5], base.sin(), features(3, seed=4)]
    result = compare(moments(rows, columns, (130, 1, 169, 100)), variance)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            x, y = row.numpy(), column.numpy()
            assert float(result.cka[i, j]) == pytest.approx(direct_cka(x, y), abs=1e-10)
            expected, row_rank, column_rank = direct_svcca(x, y, variance)
            assert float(result.cca[i, j]) == pytest.approx(expected, abs=1e-9)
            assert (result.row_ranks[i], result.column_ranks[j]) == (row_rank, column_rank)


def test_agrees_with_scikit_learn():
    from sklearn.cross_decomposition import CCA

    x = features(4, frames=300)
    y = features(5, seed=1, frames=300) + torch.cat([x, x[:, :1]], 1) ** 2 / 8
    a, b = CCA(n_components=4, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    expected = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)])
    assert similarity(x, y)[1] == pytest.approx(expected, abs=1e-5)


def test_moments_are_those_of_numpy():
    x, y = features(4), features(3, seed=1)
    result = moments([x[:, :1], x[:, 1:]], [y], (7, 193, 200))
    whole = np.cov(torch.cat([x, y], 1).T.numpy()) * (FRAMES - 1)
    np.testing.assert_allclose(result.cross, whole[:4, 4:], rtol=1e-10)
    np.testing.assert_allclose(result.row_scatter[1], whole[1:4, 1:4], rtol=1e-10)
    np.testing.assert_allclose(result.row_mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.cross_of(1, 0), whole[1:4, 4:], rtol=1e-10)


def test_order_and_size_of_the_batches_do_not_matter():
    x, y = features(5) + 1e4, features(6, seed=1)  # far from 0, where sums of squares would cancel
    shuffled = torch.randperm(FRAMES, generator=torch.Generator().manual_seed(0))
    plain = compare(moments([x], [y]), 0.99)
    for sizes, order in (((1,) * FRAMES, slice(None)), ((50, 350), shuffled), ((0, 399, 1), shuffled)):
        other = compare(moments([x[order]], [y[order]], sizes), 0.99)
        torch.testing.assert_close(other.cka, plain.cka, atol=1e-9, rtol=0)
        torch.testing.assert_close(other.cca, plain.cca, atol=1e-9, rtol=0)
        assert other.frames == FRAMES


def test_float32_features_and_null_directions():
    """A layer whose channels sum to 0, as behind a LayerNorm, has one component less, not one of rounding errors."""
    x = features(6)
    centered = x - x.mean(1, keepdim=True)
    result = compare(moments([centered.float()], [x.float()]), 1.0)
    assert result.row_ranks == [5] and result.column_ranks == [6]
    assert float(result.cca) == pytest.approx(1.0, abs=1e-5)


def test_more_variance_keeps_more_components():
    x, y = features(10), features(10, seed=1)
    ranks = [compare(moments([x], [y]), variance).row_ranks[0] for variance in (0.3, 0.8, 0.99, 1.0)]
    assert ranks == sorted(ranks) and ranks[0] < ranks[1] < ranks[3] == 10


def test_pairs_are_counted():
    calls = []
    compare(moments([features(2), features(3)], [features(2)]), on_pair=lambda: calls.append(1))
    assert len(calls) == 2


def test_what_cannot_be_compared():
    x = features(6)
    with pytest.raises(ValueError, match="12 frames are too few for layers of 6 and 6"):
        compare(moments([x[:12]], [x[:12]], (12,)), 1.0)
    with pytest.raises(ValueError, match="not finite"):
        compare(moments([x / 0.0], [x]))
    with pytest.raises(ValueError, match="the same features for every frame"):
        compare(moments([torch.ones_like(x)], [x]))
    with pytest.raises(ValueError, match="variance is 0"):
        compare(moments([x], [x]), 0.0)
