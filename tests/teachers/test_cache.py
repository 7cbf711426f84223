"""The feature cache, and the command that makes it."""

import json

import numpy as np
import pytest
import soundfile
import torch

from colld_fairseq.cli import features as command
from colld_fairseq.cli import main
from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers import load_teacher
from colld_fairseq.teachers.base import Teacher, TeacherOutput
from colld_fairseq.teachers.cache import FeatureCache, part_paths

NUM_UTTERANCES = 9


@pytest.fixture
def corpus(tmp_path, tiny_teacher):
    """(manifest, teacher spec, folder of the cache, {id: waveform})."""
    rng = np.random.default_rng(0)
    waveforms, lines = {}, [str(tmp_path)]
    for part_index in range(NUM_UTTERANCES):
        name = f"è{part_index}.wav"
        waveforms[name] = (0.1 * rng.standard_normal(3000 + 700 * part_index)).astype(np.float32)
        soundfile.write(tmp_path / name, waveforms[name], 16000, subtype="FLOAT")
        lines.append(f"{name}\t{len(waveforms[name])}")
    manifest = tmp_path / "train.tsv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest, f"hf:{tiny_teacher('hubert-group')[0]}", tmp_path / "cache", waveforms


def make(corpus, *more):
    manifest, spec, directory, _ = corpus
    return main(
        f"features --manifest {manifest} --teacher {spec} --layers 1,3 --out {directory} "
        f"--batch-seconds 0.6 --part-seconds 1 --device cpu".split()
        + list(more)
    )


def assert_same_as_teacher(corpus, cache, layers=(1, 3)):
    _, spec, _, waveforms = corpus
    teacher = load_teacher(spec, layers)
    names = sorted(waveforms, reverse=True)
    output = cache.read(names)
    assert sorted(output.features) == sorted(layers)
    assert output.frame_rate_hz == teacher.frame_rate_hz
    for row, name in enumerate(names):
        waveform = torch.from_numpy(waveforms[name])
        expected = teacher(waveform[None], torch.tensor([len(waveform)]))
        frames = int(expected.lengths[0])
        assert int(output.lengths[row]) == frames
        for layer in layers:
            ours = output.features[layer][row]
            torch.testing.assert_close(ours[:frames], expected.features[layer][0], atol=1e-3, rtol=1e-3)
            assert not ours[frames:].any()


def test_reads_what_the_teacher_computes(corpus):
    assert make(corpus) == 0
    cache = FeatureCache.open(corpus[2], corpus[1], [1, 3], "layer")
    assert len(cache) == NUM_UTTERANCES
    assert len(list(corpus[2].glob("part-*.bin"))) > 2
    assert_same_as_teacher(corpus, cache)
    assert cache.read(["è3.wav"]).features[1].dtype == torch.float32


def test_reads_some_of_the_layers(corpus):
    make(corpus)
    cache = FeatureCache.open(corpus[2], layers=[3])
    assert_same_as_teacher(corpus, cache, layers=(3,))


def test_a_second_run_computes_only_what_is_missing(corpus, monkeypatch):
    make(corpus)
    directory = corpus[2]
    before = {path: path.read_bytes() for path in directory.iterdir()}
    lost = part_paths(directory, 1)
    for path in lost:
        path.unlink()
    with pytest.raises(TeacherError, match=r"not complete: part-00001 of \d parts is missing.*colld features --man"):
        FeatureCache.open(directory)
    (directory / "part-00001.bin.1.tmp").write_bytes(b"killed")
    written = []
    plain = command.PartWriter
    monkeypatch.setattr(command, "PartWriter", lambda d, n, h: written.append(n) or plain(d, n, h))
    assert make(corpus) == 0
    assert written == [1]
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_processes_share_the_work(corpus):
    directory = corpus[2]
    make(corpus, "--num-shards", "2", "--shard", "1")
    assert not part_paths(directory, 0)[1].is_file()
    assert part_paths(directory, 1)[1].is_file()
    make(corpus, "--num-shards", "2", "--shard", "0")
    assert_same_as_teacher(corpus, FeatureCache.open(directory))


def test_torchrun_shares_the_work_and_the_last_process_writes_the_index(corpus, tmp_path, monkeypatch, capsys):
    """The variables that torchrun sets; in end_to_end/test_distributed.py it does so itself."""
    directory = corpus[2]
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 0, 1):
        monkeypatch.setenv("RANK", str(rank))
        assert not (directory / "index.json").exists()
        assert make(corpus) == 0
        output = capsys.readouterr().out
        assert f"features, process {rank + 1} of 3" in output
        assert ("parts are left to other processes" in output) == (rank != 1)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    make(corpus, "--out", str(tmp_path / "alone"))
    alone = {path.name: path.read_bytes() for path in (tmp_path / "alone").iterdir()}
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == alone
    # Readers need index.json alone, and without it the parts' own.
    for path in directory.glob("part-*.json"):
        path.unlink()
    assert_same_as_teacher(corpus, FeatureCache.open(directory))
    (tmp_path / "alone" / "index.json").unlink()
    assert_same_as_teacher(corpus, FeatureCache.open(tmp_path / "alone"))


