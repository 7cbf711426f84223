"""`colld cmvn`, and training with the file it writes."""

import shutil

import fairseq_layouts
import numpy as np
import pytest

from colld_fairseq.cli import main
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.stored_fbank import read_stored_fbank
from colld_fairseq.errors import AudioError


def filterbanks(*paths):
    manifests = [read_manifest(str(path)) for path in paths]
    return [log_mel_fbank(read_audio(m.audio_path(row))) for m in manifests for row in range(len(m))]


def test_statistics_are_those_of_all_frames_together(corpus, tmp_path, capsys):
    out = tmp_path / "new" / "stats"  # numpy alone would append .npz
    assert main(f"cmvn --manifest {corpus}/valid.tsv,{corpus}/test.tsv --out {out}".split()) == 0
    frames = np.concatenate(filterbanks(corpus / "valid.tsv", corpus / "test.tsv")).astype(np.float64)
    statistics = GlobalCmvn.load(str(out))
    np.testing.assert_allclose(statistics.mean, frames.mean(0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(statistics.std, frames.std(0), rtol=0, atol=1e-9)
    assert [path.name for path in out.parent.iterdir()] == ["stats"]
    assert "19 utterances" in capsys.readouterr().out


def test_statistics_of_icefall_filterbanks(corpus, finetuning, tmp_path):
    """A student that is trained with them takes such filterbanks, without being told."""
    out = tmp_path / "stats.npz"
    assert main(f"cmvn --manifest {corpus}/valid.tsv --out {out} --fbank icefall".split()) == 0
    manifest = read_manifest(str(corpus / "valid.tsv"))
    waveforms = [read_audio(manifest.audio_path(row)) for row in range(len(manifest))]
    frames = np.concatenate([log_mel_fbank(one, variant="icefall") for one in waveforms]).astype(np.float64)
    np.testing.assert_allclose(GlobalCmvn.load(str(out), variant="icefall").mean, frames.mean(0), rtol=0, atol=1e-9)
    run = finetuning("--cmvn", out)
    run.task.load_dataset("valid")
    source = run.task.dataset("valid")[0]["source"]
    expected = (log_mel_fbank(waveforms[0], variant="icefall") - frames.mean(0)) / frames.std(0)
    np.testing.assert_allclose(source, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(AudioError, match="stats.npz: .* of icefall filterbanks, but kaldi ones are asked for"):
        finetuning("--cmvn", out, "--fbank", "kaldi")


def test_stored_filterbanks_are_of_kaldi(fairseq_data, tmp_path, capsys):
    command = f"cmvn --manifest {fairseq_data}/dev.tsv --out {tmp_path}/stats.npz --fbank icefall".split()
    assert main(command) == 2 and not (tmp_path / "stats.npz").exists()
    error = " ".join(capsys.readouterr().err.split())
    assert "dev.tsv:2: " in error and "--fbank icefall needs the waveform" in error and "--fbank kaldi" in error


def test_stored_filterbanks(fairseq_data, tmp_path, capsys):
    rows, out = read_manifest(str(fairseq_data / "dev.tsv")), tmp_path / "stats.npz"
    assert main(f"cmvn --manifest {fairseq_data}/dev.tsv --out {out}".split()) == 0
    theirs = fairseq_layouts.scripts().cal_gcmvn_stats([read_stored_fbank(rows.audio_path(i), 80) for i in range(10)])
    statistics = GlobalCmvn.load(str(out))
    np.testing.assert_allclose(statistics.mean, theirs["mean"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(statistics.std, theirs["std"], rtol=1e-2)
    assert "10 utterances" in capsys.readouterr().out
    np.save(tmp_path / "broken.npy", np.full((20, 80), np.nan))
    content = (fairseq_data / "dev.tsv").read_text() + f"bad\t{tmp_path}/broken.npy\t20\tx\ts\tx\txx\txx\n"
    (tmp_path / "m.tsv").write_text(content)
    assert main(f"cmvn --manifest {tmp_path}/m.tsv --out {out}".split()) == 0
    assert np.array_equal(GlobalCmvn.load(str(out)).mean, statistics.mean) and "left out" in capsys.readouterr().out


def test_a_sample_is_drawn_by_the_seed(corpus, tmp_path, capsys):
    def means(name, *more):
        out = tmp_path / name
        command = f"cmvn --manifest {corpus}/train.tsv --out {out} --max-hours 0.0015".split()
        assert main([*command, *more]) == 0
        utterances = int(capsys.readouterr().out.split(f"{out}: ")[1].split()[0])
        assert 2 <= utterances <= 12
        return GlobalCmvn.load(str(out)).mean

    first = means("a")
    assert np.array_equal(first, means("b")) and not np.allclose(first, means("c", "--seed", "2"))


def test_bad_utterances_are_counted_named_and_limited(corpus, tmp_path, capsys):
    lines = (corpus / "valid.tsv").read_text().splitlines()
    audio = tmp_path / "audio"
    shutil.copytree(corpus, audio)
    victims = [line.split("\t")[1] for line in lines[1:] if line.split("\t")[1].endswith(".wav")][:2]
    (audio / victims[0]).write_bytes(b"not audio")
    out = tmp_path / "stats.npz"
    command = f"cmvn --manifest {audio}/valid.tsv --out {out}".split()
    assert main(command) == 0 and out.is_file()
    printed = capsys.readouterr().out
    assert "1 of 10 utterances cannot be used, left out" in printed and victims[0] in printed
    out.unlink()
    (audio / victims[1]).unlink()
    assert main(command) == 2 and not out.exists()
    assert "2 of 10 utterances cannot be used, more than the 1" in capsys.readouterr().err
    assert main([*command, "--max-bad", "0.2"]) == 0


def test_hours_must_be_positive(corpus, tmp_path, capsys):
    assert main(f"cmvn --manifest {corpus}/valid.tsv --out {tmp_path}/x --max-hours 0".split()) == 2
    assert "--max-hours: '0' is not a finite number above 0" in capsys.readouterr().err


@pytest.fixture(params=["distillation", "finetuning"])
def build(request):
    return request.getfixturevalue(request.param)


def test_both_stages_train_on_the_normalized_filterbanks(build, corpus, tmp_path):
    out = tmp_path / "stats.npz"
    assert main(f"cmvn --manifest {corpus}/train.tsv --out {out}".split()) == 0
    run = build("--cmvn", out)
    run.task.load_dataset("test")
    source = run.task.dataset("test")[0]["source"]
    statistics = GlobalCmvn.load(str(out))
    expected = (filterbanks(corpus / "test.tsv")[0] - statistics.mean) / statistics.std
    np.testing.assert_allclose(source, expected, rtol=1e-4, atol=1e-4)


def test_statistics_of_other_filterbanks_are_refused_before_training(build, tmp_path):
    path = tmp_path / "forty.npz"
    GlobalCmvn(np.zeros(40), np.ones(40)).save(str(path))
    with pytest.raises(AudioError, match=r"forty\.npz.*\(40,\).*80 bins.*colld cmvn"):
        build("--cmvn", path).task.load_dataset("test")
