"""colld and feature_regression against loops over single frames."""

import math

import pytest
import torch
import torch.nn.functional as F
from stubs import distillation

from colld_fairseq.criterions.colld import ColldConfig, ColldCriterion
from colld_fairseq.criterions.feature_regression import FeatureRegressionConfig, FeatureRegressionCriterion
from colld_fairseq.errors import ConfigError

LENGTHS = [17, 9, 24]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(11)


def instance_norm(utterance):
    """[T, D] of one utterance: every channel to mean 0 and variance 1."""
    return (utterance - utterance.mean(0)) / torch.sqrt(utterance.var(0, unbiased=False) + 1e-5)


def layer_norm(utterance):
    return F.layer_norm(utterance, utterance.shape[-1:])


def regression_of_frame(p, z, weights):
    cosine = float(F.cosine_similarity(p, z, dim=0))
    return (
        weights.get("l1_weight", 0) * float((p - z).abs().mean())
        + weights.get("mse_weight", 0) * float((p - z).square().mean())
        + weights.get("cosine_weight", 0) * (1 - cosine)
        + weights.get("log_sigmoid_cosine_weight", 0) * math.log(1 + math.exp(-cosine))
    )


@pytest.mark.parametrize("frames", ["all", "masked"])
@pytest.mark.parametrize(
    "norm, normalize", [("none", lambda utterance: utterance), ("instance", instance_norm), ("layer", layer_norm)]
)
def test_feature_regression(frames, norm, normalize):
    stub = distillation(LENGTHS, pairs=((1, (2,)), (2, (3, 4))))
    terms = dict(l1_weight=0.7, mse_weight=0.2, cosine_weight=0.4, log_sigmoid_cosine_weight=1.3)
    cfg = FeatureRegressionConfig(**terms, regression_frames=frames, layer_weights="0.25,2", target_norm=norm)
    loss, sample_size, log = FeatureRegressionCriterion(cfg, stub.task)(stub.model, stub.sample)

    expected, count = 0.0, 0
    for row, length in enumerate(LENGTHS):
        utterances = {layer: normalize(value[row, :length]) for layer, value in stub.features.items()}
        for t in range(length):
            if frames == "masked" and not stub.mask[row, t]:
                continue
            count += 1
            expected += 0.25 * regression_of_frame(stub.predictions[0][row, t], utterances[2][t], terms)
            expected += 2 * regression_of_frame(
                stub.predictions[1][row, t], (utterances[3][t] + utterances[4][t]) / 2, terms
            )
    assert int(sample_size) == count
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(log["loss"]) == float(loss) and log["nsentences"] == 3


def contrastive_of_utterance(p, z, masked, temperature):
    """Sum over masked frames of one utterance, all its other masked frames as negatives; also the correct ones."""
    loss, correct = 0.0, 0
    chosen = [t for t in range(len(p)) if masked[t]]
    if len(chosen) < 2:
        return 0.0, 0
    for t in chosen:
        logits = {s: float(F.cosine_similarity(p[t], z[s], dim=0)) / temperature for s in chosen}
        loss += math.log(sum(math.exp(value) for value in logits.values())) - logits[t]
        correct += all(logits[t] > value for s, value in logits.items() if s != t)
    return loss, correct


