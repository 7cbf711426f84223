"""The transducer comparison: its arms, its manifests, its jobs, and all of it in miniature."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import synthetic
from commands import REPOSITORY
from job_checks import check_command, load_script, run_here

from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.models.loading import read_student

FOLDER = REPOSITORY / "examples" / "multi_teacher_transducer"


@pytest.fixture(scope="module")
def run():
    return load_script(FOLDER / "run.py", "multi_teacher_run")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Recognition of xx and yy, translation of yy and ar into xx."""
    return synthetic.write_corpus(tmp_path_factory.mktemp("multi_teacher"), train=16, more=8, dev=8, test=8)


@pytest.fixture
def plan(run, teacher, coded_teacher, fast_teacher, data):
    """plan(option, ...) -> all jobs of a comparison in the folder `out`; teachers: widths 24, 24 and 16."""

    def make(*more, out="out", teachers="a,b"):
        specs = dict(a=teacher, b=coded_teacher, c=fast_teacher)
        words = [str(out), "--teachers", ",".join(f"{name}={specs[name]}" for name in teachers.split(","))]
        words += [word for split in ("train", "dev", "test") for word in (f"--{split}", data / f"{split}.tsv")]
        args = run.arguments([str(word) for word in [*words, "--shape", "2x16/20/2", "--predictor-dim", "12", *more]])
        return run.Plan(Path(out), args)

    return make


def jobs_of(plan):
    return {job.name: job for job in [*plan.common_jobs(), *sum(plan.chains(), []), plan.profile_job()]}


def test_arms_follow_from_teachers_and_data(plan, data):
    assert list(plan(teachers="a").starts) == ["scratch", "a", "kd"]
    assert list(plan().starts) == ["scratch", "a", "b", "sum", "random", "average", "kd"]
    assert list(plan("--unlabelled", data / "more.tsv", teachers="a,c").starts) == [
        *("scratch", "a", "c", "sum", "random"),
        *("unlabelled", "kd", "kd_unlabelled"),
    ]
    assert len(plan("--seeds", "1,2", "--arms", "scratch,sum").runs) == 4
    assert "kd" not in plan("--students", "streaming").starts  # who would be the teacher?
    assert "kd" in plan("--students", "streaming", "--kd-teacher", "x.pt").chosen


REFUSED = {"average": "24 and 16", "unlabelled": "--label-minutes", "x": "scratch", "kd": "full/sum"}


@pytest.mark.parametrize("arm, reason", REFUSED.items())
def test_an_arm_that_is_not_possible_is_refused(arm, reason, plan):
    with pytest.raises(SystemExit, match=reason):
        plan("--arms", arm, teachers="a,c")


@pytest.mark.parametrize(
    "words", [["--students", "big"], ["--unlabelled", "no.tsv"], ["--teachers", "hf:x"], ["--teachers", "kd=hf:x"]]
)
def test_mistyped_options_are_refused(words, plan, capsys):
    with pytest.raises(SystemExit):
        plan(*words)
    assert words[0] in capsys.readouterr().err


def test_commands_parse(plan, data):
    jobs = jobs_of(plan("--unlabelled", data / "more.tsv", "--pieces", "30"))
    programs = Counter(check_command(job, "out") for job in jobs.values())
    # nine arms; kd and kd_unlabelled start from the stage 1 of sum and unlabelled
    assert programs["fairseq-train"] == 6 + 9 and programs["fairseq-generate"] == 2 * 9
    assert {"features/a", "features/b", "cmvn", "vocab", "prepare", "profile", "train_pseudo_seed1"} <= set(jobs)


def test_what_is_needed_comes_first(plan, data):
    """In an earlier chain; and it is what the command takes."""
    made = plan("--students", "full,streaming", "--unlabelled", data / "more.tsv")
    before = [job.name for job in made.common_jobs()]
    for chain in made.chains():
        for job in chain:
            assert set(job.needs) <= set(before), job.name
        before += [job.name for job in chain]
    jobs = jobs_of(made)
    job = jobs["streaming/kd_unlabelled/seed1/stage2"]
    expected = ["streaming/unlabelled/seed1/stage1", "full/sum/seed1/stage2", "train_pseudo_seed1"]
    assert job.needs == expected
    option = {word: job.command[i + 1] for i, word in enumerate(job.command[:-1])}
    assert option["--student"].startswith(f"out/{expected[0]}/")
    assert option["--teacher-transducer"].startswith(f"out/{expected[1]}/") == (option["--kd-shift"] == "2")
    assert option["--train-subset"] == "train,train_pseudo_seed1"
    assert f"out/data/{expected[2]}.tsv" in jobs[expected[2]].command
    assert "--kd-shift" not in jobs["full/kd/seed1/stage2"].command
    given = jobs_of(plan("--arms", "kd", "--kd-teacher", "/x/other.pt"))["full/kd/seed1/stage2"]
    assert not given.needs and "/x/other.pt" in given.command  # and a stage 1 of its own
    assert "out/full/kd/seed1/stage1/checkpoint_last.pt" in given.command


