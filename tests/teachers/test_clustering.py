"""k-means over a stream, against scikit-learn's on everything at once."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from colld_fairseq.teachers import clustering
from colld_fairseq.teachers.clustering import FrameClustering


@pytest.fixture
def blobs():
    """(frames [3000, 6], which of 7 blobs each is of); the channels differ in offset and scale."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 7, 3000)
    frames = 4 * rng.standard_normal((7, 6))[kinds] + 0.4 * rng.standard_normal((3000, 6))
    return (frames * [1, 100, 0.01, 1, 5, 1] + [0, 1000, 0, 5, 0, -3]).astype(np.float32), kinds


def buffers(frames, size=500):
    return [frames[start : start + size] for start in range(0, len(frames), size)]


def labels_of(fitted, frames):
    normalized = (frames - fitted.mean) / fitted.std
    return np.square(normalized[:, None] - fitted.centroids).sum(-1).argmin(1)


def test_finds_what_kmeans_finds(blobs):
    frames, kinds = blobs
    fitted = FrameClustering(7, seed=1)
    fitted.start(frames[:1000])
    for buffer in buffers(frames):
        fitted.update(buffer)
    inertia = sum(fitted.update(buffer, measure=True) for buffer in buffers(frames))
    assert adjusted_rand_score(labels_of(fitted, frames), kinds) == 1.0
    whole = KMeans(7, n_init=10, random_state=0).fit((frames - fitted.mean) / fitted.std)
    assert inertia == pytest.approx(whole.inertia_, rel=0.01)
    assert np.abs(np.sort(fitted.centroids, 0) - np.sort(whole.cluster_centers_, 0)).max() < 0.05


def test_normalizes_channels(blobs):
    """The channel of large scale does not decide alone."""
    frames = blobs[0]
    fitted = FrameClustering(7, seed=1)
    fitted.start(frames)
    np.testing.assert_allclose(fitted.mean, frames.mean(0), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(fitted.std, frames.std(0), rtol=1e-4)
    raw = KMeans(7, n_init=10, random_state=0).fit_predict(frames)
    assert adjusted_rand_score(raw, blobs[1]) < 0.99


def test_a_channel_that_never_changes(blobs):
    frames = blobs[0].copy()
    frames[:, 2] = 3.0
    fitted = FrameClustering(7, seed=1)
    fitted.start(frames)
    fitted.update(frames)
    assert np.isfinite(fitted.centroids).all() and np.allclose(fitted.centroids[:, 2], 0)


def test_buffers_larger_than_a_step(blobs, monkeypatch):
    """Memory and numbers go by steps, not by how the frames come in."""
    monkeypatch.setattr(clustering, "STEP_FRAMES", 500)
    result = []
    for size in (500, 1000, 3000):
        fitted = FrameClustering(7, seed=1)
        fitted.start(blobs[0])
        for buffer in buffers(blobs[0], size):
            fitted.update(buffer)
        result.append(fitted.centroids)
    assert np.array_equal(result[0], result[1]) and np.array_equal(result[0], result[2])


def test_restored_state_goes_on_with_the_same_numbers(blobs):
    frames = blobs[0]
    fitted = FrameClustering(7, seed=1)
    fitted.start(frames[:1000])
    for buffer in buffers(frames)[:3]:
        fitted.update(buffer)
    arrays, values = fitted.state()
    arrays = {name: value.copy() for name, value in arrays.items()}
    other = FrameClustering(7, seed=1)
    other.restore(arrays, values)
    assert other.started
    for buffer in buffers(frames)[3:]:
        assert fitted.update(buffer, measure=True) == other.update(buffer, measure=True)
    assert np.array_equal(fitted.centroids, other.centroids)
    forgetful = FrameClustering(7, seed=1)  # the test can fail: without its counts a model goes elsewhere
    forgetful.restore({**arrays, "model._counts": arrays["model._counts"] * 0}, values)
    for buffer in buffers(frames)[3:]:
        forgetful.update(buffer)
    assert not np.array_equal(forgetful.centroids, fitted.centroids)
