"""The student comparison: its jobs, its choice of labels, and all of it in miniature."""

import json
from collections import Counter
from pathlib import Path

import pytest
import synthetic
from commands import REPOSITORY, call
from job_checks import check_command, load_script, run_here

from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import TeacherError
from colld_fairseq.models.loading import read_student
from colld_fairseq.modules.encoder_config import EncoderConfig

FOLDER = REPOSITORY / "examples" / "hubert_asr"
MINIATURE = ("deep_thin_fbank/adapted", "shallow_wide/discriminative", "teacher/fine_tuned")


@pytest.fixture(scope="module")
def run():
    return load_script(FOLDER / "run.py", "hubert_asr_run")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synthetic.write_corpus(tmp_path_factory.mktemp("hubert_asr"), train_asr=16, dev_asr=4, test_asr=4)


@pytest.fixture
def plan(run, coded_teacher, data):
    """plan(option, ...) -> all jobs of a comparison in the folder `out`."""

    def make(*more, out="out"):
        words = [str(out), "--data", str(data), "--teacher", coded_teacher, "--deep-thin", "3x16/20/2", *more]
        args = run.arguments([str(word) for word in words])
        return run.Plan(Path(out), args)

    return make


def jobs_of(plan):
    chains = plan.chains()
    return {job.name: job for job in [*plan.common_jobs(), *sum(chains, []), plan.profile_job()]}


def test_commands_parse(plan, tmp_path):
    jobs = jobs_of(plan("--label-minutes", "10", "--lm", tmp_path / "lm.arpa", "--unlabelled", tmp_path / "more.tsv"))
    programs = Counter(check_command(job, "out") for job in jobs.values())
    # 10 arms, 6 of them distilled, decoded greedily and with the language model
    assert programs["fairseq-train"] == 6 + 10 and programs["fairseq-generate"] == 2 * 10


def test_arms_differ_in_nothing_but_their_start(plan):
    jobs = jobs_of(plan())
    for student in ("deep_thin", "shallow_wide", "deep_thin_fbank"):
        scratch = jobs[f"{student}/scratch/seed1/60min/finetune"].command
        tuned = jobs[f"{student}/discriminative/seed1/60min/finetune"].command
        own = {*scratch[scratch.index("--encoder-layers") :], "--student", "--freeze-encoder-updates"}
        common = scratch[: scratch.index("--encoder-layers")]
        assert tuned[: len(common)] == common
        assert {word for word in tuned if word.startswith("--")} <= {*own, *common}
        for option in ("--max-update", "--lr", "--max-tokens", "--seed"):
            assert tuned[tuned.index(option) + 1] == scratch[scratch.index(option) + 1]
    regression, discriminative = (jobs[f"deep_thin/{a}/seed1/distil"].command for a in ("regression", "discriminative"))
    differ = [(a, b) for a, b in zip(regression, discriminative) if a != b]
    assert differ[:2] == [("0", "1"), ("none", "linear")]
    assert [Path(word).parent.parent.name for word in differ[2]] == ["regression", "discriminative"]  # --save-dir


def test_choice_of_arms_labels_and_options(plan):
    chosen = plan("--students", "deep_thin,teacher", "--arms", "regression,fine_tuned", "--label-minutes", "1,5")
    assert [run[:2] for run in chosen.runs] == [("deep_thin", "regression"), ("teacher", "fine_tuned")]
    assert len(plan("--seeds", "1,2,3").runs) == 3 * len(plan().runs)
    options = ["--finetune-updates", "20,50", "--distil-options=--bf16", "--no-cache"]
    jobs = jobs_of(plan("--label-minutes", "1,5", *options))
    assert [jobs[f"teacher/fine_tuned/seed1/{n}min/finetune"].updates for n in (1, 5)] == [20, 50]
    assert "--bf16" in jobs["deep_thin/regression/seed1/distil"].command
    assert not any("--teacher-cache" in job.command for job in jobs.values()) and "features" not in jobs


@pytest.mark.parametrize("words", [["--students", "deep"], ["--arms", "x"], ["--finetune-updates", "1,2,3"]])
def test_mistyped_options_are_refused(plan, words, capsys):
    with pytest.raises(SystemExit):
        plan(*words)
    assert words[0] in capsys.readouterr().err


