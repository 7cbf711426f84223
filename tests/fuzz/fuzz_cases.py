"""Input that nobody meant to write, for everything that reads files and options: what must hold for each of them.

A property draws a case and checks it. Whatever the case, there is a ColldError that names the file, or a result that is
true to it: no bare exception, no row that is dropped or altered without a word, nothing that is unpickled.
"""

import argparse
import io
import json
import math
import os
import pickle
import re
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import numpy as np
import soundfile
import yaml
from hypothesis import strategies as st

from colld_fairseq.errors import AudioError, ColldError, ManifestError

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz")
RATE = 16000


class Property(NamedTuple):
    """What `check` is given cases of; it raises where one does not hold."""

    cases: st.SearchStrategy
    check: Callable[[Any], None]


def path_of(name: str, content: bytes = b"") -> Path:
    path = Path(FOLDER.name) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


# -- what is drawn -----------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw, originals: List[bytes]) -> bytes:
    """One of them with up to four changes, most of them near its beginning, where headers are."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.one_of(st.integers(0, 80), st.integers(0, 1 << 20))) % (len(data) + 1)
        change = draw(st.sampled_from(("overwrite", "insert", "remove", "cut", "repeat")))
        some = draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from((b"\0\0\0\0", b"\xff\xff\xff\xff"))))
        if change == "overwrite":
            data[at : at + len(some)] = some
        elif change == "insert":
            data[at:at] = some
        elif change == "remove":
            del data[at : at + draw(st.integers(1, 64))]
        elif change == "cut":
            del data[at:]
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 40),
        st.integers(),
        st.floats(),
        st.text(max_size=12),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def altered(draw, originals: List[Dict[str, Any]]) -> Dict[str, Any]:
    """One of these configurations with up to three values that are others, or are not there."""
    config = dict(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(config) or ["name"]))
        if draw(st.booleans()):
            config[name] = draw(PLAIN)
        else:
            config.pop(name, None)
    return config


# Text with everything that ends a line or field somewhere, or is invisible.
TRICKY = st.text(
    st.one_of(st.sampled_from("\t\n\r\v\f\x00\x1c\x85\u2028\ufeff\"'\\,#|= ab"), st.characters()), max_size=12
)

# -- manifests ---------------------------------------------------------------------------------------------------------

SPEECH_TO_TEXT = (
    b"id\taudio\tn_frames\ttgt_text\tspeaker\tsrc_lang\ttgt_lang\n"
    b'u1\ta.wav\t16000\tguten Tag\ts1\tde\tde\nu2\tb.wav\t8000\t"quoted" text\ts1\tde\ten\n\nu3\tc.npy\t50\t\t\t\t\n'
)
AUDIO_ONLY = b"/data\na.wav\t16000\nb/c.flac\t123\n"


def check_manifest(content: bytes) -> None:
    """Rows are those that a plain reading of the file gives, one for one."""
    from colld_fairseq.data.fbank import fbank_samples
    from colld_fairseq.data.manifest import read_manifest

    path = path_of("manifests/case.tsv", content)
    try:
        manifest = read_manifest(str(path))
    except ManifestError as error:
        assert str(path) in str(error)
        return
    first, *lines = re.split("\r\n|\r|\n", content.decode("utf-8", "replace"))
    columns = first.removeprefix("\ufeff").split("\t")
    columns = ["id", "n_frames"] if len(columns) == 1 else columns
    rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines if line]
    assert len(manifest) == len(rows)
    for index, row in enumerate(rows):
        for name in ("id", "tgt_text", "speaker", "src_text", "src_lang", "tgt_lang"):
            assert manifest.text(name, index) == row.get(name, ""), name
        audio, length = row.get("audio", row["id"]), int(row["n_frames"])
        assert manifest.audio_path(index).endswith(audio)
        assert manifest.n_samples[index] == (fbank_samples(length) if audio.endswith(".npy") else length)


@st.composite
def rows(draw) -> List[Dict[str, Any]]:
    names = ("id", "audio", "tgt_text", "speaker", "src_text", "src_lang", "tgt_lang")
    one = st.fixed_dictionaries({**dict.fromkeys(names, TRICKY), "n_samples": st.integers(-1, 1 << 40)})
    return draw(st.lists(one, max_size=4))


def check_written_manifest(rows: List[Dict[str, Any]]) -> None:
    """What was written is read back: names as they are, text with spaces in the place of breaks."""
    from colld_fairseq.data.manifest import Row, read_manifest
    from colld_fairseq.data.manifest_writer import write_manifest

    path = path_of("manifests/written.tsv")
    try:
        write_manifest(path, [Row(**row) for row in rows])
        manifest = read_manifest(str(path))
    except ManifestError as error:
        assert str(path) in str(error)
        return
    assert len(manifest) == len(rows)
    for index, row in enumerate(rows):
        for name in ("id", "src_lang", "tgt_lang"):
            assert manifest.text(name, index) == row[name]
        for name in ("tgt_text", "speaker", "src_text"):
            spaces = re.sub("[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+", " ", row[name])
            assert manifest.text(name, index) == spaces.encode(errors="replace").decode()
        assert manifest.n_samples[index] == row["n_samples"] or row["audio"].endswith(".npy")


N_BEST = b'{"id": "u1", "hypotheses": [{"text": "a b", "score": -1.5}, {"text": "a", "score": -2}]}\n'


def check_n_best(content: bytes) -> None:
    from colld_fairseq.data.hypotheses import read_entries

    path = path_of("manifests/case.hypotheses.jsonl", content)
    try:
        entries = list(read_entries(path))
    except ManifestError as error:
        assert str(path) in str(error)
        return
    assert len(entries) == sum(bool(line.strip()) for line in content.split(b"\n"))
    for (name, hypotheses), line in zip(entries, filter(bytes.strip, content.split(b"\n"))):
        assert hypotheses == json.loads(line)["hypotheses"] and name == str(json.loads(line)["id"])


DEEP = b"[" * 100_000

# -- YAML --------------------------------------------------------------------------------------------------------------

VOCABULARY = dict(
    vocab_filename="dict.txt",
    bpe_tokenizer={"bpe": "sentencepiece", "sentencepiece_model": "spm.model"},
    pre_tokenizer={},
    text_normalization={"lowercase": True},
    prepend_tgt_lang_tag=True,
    languages=["de", "en"],
)
FAIRSEQ_DATA = dict(
    VOCABULARY,
    bpe_tokenizer={},
    pre_tokenizer=None,
    audio_root="audio",
    input_feat_per_channel=80,
    sampling_alpha=0.5,
    transforms={"*": ["utterance_cmvn"], "_train": ["utterance_cmvn", "specaugment"]},
    utterance_cmvn={"norm_means": True},
    global_cmvn={"stats_npz_path": "stats.npz"},
    specaugment={"freq_mask_N": 1, "freq_mask_F": 27, "time_mask_N": 1, "time_mask_T": 100, "time_mask_p": 1.0},
)
GRAPH = dict(frame_rate_hz=50, width=512, layers={6: "inner", 12: "outer"}, kernel_samples=400, axes="time_first")
FAIRSEQ2 = dict(attention_heads=8, normalize=True, dropout=0.1, layerdrop=0.0)
ODD_YAML = (
    "a: !!bool x",
    "a: !!int ''",
    "a: !!timestamp x",
    "a: 2001-99-99",
    "? [a]\n: 1",
    "!!python/object:os.x {}",
    "[" * 600,
)


def yaml_of(*originals: Dict[str, Any]) -> st.SearchStrategy:
    """Configurations as YAML, most of them whole."""
    dumped = altered(list(originals)).map(lambda config: yaml.safe_dump(config, allow_unicode=True).encode())
    broken = damaged([yaml.safe_dump(config).encode() for config in originals])
    return st.one_of(dumped, broken, st.sampled_from(ODD_YAML).map(str.encode))


def check_vocabulary(content: bytes) -> None:
    from colld_fairseq.data.text import load_text_codec, read_vocabulary_config

    path = path_of("vocabulary/config.yaml", content)
    try:
        load_text_codec(read_vocabulary_config(path), path)
    except ColldError:
        pass


def check_data_config(content: bytes) -> None:
    from colld_fairseq.data.fairseq_config import read_data_config

    path = path_of("vocabulary/data.yaml", content)
    try:
        config = read_data_config(str(path.parent), path.name)
        assert config.audio_root is None or isinstance(config.audio_root, str)
        for split in ("train", "dev"):
            config.spec_augment(split), config.input_of("fbank", split), config.input_of("waveform", split)
        assert isinstance(config.not_applied, list)
    except ColldError:
        pass


def check_graph_description(content: bytes) -> None:
    from colld_fairseq.checkpoints.onnx_graph import describe

    path_of("graphs/encoder.onnx")
    path_of("graphs/encoder.yaml", content)
    try:
        described = describe(f"{FOLDER.name}/graphs/encoder.onnx")
        assert described.hop >= 1 and described.width >= 1 and min(described.layers) >= 0
    except ColldError as error:
        assert "encoder.yaml" in str(error)


def check_fairseq2_description(content: bytes) -> None:
    from colld_fairseq.checkpoints.fairseq2_config import describe

    path = path_of("graphs/model.yaml", content)
    try:
        describe({}, path.with_suffix(".pt"), path)
    except ColldError as error:
        assert "model." in str(error)


# -- audio, stored filterbanks, archives -------------------------------------------------------------------------------


def sounds() -> List[bytes]:
    """A twentieth of a second in every container."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE // 20)
    kinds = ["WAV PCM_16", "WAV FLOAT", "WAVEX PCM_24", "RF64 PCM_16", "W64 PCM_16", "AIFF PCM_16", "CAF PCM_16"]
    kinds += ["AU PCM_16", "NIST PCM_16", "FLAC PCM_16", "OGG VORBIS", "OGG OPUS", "MP3 MPEG_LAYER_III"]
    contents = []
    for kind in kinds:
        container, subtype = kind.split()
        stream = io.BytesIO()
        soundfile.write(stream, noise, RATE, format=container, subtype=subtype)
        contents.append(stream.getvalue())
    return contents


