"""The campaign: its plans and their jobs, what is shared, plateaus, verdicts, and one claim in miniature."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import synthetic
from commands import REPOSITORY
from job_checks import changes, check_command, run_here

from colld_fairseq.data.manifest import Row, read_manifest
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.errors import ColldError, ConfigError, ManifestError
from colld_fairseq.tasks.plateau import Plateau
from examples.campaign import prepare
from examples.campaign.build import Builder, Inputs, choices_of
from examples.campaign.cost import claim_jobs, core_hours, cost_rows, sample_job
from examples.campaign.plan import Comparison, every_claim, read_campaign
from examples.campaign.plateau import plateau_of
from examples.campaign.report import write_report
from examples.campaign.run import arguments, check_there, resolve
from examples.campaign.run import run as run_campaign
from examples.campaign.tune import pick, tuning_runs
from examples.campaign.verdict import FAILS, HOLDS, UNDECIDED, Decoded, Effect, decide, judge
from examples.driver.jobs import ROOT

PLAN = REPOSITORY / "examples" / "campaign" / "campaign.yaml"
OUT = Path("/nowhere/out")
MACHINE = {"cpu": "a CPU", "gpu": None, "cores": 2, "torch": "2"}


@pytest.fixture(scope="module")
def campaign():
    return read_campaign(PLAN)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """As the command line would give them; a graph of ONNX is described by the file beside it."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "hubert.onnx").touch()
    (folder / "hubert.yaml").write_text("{frame_rate_hz: 50, width: 128, layers: {12: encoded}}")
    for corpus in ("german_english", "mboshi"):
        (folder / corpus).mkdir()
        for name, seconds in (("train", 3600), ("test_asr", 360), ("test_st", 360), ("dev_asr", 360)):
            write_manifest(folder / corpus / f"{name}.tsv", [Row("1", "a.wav", 16000 * seconds, "a", src_lang="de")])
    write_manifest(folder / "more.tsv", [Row("2", "b.wav", 16000 * 1800)])
    return Inputs(
        {"whisper": "hf:W", "hubert": f"onnx:{folder / 'hubert.onnx'}", "whisper_decoder": "hf:DIR"},
        {name: str(folder / name) for name in ("german_english", "mboshi")},
        {name: str(folder / "more.tsv") for name in ("librispeech", "further")},
        bfloat16=True,
    )


@pytest.fixture
def builder(campaign, inputs):
    return Builder(campaign, OUT, inputs)


def claim_named(campaign, name):
    return next(claim for claim in campaign.claims if claim.name == name)


# -- plans -------------------------------------------------------------------------------------------------------------


def test_there_is_a_plan_for_each_of_the_nine_claims(campaign):
    assert {claim.claim for claim in campaign.claims} == set(range(1, 10))
    tested = [claim for claim in campaign.claims if claim.part != "study"]
    assert {claim.claim: len(claim.seeds) for claim in tested} == {
        claim: 3 if claim in (1, 5, 6) else 2 for claim in range(1, 10)
    }
    for claim in campaign.claims:
        assert any(comparison.decides for comparison in claim.comparisons), claim.name
        if claim.part == "study":
            continue
        batch = (campaign.data[claim.data].max_tokens or campaign.max_tokens) / 16000
        assert claim.stages["finetune" if "finetune" in claim.stages else "stage2"].updates * batch >= 3000 * 14
        for system in claim.systems.values():
            total = sum(stage.updates for stage in claim.stages.values())
            assert len(system.stages) == 2 or system.stages[0].updates == total, (claim.name, system.name)


def test_a_study_looks_at_no_test_set(campaign):
    study = claim_named(campaign, "claim1_study")
    assert {how.subset for system in study.systems.values() for how in system.tests.values()} == {"dev_asr"}


def test_a_claim_may_be_given_by_its_own_file(campaign):
    alone = read_campaign(PLAN.parent / "claim4.yaml")
    assert [claim.name for claim in alone.claims] == ["claim4"]
    assert alone.claims[0].systems == claim_named(campaign, "claim4").systems
    assert [claim.name for claim in every_claim(campaign, [1, 4])] == [
        "claim1_study",
        "claim1",
        "claim1_recognition",
        "claim4",
    ]
    with pytest.raises(ConfigError, match="no claim 10; the plan has 1, 2"):
        every_claim(campaign, [10])


