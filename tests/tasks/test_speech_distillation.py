import pytest
import torch

from colld_fairseq.cli import main as colld
from colld_fairseq.data.audio import read_audio
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers import load_teacher


def batch_of(run, count=3):
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    batch = dataset.collater([dataset[i] for i in range(count)])
    return batch, run.model.encoder.output_lengths(batch["net_input"]["src_lengths"])


def test_targets_are_the_teachers_features_on_the_students_frames(distillation, teacher, corpus):
    run = distillation()
    batch, lengths = batch_of(run)
    targets, target_lengths = run.task.teachers.first.targets(batch, lengths, 50.0)
    assert sorted(targets) == [2, 4] and (target_lengths <= lengths).all() and (lengths - target_lengths).max() <= 1
    utterance = torch.from_numpy(read_audio(str(corpus / "test-0.wav")))[None]
    expected = load_teacher(teacher, [2, 4])(utterance, torch.tensor([utterance.size(1)])).features
    frames = int(target_lengths[0])
    for layer in (2, 4):
        assert (targets[layer][0, :frames] - expected[layer][0, :frames]).abs().max() < 1e-4


@pytest.mark.parametrize("rule, width", [("average", 24), ("stack", 48)])
def test_a_student_at_half_the_rate(rule, width, distillation):
    run = distillation("--fbank-stack", "4", "--frame-rule", rule)
    assert run.model.prediction_rate_hz == 25 and run.task.teachers.first.target_width(25.0) == width
    batch, lengths = batch_of(run)
    targets, _ = run.task.teachers.first.targets(batch, lengths, 25.0)
    whole, _ = distillation().task.teachers.first.targets(batch, lengths * 2, 50.0)
    pair = whole[2][0, :2]
    expected = pair.mean(0) if rule == "average" else pair.flatten()
    assert torch.allclose(targets[2][0, 0], expected, atol=1e-5)
    loss, _, _ = run.criterion(run.model, batch)
    assert torch.isfinite(loss)


def test_feed_forward_targets_and_precision(distillation):
    plain, ffn, half = (
        distillation(*more) for more in ([], ["--teacher-kind", "ffn"], ["--teacher-dtype", "bfloat16"])
    )
    batch, lengths = batch_of(plain)
    values = [run.task.teachers.first.targets(batch, lengths, 50.0)[0][4] for run in (plain, ffn, half)]
    assert not torch.allclose(values[0], values[1], atol=1e-2)
    assert values[2].dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(values[0], values[2].float(), dim=-1)[0].min() > 0.98


def test_lengths_that_disagree_name_the_utterance(distillation):
    run = distillation()
    batch, lengths = batch_of(run)
    with pytest.raises(TeacherError, match="test-0"):
        run.task.teachers.first.targets(batch, lengths + 5, 50.0)


def test_cache_of_another_teacher_or_layer_is_refused(distillation, teacher, corpus, tmp_path):
    arguments = ["features", "--manifest", str(corpus / "test.tsv"), "--teacher", teacher, "--layers", "2"]
    assert colld([*arguments, "--out", str(tmp_path / "cache")]) == 0
    with pytest.raises(TeacherError, match="lacks layers 4"):
        distillation("--teacher-cache", tmp_path / "cache")
    run = distillation("--teacher-cache", tmp_path / "cache", "--layer-map", "2:2")
    assert run.task.teachers.first.teacher is None
    batch, lengths = batch_of(run)
    assert "teacher_input" not in batch
    online = distillation("--layer-map", "2:2")
    expected, _ = online.task.teachers.first.targets(batch_of(online)[0], lengths, 50.0)
    assert torch.allclose(run.task.teachers.first.targets(batch, lengths, 50.0)[0][2].float(), expected[2], atol=5e-3)


def test_data_needs_the_model_first(distillation, corpus, teacher):
    from fairseq import tasks

    task = tasks.setup_task(distillation().cfg.task)
    with pytest.raises(ConfigError, match="build the model before loading data"):
        task.load_dataset("test")
