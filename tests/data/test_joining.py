"""Utterances joined to windows: every one once, in windows of all lengths, of one language; audio and text in order."""

import numpy as np
import pytest

from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.datasets import DatasetOptions, SpeechDataset
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.joining import JoinedUtterances, Joining, join
from colld_fairseq.data.manifest import Row, read_manifest
from colld_fairseq.data.perturbation import Perturbation
from colld_fairseq.modules.input_config import InputConfig


@pytest.fixture
def rows(corpus):
    return read_manifest(str(corpus / "train.tsv"))


def make(rows, joining, **options):
    options = dict(dict(train=True, keep_waveform=True), **options)
    options.setdefault("epoch_rows", lambda epoch: np.random.default_rng(epoch).permutation(len(rows)))
    dataset = SpeechDataset(rows, StudentInput(InputConfig.waveforms()), DatasetOptions(**options))
    return JoinedUtterances(dataset, joining)


def test_windows_of_many_rows():
    generator = np.random.default_rng(3)
    n_samples, groups = generator.integers(8000, 48000, 20000), generator.integers(0, 3, 20000)
    order = generator.permutation(20000)
    windows = Joining(30.0, padded=0.25).windows(order, n_samples, groups, generator)
    used = np.array([row for window in windows for row in window.rows])
    assert np.array_equal(np.sort(used), np.arange(20000))
    for group in range(3):  # in the order that they were drawn in
        assert np.array_equal(used[groups[used] == group], order[groups[order] == group])
    assert all(len(set(groups[list(window.rows)])) == 1 for window in windows)
    content = np.array([n_samples[list(window.rows)].sum() for window in windows]) / 16000
    assert content.max() <= 30
    shares = np.histogram(content, bins=[0, 5, 10, 15, 20, 25, 30])[0] / len(content)
    assert shares.min() > 0.08 and shares.max() < 0.25  # every length
    padded = np.array([window.padded for window in windows])
    assert padded.mean() == pytest.approx(0.25, abs=0.02)
    sizes = np.array([window.n_samples for window in windows])
    assert (sizes[padded] == 480000).all() and np.array_equal(sizes[~padded] / 16000, content[~padded])


def test_slower_utterances_are_not_cut(rows):
    """Windows leave space for what perturbation lengthens: the joined audio ends with its last utterance's end."""
    joining = Joining(2.0, stretch=1 / (1 - 0.3))
    dataset = make(rows, joining, perturbation=Perturbation(speed=0.3, max_samples=joining.max_samples))
    pieces = []
    whole = dataset.dataset.recording
    dataset.dataset.recording = lambda *args, **options: pieces.append(whole(*args, **options)) or pieces[-1]
    several = [index for index, window in enumerate(dataset.windows) if len(window.rows) > 1]
    assert len(several) > 3
    for index in several:
        pieces.clear()
        waveform = dataset[index]["waveform"]
        assert np.array_equal(waveform, np.concatenate(pieces)) and len(waveform) <= dataset.size(index)


def test_a_longer_utterance_is_a_window_of_its_own(rows):
    joining = Joining(0.5)
    dataset = make(rows, joining)
    windows = joining.windows(np.arange(len(rows)), rows.n_samples, np.zeros(len(rows)), np.random.default_rng(1))
    longer = [window for window in windows if max(rows.n_samples[list(window.rows)]) > 8000]
    assert len(longer) > 10 and all(len(window.rows) == 1 and window.n_samples == 8000 for window in longer)
    assert all(len(dataset[index]["waveform"]) == dataset.size(index) <= 8000 for index in range(len(dataset)))


def test_audio_and_silence(rows):
    dataset = make(rows, Joining(30.0, padded=0.5))
    seen = []
    for index, window in enumerate(dataset.windows):
        expected = np.concatenate([read_audio(rows.audio_path(row)) for row in window.rows])
        waveform = dataset[index]["waveform"]
        assert np.array_equal(waveform[: len(expected)], expected) and not waveform[len(expected) :].any()
        assert len(waveform) == window.n_samples == (480000 if window.padded else len(expected))
        assert dataset[index]["utt_id"] == "+".join(rows.ids[row] for row in window.rows)
        seen.append(window.padded)
    assert len(seen) < len(rows) and any(len(window.rows) > 1 for window in dataset.windows)
    batch = dataset.collater([dataset[0], dataset[1]])
    assert batch["nsentences"] == 2 and batch["net_input"]["src_lengths"].tolist() == dataset.sizes[:2].tolist()


def test_drawn_anew_in_every_epoch_and_alike_after_a_restart(rows):
    dataset, fresh = make(rows, Joining(10.0)), make(rows, Joining(10.0))
    first = list(dataset.windows)
    dataset.set_epoch(2)
    assert first != dataset.windows
    fresh.set_epoch(2)
    assert fresh.windows == dataset.windows
    assert np.array_equal(fresh.ordered_indices(), dataset.ordered_indices())
    assert np.array_equal(np.sort(dataset.ordered_indices()), np.arange(len(dataset)))
    assert (np.diff(dataset.sizes[dataset.ordered_indices()]) >= 0).all()
    perturbed = make(rows, Joining(10.0), perturbation=Perturbation(speed=0.1), keep_in_memory=True)
    again = make(rows, Joining(10.0), perturbation=Perturbation(speed=0.1))
    assert np.array_equal(perturbed[1]["waveform"], again[1]["waveform"])
    assert np.array_equal(perturbed[1]["waveform"], perturbed[1]["waveform"])
    assert not np.array_equal(perturbed[1]["waveform"], dataset[1]["waveform"])


def test_what_cannot_be_read_is_left_out_of_its_window(rows):
    dataset = make(rows, Joining(30.0), unusable={rows.ids[3]: "its end is missing"}, bad_audio_share=0.5)
    index = next(index for index, window in enumerate(dataset.windows) if 3 in window.rows)
    others = [row for row in dataset.windows[index].rows if row != 3]
    assert others, "this corpus has more than one utterance in a window"
    for _ in range(2):
        assert dataset[index]["utt_id"] == "+".join(rows.ids[row] for row in others)
        assert dataset.bad_audio.count == 1
    alone = make(rows, Joining(0.1), unusable={rows.ids[3]: "its end is missing"}, bad_audio_share=0.5)
    index = next(index for index, window in enumerate(alone.windows) if 3 in window.rows)
    assert alone[index] is None
    assert alone.collater([None])["nsentences"] == 1  # another one in its place


def test_text_of_joined_rows():
    rows = [Row("a", "a.wav", 10, "bonjour", src_lang="fr", tgt_lang="fr"), Row("b", "b.wav", 20, "le monde")]
    joined = join(rows)
    assert (joined.id, joined.n_samples, joined.tgt_text, joined.src_lang) == ("a+b", 30, "bonjour le monde", "fr")


def test_language_pairs_stay_apart(tmp_path):
    pairs = [("fr", "fr"), ("fr", "en"), ("de", "fr"), ("de", "de")] * 8
    lines = [f"{i}\t{i}.wav\t16000\ttext\t{source}\t{target}" for i, (source, target) in enumerate(pairs)]
    path = tmp_path / "train.tsv"
    path.write_text("\n".join(["id\taudio\tn_frames\ttgt_text\tsrc_lang\ttgt_lang", *lines]) + "\n")
    dataset = make(read_manifest(str(path)), Joining(30.0))
    assert max(len(window.rows) for window in dataset.windows) > 1
    assert all(len({pairs[row] for row in window.rows}) == 1 for window in dataset.windows)
