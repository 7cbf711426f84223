import io
import subprocess
import sys

import pytest
import soundfile
from commands import PACKAGE, environment

from colld_fairseq.cli import doctor, main
from colld_fairseq.cli.doctor import installation
from colld_fairseq.cli.terminal import Console


def report():
    output = io.StringIO()
    code = doctor.report_installation(Console(file=output, width=200))
    return code, output.getvalue()


def test_this_installation_works():
    code, text = report()
    assert code == 0, text
    assert f"--user-dir {PACKAGE}" in text
    for name in ("fairseq", "torch", "hydra-core", "transformers", "audio: opus", "audio: mp3"):
        assert any(line.startswith(name) and "works" in line for line in text.splitlines()), name
    assert "speech_distillation" in text and "Not working" not in text


def test_a_codec_that_does_not_work_is_named_with_its_remedy(monkeypatch):
    write = soundfile.write

    def without_opus(stream, samples, rate, format, subtype):
        if subtype == "OPUS":
            raise soundfile.LibsndfileError(1)
        write(stream, samples, rate, format=format, subtype=subtype)

    monkeypatch.setattr(soundfile, "write", without_opus)
    code, text = report()
    assert code == 1
    mended = text.split("Not working:")[1]
    assert f"audio: opus: {sys.executable} -m pip install --upgrade 'soundfile>=0.13'" in mended
    assert "audio: flac" not in mended


def test_a_codec_that_returns_noise_is_broken(monkeypatch):
    monkeypatch.setattr(soundfile, "read", lambda stream: (0 * installation.np.ones(8000), 16000))
    assert {finding.state for finding in installation.codecs()} == {"broken"}


@pytest.mark.parametrize("name, state, code", [("soxr", "broken", 1), ("kenlm", "optional", 0)])
def test_missing_packages(name, state, code, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    exit_code, text = report()
    assert exit_code == code
    title = "Not working:" if state == "broken" else "Optional:"
    assert f"{name}: {sys.executable} -m pip install '{name}'" in text.split(title)[1]


def test_it_starts_without_a_usable_fairseq(tmp_path):
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "__init__.py").write_text("raise ImportError('built for another Python')\n")
    code = "import sys; from colld_fairseq.cli import main; sys.exit(main(['doctor']))"
    paths = f"{tmp_path}:{PACKAGE.parent}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=paths, COLUMNS="200"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "built for another Python" in done.stdout
    assert "fairseq: " + f"{sys.executable} -m pip install --no-deps ve-fairseq" in done.stdout


def test_manifests(corpus, vocab, tmp_path, capsys):
    assert (
        main(
            [
                "doctor",
                "--manifest",
                f"{corpus}/test.tsv,{corpus}/valid.tsv",
                "--vocab",
                str(vocab),
                "--workers",
                "1",
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "9 rows" in text and "10 rows" in text and "out of vocabulary: 0.000 %" in text
    (tmp_path / "bad.tsv").write_text("id\taudio\tn_frames\ttgt_text\na\tgone.wav\t8000\tx\n")
    assert main(["doctor", "--manifest", str(tmp_path / "bad.tsv"), "--workers", "1"]) == 1
    assert main(["doctor", "--manifest", str(corpus / "test.tsv"), "--vocab", "/nowhere"]) == 2