WRONG = {
    "seed": ("seeds: [1, 2]", "seedz: [1, 2]", "seedz: no such field; there are .*seeds"),
    "data": ("data: german_english", "data: german", "data 'german' is none of .*german_english"),
    "baseline": ("baselines: [filterbank]", "baselines: [filters]", "system 'filters' is none of waveform, filterbank"),
    "stage": (
        "finetune: {speed: 10}",
        "tune: {speed: 10}",
        "systems.waveform.stages.tune: the plan has .*distil, fine",
    ),
    "measure": ("measure: cer", "measure: per", "measure 'per' is none of wer, cer, bleu"),
    "title": ("title:", "notes: []\n#", "title is missing"),
    "teacher": ("teachers: [whisper]", "teachers: [wisper]", "teacher 'wisper' is none of whisper"),
}


@pytest.mark.parametrize("old, new, message", WRONG.values(), ids=WRONG)
def test_what_a_plan_says_is_checked(old, new, message, tmp_path):
    text = (PLAN.parent / "claim4.yaml").read_text().replace("campaign: campaign.yaml", f"campaign: {PLAN}")
    assert old in text
    (tmp_path / "claim.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=f"claim.yaml: .*{message}"):
        read_campaign(tmp_path / "claim.yaml")


def test_what_is_missing_is_named_before_anything_starts(campaign, tmp_path):
    def given(*more, claims):
        args = arguments([str(PLAN), str(tmp_path), *more])
        return resolve(campaign, every_claim(campaign, claims), args)

    with pytest.raises(ConfigError, match="claim2 needs german_english: give --corpora german_english=DIRECTORY"):
        given(claims=[2])
    with pytest.raises(ConfigError, match="claim5 needs hubert: give --teachers hubert=SPEC"):
        given(claims=[5])
    with pytest.raises(ConfigError, match="--corpora: 'german' is none of prompts, german_english"):
        given("--corpora", "german=x", claims=[2])
    inputs = given("--corpora", "mboshi=m", "--teachers", "whisper_decoder=hf:w", claims=[9])
    assert inputs.teachers["whisper"] == f"hf:{ROOT / 'examples/quickstart/teacher'}"
    assert inputs.corpora["mboshi"] == str(Path("m").resolve())
    with pytest.raises(ConfigError, match="--corpora mboshi: no file .*/m/train.tsv"):
        check_there(inputs)
    with pytest.raises(ColldError, match="w: "):
        check_there(replace(inputs, corpora={}))
    with pytest.raises(ConfigError, match="--ngram-lm: no file x.arpa"):
        check_there(replace(inputs, corpora={}, ngram_lm="x.arpa"))


# -- jobs --------------------------------------------------------------------------------------------------------------


def shape(job):
    """What a job is, but for its numbers and names of files: of those that are alike one is checked."""
    text = json.dumps([job.command[:2], job.config]) if job.config else json.dumps(job.command)
    return re.sub(r"\d+", "N", re.sub(r"/nowhere[^\"]*", "OUT", re.sub(r"/\w{10}\b", "", text)))


def test_every_command_parses_with_its_program(campaign, builder):
    names = [name for claim in campaign.claims for name in claim_jobs(builder, replace(claim, seeds=claim.seeds[:1]))]
    assert set(builder.needed_by(names)) == set(builder.jobs)
    jobs = {shape(job): job for job in builder.jobs.values()}
    programs = Counter(check_command(job, str(OUT)) for job in jobs.values())
    assert set(programs) >= {"fairseq-hydra-train", "fairseq-generate", "colld"}
    assert programs["fairseq-hydra-train"] > 25
    for job in builder.jobs.values():
        if job.config is not None:
            assert job.config["common"]["bf16"] and job.config["optimizer"]["_name"] == "fused_adam"


def test_what_is_equal_is_done_once(campaign, builder):
    """Distillations that differ in nothing, whatever is fine-tuned on them; features and manifests of all claims."""
    claim = claim_named(campaign, "claim3")
    claim_jobs(builder, claim)
    count = Counter(name.split("/")[0] for name, job in builder.jobs.items() if job.updates)
    assert count == {"distil": 4 * 2, "finetune": 4 * 3 * 2}
    one, other = (builder.system(claim, f"codes200_1/{labels}", 1) for labels in ("10min", "all"))
    assert one.stages["distil"] == other.stages["distil"] and one.last != other.last
    for name in ("claim2", "claim4"):
        claim_jobs(builder, claim_named(campaign, name))
    features = [name for name in builder.jobs if name.startswith("features/")]
    assert features == ["features/german_english/whisper_2-4-6", "features/german_english/whisper_0-1-2-3-4-5-6"]
    assert sum(name == "data/german_english" for name in builder.jobs) == 1


def test_a_stage_that_two_claims_have_in_common_is_shared(campaign, builder):
    """Claim 6's student of four hours is claim 8's that all others are compared with."""
    four, plain = claim_named(campaign, "claim6"), claim_named(campaign, "claim8")
    assert builder.system(four, "4h", 1) == builder.system(plain, "plain", 1)
    assert builder.system(four, "4h", 2) != builder.system(plain, "plain", 1)


def test_systems_of_claim_1_differ_in_their_objective_alone(campaign, builder):
    claim = claim_named(campaign, "claim1")
    runs = {name: builder.system(claim, name, 1) for name in claim.systems}
    objectives = [builder.jobs[runs[name].stages["distil"]].config for name in ("l1cos", "infonce_masked")]
    allowed = ("criterion.", "model.mask_", "checkpoint.save_dir")
    assert all(name.startswith(allowed) for name in changes(*objectives))
    tuned = [builder.jobs[runs[name].last].config for name in ("l1cos", "infonce_masked")]
    assert set(changes(*tuned)) == {"model.student", "checkpoint.save_dir"}
    scratch = builder.jobs[runs["scratch"].last].config
    assert (scratch["model"]["student"], scratch["model"]["freeze_encoder_updates"]) == ("", 0)
    assert scratch["optimization"]["max_update"] == 6000


def test_what_is_learned_from_is_waited_for(campaign, builder):
    claim = claim_named(campaign, "claim8")
    plain, both = (builder.system(claim, name, 2) for name in ("plain", "pseudo_one_best"))
    job = builder.jobs[both.last]
    assert plain.last in job.needs
    assert job.config["task"]["teacher_transducer"] == plain.checkpoint(OUT, "best")
    labels, pseudo = job.config["dataset"]["train_subset"].split(",")
    assert labels == "train_30min" and f"data/more_audio/{pseudo}" in job.needs
    command = builder.jobs[f"data/more_audio/{pseudo}"].command
    assert plain.checkpoint(OUT, "best") in command and command[-1].endswith(f"/{pseudo}.tsv")
    assert str(OUT / "data/more_audio/untranscribed_30min.tsv") in command


@pytest.mark.parametrize(("name", "seconds"), [("claim1", 30), ("claim2", 18), ("claim9_mboshi", 14)])
def test_the_longest_utterance_of_the_data_fits_a_batch(campaign, builder, name, seconds):
    claim = claim_named(campaign, name)
    run = builder.system(claim, next(iter(claim.systems)), 1)
    assert {builder.jobs[job].config["dataset"]["max_tokens"] for job in run.stages.values()} == {16000 * seconds}


def test_the_cost_is_told_before_anything_starts(campaign, builder):
    claim = claim_named(campaign, "claim6")
    tunings = tuning_runs(builder, claim)
    header, rows = cost_rows(builder, [claim], tunings)
    assert [row[0] for row in rows] == ["claim6", "all together"] and rows[0][-2:] == rows[1][-2:]
    run = builder.system(claim, "8h", 1)
    # 12000 updates of 18 s at 60 times real time, 3000 at 55, and the features of two hours of audio at 25.
    expected = (12000 * 18 / 60 + 3000 * 18 / 55 + (3600 + 1800 + 1800) / 25) / 3600
    assert core_hours(builder, [run.last]) == pytest.approx(expected)
    measured = replace(builder.inputs, speeds={"claim6/stage1": 100.0})
    again = Builder(campaign, OUT, measured)
    assert core_hours(again, [again.system(claim, "8h", 1).last]) == pytest.approx(
        expected - 12000 * 18 * (1 / 60 - 1 / 100) / 3600
    )
    assert float(rows[0][-1]) == pytest.approx(float(rows[0][-2]) / 2, abs=0.06)


def test_speed_is_measured_without_what_must_be_trained_first(campaign, builder):
    claim = claim_named(campaign, "claim8")
    system = claim.systems["one_best"]
    for stage in system.stages:
        job = sample_job(builder, claim, system, stage)
        check_command(job, str(OUT))
        needed = builder.needed_by([job.name])
        assert [name for name in needed if builder.jobs[name].updates] == [job.name]
        assert job.config["checkpoint"]["no_save"] and job.config["dataset"]["train_subset"].startswith("sample_")


def test_every_system_is_tuned_alike_and_the_best_is_picked(campaign, builder, tmp_path):
    claim = claim_named(campaign, "claim1")
    rows = {name: len(choices_of(claim, system)) for name, system in claim.systems.items()}
    assert set(rows.values()) == {3}
    mixed = claim_named(campaign, "claim5")
    assert len(choices_of(mixed, mixed.systems["sum"])) == 9  # with its weights
    tuning = next(one for one in tuning_runs(builder, claim) if one.system == "l1cos")
    assert {builder.jobs[run.last].updates for run in tuning.runs} == {500}
    for run, rate in zip(tuning.runs, (52.0, 48.5, 100.0)):
        log = tmp_path / f"{run.last}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("\n".join(validation(updates, cer) for updates, cer in ((250, 99), (500, rate))))
    picks = pick(tmp_path, [tuning])
    assert picks == {"claim1/l1cos": 1}
    assert json.loads((tmp_path / "choices.json").read_text())["claim1/l1cos"]["rows"][1]["cer"] == 48.5
    picked = Builder(campaign, OUT, replace(builder.inputs, picks=picks))
    run = picked.system(claim, "l1cos", 3)
    rates = [picked.jobs[job].config["optimization"]["lr"] for job in run.stages.values()]
    assert rates == [[1e-3], [5e-4]]


# -- plateaus ----------------------------------------------------------------------------------------------------------


def validation(updates, cer, chrf=0.0, prefix=""):
    record = {"dev_loss": "3.1", f"dev_{prefix}cer": str(cer), f"dev_{prefix}chrf": str(chrf)}
    return json.dumps({"epoch": 1, **record, "dev_num_updates": str(updates)})


RULE = Plateau(share=0.5, cer=97.0, chrf=5.0, validations=2)
LOGS = {
    "blank": ([(400, 100), (500, 100), (600, 100)], "CER 100.0 after 600 of 1000 updates, hypotheses are blank;"),
    "nearly blank": ([(500, 98.9, 1.2), (600, 98.5, 1.6)], "CER 98.5 after 600 .* hardly more than blank"),
    "too soon": ([(300, 100), (400, 100)], None),
    "one validation": ([(400, 100), (500, 100)], None),
    "left": ([(500, 100), (600, 80, 12)], None),
    "fell back": ([(400, 80, 12), (500, 100), (600, 100)], "CER 100.0 after 600"),
    "too long, with words": ([(500, 120, 14), (600, 118, 15)], None),
    "nothing yet": ([], None),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "ctc_"])
