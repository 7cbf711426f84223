"""Going through the utterances of a manifest: which, in what order, and what is done about bad ones."""

import numpy as np
import pytest
import torch

from colld_fairseq.cli.terminal import Console
from colld_fairseq.data import utterances
from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.errors import AudioError


@pytest.fixture
def manifest(corpus):
    return join_manifests([read_manifest(str(corpus / "train.tsv")), read_manifest(str(corpus / "valid.tsv"))])


def names(manifest):
    return [manifest.text("id", row) for row in range(len(manifest))]


def test_repeated_ids_count_once():
    assert utterances.distinct_rows(["a", "b", "a", "c", "b"]).tolist() == [0, 1, 3]


def test_sample_keeps_to_the_seconds_and_the_seed():
    sizes = np.full(100, 16000)
    rows = np.arange(10, 100)
    drawn = utterances.sample_rows(rows, sizes, 20.0, seed=3)
    assert len(drawn) == len(set(drawn)) == 20 and (np.diff(drawn) > 0).all() and drawn.min() >= 10
    assert np.array_equal(drawn, utterances.sample_rows(rows, sizes, 20.0, seed=3))
    assert not np.array_equal(drawn, utterances.sample_rows(rows, sizes, 20.0, seed=4))
    assert np.array_equal(utterances.sample_rows(rows, sizes, None, seed=3), rows)
    assert np.array_equal(utterances.sample_rows(rows, sizes, 1e9, seed=3), rows)
    assert len(utterances.sample_rows(rows, sizes, 0.5, seed=3)) == 1  # never none


def test_batches_hold_every_row_once_and_no_more_samples_than_allowed():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 1000, 200)
    rows = np.arange(0, 200, 2)
    batches = list(utterances.plan_batches(rows, sizes, 3000))
    assert sorted(np.concatenate(batches)) == rows.tolist()
    assert all(len(batch) * sizes[batch].max() <= 3000 for batch in batches)
    assert len(batches) < 40
    assert [len(batch) for batch in utterances.plan_batches(rows[:3], sizes + 5000, 3000)] == [1, 1, 1]


def test_reading_ahead_keeps_order_and_reads_no_further_than_needed(manifest):
    asked = []

    def batches():
        for row in range(0, len(manifest), 2):
            asked.append(row)
            yield np.array([row, row + 1])

    batches_read = utterances.read_ahead(manifest, names(manifest), batches())
    first = next(batches_read)
    assert len(asked) == utterances.AHEAD + 1
    read = [*first, *(utterance for batch in batches_read for utterance in batch)]
    assert [utterance.id for utterance in read] == names(manifest)
    assert [len(utterance.waveform.result()) for utterance in read] == manifest.n_samples.tolist()


def test_usable_utterances(manifest, tmp_path):
    (tmp_path / "list.tsv").write_text(f"{tmp_path}\nnone.wav\t16000\n")
    missing = read_manifest(str(tmp_path / "list.tsv"))
    (batch,) = utterances.read_ahead(manifest, names(manifest), [np.arange(4)])
    (gone,) = utterances.read_ahead(missing, ["gone"], [np.array([0])])
    limit = int(np.sort(manifest.n_samples[:4])[1])
    bad = {}
    ids, waveforms = utterances.usable([*batch, *gone], lambda samples: torch.div(samples, limit).int(), bad)
    assert len(ids) == 3 and sorted(bad) == sorted(set(names(manifest)[:4] + ["gone"]) - set(ids))
    assert all(waveform.dtype == torch.float32 and len(waveform) >= limit for waveform in waveforms)
    assert utterances.usable(batch, lambda samples: samples, {}, max_samples=limit)[0] == [
        name for name, samples in zip(names(manifest), manifest.n_samples[:4]) if samples <= limit
    ]
    assert "none.wav" in bad["gone"] and "too few for one frame" in " ".join(bad.values())


def test_bad_utterances_are_fatal_past_the_limit(capsys):
    bad = utterances.BadUtterances(1000, 0.002)
    bad.update({"a": "why a"})
    bad.update({"b": "why b"})
    Console().left_out(bad)
    assert "2 of 1000 utterances cannot be used, left out:\n  a: why a\n  b: why b" in capsys.readouterr().out
    with pytest.raises(
        AudioError, match="3 of 1000 utterances .* more than the 2 that --max-bad allows(.|\n)*c: why c"
    ):
        bad.update({"c": "why c"})
    utterances.BadUtterances(3, 0.0).update({"a": "one is always allowed"})
    many = utterances.BadUtterances(1000, 1.0)
    many.update({str(i): "why" for i in range(utterances.SHOWN + 2)})
    Console().left_out(many)
    assert "and 2 more" in capsys.readouterr().out