def check_audio(content: bytes) -> None:
    """Samples that are finite, as many as the headers were taken to say; or an error that names the file."""
    from colld_fairseq.data.audio import audio_info, read_audio

    path = path_of("audio/case.wav", content)
    try:
        waveform = read_audio(str(path))
    except AudioError as error:
        assert str(path) in str(error)
        try:
            audio_info(str(path))
        except AudioError as error:
            assert str(path) in str(error)
        return
    assert waveform.dtype == np.float32 and waveform.ndim == 1 and np.isfinite(waveform).all()
    assert audio_info(str(path)).num_samples == len(waveform)


def arrays() -> List[bytes]:
    stream, objects = io.BytesIO(), io.BytesIO()
    np.save(stream, np.random.default_rng(0).standard_normal((7, 80)).astype(np.float32))
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", 64)
    odd = [
        head + text.ljust(63).encode() + b"\n" for text in ("{'descr': '<f4', 'shape': ((((", "{'a' 'b\n  c", "[" * 60)
    ]
    return [stream.getvalue(), objects.getvalue(), *odd]


def check_stored_fbank(content: bytes) -> None:
    from colld_fairseq.data.stored_fbank import read_stored_fbank, stored_shape

    path = path_of("audio/case.npy", content)
    try:
        features = read_stored_fbank(str(path), 80)
        assert features.shape == stored_shape(str(path)) and np.isfinite(features).all()
    except AudioError as error:
        assert str(path) in str(error)