@pytest.mark.parametrize("validations, message", LOGS.values(), ids=LOGS)
def test_a_dead_run_is_named_by_its_log(validations, message, prefix, tmp_path):
    log = tmp_path / "x.log"
    log.write_text("\n".join(["begins", *(validation(*one, prefix=prefix) for one in validations)]))
    reason = plateau_of(log, 1000, RULE)
    assert reason is None if message is None else re.search(message, reason)


# -- verdicts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "low, high, within, verdict",
    [
        (0.5, 9, None, HOLDS), (-1, 9, None, UNDECIDED), (-9, -1, None, FAILS), (-3, 0.8, None, FAILS),
        (-4, 3, 5, HOLDS), (-6, 3, 5, UNDECIDED), (-9, -6, 5, FAILS), (float("nan"), 1, None, UNDECIDED),
    ],
)  # fmt: skip
def test_when_a_comparison_holds(low, high, within, verdict):
    assert decide(Effect(0, low, high), within, smallest=1.0) == verdict


WORDS = "eins zwei drei vier fünf sechs sieben acht".split()


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """decoded(wrong) -> hypotheses of 60 utterances with so many words of a hundred wrong, one file for a seed."""
    folder = tmp_path_factory.mktemp("decoded")
    generator = np.random.default_rng(3)
    references = [" ".join(generator.choice(WORDS, 6)) for _ in range(60)]
    manifest = folder / "test.tsv"
    rows = [Row(f"u{i}", f"{i}.wav", 16000, text, src_lang="de", tgt_lang="de") for i, text in enumerate(references)]
    write_manifest(manifest, rows)

    def make(wrong, seeds=2):
        files = []
        for seed in range(seeds):
            damage = np.random.default_rng(100 * wrong + seed)
            lines = []
            for row, text in enumerate(references):
                words = ["falsch" if damage.random() < wrong / 100 else word for word in text.split()]
                lines += [f"T-{row}\t{text}", f"D-{row}\t-0.1\t{' '.join(words)}"]
            path = folder / f"{wrong}_{seed}.txt"
            path.write_text("\n".join(lines), encoding="utf-8")
            files.append(Decoded(path, manifest))
        return files

    return make


