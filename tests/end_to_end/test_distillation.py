"""fairseq-train with task speech_distillation."""

import math

import pytest
import torch
from commands import PACKAGE, TINY_ENCODER, TRAINING, call, log_records, losses, spawn

from colld_fairseq import load_student
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.inputs import StudentInput


def test_loss_is_finite_and_falls(distilled):
    values = [float(loss) for loss in losses(distilled.output)]
    assert len(values) == 8 and all(map(math.isfinite, values))
    assert sum(values[-3:]) < sum(values[:3])


def test_validation_reports_the_terms_and_the_accuracy(distilled):
    record = log_records(distilled.output, "valid")[-1]
    assert {"valid_contrastive", "valid_log_sigmoid_cosine", "valid_accuracy", "valid_masked"} <= set(record)
    assert 0 < float(record["valid_masked"]) < 1
    total = float(record["valid_contrastive"]) + float(record["valid_log_sigmoid_cosine"])
    assert float(record["valid_loss"]) == pytest.approx(total, abs=2e-4)


def test_same_seed_same_losses(distilled, distil_options, tmp_path):
    """Another process, and this one after other runs: the same to the last digit."""
    output = call("train", *distil_options, "--max-update", 3, "--save-dir", tmp_path)
    assert losses(output) == losses(distilled.output)[:3]
    other = call("train", *distil_options, "--max-update", 3, "--save-dir", tmp_path / "other", "--seed", 2)
    assert losses(other) != losses(output)


def test_cached_teacher_gives_the_same_losses(distilled, distil_options, teacher_cache, tmp_path):
    output = call("train", *distil_options, "--teacher-cache", teacher_cache, "--max-update", 8, "--save-dir", tmp_path)
    cached, online = ([float(x) for x in losses(text)] for text in (output, distilled.output))
    assert cached == pytest.approx(online, rel=1e-3)


@pytest.mark.parametrize("architecture", ["colld_student", "colld_student_tiny"])
def test_load_student_equals_the_encoder_in_training(architecture, distil_options, corpus, tmp_path):
    options = [architecture if option == "colld_student" else option for option in distil_options]
    call("train", *options, "--max-update", 1, "--save-dir", tmp_path)
    path = tmp_path / "checkpoint_last.pt"
    student = load_student(str(path))
    weights = torch.load(path, weights_only=True)["model"]
    assert student.config.embed_dim == 32 and not student.training
    for name, value in student.state_dict().items():
        assert torch.equal(value, weights[f"encoder.{name}"])

    from fairseq import checkpoint_utils  # the model as fairseq itself rebuilds it

    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    source = torch.from_numpy(StudentInput()(read_audio(str(corpus / "test-0.wav"))))[None]
    length = torch.tensor([source.size(1)])
    expected = models[0].eval().encoder(source, length).x
    assert torch.equal(student(source, length).x, expected)


def test_checkpoint_names_the_teacher(distilled, teacher):
    from colld_fairseq.checkpoints.encoder import hash_of

    state = torch.load(distilled.checkpoint, weights_only=True)
    assert state["task_state"] == {"teacher": teacher, "teacher_hash": hash_of(teacher)}


def test_validate_repeats_the_validation_of_training(distilled, corpus):
    output = call(
        "validate", corpus, "--user-dir", PACKAGE, "--task", "speech_distillation", "--path", distilled.checkpoint,
        *["--valid-subset", "valid", "--max-tokens", "60000", "--num-workers", "0", "--log-format", "json"],
    )  # fmt: skip
    expected = log_records(distilled.output, "valid")[-1]
    assert log_records(output, "valid")[-1]["valid_loss"] == expected["valid_loss"]


HYDRA = """
common: {{user_dir: {package}, seed: 1, log_format: json, log_interval: 1, cpu: true}}
task: {{_name: speech_distillation, data: {corpus}, teacher: "hf:{teacher}"}}
criterion: {{_name: colld, num_negatives: 20, log_sigmoid_cosine_weight: 1}}
model: {{_name: colld_student, encoder_layers: 2, encoder_embed_dim: 32, encoder_ffn_embed_dim: 48,
         encoder_attention_heads: 2, fbank_stack: 2, layer_map: "sparse:2"}}
optimizer: {{_name: adam}}
lr_scheduler: fixed
dataset: {{max_tokens: 60000, num_workers: 0}}
optimization: {{max_update: 2, lr: [0.002]}}
checkpoint: {{save_dir: saved, no_epoch_checkpoints: true}}
"""


def test_hydra_with_relative_paths_gives_the_same_losses(distilled, corpus, teacher, tmp_path):
    """hydra changes to outputs/DATE/TIME before training: paths in the YAML are relative to where one started."""
    (tmp_path / "corpus").symlink_to(corpus)
    (tmp_path / "teacher").symlink_to(teacher.partition(":")[2])
    text = "# @package _global_\n" + HYDRA.format(package=PACKAGE, corpus="corpus", teacher="teacher")
    (tmp_path / "tiny.yaml").write_text(text)
    run = spawn("fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "tiny", cwd=tmp_path)
    assert losses(run.output) == losses(distilled.output)[:2]
    (saved,) = tmp_path.glob("outputs/*/*/saved/checkpoint_last.pt")
    assert load_student(str(saved)).num_layers == 2


@pytest.mark.parametrize("preset", ["distilhubert", "fithubert", "usad_small"])
def test_regression_presets_train(preset, corpus, teacher, tmp_path):
    """Waveform and filterbank students of the published shapes, narrowed: one update and a validation each."""
    output = call(
        "train", corpus, "--task", "speech_distillation", "--teacher", teacher, "--arch", f"colld_student_{preset}",
        "--criterion", "feature_regression", "--layer-map", "2:2,2:4", *TRAINING, *TINY_ENCODER[:-2],
        *["--mask-prob", "0", "--max-update", "1", "--train-subset", "valid", "--save-dir", tmp_path],
    )  # fmt: skip
    assert math.isfinite(float(log_records(output, "valid")[-1]["valid_loss"]))