def test_arms_differ_in_nothing_but_their_start(plan):
    jobs = jobs_of(plan())
    scratch, single, several = (jobs[f"full/{arm}/seed1/stage2"].command for arm in ("scratch", "a", "sum"))
    shape = scratch.index("--encoder-preset")
    assert scratch[:shape] == [word.replace("/a/", "/scratch/") for word in single[: single.index("--student")]]
    differ = [(one, other) for one, other in zip(single, several) if one != other]
    assert {Path(one).relative_to("out/full").parts[0] for one, _ in differ} == {"a"}
    single, several = (jobs[f"full/{arm}/seed1/stage1"].command for arm in ("a", "sum"))
    assert single[single.index("--layer-map") + 1] == "a=2:4"
    assert several[several.index("--layer-map") + 1] == "a=2:4,b=2:4"


def test_features_are_of_what_is_learnt_from(plan, data):
    """Neither of a teacher that no arm has, nor of audio without an arm."""
    jobs = jobs_of(plan("--arms", "scratch,b", "--unlabelled", data / "more.tsv"))
    assert "features/b" in jobs and "features/a" not in jobs
    assert not any("train_unlabelled" in word for word in jobs["features/b"].command)
    jobs = jobs_of(plan("--teacher-layers", "b=2+4", "--no-cache"))
    assert not any("features" in word for job in jobs.values() for word in job.command)
    command = jobs["full/sum/seed1/stage1"].command
    assert command[command.index("--layer-map") + 1] == "a=2:4,b=2:2,2:4"


def test_manifests(tmp_path, data, monkeypatch):
    """Every clip once among the audio, nothing of the test set; an id of recognition and translation becomes two."""
    prepare = load_script(FOLDER / "prepare.py", "multi_teacher_prepare")
    lines = (data / "train.tsv").read_text().splitlines()
    again = "\t".join("translated" if i == 3 else "zz" if i == 7 else v for i, v in enumerate(lines[1].split("\t")))
    (data / "again.tsv").write_text(f"{lines[0]}\n{again}\n")
    (data / "foreign.tsv").write_text(f"{lines[0]}\nforeign-0\tx.wav\t16000\t\ts\t\tzz\tzz\n")
    manifests = {"train": "train,again", "dev": "dev", "test": "test", "unlabelled": "train,test,more,foreign"}
    words = ["prepare.py", str(tmp_path), "--label-minutes", "0.05"]
    for name, files in manifests.items():
        words += [f"--{name}", ",".join(str(data / f"{file}.tsv") for file in files.split(","))]
    monkeypatch.setattr("sys.argv", words)
    prepare.main()
    read = {path.stem: read_manifest(str(path)) for path in tmp_path.glob("*.tsv")}
    rows = {name: [manifest.row(i) for i in range(len(manifest))] for name, manifest in read.items()}
    assert len(rows["test"]) == len(rows["dev"]) == 8
    assert 3 < len(rows["train_audio"]) < 16  # three seconds of each of three languages
    assert {row.audio for row in rows["train"]} == {row.audio for row in rows["train_audio"]}
    together = rows["train_audio"] + rows["train_unlabelled"]
    assert len({row.audio for row in together}) == len(together) == 16 + 8 + 1
    assert not {row.audio for row in together} & {row.audio for row in rows["test"]}
    untranscribed, unlabelled = ([row.id for row in rows[f"train_{name}"]] for name in ("untranscribed", "unlabelled"))
    assert [*untranscribed, "foreign-0"] == unlabelled
    if lines[1].split("\t")[1] in [Path(row.audio).name for row in rows["train"]]:
        assert any(row.id == "train-0:zz" and row.tgt_text == "translated" for row in rows["train"])


