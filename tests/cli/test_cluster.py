"""`colld cluster`: codebooks from caches and teachers, taken up again after a stop; labels that fairseq reads."""

import json

import numpy as np
import pytest
import soundfile
import torch
from fairseq.data import Dictionary
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig, HubertPretrainingTask
from safetensors import safe_open
from safetensors.numpy import save
from sklearn.metrics import adjusted_rand_score

from colld_fairseq.cli import main
from colld_fairseq.cli import run as commands
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import AudioError, ConfigError, TeacherError
from colld_fairseq.teachers import cache_files, cluster_fit, hubert_labels, load_teacher
from colld_fairseq.teachers.codebook import Codebook
from colld_fairseq.teachers.codes import load_codes
from colld_fairseq.teachers.frame_source import CacheSource

LAYER, CLUSTERS = 3, 6


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Six shards or so a pass, a state after each."""
    monkeypatch.setattr(cache_files, "PART_SECONDS", 4)
    monkeypatch.setattr(cluster_fit, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(cluster_fit, "SAMPLE_FRAMES", 60)


@pytest.fixture(scope="module")
def cache(corpus, teacher, tmp_path_factory):
    """Features of the training and validation utterances."""
    folder = tmp_path_factory.mktemp("cache")
    manifests = f"{corpus}/train.tsv,{corpus}/valid.tsv"
    command = f"features --manifest {manifests} --teacher {teacher} --layers {LAYER} --out {folder}"
    assert main(command.split()) == 0
    return folder


@pytest.fixture
def fit(tmp_path):
    """fit(options) -> (centroids, header); the command's errors come through."""

    def run(*options, out="codes.safetensors"):
        base = ["--layer", LAYER, "--num-clusters", CLUSTERS, "--out", tmp_path / out]
        assert commands(["cluster", *map(str, [*base, *options])]) == 0
        book = Codebook.load(tmp_path / out)
        return book.centroids, book.header

    return run


def assignments(book, teacher, manifest):
    """Clusters of all frames of a manifest, by distance to the centroids; {id: [T]}."""
    model = load_teacher(teacher, [LAYER])
    result = {}
    for row in range(len(manifest)):
        waveform = torch.from_numpy(read_audio(manifest.audio_path(row)))
        hidden = model(waveform[None], torch.tensor([len(waveform)])).features[LAYER][0]
        distance = (((hidden - book.mean) / book.std)[:, None] - book.centroids).square().sum(-1)
        result[manifest.text("id", row)] = distance.argmin(-1).numpy()
    return result


def test_cache_and_teacher_agree(fit, corpus, teacher, cache, tmp_path):
    manifest = corpus / "train.tsv"
    _, cached = fit("--cache", cache, "--manifest", manifest, out="cached")
    _, online = fit("--teacher", teacher, "--manifest", manifest, "--device", "cpu", out="online")
    assert cached.content_hash == online.content_hash and cached.rows == online.rows
    assert cached.frames == online.frames > 1000
    assert cached.inertia == pytest.approx(online.inertia, rel=0.05)
    rows = read_manifest(str(manifest))
    labels = [assignments(Codebook.load(tmp_path / name), teacher, rows) for name in ("cached", "online")]
    both = [np.concatenate(list(codes_of.values())) for codes_of in labels]
    assert adjusted_rand_score(*both) > 0.9  # the cache rounds to float16
    assert len(set(both[0])) == CLUSTERS


def test_uses_the_manifest_or_all_of_the_cache(fit, corpus, cache):
    _, some = fit("--cache", cache, "--manifest", corpus / "valid.tsv", "--passes", "1", out="some")
    _, everything = fit("--cache", cache, "--passes", "1", out="all")
    frames = [position.frames for position in CacheSource(cache, LAYER).cache.places.values()]
    assert everything.frames == sum(frames) > some.frames


def test_options_change_the_result(fit, cache):
    centroids, header = fit("--cache", cache)
    assert torch.equal(fit("--cache", cache, out="same")[0], centroids)
    assert not torch.equal(fit("--cache", cache, "--seed", "2", out="seed")[0], centroids)
    other, longer = fit("--cache", cache, "--passes", "4", out="passes")
    assert longer.frames == 2 * header.frames and not torch.equal(other, centroids)


