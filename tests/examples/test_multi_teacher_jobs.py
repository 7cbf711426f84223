"""The transducer comparison: its systems, its manifests, its jobs, and all of it in miniature."""

import json
from collections import Counter
from pathlib import Path

import pytest
import synthetic
from commands import REPOSITORY
from job_checks import changes, check_command, run_here

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.data.manifest import Row, read_manifest
from colld_fairseq.errors import ConfigError
from examples.driver import report
from examples.driver.plan import write_plan
from examples.driver.utterances import unique_ids
from examples.multi_teacher_transducer.prepare import main as prepare
from examples.multi_teacher_transducer.run import Comparison, arguments


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Recognition of xx and yy, translation of yy and ar into xx."""
    return synthetic.write_corpus(tmp_path_factory.mktemp("multi_teacher"), train=16, more=8, dev=8, test=8)


@pytest.fixture
def comparison(teacher, coded_teacher, fast_teacher, data):
    """comparison(option, ...) in the folder `out`; teachers: widths 24, 24 and 16."""

    def make(*more, out="out", teachers="a,b"):
        specs = dict(a=teacher, b=coded_teacher, c=fast_teacher)
        words = [out, "--teachers", ",".join(f"{name}={specs[name]}" for name in teachers.split(","))]
        words += [word for split in ("train", "dev", "test") for word in (f"--{split}", data / f"{split}.tsv")]
        words += ["--shape", "2x16/20/2", "--predictor-dim", "12", *more]
        return Comparison(arguments([str(word) for word in words]))

    return make


@pytest.fixture
def jobs_of(comparison):
    return lambda *more, **how: {job.name: job for job in comparison(*more, **how).plan()[0]}


def option(job, name):
    return job.command[job.command.index(name) + 1]


def test_systems_follow_from_teachers_and_data(comparison, data, tmp_path):
    assert list(comparison(teachers="a").chosen) == ["scratch", "a", "kd"]
    assert list(comparison().chosen) == ["scratch", "a", "b", "sum", "random", "average", "kd"]
    assert list(comparison("--unlabeled", data / "more.tsv", teachers="a,c").chosen) == [
        *("scratch", "a", "c", "sum", "random"),
        *("unlabeled", "kd", "kd_unlabeled"),
    ]
    runs = comparison("--seeds", "1,2", "--systems", "scratch,sum", "--beam", "1").plan()[1].results
    assert len(runs) == 4
    assert "kd" not in comparison("--students", "streaming").possible  # who would be the teacher?
    (tmp_path / "x.pt").touch()
    assert "kd" in comparison("--students", "streaming", "--kd-teacher", tmp_path / "x.pt").chosen


REFUSED = {"average": "24 and 16", "unlabeled": "--label-minutes", "x": "scratch", "kd": "full/sum"}


@pytest.mark.parametrize("system, reason", REFUSED.items())
def test_a_system_that_is_not_possible_is_refused(system, reason, comparison):
    with pytest.raises(SystemExit, match=reason):
        comparison("--systems", system, teachers="a,c")


@pytest.mark.parametrize(
    "words",
    [
        ["--students", "big"],
        ["--unlabeled", "no.tsv"],
        ["--teachers", "hf:x"],
        ["--teachers", "kd=hf:x"],
        ["--kd", "bad"],
        ["--kd-teacher", "nofile.pt"],
        ["--seeds", "one"],
        ["--preset", "conformer"],
        ["--left-context", "all"],
        ["--length-bonus", "some"],
    ],
)
def test_mistyped_options_are_refused(words, comparison, capsys):
    with pytest.raises(SystemExit):
        comparison(*words)
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("layers", ["5", "1+x"])
def test_layers_that_a_teacher_does_not_have_are_refused(layers, comparison):
    with pytest.raises(ConfigError, match="--teacher-layers a: the teacher has the layers 0 to 4"):
        comparison("--teacher-layers", f"a={layers}")


def test_commands_parse(jobs_of, data):
    jobs = jobs_of("--unlabeled", data / "more.tsv", "--pieces", "30")
    programs = Counter(check_command(job, Path("out").resolve()) for job in jobs.values())
    # nine systems; kd and kd_unlabeled start from the stage 1 of sum and unlabeled
    assert programs["fairseq-hydra-train"] == 6 + 9 and programs["fairseq-generate"] == 2 * 9
    assert {"features/a", "features/b", "cmvn", "vocab", "prepare", "train_pseudo_seed1"} <= set(jobs)


def test_what_is_needed_is_waited_for(jobs_of, data, tmp_path):
    """And it is what the job takes."""
    jobs = jobs_of("--students", "full,streaming", "--unlabeled", data / "more.tsv")
    assert all(need in jobs for job in jobs.values() for need in job.needs)
    job, out = jobs["streaming/kd_unlabeled/seed1/stage2"], Path("out").resolve()
    first, second, third = "streaming/unlabeled/seed1/stage1", "full/sum/seed1/stage2", "train_pseudo_seed1"
    assert {first, second, third, "vocab", "cmvn", "prepare"} <= set(job.needs)
    assert job.config["model"]["student"].startswith(f"{out}/{first}/")
    assert job.config["task"]["teacher_transducer"].startswith(f"{out}/{second}/")
    assert (job.config["criterion"]["kd_shift"], job.config["criterion"]["kd_window"]) == (2, 3)
    assert job.config["dataset"]["train_subset"] == "train,train_pseudo_seed1"
    assert option(jobs[third], "--out") == f"{out}/data/{third}.tsv" and second in jobs[third].needs
    assert jobs["full/kd/seed1/stage2"].config["criterion"]["kd_shift"] == 0
    (tmp_path / "other.pt").touch()
    given = jobs_of("--systems", "kd", "--kd-teacher", tmp_path / "other.pt")["full/kd/seed1/stage2"]
    assert given.config["task"]["teacher_transducer"] == f"{tmp_path}/other.pt" and second not in given.needs
    assert given.config["model"]["student"] == f"{out}/full/kd/seed1/stage1/checkpoint_last.pt"  # one of its own


def test_systems_differ_in_nothing_but_their_start(jobs_of):
    jobs = jobs_of()
    scratch, single, several = (jobs[f"full/{system}/seed1/stage2"].config for system in ("scratch", "a", "sum"))
    assert set(changes(single, several)) == {"model.student", "checkpoint.save_dir"}
    names = {name.split(".")[1].removeprefix("encoder_") for name in changes(scratch, single)}
    shape = {"preset", "layers", "embed_dim", "ffn_embed_dim", "attention_heads"}
    assert names == {"student", "freeze_encoder_updates", "save_dir", "cmvn", *shape}
    single, several = (jobs[f"full/{system}/seed1/stage1"].config["model"]["layer_map"] for system in ("a", "sum"))
    assert (single, several) == ("a=2:4", "a=2:4,b=2:4")


def test_features_are_of_what_is_learned_from(jobs_of, data):
    """Neither of a teacher that no system has, nor of audio without a system."""
    jobs = jobs_of("--systems", "scratch,b", "--unlabeled", data / "more.tsv")
    assert "features/b" in jobs and "features/a" not in jobs
    assert "train_unlabeled" not in option(jobs["features/b"], "--manifest")
    jobs = jobs_of("--teacher-layers", "b=2+4", "--no-cache")
    assert not any(name.startswith("features") for name in jobs)
    config = jobs["full/sum/seed1/stage1"].config
    assert config["model"]["layer_map"] == "a=2:4,b=2:2,2:4" and not config["task"]["teacher_cache"]


def test_manifests(tmp_path, data, monkeypatch):
    """Each utterance once among the audio, none of the test set; an id of recognition and translation becomes two."""
    lines = (data / "train.tsv").read_text().splitlines()
    again = "\t".join("translated" if i == 3 else "zz" if i == 7 else v for i, v in enumerate(lines[1].split("\t")))
    (data / "again.tsv").write_text(f"{lines[0]}\n{again}\n")
    (data / "foreign.tsv").write_text(f"{lines[0]}\nforeign-0\tx.wav\t16000\t\ts\t\tzz\tzz\n")
    manifests = {"train": "train,again", "dev": "dev", "test": "test", "unlabeled": "train,test,more,foreign"}
    words = ["prepare.py", str(tmp_path), "--label-minutes", "0.05"]
    for name, files in manifests.items():
        words += [f"--{name}", ",".join(str(data / f"{file}.tsv") for file in files.split(","))]
    monkeypatch.setattr("sys.argv", words)
    prepare()
    read = {path.stem: read_manifest(str(path)) for path in tmp_path.glob("*.tsv")}
    rows = {name: [manifest.row(i) for i in range(len(manifest))] for name, manifest in read.items()}
    assert len(rows["test"]) == len(rows["dev"]) == 8
    assert 3 < len(rows["train_audio"]) < 16  # three seconds of each of three languages
    assert {row.audio for row in rows["train"]} == {row.audio for row in rows["train_audio"]}
    together = rows["train_audio"] + rows["train_unlabeled"]
    assert len({row.audio for row in together}) == len(together) == 16 + 8 + 1
    assert not {row.audio for row in together} & {row.audio for row in rows["test"]}
    untranscribed, unlabeled = ([row.id for row in rows[f"train_{name}"]] for name in ("untranscribed", "unlabeled"))
    assert [*untranscribed, "foreign-0"] == unlabeled
    if lines[1].split("\t")[1] in [Path(row.audio).name for row in rows["train"]]:
        assert any(row.id == "train-0:zz" and row.tgt_text == "translated" for row in rows["train"])


def test_ids_are_made_unique():
    rows = [Row("1", "x", 1, tgt_lang=language) for language in ("de", "en", "en")]
    assert [row.id for row in unique_ids(rows)] == ["1", "1:en", "1:en:2"]


def test_a_streaming_student_differs_in_its_context(jobs_of):
    jobs = jobs_of("--students", "full,streaming", "--systems", "scratch,a", "--target-shift", "2", "--chunk", "4")
    full, streaming = (jobs[f"{student}/a/seed1/stage1"].config for student in ("full", "streaming"))
    differ = changes(full, streaming)
    assert differ.pop("model.encoder_context") == ("full", "chunk")
    assert differ.pop("criterion.target_shift") == (0, 2)
    assert set(differ) == {"checkpoint.save_dir"}
    # Others than the one from scratch take it from stage 1.
    assert jobs["streaming/scratch/seed1/stage2"].config["model"]["encoder_context"] == "chunk"
    chunk, whole = (
        option(jobs[f"streaming/a/seed1/generate_{way}"], "--model-overrides") for way in ("greedy", "whole")
    )
    assert chunk == "{'eval_chunk': '4', 'eval_left_context': '4'}"
    assert whole == "{'eval_chunk': 'full', 'eval_left_context': 'full'}"
    assert "full/a/seed1/generate_whole" not in jobs


def test_the_beam_has_a_length_bonus(jobs_of):
    jobs = jobs_of("--systems", "scratch", "--beam", "3", "--length-bonus", "0.4")
    greedy, beam = (" ".join(jobs[f"full/scratch/seed1/generate_{way}"].command) for way in ("greedy", "beam3"))
    assert "--beam 3 --length-bonus 0.4" in beam
    assert "--length-bonus" not in greedy  # with it, greedy search would become a beam of one


MINIATURE = ("full/scratch", "full/sum", "streaming/kd_unlabeled")


@pytest.mark.slow
def test_in_miniature(comparison, data, tmp_path, monkeypatch, capsys):
    """Every kind of job but the timing: manifests, vocabulary, statistics, caches, both stages, decoding, scores."""
    monkeypatch.chdir(REPOSITORY)
    made = comparison(
        *["--unlabeled", data / "more.tsv", "--label-minutes", "0.1", "--students", "full,streaming", "--beam", "1"],
        *["--stage1-updates", "2", "--stage2-updates", "2", "--max-tokens", "60000"],
        *["--systems", "scratch,sum,kd_unlabeled"],
        out=tmp_path,
        teachers="a,c",
    )
    jobs, plan = made.plan()
    left_out = ("streaming/scratch/", "streaming/sum/", "full/kd_unlabeled/")
    jobs = [job for job in jobs if not job.name.startswith(left_out)]
    plan.results = [result for result in plan.results if not result.checkpoint.startswith(left_out)]
    run_here(tmp_path, jobs)
    config = read_encoder(f"colld:{tmp_path}/streaming/kd_unlabeled/seed1/stage2/checkpoint_last.pt").config
    assert (config.layers, config.embed_dim, config.front_end, config.context) == (2, 16, "conv2d", "chunk")

    write_plan(tmp_path, plan)
    assert report.main([str(tmp_path)]) == 1
    result = json.loads((tmp_path / "report.json").read_text())
    assert [Path(text.split(": ")[0]).name for text in result["missing"]] == ["profile.json"]
    assert list(result["summary"]["student full, greedy"]) == ["scratch", "sum"]
    assert list(result["summary"]["student streaming, whole"]) == ["kd_unlabeled"]
    system = result["summary"]["student streaming, greedy"]["kd_unlabeled"]
    assert set(system["asr"]) == {"xx", "yy", "mean"} and set(system["st"]) == {"yy → xx", "ar → xx", "mean"}
    scores = json.loads((tmp_path / "streaming/kd_unlabeled/seed1/greedy.json").read_text())["pairs"]
    own = [pair["wer"] for pair in scores if pair["src_lang"] == pair["tgt_lang"]]
    assert system["asr"]["mean"]["wer"][0] == pytest.approx(sum(own) / 2)
    stages = {one["checkpoint"].split("/seed")[0]: "stage 1" in one["stages"] for one in result["results"]}
    assert stages == dict(zip(MINIATURE, (False, True, True), strict=True))
    assert len({one["parameters"] for one in result["results"]}) == 1
    assert "all teachers + unlabeled audio + KD" in capsys.readouterr().out
