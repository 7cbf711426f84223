"""The student comparison: its jobs, its choice of labels, and all of it in miniature."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import synthetic
import torch
from commands import REPOSITORY
from job_checks import changes, check_command, refusal, run_here

from colld_fairseq.checkpoints.encoder import hash_of, read_encoder
from colld_fairseq.data.manifest import Row, read_manifest
from colld_fairseq.errors import TeacherError
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.teachers.codebook import Codebook, CodebookHeader
from examples.driver import report
from examples.driver.plan import write_plan
from examples.driver.utterances import minutes_by_language, with_minutes
from examples.hubert_asr.run import arguments, layer_map, main, make_plan, student_shape

MINIATURE = ("deep_thin_fbank/adapted", "shallow_wide/discriminative", "teacher/fine_tuned")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write_corpus(tmp_path_factory.mktemp("hubert_asr"), train_asr=16, dev_asr=4, test_asr=4)


@pytest.fixture
def plan(coded_teacher, data):
    """plan(option, ...) -> jobs by name and the plan of a comparison in the folder `out`."""

    def make(*more, out="out"):
        words = [out, "--data", data, "--teacher", coded_teacher, "--deep-thin", "3x16/20/2", *more]
        jobs, made = make_plan(arguments([str(word) for word in words]))
        return {job.name: job for job in jobs}, made

    return make


@pytest.fixture
def codes(coded_teacher, tmp_path):
    """A codebook of the teacher."""
    header = CodebookHeader(hash_of(coded_teacher), 2, "layer", 4, 1, 7, "1", coded_teacher, 50.0, 99, 1.5)
    Codebook(torch.randn(4, 24), torch.zeros(24), torch.ones(24), header).save(tmp_path / "codes.safetensors")
    return tmp_path / "codes.safetensors"


def test_commands_parse(plan, tmp_path):
    for name in ("more.tsv", "lm.arpa"):
        (tmp_path / name).touch()
    jobs, _ = plan("--label-minutes", "10", "--lm", tmp_path / "lm.arpa", "--unlabeled", tmp_path / "more.tsv")
    programs = Counter(check_command(job, Path("out").resolve()) for job in jobs.values())
    # 10 systems, 6 of them distilled, decoded greedily and with the language model
    assert programs["fairseq-hydra-train"] == 6 + 10 and programs["fairseq-generate"] == 2 * 10


def test_systems_differ_in_nothing_but_their_start(plan, codes):
    jobs, _ = plan("--teacher-codes", codes)
    start = {"student", "freeze_encoder_updates", "feature_grad_mult"}
    shape = {"layers", "embed_dim", "ffn_embed_dim", "attention_heads", "preset"}
    own = start | {f"encoder_{name}" for name in shape} | {"conv_pos", "conv_pos_groups", "conv_feature_layers"}
    for student in ("deep_thin", "shallow_wide", "deep_thin_fbank"):
        scratch, tuned = (
            jobs[f"{student}/{system}/seed1/60min/finetune"].config for system in ("scratch", "discriminative")
        )
        assert set(changes(scratch, tuned)) <= {f"model.{name}" for name in own} | {"checkpoint.save_dir", "task.cmvn"}
    one, other = (jobs[f"deep_thin/{system}/seed1/distil"].config for system in ("regression", "discriminative"))
    differ = changes(one, other)
    assert differ.pop("model.code_head") == ("none", "linear")
    assert set(differ) == {"task.teacher_codes", "checkpoint.save_dir"}
    one, other = (jobs[f"deep_thin_fbank/{system}/seed1/distil"].config for system in ("discriminative", "adapted"))
    assert set(changes(one, other)) == {"model.front_end_updates", "checkpoint.save_dir"}


def test_choice_of_systems_labels_and_options(plan):
    jobs, made = plan("--systems", "*/regression,teacher/*", "--label-minutes", "1,5", "--finetune-updates", "20,50")
    systems = list(dict.fromkeys(result.system for result in made.results))
    assert systems == ["deep_thin/regression", "shallow_wide/regression", "teacher/fine_tuned"]
    assert [jobs[f"teacher/fine_tuned/seed1/{n}min/finetune"].updates for n in (1, 5)] == [20, 50]
    assert len(plan("--seeds", "1,2,3")[1].results) == 3 * len(plan()[1].results)
    jobs, _ = plan("--no-cache", "--distil-settings", "common.bf16=true", "optimization.update_freq=[2]")
    config = jobs["deep_thin/regression/seed1/distil"].config
    assert config["common"]["bf16"] is True and config["optimization"]["update_freq"] == [2]
    assert "features" not in jobs and not config["task"]["teacher_cache"]


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--systems", "deep"], "--systems"),
        (["--finetune-updates", "1,2,3"], "--finetune-updates"),
        (["--distil-settings", "x"], "'x' is no setting"),
        (["--label-minutes", "ten"], "--label-minutes"),
        (["--lm", "nofile.arpa"], "--lm: no file"),
        (["--teacher-codes", "nofile"], "--teacher-codes: no file"),
        (["--data", "nowhere"], "--data: no file .*nowhere/train_asr.tsv"),
        (["--teacher", "hf:nowhere"], "error: .*nowhere"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    words, reason, coded_teacher, data, tmp_path, monkeypatch, capsys
):
    usual = ["--data", str(data), "--teacher", coded_teacher, "--deep-thin", "3x16/20/2"]
    assert re.search(reason, refusal(main, [tmp_path / "out", *usual, *words], monkeypatch, capsys))


def test_students_of_hubert_base_are_the_published_ones(data):
    args = arguments(["out", "--data", str(data), "--teacher", "hf:x"])
    teacher = EncoderConfig(layers=12, embed_dim=768, ffn_dim=3072, attention_heads=12)
    thin, wide = (student_shape(args, teacher, student) for student in ("deep_thin", "shallow_wide"))
    assert thin == student_shape(args, teacher, "deep_thin_fbank") == (12, 480, 480, 12)
    assert wide == (2, 768, 3072, 12)
    assert layer_map(wide, teacher, "shallow_wide") == "2:4,2:8,2:12"
    assert layer_map(thin, teacher, "deep_thin") == "dense"


def test_labels_are_minutes_of_every_language_and_nested():
    rows = [
        Row(id=f"{language}{i}", audio="x", n_samples=8 * 16000, src_lang=language)
        for language, count in (("de", 60), ("en", 60), ("mdw", 5))
        for i in range(count)
    ]
    one, four = (with_minutes(rows, minutes, seed=1) for minutes in (1, 4))
    assert {row.id for row in one} < {row.id for row in four}
    assert minutes_by_language(one) == pytest.approx({"de": 64 / 60, "en": 64 / 60, "mdw": 40 / 60})
    assert minutes_by_language(four)["de"] == pytest.approx(4, abs=8 / 60)
    assert with_minutes(rows, 1, seed=2) != one == with_minutes(rows, 1, seed=1)


@pytest.mark.slow
def test_in_miniature(plan, data, tmp_path, monkeypatch, capsys):
    """Every kind of job but the timing: manifests, vocabulary, statistics, cache, training, decoding, scores."""
    monkeypatch.chdir(REPOSITORY)
    jobs, made = plan(
        *["--label-minutes", "0.05", "--distil-updates", "4", "--adaptation-updates", "2", "--finetune-updates", "3"],
        *["--max-tokens", "60000", "--systems", ",".join(MINIATURE)],
        out=tmp_path,
    )
    run_here(tmp_path, jobs.values())
    labels, unlabeled = (read_manifest(str(tmp_path / "data" / f"train_{n}.tsv")) for n in ("0.05min", "unlabeled"))
    assert len(labels) < len(unlabeled) == len(read_manifest(str(data / "train_asr.tsv")))

    wide, thin = (
        read_encoder(f"colld:{tmp_path}/{system}/seed1/distil/checkpoint_last.pt").config
        for system in ("shallow_wide/discriminative", "deep_thin_fbank/adapted")
    )
    assert (thin.layers, thin.embed_dim, thin.ffn_dim, thin.front_end) == (3, 16, 20, "fbank")
    assert (wide.layers, wide.embed_dim, wide.ffn_dim, wide.front_end) == (2, 24, 40, "waveform")
    assert wide.conv_layers[0] == [8, 10, 5] and wide.conv_pos == 6  # the teacher's

    write_plan(tmp_path, made)
    assert report.main([str(tmp_path)]) == 1
    result = json.loads((tmp_path / "report.json").read_text())
    assert [Path(text.split(": ")[0]).name for text in result["missing"]] == ["profile.json"]
    summary = result["summary"]["0.05 minutes of labels per language, greedy"]
    assert set(summary) == set(MINIATURE)
    scores = json.loads((tmp_path / "teacher/fine_tuned/seed1/0.05min/greedy.json").read_text())
    own = [pair["cer"] for pair in scores["pairs"] if pair["src_lang"] == pair["tgt_lang"]]
    assert summary["teacher/fine_tuned"]["asr"]["mean"]["cer"][0] == pytest.approx(sum(own) / len(own))
    stages = {one["system"]: list(one["stages"]) for one in result["results"]}
    assert stages == {s: ["distillation"] * (s != "teacher/fine_tuned") + ["fine-tuning"] for s in MINIATURE}


def test_teacher_without_codes_is_refused_when_codes_are_asked_for(plan, teacher):
    plan("--teacher", teacher, "--systems", "*/regression")
    with pytest.raises(TeacherError, match="colld cluster"):
        plan("--teacher", teacher, "--systems", "deep_thin/discriminative")
