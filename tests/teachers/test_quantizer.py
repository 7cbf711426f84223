"""Residual quantizers against a brute-force numpy reference and k-means of scikit-learn; their files."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans

from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers.quantizer import QuantizerHeader, ResidualQuantizer
from colld_fairseq.teachers.quantizer_fit import fit_codebooks

CODEBOOKS, CODES, WIDTH = 5, 12, 7


@pytest.fixture(scope="module")
def frames():
    """[3000, 7]: 20 clusters, of channels of very different scale, and one channel that never changes."""
    generator = np.random.default_rng(0)
    centers = generator.standard_normal((20, WIDTH)) * 2
    values = centers[generator.integers(0, 20, 3000)] + generator.standard_normal((3000, WIDTH)) * 0.7
    return (values * [1, 300, 0.01, 1, 5, 1, 0] + [0, 70, 0, -3, 0, 0, 2]).astype(np.float32)


def quantizer_of(frames, seed=1, num_codebooks=CODEBOOKS, content_hash="x"):
    fitted = fit_codebooks(frames, num_codebooks, CODES, seed)
    header = QuantizerHeader(
        **dict(content_hash=content_hash, layer=2, kind="layer", num_codebooks=num_codebooks, num_codes=CODES),
        **dict(seed=seed, rows="", max_seconds=0.0, teacher="hf:t", frame_rate_hz=50.0, frames=len(frames)),
        errors=tuple(fitted.errors),
    )
    return ResidualQuantizer(*map(torch.from_numpy, fitted[:3]), header)


@pytest.fixture(scope="module")
def quantizer(frames):
    return quantizer_of(frames)


def brute_force(quantizer, frames, codebooks=CODEBOOKS):
    """(indexes [N, C], normalized residual [N, D]) with every distance written out, in float64."""
    mean, std = quantizer.mean.double().numpy(), quantizer.std.double().numpy()
    residual, indexes = (frames.astype(np.float64) - mean) / std, []
    for entries in quantizer.codebooks.double().numpy()[:codebooks]:
        distances = np.stack([((residual - entry) ** 2).sum(-1) for entry in entries], -1)
        indexes.append(distances.argmin(-1))
        residual = residual - entries[indexes[-1]]
    return np.stack(indexes, -1), residual


def test_error_falls_with_every_codebook_and_is_the_one_of_brute_force(quantizer, frames):
    errors = quantizer.header.errors
    assert len(errors) == CODEBOOKS and errors[0] < 1 and all(b < 0.9 * a for a, b in zip(errors, errors[1:]))
    for codebooks in range(1, CODEBOOKS + 1):
        _, residual = brute_force(quantizer, frames, codebooks)
        # The fit leaves frames where its last pass put them; for a few another entry has become the nearest.
        assert errors[codebooks - 1] == pytest.approx(np.square(residual).mean(), rel=0.03)
        stored = quantizer.decode(quantizer.encode(torch.from_numpy(frames))[:, :codebooks])
        difference = ((stored.numpy() - frames) / quantizer.std.numpy()).astype(np.float64)
        assert np.square(difference).mean() == pytest.approx(np.square(residual).mean(), rel=1e-4)


def test_indexes_are_the_nearest_entries(quantizer, frames):
    indexes = quantizer.encode(torch.from_numpy(frames).view(30, 100, WIDTH))
    assert indexes.dtype == torch.uint8 and indexes.shape == (30, 100, CODEBOOKS)
    expected, _ = brute_force(quantizer, frames)
    assert (indexes.view(-1, CODEBOOKS).numpy() == expected).all(-1).mean() > 0.999  # but for ties of float32
    assert indexes.max() < CODES


def test_the_first_codebook_is_as_good_as_plain_k_means(quantizer, frames):
    normalized = (frames - quantizer.mean.numpy()) / quantizer.std.numpy()
    best = KMeans(CODES, n_init=5, random_state=3).fit(normalized).inertia_ / normalized.size
    assert best <= quantizer.header.errors[0] * 1.001 and quantizer.header.errors[0] < 1.15 * best


def test_seed_decides(quantizer, frames):
    again, other = quantizer_of(frames), quantizer_of(frames, seed=2)
    assert torch.equal(again.codebooks, quantizer.codebooks) and again.header == quantizer.header
    assert again.content_hash == quantizer.content_hash != other.content_hash
    fewer = quantizer_of(frames, num_codebooks=2)
    assert torch.equal(fewer.codebooks, quantizer.codebooks[:2])


def test_too_few_frames(frames):
    with pytest.raises(
        ConfigError, match="119 frames are too few for codebooks of 12 .10 frames each.; give more audio"
    ):
        fit_codebooks(frames[:119], 1, CODES, 1)


def test_it_comes_back_from_its_file(quantizer, frames, tmp_path):
    quantizer.save(tmp_path / "books.safetensors")
    again = ResidualQuantizer.load(tmp_path / "books.safetensors")
    assert again.header == quantizer.header and again.content_hash == quantizer.content_hash
    some = torch.from_numpy(frames[:9])
    assert torch.equal(again.encode(some.half()), quantizer.encode(some.half()))
    (tmp_path / "t.pt").write_bytes(b"x")
    with pytest.raises(TeacherError, match="books.safetensors were made from hf:t, whose files differ from teacher"):
        again.check_teacher(f"fairseq:{tmp_path}/t.pt")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(codebooks=torch.zeros(CODEBOOKS, CODES, WIDTH + 1)), "shapes do not fit each other"),
        (dict(mean=torch.zeros(WIDTH, 1)), "shapes do not fit each other"),
        (dict(std=None), "incomplete codebooks"),
        (dict(format="colld-codebook-1"), "no codebooks of this version"),
        (dict(layer=None), "incomplete codebooks"),
    ],
)
def test_a_file_that_is_something_else(change, message, quantizer, tmp_path):
    path = tmp_path / "books.safetensors"
    tensors = {name: change.get(name, getattr(quantizer, name)) for name in ("codebooks", "mean", "std")}
    facts = {"format": "colld-codebooks-1", **vars(quantizer.header), **change}
    facts = {name: value for name, value in facts.items() if name not in tensors and value is not None}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    save_file(tensors, path, {"colld": json.dumps(facts)})
    with pytest.raises(TeacherError, match=f"books.safetensors: {message}.*`colld codebooks`"):
        ResidualQuantizer.load(path)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing")
    for name in ("x", "absent"):
        with pytest.raises(TeacherError, match="cannot be read as codebooks"):
            ResidualQuantizer.load(tmp_path / name)
