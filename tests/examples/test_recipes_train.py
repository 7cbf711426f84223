"""Every recipe of examples/ trains: two updates by fairseq's hydra entry, narrowed, on synthetic speech."""

import json
import math

import pytest
from commands import log_records, spawn
from recipes import EXAMPLES, NARROW, RECIPES, TWO_STEPS, full_config, train

from colld_fairseq import load_student
from colld_fairseq.cli import main as colld

DISTILLATION = {
    **{
        f"baselines/{name}": "hubert" for name in ("distilhubert", "layer_to_layer", "fithubert", "lighthubert", "usad")
    },
    **{f"hubert_asr/distil_{name}": "coded_hubert" for name in ("deep_thin", "shallow_wide", "deep_thin_fbank")},
    "colld/prompts/distil": "hubert",
    "colld/colld_12x1024": "w2v_bert",
    "colld/colld_small": "w2v_bert",
}
# Recipes whose student starts from its teacher altogether.
COPIES = ("baselines/distilhubert", "hubert_asr/distil_shallow_wide", "colld/colld_12x1024")
FINE_TUNING = (
    *("colld/finetune_asr", "colld/finetune_st", "colld/prompts/finetune"),
    *(f"hubert_asr/finetune_{labels}" for labels in ("10min", "1h", "10h", "100h")),
)
SEVERAL_TEACHERS = "multi_teacher_transducer/stage1"
CODEBOOKS = "multi_teacher_transducer/stage1_codebooks"
ANY_LATENCY = "any_latency/student"  # trained in test_any_latency_jobs.py
QUICKSTART = "quickstart/distil"  # trained in test_quickstart_jobs.py
# Trained with all that comes before and after them in test_librispeech_recipe.py.
TRANSDUCERS = ("multi_teacher_transducer/stage2", "multi_teacher_transducer/stage2_kd")


def finite_losses(log):
    losses = [float(record["loss"]) for record in log_records(log, "train_inner")]
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses), log[-2000:]
    return losses


def test_no_recipe_is_left_out():
    assert RECIPES == {*DISTILLATION, *FINE_TUNING, SEVERAL_TEACHERS, CODEBOOKS, ANY_LATENCY, QUICKSTART, *TRANSDUCERS}


@pytest.mark.parametrize("name", DISTILLATION)
def test_distillation(name, corpus, request, tmp_path):
    spec = request.getfixturevalue(DISTILLATION[name])
    overrides = [
        f"task.teacher={spec}",
        f"task.data={corpus}",
        "++task.min_seconds=0.1",
        "++task.max_seconds=0.6",
    ]
    if name.startswith("colld/prompts/"):
        overrides += ["dataset.train_subset=train"]
    if name.endswith("_fbank"):  # global statistics; one update of each stage
        overrides += ["task.cmvn=utterance", "model.front_end_updates=1"]
    log = train(EXAMPLES / f"{name}.yaml", [*NARROW, *TWO_STEPS, *overrides, f"checkpoint.save_dir={tmp_path}"])
    losses = finite_losses(log)
    if name.startswith("colld/colld_"):
        # ln(101), and half the variance of the logits: cosines of 32 channels vary by 1/32, divided by 0.1.
        assert losses[0] == pytest.approx(math.log(101) + 0.5 / 32 / 0.1**2, rel=0.15)
    assert ("at random: nothing" in log) == (name in COPIES)


@pytest.mark.parametrize("combination", ["sum", "random", "average"])
def test_several_teachers(combination, corpus, hubert, w2v_bert, tmp_path):
    """With audio of another manifest; the 12th layer of one teacher and the 24th of the other."""
    overrides = [f"task.data={corpus}", f"checkpoint.save_dir={tmp_path}", "++task.max_seconds=0.6"]
    overrides += ["task.cmvn=utterance"]
    overrides += [f"task.teacher='hubert={hubert},bert={w2v_bert}'", "task.teacher_weights='hubert=2,bert=1'"]
    overrides += ["dataset.train_subset='train,test'", "++task.sampling_weights='train=1,test=2'"]
    overrides += [f"task.teacher_combination={combination}", "++model.encoder_layers=2"]
    log = train(EXAMPLES / f"{SEVERAL_TEACHERS}.yaml", [*NARROW, *TWO_STEPS, *overrides])
    finite_losses(log)
    logged = {name for name in ("average", "hubert", "bert") if f"loss_{name}" in log}
    expected = {"average"} if combination == "average" else {"hubert", "bert"}
    # "random" draws a teacher per utterance, and one that two small batches did not draw has no loss
    assert logged == expected or (combination == "random" and logged and logged < expected)