def statistics() -> List[bytes]:
    contents = []
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(stream, mean=np.zeros(80), std=np.ones(80), fbank="kaldi")
        contents.append(stream.getvalue())
    return contents


def check_statistics(content: bytes) -> None:
    from colld_fairseq.checkpoints.statistics import read_statistics

    path = path_of("audio/cmvn.npz", content)
    try:
        mean, std, _ = read_statistics(str(path), 80)
        assert np.isfinite(mean).all() and np.isfinite(std).all()
    except AudioError as error:
        assert str(path) in str(error)


def archives() -> List[bytes]:
    contents = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("a.wav", b"sound" * 9)
            archive.writestr("folder/b.flac", b"other")
        contents.append(stream.getvalue())
    return contents


def check_archive(content: bytes) -> None:
    from colld_fairseq.data.audio import find_zip_members, read_audio

    path = path_of("audio/case.zip", content)
    try:
        members = find_zip_members(str(path))
    except AudioError as error:
        assert str(path) in str(error)
        return
    for spec in members.values():
        try:
            read_audio(spec)
        except AudioError as error:
            assert str(path) in str(error)


# -- options -----------------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    TRICKY,
    st.sampled_from(
        ("", "-1", "nan", "inf", "1e999", "9" * 400, "0x1", "1_0", "٣", "2,4,out", "1:2,2:4", "a=1,b=2", "8,,1")
    ),
    st.integers().map(str),
    st.floats().map(str),
)


@st.composite
def command_lines(draw) -> List[str]:
    """A command, and some of its options with values, in any order."""
    from colld_fairseq.cli import SUBCOMMANDS, Parser, options

    name = draw(st.sampled_from(sorted(SUBCOMMANDS)))
    parser = Parser()
    options.of(name)(parser.add_argument)
    known = sorted(word for action in parser._actions for word in action.option_strings if word not in ("-h", "--help"))
    words = draw(st.lists(st.one_of(st.sampled_from(known), VALUES), max_size=8))
    return [name, *words]