def comparison(**changed):
    return replace(Comparison("a over b", "a", ("b",), "asr", "wer"), **changed)


def word_errors(files):
    """Of all seeds together, by another library."""
    lines = [path.hypotheses.read_text(encoding="utf-8").splitlines() for path in files]
    references = [line.partition("\t")[2] for one in lines for line in one if line[0] == "T"]
    hypotheses = [line.split("\t")[2] for one in lines for line in one if line[0] == "D"]
    return 100 * jiwer.wer(references, hypotheses)


def test_a_verdict_is_about_the_sum_over_seeds(decoded):
    files = {"a": decoded(20), "b": decoded(40)}
    result = judge(comparison(), files, {}, resamples=500)
    ours, theirs = word_errors(files["a"]), word_errors(files["b"])
    assert result.verdict == HOLDS and (result.seeds, result.utterances) == (2, 60)
    assert result.scores == pytest.approx({"a": ours, "b": theirs})
    assert result.effect.value == pytest.approx(100 * (theirs - ours) / theirs)
    assert result.effect.low < result.effect.value < result.effect.high
    assert judge(comparison(system="b", baselines=("a",)), files, {}, resamples=500).verdict == FAILS
    close = {"a": decoded(30), "b": decoded(32)}
    assert judge(comparison(), close, {}, resamples=500).verdict == UNDECIDED


