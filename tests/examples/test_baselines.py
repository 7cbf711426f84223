"""Each baseline's loss is its paper's formula, written out frame by frame from predictions and features."""

import math

import pytest
import torch
from recipes import EXAMPLES, NARROW, build, full_config

from colld_fairseq.teachers import load_teacher

BASELINES = EXAMPLES / "baselines"


def norm(vector):
    return math.sqrt(sum(value * value for value in vector))


def l1(p, z):
    return sum(abs(a - b) for a, b in zip(p, z)) / len(z)


def squared(p, z):
    return sum((a - b) ** 2 for a, b in zip(p, z)) / len(z)


def log_sigmoid_cosine(p, z):
    cosine = sum(a * b for a, b in zip(p, z)) / (norm(p) * norm(z))
    return math.log(1 / (1 + math.exp(-cosine)))


def l1_and_cosine(p, z):
    return l1(p, z) - log_sigmoid_cosine(p, z)


def mean_over_frames(distance, predictions, targets, frames):
    """frames: (utterance, frame) pairs that count; predictions and targets [B, T, D]."""
    terms = [distance(predictions[u, t].tolist(), targets[u, t].tolist()) for u, t in frames]
    return sum(terms) / len(terms)


@pytest.fixture
def case(hubert, corpus):
    """case(name, kind) -> the criterion's loss, student output, teacher features, valid frames, the model."""

    def run(name, kind="layer"):
        overrides = [*NARROW, f"task.teacher={hubert}", f"task.data={corpus}", "++task.max_seconds=0.6"]
        cfg = full_config(BASELINES / f"{name}.yaml", overrides)
        torch.manual_seed(3)
        task, model, criterion = build(cfg)
        model.train()
        for module in model.modules():  # dropout would make two passes differ
            if type(module).__name__ == "Dropout":
                module.eval()
        task.load_dataset("test")
        dataset = task.datasets["test"]
        by_length = dataset.sizes.argsort()
        sample = dataset.collater([dataset[i] for i in by_length[[0, 1, -1]]])
        torch.manual_seed(4)
        loss, size, _ = criterion(model, sample)
        torch.manual_seed(4)  # the same masks
        output = model(**sample["net_input"])
        teacher = load_teacher(hubert, range(1, 13), kind)
        features = teacher(**sample["teacher_input"])
        lengths = torch.minimum(output.lengths, features.lengths).tolist()
        assert len(set(lengths)) > 1, "padding must be present to be left out"
        frames = [(u, t) for u, length in enumerate(lengths) for t in range(length)]
        return loss.item() / int(size), output, features.features, frames, model

    return run


def test_distilhubert(case):
    loss, output, features, frames, model = case("distilhubert")
    terms = [mean_over_frames(l1_and_cosine, p, features[k], frames) for p, k in zip(output.predictions, (4, 8, 12))]
    assert len(output.predictions) == 3 and output.mask is None
    assert loss == pytest.approx(sum(terms) / 3, rel=1e-5)
    # One trunk on the last of two layers: GELU(A s_2 + a) in three blocks, each through its own Linear.
    assert model.encoder.num_layers == 2 and model.heads.trunk[0].out_features == 3 * model.encoder.width


def test_layer_to_layer(case):
    loss, output, features, frames, _ = case("layer_to_layer")
    terms = [mean_over_frames(l1_and_cosine, p, features[k], frames) for k, p in enumerate(output.predictions, 1)]
    assert len(terms) == 12
    assert loss == pytest.approx(sum(terms) / 12, rel=1e-5)


def test_fithubert(case):
    loss, output, features, frames, model = case("fithubert")
    means = [mean_over_frames(squared, p, features[k], frames) for k, p in enumerate(output.predictions, 1)]
    assert loss == pytest.approx(means[11] + 0.1 * sum(means[:11]), rel=1e-5)
    assert model.encoder.frame_rate_hz == 25 and model.prediction_rate_hz == 50


def test_lighthubert(case):
    loss, output, features, frames, model = case("lighthubert")
    (prediction,) = output.predictions
    target = sum(features[layer] for layer in range(5, 13)) / 8
    masked = [(u, t) for u, t in frames if output.mask[u, t]]
    assert 0 < len(masked) < len(frames)
    assert loss == pytest.approx(mean_over_frames(l1, prediction, target, masked), rel=1e-5)
    assert all(head.bias is None for head in model.heads.heads)


def test_usad(case):
    loss, output, features, frames, model = case("usad", kind="ffn")
    layers = (3, 6, 9, 12)
    terms = [mean_over_frames(l1_and_cosine, p, features[k], frames) for k, p in zip(layers, output.predictions)]
    assert [pair.student_layer for pair in model.pairs] == [3, 6, 9, 12]
    assert loss == pytest.approx(sum(terms) / 4, rel=1e-5)
    assert [type(layer).__name__ for layer in model.heads.heads[0]] == ["Linear", "ReLU", "Linear"]
