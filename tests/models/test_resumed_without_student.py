"""A training goes on where the checkpoint of its --student or --init-from is gone: its own checkpoint has all."""

import shutil

import pytest
import torch
from checkpoints import save_ctc, save_weights
from commands import TINY_ENCODER, TRAINING, call, losses
from fairseq import tasks
from task_setup import assemble, configure, vary

from colld_fairseq.checkpoints.names_colld import read_model
from colld_fairseq.errors import ConfigError

TASK = ["--task", "multilingual_speech_to_text", "--criterion", "ctc_attention"]
RANDOM = ["--dropout", "0.1", "--mask-prob", "0.3"]
SMALL = {
    "student_s2t": ["--decoder-layers", "1", "--decoder-embed-dim", "16", "--decoder-attention-heads", "2"],
    "transducer_student": ["--predictor-embed-dim", "16", "--joiner-dim", "24"],
    "adapted_ctc": ["--added-language", "yy", "--adapter-dim", "16"],
}


@pytest.fixture
def student(corpus, vocab, tmp_path):
    """Of another shape than any preset: what is there of the options says nothing of it."""
    path = tmp_path / "student.pt"
    return save_ctc(path, corpus, "full", "--vocab", vocab)


def weights(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


def test_exactly_as_a_run_that_was_never_stopped(corpus, vocab, student, tmp_path):
    options = [corpus, *TASK, "--arch", "student_ctc", "--vocab", vocab, *TRAINING, *RANDOM, "--disable-validation"]

    def train(folder, updates, *start):
        return losses(call("train", *options, *start, "--max-update", updates, "--save-dir", tmp_path / folder))

    start = ["--student", student]
    whole = train("whole", 4, *start)
    begun = train("named", 2, *start)
    (tmp_path / "student.pt").unlink()
    shutil.copytree(tmp_path / "named", tmp_path / "left out")
    for folder, given in (("named", start), ("left out", [])):
        assert begun + train(folder, 4, *given) == whole
        expected, there = weights(tmp_path / "whole"), weights(tmp_path / folder)
        assert expected.keys() == there.keys() and all(torch.equal(expected[name], there[name]) for name in there)
    assert train("left out", 5) and read_model(str(tmp_path / "left out" / "checkpoint_last.pt")).config.layers == 2


@pytest.fixture
def stopped(corpus, vocab, student, tmp_path):
    """stopped(arch) -> the settings of a run that goes on, and the model that it had; the student is gone."""

    def make(arch):
        criterion = ["--criterion", "transducer"] if arch == "transducer_student" else []
        start = ["--student", student, "--save-dir", tmp_path]
        cfg = configure(corpus, *TASK, *criterion, "--arch", arch, "--vocab", vocab, *SMALL[arch], *start)
        if arch == "adapted_ctc":  # asks for the vocabulary
            state = torch.load(student, weights_only=True)
            state["task_state"] = tasks.setup_task(cfg.task).state_dict()
            torch.save(state, student)
        run = assemble(vary(cfg))
        save_weights(run, tmp_path / "checkpoint_last.pt", run.model.state_dict(), task_state=run.task.state_dict())
        (tmp_path / "student.pt").unlink()
        return cfg, run.model

    return make


@pytest.mark.parametrize("arch", ["student_s2t", "transducer_student"])
def test_other_models_are_built_from_their_checkpoint(arch, stopped):
    cfg, before = stopped(arch)
    for given in (cfg.model.student, ""):
        after = assemble(vary(cfg, student=given, dropout=0.3)).model
        after.load_state_dict(before.state_dict())
        config = after.encoder.config.to_dict()
        assert config.pop("dropout") == 0.3  # of this start of the run
        assert config == {name: value for name, value in before.encoder.config.to_dict().items() if name != "dropout"}


def test_an_added_language(stopped, monkeypatch):
    cfg, before = stopped("adapted_ctc")
    for language in ("yy", ""):
        after = assemble(vary(cfg, student="", added_language=language)).model
        after.load_state_dict(before.state_dict())
        assert after.languages == ["yy"] and after.recorded == before.recorded
    for wrong, message in (
        ({"added_language": "zz"}, "--added-language zz, but .*checkpoint_last.pt learns yy"),
        ({"mask_prob": 0.1}, "--mask-prob: the encoder of adapted_ctc is frozen"),
    ):
        with pytest.raises(ConfigError, match=message):
            assemble(vary(cfg, **wrong))
    monkeypatch.setattr("sys.argv", ["fairseq-train", "--adapter-dim", "8"])
    with pytest.raises(ConfigError, match="--adapter-dim 8, but .*checkpoint_last.pt has 16"):
        assemble(vary(cfg, adapter_dim=8))


def test_distillation_whose_start_is_gone(corpus, teacher, student, tmp_path):
    """Options that ask for another shape are refused, which a checkpoint would otherwise win over in silence."""
    start = ["--init-from", f"colld:{student}", "--front-end", "conv2d", "--frozen-blocks", "1", *TINY_ENCODER]
    task = ["--task", "speech_distillation", "--teacher", teacher, "--criterion", "colld", "--layer-map", "sparse:2"]
    cfg = configure(corpus, *task, "--arch", "colld_student", *start, "--save-dir", tmp_path)
    run = assemble(vary(cfg))
    save_weights(run, tmp_path / "checkpoint_last.pt", run.model.state_dict(), task_state=run.task.state_dict())
    (tmp_path / "student.pt").unlink()
    for given in ({}, {"init_from": ""}, {"encoder_layers": None, "encoder_embed_dim": None}):
        after = assemble(vary(cfg, **given))
        after.model.load_state_dict(run.model.state_dict())
        assert after.model.encoder.config == run.model.encoder.config
        trained = [one.requires_grad for model in (run.model, after.model) for one in model.parameters()]
        assert trained[: len(trained) // 2] == trained[len(trained) // 2 :]
    for wrong, values in (
        ({"encoder_layers": 3}, "--encoder-layers 3, but .*checkpoint_last.pt was trained with 2"),
        ({"encoder_attention_heads": 4}, "--encoder-attention-heads 4, but .* with 2"),
        ({"encoder_preset": "small"}, "--encoder-preset small, but .* with tiny"),
    ):
        with pytest.raises(ConfigError, match=values):
            assemble(vary(cfg, **wrong))