def test_students_of_hubert_base_are_the_published_ones(plan, run):
    made = plan()
    made.args.deep_thin = None
    made.teacher = EncoderConfig(layers=12, embed_dim=768, ffn_dim=3072, attention_heads=12)
    assert made.shape("deep_thin") == made.shape("deep_thin_fbank") == (12, 480, 480, 12)
    assert made.shape("shallow_wide") == (2, 768, 3072, 12)
    assert made.layer_map("shallow_wide") == "2:4,2:8,2:12" and made.layer_map("deep_thin") == "dense"


def test_labels_are_minutes_of_every_language_and_nested(tmp_path):
    manifest_rows = load_script(FOLDER.parent / "manifest_rows.py", "manifest_rows")
    rows = [
        manifest_rows.Row(id=f"{language}{i}", audio="x", n_samples=8 * 16000, src_lang=language)
        for language, count in (("de", 60), ("en", 60), ("mdw", 5))
        for i in range(count)
    ]
    one, four = (manifest_rows.labelled(rows, minutes, seed=1) for minutes in (1, 4))
    assert {row.id for row in one} < {row.id for row in four}
    assert manifest_rows.by_language(one) == pytest.approx({"de": 64 / 60, "en": 64 / 60, "mdw": 40 / 60})
    assert manifest_rows.by_language(four)["de"] == pytest.approx(4, abs=8 / 60)
    assert manifest_rows.labelled(rows, 1, seed=2) != one == manifest_rows.labelled(rows, 1, seed=1)


@pytest.mark.slow
def test_in_miniature(plan, data, tmp_path, monkeypatch, capsys):
    """Every kind of job but the timing: manifests, vocabulary, statistics, cache, training, decoding, scores."""
    monkeypatch.chdir(REPOSITORY)
    made = plan(
        *["--label-minutes", "0.05", "--distil-updates", "4", "--adaptation-updates", "2", "--finetune-updates", "3"],
        *["--max-tokens", "60000"],
        out=tmp_path,
    )
    made.runs = [tuple(f"{arm}/1".split("/")) for arm in MINIATURE]
    run_here([*made.common_jobs(), *sum(made.chains(), [])])
    labels, unlabelled = (read_manifest(str(tmp_path / "data" / f"train_{n}.tsv")) for n in ("0.05min", "unlabelled"))
    assert len(labels) < len(unlabelled) == len(read_manifest(str(data / "train_asr.tsv")))

    thin, wide = (read_student(str(tmp_path / arm / "seed1/distil/checkpoint_last.pt"))[0] for arm in MINIATURE[:2])
    assert (thin.layers, thin.embed_dim, thin.ffn_dim, thin.front_end) == (3, 16, 20, "fbank")
    assert (wide.layers, wide.embed_dim, wide.ffn_dim, wide.front_end) == (2, 24, 40, "waveform")
    assert wide.conv_layers[0] == [8, 10, 5] and wide.conv_pos == 6  # the teacher's

    (tmp_path / "settings.json").write_text(json.dumps(dict(runs=made.runs, label_minutes=["0.05"], lm=None)))
    report = load_script(FOLDER / "report.py", "hubert_asr_report")
    assert report.main([str(tmp_path)]) == 1
    result = json.loads((tmp_path / "report.json").read_text())
    assert [Path(text.split(": ")[0]).name for text in result["missing"]] == ["profile.json"]
    summary = result["summary"]["greedy"]["0.05"]
    assert set(summary) == set(MINIATURE)
    scores = json.loads((tmp_path / "teacher/fine_tuned/seed1/0.05min/greedy.json").read_text())
    mean = sum(pair["cer"] for pair in scores["pairs"]) / len(scores["pairs"])
    assert summary["teacher/fine_tuned"]["mean"]["cer"][0] == pytest.approx(mean)
    stages = {one["arm"]: "distil" in one for one in result["results"]}
    assert stages == {arm: arm != "teacher/fine_tuned" for arm in MINIATURE}


def test_teacher_without_codes_is_refused_when_codes_are_asked_for(plan, teacher, tmp_path, monkeypatch, data):
    monkeypatch.chdir(REPOSITORY)
    made = plan("--teacher", teacher, "--no-cache", "--students", "deep_thin", "--arms", "discriminative", out=tmp_path)
    made.data = data
    (job,) = [job for job in made.chains()[0] if job.name.endswith("distil")]
    words = [word.replace("train_unlabelled", "train_asr") for word in job.command[1:]]
    with pytest.raises(TeacherError, match="colld cluster"):
        call("train", *words)