def test_bad_utterances_of_all_processes_count(corpus, capsys):
    manifest = corpus[0]
    for name in ("è0.wav", "è4.wav"):  # in the first and the second part
        (manifest.parent / name).write_bytes(b"not audio")
    assert make(corpus, "--num-shards", "2", "--shard", "0") == 0
    assert make(corpus, "--num-shards", "2", "--shard", "1") == 2
    assert "2 of 9 utterances cannot be used, more than the 1" in capsys.readouterr().err
    assert not (corpus[2] / "index.json").exists()


def test_stopping_in_a_part_leaves_nothing_of_it(corpus, monkeypatch):
    directory = corpus[2]
    calls = []

    def add(self, *arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return plain(self, *arguments)

    plain = command.PartWriter.add
    monkeypatch.setattr(command.PartWriter, "add", add)
    assert make(corpus) == 130
    numbers = [path.name[:10] for path in directory.glob("part-*.bin")]
    assert numbers == [path.name[:10] for path in directory.glob("part-*.json")]
    assert not list(directory.glob("*.tmp"))
    monkeypatch.undo()
    make(corpus)
    assert_same_as_teacher(corpus, FeatureCache.open(directory))


def test_refuses_a_cache_of_another_teacher(corpus, tiny_teacher):
    make(corpus)
    other = f"hf:{tiny_teacher('hubert-layer')[0]}"
    with pytest.raises(TeacherError, match="was made by hf:.*whose files differ from hf:.*hubert-layer"):
        FeatureCache.open(corpus[2], other, [1], "layer")
    with pytest.raises(TeacherError, match=r"lacks layers 2 \(has 1, 3\); is of kind 'layer', not 'ffn'"):
        FeatureCache.open(corpus[2], corpus[1], [1, 2], "ffn")


def test_refuses_to_continue_a_cache_of_other_layers_or_rows(corpus, capsys):
    make(corpus)
    assert make(corpus, "--layers", "2") == 2
    assert "another layers ((1, 3), not (2,))" in capsys.readouterr().err
    manifest = corpus[0]
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:-1]))
    assert make(corpus) == 2
    assert "another rows" in capsys.readouterr().err


def test_refuses_to_continue_with_other_precision_or_parts(corpus, capsys):
    make(corpus)
    for options, message in [
        (["--storage", "uint8"], "another dtype (float16, not uint8)"),
        (["--dtype", "bfloat16"], "another teacher_dtype (float32, not bfloat16)"),
        (["--part-seconds", "1.1"], "another part_seconds (1.0, not 1.1)"),
    ]:
        assert make(corpus, *options) == 2
        assert message in capsys.readouterr().err.replace("num_parts", "part_seconds")


def test_refuses_another_manifest(corpus, tmp_path):
    make(corpus)
    (corpus[0].parent / "è4.wav").write_bytes(b"not audio")
    make(corpus, "--out", str(tmp_path / "bad"))
    own = join_manifests([read_manifest(str(corpus[0]))])
    lines = corpus[0].read_text().splitlines()
    other, longer = tmp_path / "other.tsv", tmp_path / "longer.tsv"
    other.write_text("\n".join([*lines, "new.wav\t9000", "newer.wav\t9000"]))
    # The teacher has 400 frames per second here: 2 frames are 80 samples.
    longer.write_text("\n".join([lines[0], "è0.wav\t3081", "è1.wav\t3620", *lines[3:]]))
    for directory in (corpus[2], tmp_path / "bad"):
        cache = FeatureCache.open(directory)
        cache.check_manifest(own)
        with pytest.raises(
            TeacherError, match=r"another manifest \(.*train.tsv\): .*other.tsv:11: new.wav is not in it, and 1 more"
        ):
            cache.check_manifest(read_manifest(str(other)))
        with pytest.raises(TeacherError, match=r"longer.tsv:2: è0.wav has 3081 samples here, 3000 there. Make"):
            cache.check_manifest(read_manifest(str(longer)))


def test_a_damaged_index_is_as_good_as_none(corpus):
    make(corpus)
    index = corpus[2] / "index.json"
    parts = json.loads(index.read_text())["parts"]
    for content in ("{", "[]", '{"parts": 3}', json.dumps({"parts": parts[:-1]})):
        index.write_text(content)
        assert len(FeatureCache.open(corpus[2])) == NUM_UTTERANCES
    for wrong in (dict(parts[1], frames=["many"]), dict(parts[1], ids=[]), {"of": "another"}):
        index.write_text(json.dumps({"parts": [parts[0], wrong, *parts[2:]]}))
        with pytest.raises(TeacherError, match="not complete: part-00001 .* finish it with: colld features"):
            FeatureCache.open(corpus[2])


