"""Former names of options at every door: command lines, YAML, checkpoints; with invented ones and the real tables."""

import copy
import logging
from dataclasses import fields

import pytest
import torch
from checkpoints import save_untrained
from commands import PACKAGE, call
from fairseq import checkpoint_utils, options
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from colld_fairseq import deprecated
from colld_fairseq.errors import ConfigError

REAL = deprecated.RENAMED, deprecated.DROPPED
RENAMED = {
    "task.audio_folder": "task.audio_root",
    "model.top_dropout": "model.output_dropout",
    "criterion.frozen": "model.freeze_encoder_updates",  # moved to another part
}
DROPPED = {"model.with_dropout": "--output-dropout"}


@pytest.fixture(autouse=True)
def invented(monkeypatch):
    monkeypatch.setattr(deprecated, "_warned", set())
    monkeypatch.setattr(deprecated, "RENAMED", RENAMED)
    monkeypatch.setattr(deprecated, "DROPPED", DROPPED)


def check(cfg):
    assert cfg.task.audio_root == "/audio" and cfg.model.output_dropout == 0.25
    assert cfg.model.freeze_encoder_updates == 7
    assert "audio_folder" not in cfg.task and "top_dropout" not in cfg.model and "frozen" not in cfg.criterion


ARGUMENTS = [
    *["--user-dir", str(PACKAGE), "--task", "multilingual_speech_to_text", "--arch", "student_ctc"],
    *["--criterion", "ctc_attention", "--max-tokens", "60000"],
]


@pytest.mark.parametrize("equals", [False, True])
def test_command_line(equals, caplog, monkeypatch):
    audio = ["--audio-folder=/audio"] if equals else ["--audio-folder", "/audio"]
    typed = ["/corpus", *ARGUMENTS, *audio, "--top-dropout", "0.25", "--freeze-encoder-updates", "7", "--with-dropout"]
    monkeypatch.setattr("sys.argv", ["fairseq-train", *typed])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # warned once
            check(convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser())))
    messages = [record.getMessage() for record in caplog.records if "former name" in record.getMessage()]
    assert [message.partition(" is now ")[0] for message in messages] == [
        "--audio-folder",
        "--top-dropout",
        "--with-dropout",
    ]
    assert "--audio-root" in messages[0]


def recipe(**more):
    task = {"_name": "multilingual_speech_to_text", "data": "/corpus", "audio_folder": "/audio"}
    model = {"_name": "student_ctc", "top_dropout": 0.25, "with_dropout": True, **more}
    return OmegaConf.create({"task": task, "model": model, "criterion": {"_name": "ctc_attention", "frozen": 7}})


def test_yaml(caplog):
    """As fairseq-hydra-train completes a recipe; twice, as it does."""
    cfg = recipe()
    with caplog.at_level(logging.WARNING):
        add_defaults(cfg)
        add_defaults(cfg)
    check(cfg)
    assert sum("former name" in record.getMessage() for record in caplog.records) == 4
    assert "criterion.frozen is now model.freeze_encoder_updates" in caplog.text


def test_both_names_are_refused():
    with pytest.raises(ConfigError, match=r"model\.top_dropout is the former name of model\.output_dropout"):
        add_defaults(recipe(output_dropout=0.1))


def test_a_misspelt_option_is_still_refused():
    with pytest.raises(Exception, match="top_dropuot"):
        add_defaults(recipe(top_dropuot=0.1))


def former(cfg):
    """The configuration of a checkpoint as it was written before."""
    cfg = copy.deepcopy(cfg)
    for before, now in RENAMED.items():
        (part, name), (new_part, new_name) = before.split("."), now.split(".")
        cfg[part][name] = cfg[new_part].pop(new_name)
    cfg["model"]["with_dropout"] = True
    return cfg


