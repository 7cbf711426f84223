"""`colld codebooks`: codebooks and index folders from caches and teachers, taken up again after a stop."""

import numpy as np
import pytest
import torch

from colld_fairseq.cli import main
from colld_fairseq.cli import run as commands
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers import cache_files, load_teacher
from colld_fairseq.teachers.cache import FeatureCache
from colld_fairseq.teachers.quantizer import ResidualQuantizer

LAYER, CODEBOOKS, CODES, WIDTH = 3, 4, 16, 24


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Six parts or so."""
    monkeypatch.setattr(cache_files, "PART_SECONDS", 4)


@pytest.fixture(scope="module")
def cache(corpus, teacher, tmp_path_factory):
    """Features of the training and validation utterances."""
    folder = tmp_path_factory.mktemp("cache")
    manifests = f"{corpus}/train.tsv,{corpus}/valid.tsv"
    command = f"features --manifest {manifests} --teacher {teacher} --layers {LAYER} --out {folder}"
    assert main(command.split()) == 0
    return folder


@pytest.fixture
def codebooks(tmp_path):
    """codebooks(options) -> the quantizer; the command's errors come through."""

    def run(*options, out="books.safetensors", num_codebooks=CODEBOOKS):
        base = ["--layer", LAYER, "--num-codebooks", num_codebooks, "--num-codes", CODES, "--out", tmp_path / out]
        assert commands(["codebooks", *map(str, [*base, *options])]) == 0
        return ResidualQuantizer.load(tmp_path / out)

    return run


@pytest.fixture
def online(corpus, teacher):
    return ["--teacher", teacher, "--manifest", corpus / "train.tsv", "--device", "cpu"]


def test_cache_and_teacher_agree(codebooks, corpus, cache, online):
    cached = codebooks("--cache", cache, "--manifest", corpus / "train.tsv", out="cached")
    running = codebooks(*online, out="online")
    assert cached.header.content_hash == running.header.content_hash and cached.header.rows == running.header.rows
    assert cached.header.frames == running.header.frames > 900
    assert cached.header.errors == pytest.approx(running.header.errors, rel=0.05)  # the cache rounds to float16
    assert all(b < a for a, b in zip(running.header.errors, running.header.errors[1:]))
    everything = codebooks("--cache", cache, out="everything")
    assert everything.header.frames > cached.header.frames
    some = codebooks("--cache", cache, "--max-seconds", 8, out="some")
    assert 300 < some.header.frames < 410


def test_indexes_are_those_of_the_teacher_a_byte_each(codebooks, corpus, teacher, online, tmp_path, capsys):
    folder = tmp_path / "indexes"
    quantizer = codebooks(*online, "--indexes", folder, "--index-manifest", corpus / "valid.tsv")
    model, rows = load_teacher(teacher, [LAYER]), read_manifest(str(corpus / "valid.tsv"))
    cache = FeatureCache.open(folder, teacher, [LAYER], "layer", quantizer.content_hash)
    cache.check_manifest(rows)
    assert len(cache) == len(rows) == 10
    frames, agree, total = 0, 0, 0
    for row in range(len(rows)):
        waveform = torch.from_numpy(read_audio(rows.audio_path(row)))
        features = model(waveform[None], torch.tensor([len(waveform)])).features[LAYER]
        stored = cache.read([rows.text("id", row)]).features[LAYER]
        frames += stored.size(1)
        equal = stored == quantizer.encode(features)
        agree, total = agree + int(equal.sum()), total + equal.numel()
        error = ((quantizer.decode(stored) - features) / quantizer.std).square().mean()
        assert error < 3 * quantizer.header.errors[-1]
    assert agree / total > 0.99  # batches of other lengths round otherwise
    size = sum(path.stat().st_size for path in folder.glob("part-*.bin"))
    assert size == frames * CODEBOOKS
    said = capsys.readouterr().out
    assert f"{frames} frames of 4 bytes, {size / 1e6:.4g} MB; as float16 features, of 48 bytes" in said
    assert "12 times as much" in said


def test_a_batch_is_padded_with_nothing(codebooks, online, tmp_path):
    folder = tmp_path / "indexes"
    quantizer = codebooks(*online, "--indexes", folder)
    cache = FeatureCache.open(folder, codebooks=quantizer.content_hash)
    names = sorted(cache.places, key=lambda name: cache.places[name].frames)[:: len(cache) - 1]
    output = cache.read(names)
    assert output.lengths[0] < output.lengths[1] and not output.features[LAYER][0, output.lengths[0] :].any()