@pytest.mark.parametrize("source, stop", [("cache", 1), ("cache", 4), ("cache", 9), ("teacher", 4)])
def test_stopped_and_started_again(source, stop, fit, corpus, teacher, cache, tmp_path, monkeypatch):
    options = ["--cache", cache] if source == "cache" else ["--teacher", teacher, "--device", "cpu"]
    options += ["--manifest", corpus / "train.tsv"]
    expected, header = fit(*options, out="whole")
    plain, calls = cluster_fit.ClusterFit._frames, []

    def frames(self, *arguments):
        calls.append(arguments[:2])
        if len(calls) == stop:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    monkeypatch.setattr(cluster_fit.ClusterFit, "_frames", frames)
    with pytest.raises(KeyboardInterrupt):
        fit(*options, out="stopped")
    assert not (tmp_path / "stopped").exists()
    assert (tmp_path / "stopped.state").exists() == (stop > 2)  # the first two are the sample
    done = len(calls)
    centroids, resumed = fit(*options, out="stopped")
    assert torch.equal(centroids, expected) and resumed == header
    assert not (tmp_path / "stopped.state").exists()
    if stop > 2:  # nothing was done twice
        assert calls[done] == calls[done - 1] and calls[done] != (0, 0)


def test_a_state_of_another_fit_is_refused(fit, cache, tmp_path, monkeypatch):
    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster_fit.ClusterFit, "_codebook", killed)
    with pytest.raises(KeyboardInterrupt):
        fit("--cache", cache)
    with pytest.raises(ConfigError, match="codes.safetensors.state is of a fit with another seed .1, not 2."):
        fit("--cache", cache, "--seed", "2")
    state = tmp_path / "codes.safetensors.state"
    with safe_open(state, "np") as handle:
        facts = json.loads(handle.metadata()["colld"])
        arrays = {name: handle.get_tensor(name) for name in handle.keys()}
    del facts["model"]
    for content in (b"nothing", save(arrays, {"colld": json.dumps(facts)})):
        state.write_bytes(content)
        with pytest.raises(ConfigError, match="not the state of a fit .* delete it"):
            fit("--cache", cache)


