import io
from pathlib import Path

import numpy as np
import soundfile

from colld_fairseq.cli.doctor.manifest import report_manifest
from colld_fairseq.cli.terminal import Console

SAMPLES = Path(__file__).resolve().parents[2] / "manifests" / "samples"
HEADER = "id\taudio\tn_frames\ttgt_text\tsrc_lang\n"


def run(paths, **options):
    output = io.StringIO()
    code = report_manifest([str(path) for path in paths], console=Console(file=output, width=120), **options)
    return code, output.getvalue()


def test_samples_pass():
    code, text = run([SAMPLES / "audio_only.tsv", SAMPLES / "speech_to_text.tsv"], decode=True)
    assert code == 0
    assert text.count("4 rows") == 2 and text.count("no errors (every sample was read)") == 2
    assert "en>he" in text and "out of vocabulary" not in text


def test_errors_are_named_with_lines_and_remedy(tmp_path):
    soundfile.write(tmp_path / "ok.wav", np.full(8000, 0.1), 16000)
    rows = ["a\tok.wav\t8000\t[b]x[/b]\tde\n", "b\tgone [red].wav\t8000\tx\tde\n", "c\tok.wav\t8000\t\tde\n"]
    rows += [f"d{i}\tgone.wav\t8000\tx\tde\n" for i in range(20)]
    path = tmp_path / "m.tsv"
    path.write_text(HEADER + "".join(rows))
    code, text = run([path], workers=1)
    assert code == 1
    assert f"{path}:3  b  {tmp_path}/gone [red].wav: cannot be read (No such file or directory)" in text
    assert "and 16 more" in text and "3, 5, 6, 7, 8, 9, 10, 11, 12, 13, …" in text
    assert "correct the path" in text and "mend them before training" in text
    assert f"{path}:4  c  tgt_text is empty" in text


def test_warnings_do_not_fail(tmp_path):
    soundfile.write(tmp_path / "ok.wav", np.full(8000, 0.1), 16000)
    (tmp_path / "dict.txt").write_text("a 1\n| 1\n")
    path = tmp_path / "m.tsv"
    path.write_text(HEADER + "r1\tok.wav\t8000\ta [z]\tde\n")
    code, text = run([path], dictionary=str(tmp_path / "dict.txt"))
    assert code == 0
    assert "60.000 % of 5 tokens; most frequent: '[' 'z' ']'" in text and "headers only" in text


def test_unreadable_manifest_does_not_hide_the_others(tmp_path):
    bad = tmp_path / "bad.tsv"
    bad.write_text(HEADER + "a\tok.wav\t8000\tone\ttwo\tde\n")
    code, text = run([bad, tmp_path / "none.tsv", SAMPLES / "audio_only.tsv"])
    assert code == 1
    assert f"error {bad}:2: 1 row(s) do not have 5 tab-separated fields" in text
    assert "none.tsv: cannot be read" in text and "4 rows" in text