def test_ids_are_made_unique():
    prepare = load_script(FOLDER / "prepare.py", "multi_teacher_prepare")
    rows = [prepare.Row("1", "x", 1, tgt_lang=language) for language in ("de", "en", "en")]
    assert [row.id for row in prepare.unique_ids(rows)] == ["1", "1:en", "1:en:2"]


def test_a_streaming_student_differs_in_what_it_hears(plan):
    jobs = jobs_of(plan("--students", "full,streaming", "--arms", "scratch,a", "--target-shift", "2", "--chunk", "4"))
    full, streaming = (jobs[f"{student}/a/seed1/stage1"].command for student in ("full", "streaming"))
    for more in (["--encoder-context", "chunk"], ["--target-shift", "2"]):
        at = streaming.index(more[0])
        assert streaming[at : at + 2] == more
        del streaming[at : at + 2]
    assert streaming == [word.replace("out/full", "out/streaming") for word in full]
    assert "--encoder-context" in jobs["streaming/scratch/seed1/stage2"].command  # others take it from stage 1
    chunk, whole = (jobs[f"streaming/a/seed1/generate_{way}"].command for way in ("greedy", "whole"))
    assert "{'eval_chunk': '4', 'eval_left_context': '4'}" in chunk
    assert "{'eval_chunk': 'full', 'eval_left_context': 'full'}" in whole
    assert "full/a/seed1/generate_whole" not in jobs


def test_the_beam_makes_up_for_short_texts(plan):
    jobs = jobs_of(plan("--arms", "scratch", "--beam", "3", "--length-score", "0.4"))
    greedy, beam = (" ".join(jobs[f"full/scratch/seed1/generate_{way}"].command) for way in ("greedy", "beam3"))
    assert "--beam 3 --ctc-length-score 0.4" in beam
    assert "--ctc-length-score" not in greedy  # with it, greedy search would become a beam of one


MINIATURE = ("full/scratch", "full/sum", "streaming/kd_unlabelled")


@pytest.mark.slow
def test_in_miniature(run, plan, data, tmp_path, monkeypatch, capsys):
    """Every kind of job but the timing: manifests, vocabulary, statistics, caches, both stages, decoding, scores."""
    monkeypatch.chdir(REPOSITORY)
    made = plan(
        *["--unlabelled", data / "more.tsv", "--label-minutes", "0.1", "--students", "full,streaming", "--beam", "1"],
        *["--stage1-updates", "2", "--stage2-updates", "2", "--max-tokens", "60000"],
        out=tmp_path,
        teachers="a,c",
    )
    made.chosen = ["scratch", "sum", "kd_unlabelled"]
    Run = sys.modules["transducer_arms"].Run
    made.runs = [Run(*f"{one}/1".split("/")) for one in MINIATURE]
    run_here([*made.common_jobs(), *sum(made.chains(), [])])
    config, _ = read_student(str(tmp_path / "streaming/kd_unlabelled/seed1/stage2/checkpoint_last.pt"))
    assert (config.layers, config.embed_dim, config.front_end, config.context) == (2, 16, "conv2d", "chunk")

    (tmp_path / "settings.json").write_text(json.dumps(run.settings(made.args, made)))
    report = load_script(FOLDER / "report.py", "multi_teacher_report")
    assert report.main([str(tmp_path)]) == 1
    result = json.loads((tmp_path / "report.json").read_text())
    assert [Path(text.split(": ")[0]).name for text in result["missing"]] == ["profile.json"]
    assert list(result["summary"]["full"]["greedy"]) == ["scratch", "sum"]
    assert list(result["summary"]["streaming"]["whole"]) == ["kd_unlabelled"]
    arm = result["summary"]["streaming"]["greedy"]["kd_unlabelled"]
    assert set(arm["asr"]) == {"xx", "yy", "mean"} and set(arm["st"]) == {"yy → xx", "ar → xx", "mean"}
    scores = json.loads((tmp_path / "streaming/kd_unlabelled/seed1/greedy.json").read_text())["pairs"]
    own = [pair["wer"] for pair in scores if pair["src_lang"] == pair["tgt_lang"]]
    assert arm["asr"]["mean"]["wer"][0] == pytest.approx(sum(own) / 2)
    assert ["stage1" in one for one in result["results"]] == [False, True, True]
    assert len({one["parameters"] for one in result["results"]}) == 1
    assert "all teachers + unlabelled audio + KD" in capsys.readouterr().out
