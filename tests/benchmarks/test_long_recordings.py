import json

import jiwer
import long_recordings
import numpy as np
import pytest
import soundfile
from checkpoints import save_ctc

from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifests


def test_recordings_are_their_utterances(corpus, tmp_path):
    rows = read_manifests(str(corpus / "test.tsv"))
    chosen = long_recordings.drawn(rows, 12)
    assert sorted(chosen[: len(rows)]) == list(range(len(rows))) and len(chosen) > len(rows)
    joined = long_recordings.join(rows, chosen, False, tmp_path / "joined.flac")
    samples, _ = soundfile.read(joined.path)
    whole = np.concatenate([read_audio(rows.audio_path(row)) for row in chosen])
    np.testing.assert_allclose(samples, np.clip(whole, -1, 1), atol=1e-4)
    paused = long_recordings.join(rows, chosen, True, tmp_path / "pauses.flac")
    assert 0.3 * len(chosen) < paused.seconds - joined.seconds < 2 * len(chosen)


def test_errors_of_words_are_those_of_jiwer():
    pairs = [("The cat sat, on a mat.", "the cat sad on mat"), ("a b c", "a x b c d"), ("one", "")]
    references, hypotheses = zip(
        *((" ".join(long_recordings.words(a)), " ".join(long_recordings.words(b))) for a, b in pairs)
    )
    assert long_recordings.wer(pairs) == pytest.approx(100 * jiwer.wer(list(references), list(hypotheses)))
    assert long_recordings.wer([("It's Mat's.", "it's  MAT'S")]) == 0


@pytest.mark.slow
def test_a_small_run(corpus, vocab, tmp_path, monkeypatch):
    """Among other things it kills a run in the middle and begins it again."""
    checkpoint = save_ctc(tmp_path / "model.pt", corpus, "full", "--vocab", vocab, "--cmvn", "none")
    monkeypatch.setattr(long_recordings, "ways", lambda: {"quiet": []})
    given = [
        "--manifest",
        str(corpus / "test.tsv"),
        "--checkpoint",
        checkpoint,
        "--seconds",
        "60",
        "--cut-seconds",
        "1",
    ]
    monkeypatch.setattr("sys.argv", ["long_recordings.py", *given, "--json", str(tmp_path / "long.json")])
    long_recordings.main()
    result = json.loads((tmp_path / "long.json").read_text())
    assert [row["recording"] for row in result["recordings"]] == ["pauses", "joined"]
    for row in result["recordings"]:
        assert row["wer"] > 0 and row["rtf"] > 0 and row["above_a_quarter_mb"] < 50 < row["peak_mb"]
    assert result["killed"]["same_text"] and 10 < result["killed"]["pieces_before"] < 120
