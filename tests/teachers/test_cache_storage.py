"""How a cache stores numbers, and what it says is lost."""

import numpy as np
import pytest
import torch

from colld_fairseq.teachers.cache_storage import STORAGES, StorageLoss


@pytest.fixture
def features():
    """[layers 2, T 40, D 6]: channels of very different range and mean, one that never changes."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal((2, 40, 6)) * [1, 30, 0.01, 1, 500, 0] + [0, 0, 5, -80, 0, 0.3]
    return torch.from_numpy(values.astype(np.float32))


def stored(name, features):
    return STORAGES[name].decode(STORAGES[name].encode(features))


def test_bytes_are_off_by_half_a_step_of_their_channel_at_most(features):
    low, high = features.numpy().min(1, keepdims=True), features.numpy().max(1, keepdims=True)
    error = (stored("uint8", features) - features).abs().numpy()
    assert (error <= (high - low) / 255 * 0.5001 + 1e-5 * np.abs(low)).all()
    assert error.max((0, 1))[4] > 1  # it is the wide channel alone that is stored coarsely
    assert not error[..., 5].any()


@pytest.mark.parametrize("frames", [1, 2])
def test_one_or_two_frames_are_exact(frames, features):
    torch.testing.assert_close(stored("uint8", features[:, :frames]), features[:, :frames], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", STORAGES)
def test_pieces_are_what_encode_gives(name, features):
    for frames in (1, 40):
        result = STORAGES[name].encode(features[:, :frames])
        expected = [(piece.dtype, (2, piece.rows, 6)) for piece in STORAGES[name].pieces(frames)]
        assert [(str(piece.dtype).removeprefix("torch."), tuple(piece.shape)) for piece in result] == expected


@pytest.mark.parametrize("name", STORAGES)
def test_loss_is_the_one_of_its_definition(name, features):
    utterances = [features[:, :25], features[:, 25:]]
    halves = [StorageLoss.none(2), StorageLoss.none(2)]
    for loss, utterance in zip(halves, utterances):
        loss.add(utterance, stored(name, utterance))
    total = StorageLoss(halves[0].sums.tolist())  # as it comes back from JSON
    total.merge(halves[1])
    result = total.of_layers([3, 7])
    for row, layer in enumerate("37"):
        squares, distances = [], []
        for utterance in utterances:
            x, y = utterance[row].double().numpy(), stored(name, utterance)[row].double().numpy()
            squares += list(((y - x)[:, :5] / x.std(0)[:5]).ravel() ** 2)
            cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
            distances += list(1 - cosine)
        assert result[layer]["error"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-3)
        assert result[layer]["cosine_distance"] == pytest.approx(np.mean(distances), rel=2e-2, abs=1e-9)
    assert result["3"]["error"] < (0.02 if name == "uint8" else 0.4)  # half precision has no steps of 0.01 at 5 +- 0.01


def test_nothing_stored_has_lost_nothing():
    assert StorageLoss.none(1).of_layers([2]) == {"2": {"error": 0.0, "cosine_distance": 0.0}}