def test_of_several_baselines_the_best_counts(decoded):
    files = {"a": decoded(20), "b": decoded(60), "c": decoded(19)}
    result = judge(comparison(baselines=("b", "c")), files, {}, resamples=300)
    assert result.baseline == "c" and result.verdict != HOLDS


def test_a_gain_may_be_compared_with_another(decoded):
    files = {"a": decoded(10), "b": decoded(50), "c": decoded(40), "d": decoded(41)}
    result = judge(comparison(minus=("c", "d")), files, {}, resamples=500)
    errors = {name: word_errors(one) for name, one in files.items()}
    gains = 100 * (1 - errors["a"] / errors["b"]), 100 * (1 - errors["c"] / errors["d"])
    assert result.effect.value == pytest.approx(gains[0] - gains[1]) and result.verdict == HOLDS


def test_what_cannot_be_judged_is_undecided_and_says_why(decoded, tmp_path):
    files = {"a": decoded(20), "b": decoded(40)}
    died = judge(comparison(), files, {"b": "plateau: validation CER 100.0"})
    assert died.verdict == UNDECIDED and died.effect is None and "b was stopped (plateau" in died.reasons[0]
    missing = judge(comparison(), {"a": files["a"]}, {})
    assert missing.verdict == UNDECIDED and missing.reasons == ["b is not there yet"]
    fewer = judge(comparison(), {"a": files["a"], "b": files["b"][:1]}, {})
    assert fewer.verdict == UNDECIDED and "same seeds" in fewer.reasons[0]
    (tmp_path / "cut.txt").write_text("T-0\ta\nD-0\t-1\ta\n")
    cut = [replace(one, hypotheses=tmp_path / "cut.txt") for one in files["b"]]
    damaged = judge(comparison(), {"a": files["a"], "b": cut}, {})
    assert damaged.verdict == UNDECIDED and "have no D- line" in damaged.reasons[0]


