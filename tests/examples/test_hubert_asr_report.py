"""The report of the student comparison: means over languages and seeds, gains with the right sign, what is missing."""

import json
import statistics

import pytest
from commands import REPOSITORY
from job_checks import load_script

from colld_fairseq.scoring.report import build_report
from colld_fairseq.scoring.sentences import Sentence

REFERENCE = "one two three four"
# Wrong sentences (of 2 German and 4 English ones) of each arm and seed.
BROKEN = {
    ("deep_thin", "regression", "1"): (2, 2),
    ("deep_thin", "regression", "2"): (2, 4),
    ("deep_thin", "discriminative", "1"): (1, 1),
    ("deep_thin", "discriminative", "2"): (1, 1),
    ("teacher", "fine_tuned", "1"): (0, 0),
}


@pytest.fixture(scope="module")
def report():
    return load_script(REPOSITORY / "examples" / "hubert_asr" / "report.py", "hubert_asr_report")


@pytest.fixture
def out(tmp_path):
    """Five runs; the second seed of the teacher is missing altogether, and so is what the encoders measure."""
    for (student, arm, seed), (german, english) in BROKEN.items():
        folder = tmp_path / student / arm / f"seed{seed}" / "10min"
        folder.mkdir(parents=True)
        sentences = [Sentence("x" if i < german else REFERENCE, REFERENCE, "de", "de") for i in range(2)]
        sentences += [Sentence("x" if i < english else REFERENCE, REFERENCE, "en", "en") for i in range(4)]
        (folder / "greedy.json").write_text(json.dumps(build_report(sentences)))
        valid = {"dev_asr_cer": "30.5", "dev_asr_num_updates": "7"}
        lines = [{"num_updates": "7", "wall": "60"}, valid]
        (folder / "finetune.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if student != "teacher":
            (folder.parent / "distil.log").write_text(json.dumps({"num_updates": "9", "wall": "120"}) + "\n")
    runs = [*BROKEN, ("teacher", "fine_tuned", "2")]
    (tmp_path / "settings.json").write_text(json.dumps(dict(runs=runs, label_minutes=["10"], lm="None")))
    return tmp_path


def test_languages_count_alike_and_seeds_are_averaged(report, out, capsys):
    assert report.main([str(out)]) == 1
    result = json.loads((out / "report.json").read_text())
    summary = result["summary"]["greedy"]["10"]
    seeds = [100 * (1 + 2 / 4) / 2, 100.0]  # WER of German and English, both seeds
    wer, deviation = summary["deep_thin/regression"]["mean"]["wer"]
    assert (wer, deviation) == pytest.approx((statistics.mean(seeds), statistics.stdev(seeds)))
    assert summary["deep_thin/regression"]["en"]["wer"][0] == pytest.approx(75)
    assert summary["teacher/fine_tuned"]["mean"]["wer"] == [0, None]  # of the one seed there is

    printed = capsys.readouterr().out
    gain = 100 * (87.5 - 100 * (1 / 2 + 1 / 4) / 2) / 87.5
    for page in (printed, (out / "report.md").read_text()):
        assert f"+{gain:.1f}" in page and "87.5 ± 17.7" in page
        assert "9 updates, 2.0 min" in page and "7 updates, 1.0 min" in page and "30.5" in page
        assert "S&W" not in page  # no such run
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_named(report, out):
    missing = report.collect(out)["missing"]
    names = {text.split(":")[0].removeprefix(f"{out}/") for text in missing}
    run = "teacher/fine_tuned/seed2/10min"
    assert names == {"profile.json", f"{run}/greedy.json", f"{run}/finetune.log"}


def test_encoders_beside_the_teacher_and_the_waveform_student(report, out):
    speed = [{"batch_size": 1, "rtf": 0.5}]
    sizes = dict(mb_float32=1.0, mb_stored=1.0, gmacs_per_10s=1.0, speed=speed)
    path = "/x/{}/adapted/seed1/10min/finetune/checkpoint_best.pt"
    models = [
        dict(role="student", source=path.format("deep_thin"), parameters=50, **sizes),
        dict(role="student", source=path.format("deep_thin_fbank"), parameters=40, **sizes),
        dict(role="teacher", source="fairseq:/x/hubert.pt", parameters=200, **sizes),
    ]
    machine = dict(cpu="Abacus", cores=2, gpu=None, torch="2", python="3")
    (out / "profile.json").write_text(json.dumps(dict(machine=machine, threads=1, models=models)))
    rows = {row[0]: row[-2:] for row in report.sizes(report.collect(out)).rows}
    assert rows["deep_thin_fbank"] == ["-80.0 %", "-20.0 %"] and rows["deep_thin"] == ["-75.0 %", "+0.0 %"]


def test_folder_that_is_none(report, tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert "run.py" in capsys.readouterr().err