def check_command_line(words: List[str]) -> None:
    """It is refused as argparse refuses, or every number in it is one."""
    from colld_fairseq.cli import Parser, options

    parser = Parser(prog=words[0], exit_on_error=True)
    options.of(words[0])(parser.add_argument)
    try:
        parsed = parser.parse_args(words[1:])
    except SystemExit as stop:
        assert stop.code in (0, 2)
        return
    for value in vars(parsed).values():
        assert not isinstance(value, float) or math.isfinite(value)


def check_option_values(text: str) -> None:
    """What options hold that have a little language of their own."""
    from colld_fairseq.checkpoints.names_fairseq import parse_conv_layers
    from colld_fairseq.cli import options
    from colld_fairseq.cli.transcribe.streaming import parse_endpoint
    from colld_fairseq.files import split_paths
    from colld_fairseq.models.layer_map import parse_layer_map, parse_layer_maps
    from colld_fairseq.modules.chunks import parse_count, parse_counts
    from colld_fairseq.named_values import choice_of_each, value_of_each

    readers = [
        lambda: parse_layer_map(text, 12, 24),
        lambda: parse_layer_maps(text, 12, {"a": 24, "b": 6}),
        lambda: value_of_each(text, ["a", "b"], "--option"),
        lambda: choice_of_each(text, ["a", "b"], "--option", ["none", "layer"]),
        lambda: parse_conv_layers(text),
        lambda: parse_count(text, "--option"),
        lambda: parse_counts(text, "--option"),
        lambda: parse_endpoint(text),
        lambda: split_paths(text),
        *(lambda read=read: read(text) for read in (options.layers, options.layers_and_output, options.batch_sizes)),
    ]
    for read in readers:
        try:
            read()
        except (ColldError, argparse.ArgumentTypeError):
            pass


# -- checkpoints -------------------------------------------------------------------------------------------------------


class Harmful:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (f"{FOLDER.name}/unpickled",)


def torch_files() -> List[bytes]:
    import torch

    contents = []
    state = {"model": {"a.weight": torch.arange(6.0).reshape(2, 3)}, "cfg": {"model": {"_name": "x"}}, "epoch": 3}
    for content, new in ((state, True), (state, False), ({**state, "args": Harmful()}, True)):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=new)
        contents.append(stream.getvalue())
    return [*contents, pickle.dumps({"a": Harmful()}), pickle.dumps(Harmful(), protocol=0)]


def check_torch_file(content: bytes) -> None:
    """A dictionary, or an error that names the file; nothing in it is run."""
    from colld_fairseq.checkpoints.files import read_torch

    path = path_of("checkpoints/case.pt", content)
    try:
        assert isinstance(read_torch(path), dict)
    except ColldError as error:
        assert str(path) in str(error)
    assert not os.path.exists(f"{FOLDER.name}/unpickled")


def safetensors_files() -> List[bytes]:
    import torch
    from safetensors.torch import save

    return [save({"a.weight": torch.ones(2, 3), "b": torch.zeros(4)})]


def check_directory_of_weights(contents) -> None:
    from colld_fairseq.checkpoints.files import read_state

    weights, index = contents
    folder = path_of("weights/model.safetensors", weights).parent
    (folder / "model.safetensors.index.json").write_bytes(index)
    if index:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
    try:
        read_state(folder)
    except ColldError as error:
        assert str(folder) in str(error)


INDEXES = [b"", b'{"weight_map": {"a": "part.safetensors"}}', b'{"weight_map": {"a": "../weights/part.safetensors"}}']

HUBERT = dict(
    model_type="hubert", num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4,
    conv_dim=[16, 16], conv_kernel=[10, 3], conv_stride=[5, 2], do_stable_layer_norm=False, hidden_dropout=0.1,
    num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, hidden_act="gelu", feat_extract_norm="group",
)  # fmt: skip
WHISPER = dict(
    model_type="whisper", encoder_layers=2, d_model=32, encoder_ffn_dim=48, encoder_attention_heads=4, num_mel_bins=80,
    max_source_positions=1500, activation_function="gelu", dropout=0.0,
)  # fmt: skip
W2V_BERT = dict(
    model_type="wav2vec2-bert", num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4,
    feature_projection_input_dim=160, position_embeddings_type="relative_key", conv_depthwise_kernel_size=31,
)  # fmt: skip