# -- manifests and the whole -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    """Recognition of xx and yy: 8 utterances to train on, 4 to develop, 4 to test, 16 without labels."""
    folder = synthetic.write_corpus(tmp_path_factory.mktemp("campaign"), train=16, dev=8, test=8, more=16)
    for split in ("train", "dev", "test"):
        manifest = read_manifest(str(folder / f"{split}.tsv"))
        rows = [manifest.row(index) for index in range(len(manifest))]
        rows = [row for row in rows if row.src_lang == row.tgt_lang]
        write_manifest(folder / f"{split}.tsv", rows)
    return folder


def run_prepare(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["prepare.py", *map(str, words)])
    prepare.main()


def test_manifests(corpus_folder, tmp_path, monkeypatch):
    """Labels and audio in growing sets; nothing of the test set is learned from."""
    more = corpus_folder / "more.tsv"
    out = tmp_path / "data"
    options = ["--label-minutes", "0.02,0.04", "--audio-hours", "0.002,0.004"]
    run_prepare(monkeypatch, out, "--corpora", corpus_folder, "--unlabeled", more, *options)
    read = {path.stem: read_manifest(str(path)) for path in out.glob("*.tsv")}
    audio = {name: [manifest.audio_path(i) for i in range(len(manifest))] for name, manifest in read.items()}
    assert set(audio["train_0.02min"]) < set(audio["train_0.04min"]) <= set(audio["train"])
    assert set(audio["train_0.02min"]) <= set(audio["audio_0.002h"]) < set(audio["audio_0.004h"]) <= set(audio["audio"])
    assert len(set(audio["audio"])) == len(audio["audio"]) == len(audio["train"]) + 16
    assert not set(audio["audio"]) & {*audio["test_asr"], *audio["dev"]}
    assert not set(audio["untranscribed_0.02min"]) & set(audio["train_0.02min"])
    with pytest.raises(ManifestError, match="no manifest .*train.tsv: a corpus needs"):
        run_prepare(monkeypatch, out, "--corpora", tmp_path)


MINIATURE = """
campaign: campaign.yaml
claim: 1
title: Distillation beats none
hypothesis: It does.
seeds: [3]
data: tiny
student:
  {{encoder_preset: tiny, encoder_layers: 2, encoder_embed_dim: 16,
    encoder_ffn_embed_dim: 20, encoder_attention_heads: 2}}
stages:
  distil:
    recipe: {examples}/colld/prompts/distil.yaml
    updates: 2
    rate: 2e-3
    subset: audio
    valid: audio_dev
    teachers: [whisper]
    set: {{model: {{layer_map: "2:4"}}}}
  finetune:
    recipe: {examples}/colld/prompts/finetune.yaml
    updates: 2
    rate: 1e-3
    set: {{model: {{decoder_layers: 1, decoder_embed_dim: 16, decoder_ffn_embed_dim: 20}}}}
tests:
  asr: {{subset: test_asr, options: [--decoder, ctc, --beam, "1", --post-process, letter, --max-tokens, "480000"]}}
  asr_lm: {{subset: test_asr, ngram_lm: true, options: [--decoder, ctc, --beam, "2", --ngram-lm-weight, "0.5"]}}
systems:
  mix: {{label: mix}}
  scratch: {{label: from scratch, stages: {{distil: null, finetune: {{updates: sum}}}}}}
comparisons:
  - {{question: mix over scratch, system: mix, baselines: [scratch], test: asr, measure: cer}}
"""
COMMON = """
title: A campaign in miniature
claims: [claim.yaml]
teachers: {whisper: null}
layers: {whisper: "4"}
corpora: {synthetic: {hours: 0.01}}
unlabeled: {}
data: {tiny: {corpora: [synthetic]}}
speeds: {distillation: 50, recognition: 40, features: 23, decoding: 20}
max_tokens: 60000
optimizer: {optimizer: {_name: fused_adam, adam_betas: "(0.9,0.98)", adam_eps: 1e-8, weight_decay: 0.01}}
"""