def test_indexes_of_a_cache_are_those_of_its_features(codebooks, cache, tmp_path):
    folder = tmp_path / "indexes"
    quantizer = codebooks("--cache", cache, "--indexes", folder)
    features, indexes = FeatureCache.open(cache), FeatureCache.open(folder, codebooks=quantizer.content_hash)
    assert list(indexes.places) == list(features.places) and len(indexes) == 34
    for name, entry in features.places.items():
        assert indexes.places[name].samples == entry.samples
        expected = quantizer.encode(features.read([name]).features[LAYER])
        assert torch.equal(indexes.read([name]).features[LAYER], expected.float())


def test_stopped_and_started_again(codebooks, online, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    codebooks(*online, "--indexes", whole)
    plain, calls = cache_files.PartWriter.close, []

    def close(self, bad):
        calls.append(self.path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        plain(self, bad)

    monkeypatch.setattr(cache_files.PartWriter, "close", close)
    with pytest.raises(KeyboardInterrupt):
        codebooks(*online, "--indexes", parts)
    assert len(list(parts.glob("part-*.bin"))) == 2
    with pytest.raises(TeacherError, match="is not complete.*colld codebooks --index-manifest .*--indexes"):
        FeatureCache.open(parts, codebooks=codebooks(*online).content_hash)
    codebooks(*online, "--indexes", parts)
    assert calls[2] == calls[3]  # nothing was done twice
    for path in whole.glob("part-*.bin"):
        assert (parts / path.name).read_bytes() == path.read_bytes()


def test_processes_share_the_parts(codebooks, online, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    with pytest.raises(ConfigError, match="one process has to write it first"):
        codebooks(*online, "--indexes", shared, "--num-shards", 2, "--shard", 0)
    quantizer = codebooks(*online, "--indexes", alone)
    for shard in (1, 0):
        codebooks(*online, "--indexes", shared, "--num-shards", 2, "--shard", shard)
    assert len(FeatureCache.open(shared, codebooks=quantizer.content_hash)) == 24
    for path in alone.glob("part-*.bin"):
        assert (shared / path.name).read_bytes() == path.read_bytes()


def test_codebooks_that_are_there_are_kept(codebooks, online, tmp_path, capsys):
    codebooks(*online)
    before = (tmp_path / "books.safetensors").stat().st_mtime_ns
    codebooks(*online, "--indexes", tmp_path / "indexes")
    assert (tmp_path / "books.safetensors").stat().st_mtime_ns == before
    assert "is there already" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="has codebooks with another seed .1, not 2."):
        codebooks(*online, "--seed", 2)
    codebooks(*online, out="other", num_codebooks=3)
    with pytest.raises(ConfigError, match="holds a cache with another width .4, not 3.; give another --indexes"):
        codebooks(*online, "--indexes", tmp_path / "indexes", out="other", num_codebooks=3)


def test_indexes_are_not_taken_for_features(codebooks, online, teacher, tmp_path):
    folder = tmp_path / "indexes"
    codebooks(*online, "--indexes", folder)
    with pytest.raises(TeacherError, match="holds indexes into codebooks, not features"):
        FeatureCache.open(folder, teacher)
    with pytest.raises(TeacherError, match="holds indexes into other codebooks"):
        FeatureCache.open(folder, teacher, codebooks="x")
    with pytest.raises(TeacherError, match="holds indexes into codebooks, not features"):
        commands(["cluster", "--layer", str(LAYER), "--cache", str(folder), "--out", str(tmp_path / "codes")])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--manifest", "a.tsv"], "give --cache DIR, or --teacher SPEC and --manifest"),
        (["--cache", "c", "--index-manifest", "a.tsv"], "are about --indexes DIR"),
        (["--cache", "c", "--shard", "0", "--num-shards", "2"], "are about --indexes DIR"),
    ],
)
def test_options_that_do_not_go_together(options, message, codebooks):
    with pytest.raises(ConfigError, match=message):
        codebooks(*options)


def test_a_byte_has_256_values(codebooks, capsys):
    with pytest.raises(SystemExit):
        commands(["codebooks", "--layer", "1", "--out", "x", "--num-codes", "257"])
    assert "at least 2 and at most 256" in capsys.readouterr().err


def test_the_seed_decides(codebooks, online):
    first, again = codebooks(*online), codebooks(*online, out="again")
    assert np.array_equal(first.codebooks, again.codebooks)
    assert not np.array_equal(first.codebooks, codebooks(*online, "--seed", 2, out="other").codebooks)