def test_reads_caches_of_earlier_versions(corpus):
    """They have no index.json, no samples, no loss, and nothing of the options that came later."""
    make(corpus, "--part-seconds", "600")
    (corpus[2] / "index.json").unlink()
    for path, names in [
        (corpus[2] / "header.json", ("teacher_dtype", "part_seconds")),
        (part_paths(corpus[2], 0)[1], ("samples", "loss")),
    ]:
        content = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in content.items() if name not in names}))
    cache = FeatureCache.open(corpus[2])
    assert_same_as_teacher(corpus, cache)
    cache.check_manifest(read_manifest(str(corpus[0])))
    assert make(corpus, "--part-seconds", "600") == 0


def test_missing_utterance_names_it_and_the_command(corpus):
    make(corpus)
    cache = FeatureCache.open(corpus[2])
    assert "è0.wav" in cache and "other.wav" not in cache
    with pytest.raises(TeacherError, match=r"utterance other.wav .* not there; .*colld features --manifest"):
        cache.read(["è0.wav", "other.wav"])


def test_no_cache_there(tmp_path):
    with pytest.raises(TeacherError, match="no teacher cache .*colld features"):
        FeatureCache.open(tmp_path)


def test_truncated_part(corpus):
    make(corpus)
    path, _ = part_paths(corpus[2], 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(TeacherError, match="part-00000 of . parts is missing or cut short; finish it with: colld"):
        FeatureCache.open(corpus[2])
    make(corpus)
    assert path.read_bytes() == whole and len(FeatureCache.open(corpus[2])) == NUM_UTTERANCES


def test_an_unreadable_utterance_is_named_and_left_out(corpus, capsys):
    manifest, _, directory, waveforms = corpus
    (manifest.parent / "è4.wav").write_bytes(b"not audio")
    assert make(corpus) == 0
    assert "1 of 9 utterances cannot be used, left out" in capsys.readouterr().out
    cache = FeatureCache.open(directory)
    assert len(cache) == NUM_UTTERANCES - 1
    with pytest.raises(TeacherError, match="utterance è4.wav .* gave no features .*è4.wav"):
        cache.read(["è4.wav"])
    del waveforms["è4.wav"]
    assert_same_as_teacher(corpus, cache)


def test_too_many_unreadable_utterances_are_fatal(corpus, capsys):
    manifest, _, directory, _ = corpus
    for name in ("è4.wav", "è5.wav"):
        (manifest.parent / name).write_bytes(b"not audio")
    assert make(corpus) == 2
    message = capsys.readouterr().err
    assert "2 of 9 utterances cannot be used, more than the 1 that --max-bad allows" in message
    assert "è4.wav" in message and "è5.wav" in message
    assert make(corpus, "--max-bad", "0.3") == 0
    assert len(FeatureCache.open(directory)) == NUM_UTTERANCES - 2


def test_a_utterance_too_short_for_the_teacher_is_left_out(corpus):
    manifest, _, directory, _ = corpus
    soundfile.write(manifest.parent / "è2.wav", np.zeros(20, np.float32), 16000)
    assert make(corpus) == 0
    with pytest.raises(TeacherError, match="20 samples are too few"):
        FeatureCache.open(directory).read(["è2.wav"])


def test_an_id_in_two_manifests_is_computed_once(corpus):
    """An utterance with two translations."""
    manifest, spec, directory, waveforms = corpus
    rows = [f"{name}\t{name}\t{len(waveform)}\ttext" for name, waveform in list(waveforms.items())[:2]]
    paths = []
    for language in ("de", "fr"):
        paths.append(manifest.parent / f"{language}.tsv")
        paths[-1].write_text("\n".join(["id\taudio\tn_frames\ttgt_text", *rows]) + "\n")
    arguments = f"features --manifest {paths[0]},{paths[1]} --teacher {spec} --layers 1 --out {directory}"
    assert main(arguments.split()) == 0
    index = json.loads(part_paths(directory, 0)[1].read_text())
    assert sorted(index["ids"]) == ["è0.wav", "è1.wav"]


def test_bytes_take_half_the_space_and_say_what_they_lost(corpus, tmp_path, capsys):
    _, spec, directory, waveforms = corpus
    make(corpus, "--out", str(tmp_path / "half"))
    capsys.readouterr()
    assert make(corpus, "--storage", "uint8") == 0
    size, half = (
        sum(path.stat().st_size for path in folder.glob("*.bin")) for folder in (directory, tmp_path / "half")
    )
    assert 0.5 < size / half < 0.53
    teacher, cache = load_teacher(spec, [1, 3]), FeatureCache.open(directory)
    output = cache.read(list(waveforms))
    squares, count = {1: 0.0, 3: 0.0}, 0
    for row, waveform in enumerate(waveforms.values()):
        expected = teacher(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        frames = int(expected.lengths[0])
        count += frames * teacher.width
        for layer, values in expected.features.items():
            low, high = values[0].amin(0), values[0].amax(0)
            error = output.features[layer][row, :frames] - values[0]
            assert (error.abs() <= (high - low) / 255 * 0.51 + 1e-4).all()
            assert not output.features[layer][row, frames:].any()
            squares[layer] += float((error.square().sum(0) / values[0].var(0, correction=0)).sum())
    loss = json.loads((directory / "index.json").read_text())["loss"]
    for layer in (1, 3):
        assert loss[str(layer)]["error"] == pytest.approx((squares[layer] / count) ** 0.5, rel=0.02)
    worst = max(loss.values(), key=lambda result: result["error"])["error"]
    assert (
        f"Stored as uint8, features differ from the teacher's by at most {100 * worst:.2g} %" in capsys.readouterr().out
    )
    one = FeatureCache.open(directory, layers=[3]).read(["è2.wav"]).features  # by itself: the same, no padding
    row = list(waveforms).index("è2.wav")
    assert list(one) == [3] and torch.equal(one[3][0], output.features[3][row, : one[3].size(1)])


def test_large_values_are_cut_to_the_range_of_float16(corpus, monkeypatch):
    plain = command.PartWriter.add
    monkeypatch.setattr(
        command.PartWriter, "add", lambda s, n, f, *more: plain(s, n, {k: v * 1e9 for k, v in f.items()}, *more)
    )
    make(corpus)
    values = FeatureCache.open(corpus[2]).read(["è1.wav"]).features[3]
    assert values.isfinite().all()
    assert values.abs().max() == 65504


@pytest.mark.parametrize(
    "options, message",
    [
        (["--layers", "a"], "--layers: 'a' is not a whole number"),
        (["--layers", "7"], "layer 7 does not exist"),
        (["--shard", "3"], "shard 3 of None: give --shard"),
        (["--shard", "2", "--num-shards", "2"], "shard 2 of 2: give --shard, from 0, and --num-shards"),
        (["--part-seconds", "0"], "--part-seconds: '0' is not a finite number above 0"),
    ],
)
def test_wrong_options(corpus, options, message, capsys):
    assert make(corpus, *options) == 2
    assert message in capsys.readouterr().err


def test_options_change_what_is_computed(corpus, tmp_path):
    make(corpus)
    layer = FeatureCache.open(corpus[2]).read(["è0.wav"]).features[3]
    for part_index, options in enumerate((["--kind", "ffn"], ["--dtype", "bfloat16"])):
        directory = tmp_path / str(part_index)
        make(corpus, "--out", str(directory), *options)
        other = FeatureCache.open(directory, kind="ffn" if part_index == 0 else "layer")
        assert not torch.equal(other.read(["è0.wav"]).features[3], layer)


def test_batches_respect_the_limit():
    n_samples = np.array([10, 50, 200, 40, 30, 45])
    batches = list(command.plan_batches(np.arange(6), n_samples, 100))
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    assert [batch.tolist() for batch in batches][:2] == [[2], [1, 5]]
    assert all(len(batch) == 1 or n_samples[batch].max() * len(batch) <= 100 for batch in batches)


@pytest.mark.parametrize("storage", ["float16", "uint8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(storage, value, corpus, monkeypatch, capsys):
    """In writing, and in a cache that was written before; the message names layer and utterance."""
    plain = Teacher.__call__

    def damaged(self, *given, **how):
        output = plain(self, *given, **how)
        output.features[3][-1, 0, 5] = value
        return output

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "__call__", damaged)
        assert make(corpus, "--storage", storage) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "layer 3 of utterance è" in said and "is NaN or infinite" in said and "--dtype" in said
        assert not list(corpus[2].glob("part-*.bin"))
        patch.setattr(TeacherOutput, "checked", lambda self, *_: self)  # as it was once
        make(corpus, "--storage", storage)
    cache = FeatureCache.open(corpus[2])
    refused = []
    for name in cache.places:
        try:
            cache.read([name])
        except TeacherError as error:
            assert f"teacher cache {corpus[2]}: make it again" in str(error) and f"utterance {name}" in str(error)
            refused.append(name)
    # infinity is cut to the range of float16
    assert bool(refused) == (storage == "uint8" or value != value) and len(refused) < NUM_UTTERANCES