@pytest.fixture
def old_checkpoint(finetuning, tmp_path):
    options = ["--output-dropout", "0.25", "--freeze-encoder-updates", "7"]
    path = save_untrained(finetuning(*options), tmp_path / "old.pt")
    state = torch.load(path, weights_only=True)
    state["cfg"] = former(state["cfg"])
    state["cfg"]["task"]["audio_folder"] = "/audio"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("overrides", [None, {}, {"top_dropout": 0.5}, {"output_dropout": 0.5}])
def test_checkpoint(overrides, old_checkpoint, caplog):
    with caplog.at_level(logging.WARNING):
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(old_checkpoint)], overrides)
    assert task.cfg.audio_root == "/audio" and models[0].encoder.freeze_updates == 7
    assert models[0].encoder.dropout.p == (0.5 if overrides else 0.25)
    assert "former name" not in caplog.text  # nobody typed it


def test_generate(old_checkpoint, corpus, vocab, tmp_path):
    output = call(
        "generate",
        *[corpus, "--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--vocab", vocab],
        *["--path", old_checkpoint, "--gen-subset", "test", "--audio-folder", corpus, "--max-tokens", "60000"],
    )
    assert output.count("H-") == 9


def test_plain_dicts_and_foreign_configurations():
    ours = OmegaConf.to_container(recipe())
    deprecated.upgrade(ours)
    assert ours["model"] == {"_name": "student_ctc", "output_dropout": 0.25, "freeze_encoder_updates": 7}
    foreign = {"task": {"_name": "translation"}, "model": {"_name": "transformer", "top_dropout": 1}, "criterion": None}
    before = copy.deepcopy(foreign)
    deprecated.upgrade(foreign)
    assert foreign == before


@pytest.fixture
def real(monkeypatch):
    monkeypatch.setattr(deprecated, "RENAMED", REAL[0])
    monkeypatch.setattr(deprecated, "DROPPED", REAL[1])


def test_a_simple_joiner_is_asked_for_by_its_range_alone(real, caplog):
    former = ["--simple-joiner", "--prune-range", "5"]
    assert deprecated.rename_arguments(former) == former[1:]
    model, criterion = {"_name": "transducer_student", "simple_joiner": True}, {"_name": "transducer", "prune_range": 5}
    cfg = {"model": model, "criterion": criterion}
    deprecated.upgrade(cfg)
    assert cfg == {"model": {"_name": "transducer_student", "prune_range": 5}, "criterion": {"_name": "transducer"}}
    assert "--simple-joiner is now part of --prune-range" in caplog.text


@pytest.mark.parametrize("typed", [["--arch", "student_ctc_usad_small"], ["--arch=student_ctc_usad_small"]])
def test_architectures_that_are_gone(typed, caplog):
    """Every pair of a model and a preset was one."""
    renamed = deprecated.rename_arguments(["/corpus", *typed, "--lr", "1"])
    assert " ".join(renamed).replace("=", " ") == "/corpus --arch student_ctc --encoder-preset usad_small --lr 1"
    assert deprecated.rename_arguments(["--arch", "student_ctc_small"]) == ["--arch", "student_ctc_small"]
    cfg = {"model": {"_name": "student_ctc_usad_small"}}
    deprecated.upgrade(cfg)
    assert cfg == {"model": {"_name": "student_ctc", "encoder_preset": "usad_small"}}
    assert "--arch student_ctc_usad_small is now --arch student_ctc --encoder-preset usad_small" in caplog.text


def test_the_tables_lead_from_options_that_are_gone_to_options_that_exist():
    registries = dict(
        task=TASK_DATACLASS_REGISTRY, model=MODEL_DATACLASS_REGISTRY, criterion=CRITERION_DATACLASS_REGISTRY
    )
    known = {
        f"{part}.{field.name}"
        for part, registry in registries.items()
        for config in registry.values()
        if config.__module__.startswith("colld_fairseq.")
        for field in fields(config)
    }
    renamed, dropped = REAL
    assert set(renamed.values()) <= known and known.isdisjoint({*renamed, *dropped})