@pytest.mark.parametrize("training, given, weights", [(True, "", (0.5, 0.5)), (False, "0.25,2", (0.25, 2))])
def test_colld(training, given, weights):
    """With all other masked frames as negatives nothing is drawn at random."""
    stub = distillation(LENGTHS)
    terms = dict(contrastive_weight=0.8, l1_weight=0.5, log_sigmoid_cosine_weight=0.0)
    cfg = ColldConfig(num_negatives=0, logit_temp=0.2, layer_weights=given, **terms)
    criterion = ColldCriterion(cfg, stub.task).train(training)
    loss, sample_size, log = criterion(stub.model, stub.sample)

    contrastive, correct, distance, valid = 0.0, 0, 0.0, sum(LENGTHS)
    for row, length in enumerate(LENGTHS):
        for k, layer in enumerate((2, 4)):
            p, z = stub.predictions[k][row, :length], instance_norm(stub.features[layer][row, :length])
            one, right = contrastive_of_utterance(p, z, stub.mask[row, :length], 0.2)
            contrastive += weights[k] * one
            correct += right
            distance += weights[k] * float((p - z).abs().mean(1).sum())
    masked = int(stub.mask.sum())
    assert int(sample_size) == masked and int(log["correct"]) == correct
    assert int(log["contrasted"]) == 2 * masked
    # Each term is a mean over its own frames; fairseq divides the sum by sample_size.
    assert float(loss) / masked == pytest.approx(0.8 * contrastive / masked + 0.5 * distance / valid, rel=1e-6)
    assert float(log["contrastive"]) == pytest.approx(contrastive, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_negatives_of_the_batch(training):
    """In training as if its utterances were one; in validation each is by itself, whatever its batch."""
    stub = distillation(LENGTHS)
    cfg = ColldConfig(num_negatives=0, logit_temp=0.2, negatives_from="batch")
    loss, sample_size, log = ColldCriterion(cfg, stub.task).train(training)(stub.model, stub.sample)
    expected = 0.0
    for k, layer in enumerate((2, 4)):
        rows = [
            (stub.predictions[k][row, :n], instance_norm(stub.features[layer][row, :n]), stub.mask[row, :n])
            for row, n in enumerate(LENGTHS)
        ]
        together = [tuple(torch.cat(parts) for parts in zip(*rows))]
        expected += sum(contrastive_of_utterance(*one, 0.2)[0] for one in (together if training else rows)) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6) and int(sample_size) == int(stub.mask.sum())
    far = ColldConfig(num_negatives=0, logit_temp=0.2, negatives_from="batch", negatives_distance=4)
    assert float(ColldCriterion(far, stub.task).train(training)(stub.model, stub.sample)[0]) < float(loss)


@pytest.mark.parametrize("shared", [[16, 9, 24], [15, 7, 23]])
def test_frames_that_the_teacher_lacks_do_not_count(shared):
    """A student may have a frame or two more than its teacher, and masks on them."""
    stub = distillation(LENGTHS, masked_share=0.9, shared=shared)
    valid = torch.arange(max(LENGTHS)) < torch.tensor(shared)[:, None]
    assert (stub.mask & ~valid)[:, : max(shared)].any()
    counted = int((stub.mask & valid).sum())
    cfg = FeatureRegressionConfig(regression_frames="masked", log_sigmoid_cosine_weight=0.0)
    loss, sample_size, log = FeatureRegressionCriterion(cfg, stub.task)(stub.model, stub.sample)
    assert int(sample_size) == int(log["masked_frames"]) == counted and int(log["valid_frames"]) == sum(shared)
    expected = sum(
        float((stub.predictions[k] - stub.features[layer]).abs().mean(-1)[stub.mask & valid].sum()) / 2
        for k, layer in enumerate((2, 4))
    )
    assert float(loss) == pytest.approx(expected, rel=1e-9)
    _, contrasted, _ = ColldCriterion(ColldConfig(num_negatives=0), stub.task)(stub.model, stub.sample)
    assert int(contrasted) == counted


def test_without_a_mask_every_frame_is_contrasted():
    stub = distillation(LENGTHS, masked_share=None)
    _, sample_size, log = ColldCriterion(ColldConfig(num_negatives=5), stub.task)(stub.model, stub.sample)
    assert int(sample_size) == sum(LENGTHS) == int(log["masked_frames"])


@pytest.mark.parametrize("negatives", [20, 100])
def test_loss_at_random_initialization_is_the_logarithm_of_the_choices(negatives):
    """Wide random features are nearly orthogonal: every one of N + 1 frames is as likely (5 %)."""
    stub = distillation([300, 280], width=768, dtype=torch.float32)
    cfg = ColldConfig(num_negatives=negatives, target_norm="layer")
    loss, sample_size, log = ColldCriterion(cfg, stub.task)(stub.model, stub.sample)
    assert float(loss / sample_size) == pytest.approx(math.log(negatives + 1), rel=0.05)
    assert float(log["correct"]) / float(log["contrasted"]) == pytest.approx(1 / (negatives + 1), abs=0.03)