def test_codebooks(corpus, hubert, tmp_path):
    command = (
        f"codebooks --teacher {hubert} --layer 9 --manifest {corpus}/valid.tsv --out {tmp_path}/books --device cpu"
    )
    assert colld([*command.split(), "--num-codebooks", "2", "--num-codes", "8"]) == 0
    overrides = [f"task.data={corpus}", f"checkpoint.save_dir={tmp_path}", "++task.max_seconds=0.6"]
    overrides += ["task.cmvn=utterance", f"task.teacher='hubert={hubert}'", f"task.teacher_codebooks={tmp_path}/books"]
    overrides += ["++model.encoder_layers=2", "model.layer_map='2:9'"]
    log = train(EXAMPLES / f"{CODEBOOKS}.yaml", [*NARROW, *TWO_STEPS, *overrides])
    assert finite_losses(log)[0] == pytest.approx(math.log(8), abs=0.5)


@pytest.fixture(scope="module")
def student(corpus, w2v_bert, tmp_path_factory):
    """Checkpoint of a narrow colld_small, one update old."""
    folder = tmp_path_factory.mktemp("student")
    overrides = [
        *NARROW,
        *TWO_STEPS,
        f"task.teacher={w2v_bert}",
        f"task.data={corpus}",
        "++task.min_seconds=0.1",
    ]
    overrides += [
        "++checkpoint.no_save=false",
        "++optimization.max_update=1",
        f"checkpoint.save_dir={folder}",
    ]
    train(EXAMPLES / "colld/colld_small.yaml", overrides)
    return folder / "checkpoint_last.pt"


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning(name, student, corpus, vocab, tmp_path):
    narrow = [override for override in NARROW if "model." not in override]
    decoder = ["model.decoder_embed_dim=32"] if name.endswith("st") or "prompts" in name else []
    overrides = [
        *narrow,
        *TWO_STEPS,
        *decoder,
        f"model.student={student}",
        f"task.data={corpus}",
        f"++task.vocab={vocab}",
    ]
    overrides += ["++checkpoint.no_save=false", f"checkpoint.save_dir={tmp_path}"]
    finite_losses(train(EXAMPLES / f"{name}.yaml", overrides))
    # The shape is the checkpoint's, not the default preset's.
    assert load_student(str(tmp_path / "checkpoint_last.pt")).config.layers == 12


def test_command_of_the_readme(corpus, hubert, tmp_path):
    """fairseq-hydra-train as documented: the working directory stays, the log lies beside the checkpoints."""
    overrides = [
        *NARROW,
        *TWO_STEPS,
        "++model.encoder_layers=1",
        "model.init_layers=1",
        "model.layer_map='1:4,1:12'",
    ]
    overrides += [f"task.data={corpus}", f"task.teacher={hubert}", f"checkpoint.save_dir={tmp_path}/run"]
    run = spawn(
        "fairseq-hydra-train",
        "--config-dir",
        "examples/baselines",
        "--config-name",
        "distilhubert",
        *overrides,
    )
    finite_losses(run.output)
    assert (tmp_path / "run" / ".hydra" / "overrides.yaml").is_file()


def test_recorded_options_name_the_encoder(corpus, hubert):
    """The preset reaches the model through hydra (no architecture function runs there)."""
    cfg = full_config(EXAMPLES / "baselines/distilhubert.yaml", [f"task.data={corpus}", f"task.teacher={hubert}"])
    assert cfg.model.encoder_preset == "distilhubert" and cfg.model.init_from == hubert
    assert json.loads(json.dumps(cfg.model.encoder_layers)) is None
