"""What is read out of a file, what is refused, and in which words."""

import argparse
import collections
import datetime
import enum
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from colld_fairseq import load_student
from colld_fairseq.checkpoints.files import plain, read_torch
from colld_fairseq.cli import main
from colld_fairseq.errors import CheckpointError
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.teachers import load_teacher

OWN = EncoderConfig(layers=1, embed_dim=16, ffn_dim=16, attention_heads=2)


class Color(enum.Enum):
    RED = 1


class Runs:
    """Runs a command when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


HARMLESS = {
    "float64": np.float64(1.5),
    "float32": np.float32(1.5),
    "float16": np.float16(1.5),
    "int64": np.int64(3),
    "uint8": np.uint8(3),
    "bool": np.bool_(True),
    "text": np.str_("wer"),
    "bytes": np.bytes_(b"wer"),
    "array": np.arange(6.0).reshape(2, 3),
    "strings": np.array(["a", "bc"]),
    "generator": np.random.RandomState(0).get_state(),
    "dtype": np.dtype("float32"),
    "omegaconf": OmegaConf.create({"a": {"b": 1, "c": [1, 2.5, "x", None, True]}, "same": "${a.b}"}),
    "options": argparse.Namespace(arch="x", folder=Path("/data")),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_read(name, tmp_path):
    for legacy in (False, True):
        torch.save({"x": HARMLESS[name]}, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        value = read_torch(tmp_path / "x.pt")["x"]
        assert type(value) is type(HARMLESS[name])
        if name != "generator":
            assert np.array_equal(value, HARMLESS[name]) if isinstance(value, np.ndarray) else value == HARMLESS[name]


def test_plain_values():
    namespace = argparse.Namespace(a=np.int64(3), b=[np.float32(0.5), (1, None)])
    given = {"cfg": OmegaConf.create({"x": "${y}", "y": 2}), "args": namespace, "array": np.arange(2)}
    result = plain(given)
    assert result == {"cfg": {"x": 2, "y": 2}, "args": {"a": 3, "b": [0.5, [1, None]]}, "array": [0, 1]}
    assert type(result["args"]["a"]) is int and type(result["args"]["b"][0]) is float
    assert plain(OmegaConf.create({"x": "${elsewhere.y}"})) == {"x": "${elsewhere.y}"}


def in_one_line(error, *words):
    text = str(error)
    assert len(text.splitlines()) == 1 and "weights_only" not in text and "add_safe_globals" not in text, text
    assert all(word in text for word in words), text


REFUSED = {
    "function": (print, "print"),
    "enum": (Color.RED, "Color"),
    "object": (datetime.timedelta(1), "datetime.timedelta"),
    "array of objects": (np.array([datetime.timedelta(1)], dtype=object), "numpy.dtypes.ObjectDType"),
    "counts": (collections.defaultdict(list, a=[1]), "collections.defaultdict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_the_remedy(name, tmp_path):
    value, class_name = REFUSED[name]
    for legacy in (False, True):
        torch.save({"x": value}, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError) as error:
            read_torch(tmp_path / "x.pt")
        in_one_line(error.value, "x.pt: holds an object of", class_name, "save it again")


def test_damaged_files(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"x": torch.zeros(5000)}, path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:7000], whole[: len(whole) - 30], whole[3000:]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            read_torch(path)
        in_one_line(error.value, "x.pt: cannot be read as weights", "Copy it again")


def test_tensors_are_mapped_and_not_written_back(tmp_path):
    torch.save({"x": torch.zeros(4)}, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    value = read_torch(tmp_path / "x.pt")["x"]
    value.add_(1)
    assert value.tolist() == [1] * 4 and (tmp_path / "x.pt").read_bytes() == before


# at every door


def save_own(path, **more):
    config = OWN.to_dict()
    config["input"] = {"kind": "fbank", "normalization": "none"}
    encoder = StudentEncoder(OWN)
    weights = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    cfg = OmegaConf.create({"model": {"_name": "colld_student", "encoder_config": json.dumps(config)}, "task": {}})
    history = [{"num_updates": np.int64(3)}]
    extra = {"best": np.float32(0.5), "train_iterator": {"epoch": 1}}
    torch.save({"cfg": cfg, "model": weights, "optimizer_history": history, "extra_state": extra, **more}, path)
    return encoder


def test_our_own_with_harmless_classes(tmp_path):
    encoder = save_own(tmp_path / "a.pt")
    loaded = load_student(str(tmp_path / "a.pt"))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())
    save_own(tmp_path / "b.pt")
    assert main(["average", f"{tmp_path}/a.pt", f"{tmp_path}/b.pt", "--out", f"{tmp_path}/mean.pt"]) == 0
    assert load_student(str(tmp_path / "mean.pt")).config == loaded.config


@pytest.mark.parametrize("door", ["load_student", "teacher", "average", "transcribe", "profile", "convert"])
def test_every_door_names_what_it_refuses(door, tmp_path, capsys):
    marker, path = tmp_path / "was-run", tmp_path / "bad.pt"
    save_own(path, extra=Runs(marker))
    commands = {
        "average": ["average", str(path), "--out", f"{tmp_path}/mean.pt"],
        "transcribe": ["transcribe", str(path), str(tmp_path / "x.wav")],
        "profile": ["profile", "--student", str(path)],
        "convert": ["convert", "--from", f"colld:{path}", "--to", f"colld:{tmp_path}/x.pt"],
    }
    if door in commands:
        assert main(commands[door]) == 2
        text = capsys.readouterr().err.strip()
        assert "add_safe_globals" not in text
    else:
        with pytest.raises(Exception) as error:
            load_student(str(path)) if door == "load_student" else load_teacher(f"fairseq:{path}", [1])
        text = str(error.value)
    in_one_line(text, "bad.pt", "system", "save it again")
    assert not marker.exists()