def test_real_student_starts_at_the_logarithm_of_the_choices():
    """The same with a real encoder and heads on noise, predicting layer-normalized random targets of width 768."""
    from colld_fairseq.models.colld_student import ColldStudent, ColldStudentConfig
    from colld_fairseq.models.layer_map import LayerPair
    from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
    from colld_fairseq.modules.heads import DistillationHeads

    cfg = ColldStudentConfig()
    encoder = StudentEncoder(EncoderConfig(fbank_stack=2, layers=2, embed_dim=64, ffn_dim=96, attention_heads=2))
    heads = DistillationHeads([64, 64], [768, 768])
    model = ColldStudent(cfg, encoder, heads, [LayerPair(1, (2,)), LayerPair(2, (4,))])
    stub = distillation([400], width=768, dtype=torch.float32)
    stub.sample["net_input"] = {"src_tokens": torch.randn(1, 800, 80), "src_lengths": torch.tensor([800])}
    criterion = ColldCriterion(ColldConfig(num_negatives=50, target_norm="layer"), stub.task)
    loss, sample_size, _ = criterion(model.train(), stub.sample)
    assert float(loss / sample_size) == pytest.approx(math.log(51), rel=0.05)


def pick(stub, rows, lengths, extra=0):
    """The same utterances in another order, or alone, with `extra` frames of garbage behind."""
    other = distillation([lengths[row] for row in rows], frames=max(lengths[row] for row in rows) + extra)
    for tensors, source in ((other.predictions, stub.predictions), (other.features, stub.features)):
        for key in range(len(tensors)) if isinstance(tensors, list) else tensors:
            for new, old in enumerate(rows):
                tensors[key][new, : lengths[old]] = source[key][old, : lengths[old]]
    other.mask.zero_()
    for new, old in enumerate(rows):
        other.mask[new, : lengths[old]] = stub.mask[old, : lengths[old]]
    return other


@pytest.mark.parametrize("name", ["colld", "feature_regression"])
def test_validation_loss_of_a_utterance_does_not_depend_on_its_batch(name):
    """Sampled negatives too: sum over utterances alone = batch = batch in another order and with more padding."""
    build = {
        "colld": lambda task: ColldCriterion(ColldConfig(num_negatives=10), task),
        "feature_regression": lambda task: FeatureRegressionCriterion(
            FeatureRegressionConfig(target_norm="instance"), task
        ),
    }[name]

    def total(stub):
        loss, sample_size, _ = build(stub.task).eval()(stub.model, stub.sample)
        return float(loss), int(sample_size)

    stub = distillation(LENGTHS)
    together = total(stub)
    shuffled = total(pick(stub, [2, 0, 1], LENGTHS, extra=7))
    alone = [total(pick(stub, [row], LENGTHS)) for row in range(3)]
    assert shuffled == (pytest.approx(together[0], rel=1e-9), together[1])
    assert sum(loss for loss, _ in alone) == pytest.approx(together[0], rel=1e-9)
    assert sum(count for _, count in alone) == together[1]


def test_wrong_number_of_layer_weights():
    stub = distillation(LENGTHS)
    criterion = FeatureRegressionCriterion(FeatureRegressionConfig(layer_weights="1"), stub.task)
    with pytest.raises(ConfigError, match="1 weights for 2 layer pairs"):
        criterion(stub.model, stub.sample)


def test_logged_means_are_over_all_workers_and_steps():
    from fairseq.logging import metrics

    stubs = [distillation(LENGTHS), distillation([30, 11])]
    criterion = ColldCriterion(ColldConfig(num_negatives=0), stubs[0].task)
    logs = []
    for stub in stubs:
        criterion.task = stub.task
        logs.append(criterion(stub.model, stub.sample)[2])
    with metrics.aggregate(new_root=True) as totals:
        ColldCriterion.reduce_metrics(logs)
    frames = sum(int(log["sample_size"]) for log in logs)
    expected = sum(float(log["loss"]) for log in logs) / frames
    assert totals["loss"].avg == pytest.approx(expected, rel=1e-6)
    assert totals["accuracy"].avg == pytest.approx(
        100 * sum(int(log["correct"]) for log in logs) / (2 * frames), abs=0.01
    )


@pytest.mark.parametrize("criterion", ["colld", "feature_regression", "multi_teacher"])
def test_a_loss_without_any_weight_is_refused(criterion, distillation):
    zero = [f"--{name}-weight" for name in ("l1", "mse", "cosine", "log-sigmoid-cosine")]
    zero += ["--contrastive-weight"] if criterion == "colld" else []
    with pytest.raises(ConfigError, match="every weight of the loss is 0: give"):
        distillation("--criterion", criterion, *[word for option in zero for word in (option, "0")])