def check_hugging_face_config(contents) -> None:
    """A teacher's description and a student's shape, from a config.json and a preprocessor_config.json."""
    from colld_fairseq.checkpoints.encoder import read_encoder
    from colld_fairseq.teachers import describe_teacher

    settings, preprocessor = contents
    folder = path_of("teacher/config.json", settings).parent
    (folder / "preprocessor_config.json").write_bytes(preprocessor)
    for read in (describe_teacher, read_encoder):  # the second stops where weights are missing, at the latest
        try:
            read(f"hf:{folder}")
        except ColldError as error:
            assert str(error)


def check_student_config(values: Dict[str, Any]) -> None:
    """Of a checkpoint of ours, or an exported graph."""
    import torch

    from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder

    try:
        config = EncoderConfig.from_dict(values)
    except ColldError:
        return
    if config.layers < 9 and max(config.embed_dim, config.ffn_dim, config.fbank_bins) < 1000:
        try:
            with torch.device("meta"):
                StudentEncoder(config)
        except ColldError:
            pass


CACHE = dict(
    teacher="hf:x", content_hash="abc", layers=[2, 4], kind="layer", frame_rate_hz=50.0, width=3, manifest="a.tsv",
    rows="def", num_parts=1, dtype="float16",
)  # fmt: skip
PART = dict(ids=["u1", "u2"], frames=[2, 3], bad={}, samples=[640, 960], loss=[])


def check_teacher_cache(contents) -> None:
    """Its header, and the indexes of its parts: complete by index.json, or part by part."""
    from colld_fairseq.teachers.cache_files import CacheHeader, read_parts

    header, index, part = contents
    folder = path_of("cache/header.json", header).parent
    (folder / "part-00000.bin").write_bytes(bytes(2 * 2 * 3 * 5))
    (folder / "part-00000.json").write_bytes(part)
    for whole in (True, False):
        path_of("cache/index.json", index) if whole else (folder / "index.json").unlink()
        try:
            read_parts(folder, CacheHeader.load(folder))
        except ColldError as error:
            assert str(folder) in str(error)


STUDENT = dict(
    layers=2, embed_dim=32, ffn_dim=48, attention_heads=2, front_end="fbank_stack", fbank_stack=2, position="rotary",
    chunk_sizes=[8, None], left_contexts=[None], dropout=0.1, input={"kind": "fbank", "normalization": "utterance"},
)  # fmt: skip


def json_of(*originals: Dict[str, Any]) -> st.SearchStrategy:
    dumped = [json.dumps(config).encode() for config in originals]
    return st.one_of(altered(list(originals)).map(lambda config: json.dumps(config).encode()), damaged([*dumped, DEEP]))


PROPERTIES: Dict[str, Property] = {
    "manifest": Property(damaged([SPEECH_TO_TEXT, AUDIO_ONLY]), check_manifest),
    "written manifest": Property(rows(), check_written_manifest),
    "n-best lists": Property(damaged([N_BEST, N_BEST * 2, DEEP]), check_n_best),
    "vocabulary": Property(yaml_of(VOCABULARY), check_vocabulary),
    "data of fairseq's scripts": Property(yaml_of(FAIRSEQ_DATA), check_data_config),
    "description of a graph": Property(yaml_of(GRAPH), check_graph_description),
    "description of fairseq2's file": Property(yaml_of(FAIRSEQ2), check_fairseq2_description),
    "audio": Property(st.deferred(lambda: damaged(sounds())), check_audio),
    "stored filterbanks": Property(st.deferred(lambda: damaged(arrays())), check_stored_fbank),
    "statistics": Property(st.deferred(lambda: damaged(statistics())), check_statistics),
    "archive": Property(st.deferred(lambda: damaged(archives())), check_archive),
    "command line": Property(command_lines(), check_command_line),
    "values of options": Property(VALUES, check_option_values),
    "torch file": Property(st.deferred(lambda: damaged(torch_files())), check_torch_file),
    "directory of weights": Property(
        st.deferred(lambda: st.tuples(damaged(safetensors_files()), damaged(INDEXES))), check_directory_of_weights
    ),
    "config.json": Property(
        st.tuples(json_of(HUBERT, WHISPER, W2V_BERT), json_of(dict(do_normalize=True, sampling_rate=RATE))),
        check_hugging_face_config,
    ),
    "teacher cache": Property(
        st.tuples(json_of(CACHE), json_of(dict(loss={}, parts=[PART])), json_of(PART)), check_teacher_cache
    ),
    "student's configuration": Property(altered([STUDENT]), check_student_config),
}