def test_a_claim_in_miniature(corpus_folder, teacher, tmp_path, monkeypatch, capsys):
    """Manifests, vocabulary, features, both stages, decoding, scores; verdict, costs, and where figures come from."""
    monkeypatch.chdir(REPOSITORY)
    (tmp_path / "campaign.yaml").write_text(COMMON)
    (tmp_path / "claim.yaml").write_text(MINIATURE.format(examples=REPOSITORY / "examples"))
    out = tmp_path / "out"
    args = arguments(
        [str(tmp_path / "claim.yaml"), str(out), "--teachers", f"whisper={teacher}",
         "--corpora", f"synthetic={corpus_folder}", "--precision", "bfloat16"]
    )  # fmt: skip
    campaign = read_campaign(args.plan)
    builder = Builder(campaign, out, resolve(campaign, campaign.claims, args))
    (claim,) = campaign.claims
    needed = builder.needed_by(claim_jobs(builder, claim))
    for name in needed:
        if builder.jobs[name].config is not None:
            builder.jobs[name].config["common"]["cpu"] = True
    (before,) = write_report(builder, campaign.claims, MACHINE)
    assert before.verdicts[0].reasons == ["mix is not there yet", "scratch is not there yet"]

    run_here(out, [builder.jobs[name] for name in needed])
    seconds = {name: 36.0 if name.startswith("distil") else 72.0 for name in needed}
    for name in needed:
        (out / f"{name}.done").write_text(json.dumps({"seconds": 1.0, "core_seconds": seconds[name]}))
    (judged,) = write_report(builder, campaign.claims, MACHINE)
    (result,) = judged.verdicts
    assert (result.seeds, result.utterances) == (1, len(read_manifest(str(out / "data/tiny/test_asr.tsv"))))
    files = {name: [] for name in claim.systems}
    for one in judged.trained:
        files[one.system.name].append(out / one.run.last / "asr" / "generate-test_asr.txt")
    for name, paths in files.items():
        lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
        references = [line.partition("\t")[2] for line in lines if line.startswith("T-")]
        hypotheses = [line.split("\t")[2] if line.count("\t") > 1 else "" for line in lines if line.startswith("D-")]
        assert len(references) == len(hypotheses) == result.utterances
        assert result.scores[name] == pytest.approx(100 * jiwer.cer(references, hypotheses))
    assert judged.hours == pytest.approx({"mix": (36 + 72) / 3600, "scratch": 72 / 3600})
    assert result.reasons == ["unequal compute: 0.03 against 0.02 core-hours per seed"]

    report, page = json.loads((out / "report.json").read_text()), (out / "report.md").read_text()
    (content,) = report["claims"]
    for source in content["sources"]:
        for path in (*source["scores"].values(), *source["hypotheses"].values()):
            assert (out / path).exists()
        assert all(
            (out / f"{job}.log").is_file() and (out / f"{job}.yaml").is_file() for job in source["stages"].values()
        )
    assert f"**{content['verdict']}**" in page and "mix over scratch" in page and (out / "claim1.png").stat().st_size
    assert content["missing"] == []

    # A run that was stopped for good.
    scratch = next(one.run.last for one in judged.trained if one.system.name == "scratch")
    (out / f"{scratch}.done").unlink()
    (out / f"{scratch}.stopped").write_text(json.dumps({"reason": "plateau: it learns nothing", "seconds": 1}))
    (judged,) = write_report(builder, campaign.claims, MACHINE)
    assert judged.verdicts[0].verdict == UNDECIDED
    assert "scratch was stopped (seed 3" in (out / "report.md").read_text()

    # The command itself, when nothing is left to do; what was given once need not be given again.
    assert run_campaign(args) == 0
    told = capsys.readouterr().out
    assert re.search(r"claim1 +2 +1 +3 +0\.\d +0\.0 +0\.0", told) and "**undecided here**" in told
    assert run_campaign(arguments([str(args.plan), str(out), "--report-only"])) == 0
    assert run_campaign(arguments([str(args.plan), str(out), "--dry-run"])) == 0
    assert "written" not in capsys.readouterr().out.partition("speeds:")[2]