def test_a_codebook_that_is_there_is_kept(fit, corpus, cache, tmp_path, capsys):
    fit("--cache", cache)
    before = (tmp_path / "codes.safetensors").stat()
    labels = ["--labels", tmp_path / "labels", "--label-manifests", f"dev={corpus}/valid.tsv"]
    fit("--cache", cache, *labels)
    assert (tmp_path / "codes.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert "is there already" in capsys.readouterr().out
    assert (tmp_path / "labels" / "dev.km").is_file()
    with pytest.raises(ConfigError, match="another passes .2, not 3."):
        fit("--cache", cache, "--passes", "3")


def test_fairseq_reads_the_labels(fit, corpus, teacher, cache, tmp_path):
    folder = tmp_path / "labels"
    manifests = [f"train={corpus}/train.tsv,{corpus}/valid.tsv", f"valid={corpus}/valid.tsv"]
    fit("--cache", cache, "--labels", folder, "--label-manifests", *manifests)
    dictionary = Dictionary.load(str(folder / "dict.km.txt"))
    assert [dictionary.index(str(cluster)) for cluster in range(CLUSTERS)] == list(range(4, 4 + CLUSTERS))
    config = HubertPretrainingConfig(
        data=str(folder), labels=["km"], label_rate=50.0, sample_rate=16000, pad_audio=True, random_crop=False
    )
    config.max_sample_size = 16000 * 10
    task = HubertPretrainingTask.setup_task(config)
    expected = {}
    for part in ("train", "valid"):
        rows = read_manifest(str(corpus / f"{part}.tsv"))
        for row, codes in enumerate(assignments(Codebook.load(tmp_path / "codes.safetensors"), teacher, rows).values()):
            expected[rows.audio_path(row)] = read_audio(rows.audio_path(row)), codes
    for split, utterances in (("train", 34), ("valid", 10)):
        task.load_dataset(split)
        dataset = task.dataset(split)
        assert len(dataset) == utterances
        agreed = total = 0
        for index in range(utterances):
            item = dataset[index]
            waveform, codes = expected[f"{dataset.audio_root}/{dataset.audio_names[index]}"]
            np.testing.assert_allclose(item["source"].numpy(), waveform, atol=1e-4)
            result = item["label_list"][0].numpy() - 4
            assert len(result) == len(codes)
            agreed, total = agreed + (result == codes).sum(), total + len(codes)
        assert agreed / total > 0.98  # the cache rounds to float16
        batch = dataset.collater([dataset[0], dataset[1]])
        assert batch["target_list"][0].shape[0] == 2


def test_labels_are_the_largest_logits(fit, corpus, teacher, tmp_path):
    labels = ["--labels", tmp_path / "labels", "--label-manifests", f"dev={corpus}/valid.tsv"]
    fit("--teacher", teacher, "--manifest", corpus / "train.tsv", "--device", "cpu", *labels)
    codes = load_codes(teacher, str(tmp_path / "codes.safetensors"))
    model, rows = load_teacher(teacher, [codes.layer]), read_manifest(str(corpus / "valid.tsv"))
    lines = (tmp_path / "labels" / "dev.km").read_text().splitlines()
    assert len(lines) == len(rows)
    by_distance = assignments(Codebook.load(tmp_path / "codes.safetensors"), teacher, rows)
    for row, (line, nearest) in enumerate(zip(lines, by_distance.values())):
        waveform = torch.from_numpy(read_audio(rows.audio_path(row)))
        output = model(waveform[None], torch.tensor([len(waveform)]))
        written = np.array(line.split(), dtype=int)
        largest = codes.logits(output.features[codes.layer], 0.1)[0].argmax(-1).numpy()
        assert np.array_equal(written, largest) and np.array_equal(written, nearest)


def test_utterances_that_cannot_be_used(fit, corpus, teacher, tmp_path, capsys):
    soundfile.write(tmp_path / "short.wav", np.zeros(300), 16000)
    rows = [line.split("\t") for line in (corpus / "train.tsv").read_text().splitlines()[1:]]
    lines = [f"{corpus}/{row[1]}\t{row[2]}" for row in rows]
    manifest = tmp_path / "bad.tsv"
    manifest.write_text("\n".join(["/", *lines[:5], f"{tmp_path}/gone.wav\t9000", *lines[5:]]) + "\n")
    options = ["--teacher", teacher, "--manifest", manifest, "--device", "cpu", "--passes", "1"]
    fit(*options, "--labels", tmp_path / "labels", "--label-manifests", f"train={manifest}")
    assert f"1 of 25 utterances cannot be used, left out:\n  {tmp_path}/gone.wav: " in capsys.readouterr().out
    assert len((tmp_path / "labels/train.tsv").read_text().splitlines()) == 25
    assert len((tmp_path / "labels/train.km").read_text().splitlines()) == 24
    manifest.write_text(manifest.read_text() + f"{tmp_path}/short.wav\t300\n")
    with pytest.raises(AudioError, match="2 of 26 utterances cannot be used, more than the 1 that --max-bad allows"):
        fit(*options, out="more")
    fit(*options, "--max-bad", "0.1", out="more")
    assert "short.wav: 300 samples are too few for one frame" in capsys.readouterr().out


def test_too_few_frames(fit, corpus, cache):
    options = ["--cache", cache, "--manifest", corpus / "valid.tsv"]
    with pytest.raises(ConfigError, match=r"frames are too few for 900 clusters .* at most --num-clusters \d\d"):
        fit(*options, "--num-clusters", "900")


def test_the_cache_must_be_of_the_teacher(fit, cache, teacher, tmp_path):
    fit("--cache", cache, "--teacher", teacher, "--kind", "layer")
    with pytest.raises(TeacherError, match="is of kind 'layer', not 'ffn'"):
        fit("--cache", cache, "--kind", "ffn")
    with pytest.raises(TeacherError, match="lacks layers 2"):
        fit("--cache", cache, "--layer", "2")
    (tmp_path / "other.pt").write_bytes(b"x")
    with pytest.raises(TeacherError, match="whose files differ"):
        fit("--cache", cache, "--teacher", f"fairseq:{tmp_path}/other.pt")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--manifest", "a.tsv"], "give --cache DIR, or --teacher SPEC and --manifest"),
        (["--teacher", "hf:x"], "give --cache DIR, or --teacher SPEC and --manifest"),
        (["--cache", "c", "--labels", "d"], "belong together"),
        (["--cache", "c", "--label-manifests", "train=a.tsv"], "belong together"),
    ],
)
def test_options_that_do_not_go_together(options, message, fit):
    with pytest.raises(ConfigError, match=message):
        fit(*options)


def test_splits():
    assert hubert_labels.parse_splits(["a=x.tsv,y.tsv", "b=z=1.tsv"]) == {"a": ["x.tsv", "y.tsv"], "b": ["z=1.tsv"]}
    for wrong in (["a.tsv"], ["a="], ["=a.tsv"], ["d/a=a.tsv"], ["a=a.tsv", "a=b.tsv"]):
        with pytest.raises(ConfigError, match="write SPLIT=A.tsv,B.tsv once"):
            hubert_labels.parse_splits(wrong)
