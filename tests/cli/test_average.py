"""`colld average`: the values, which files are taken, who reads the result, and what is refused."""

import errno
import json
import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from checkpoints import save_untrained
from commands import PACKAGE, TINY_ENCODER, TRAINING, call, log_records
from fairseq.models import MODEL_DATACLASS_REGISTRY
from task_setup import set_up

from colld_fairseq import load_student
from colld_fairseq.cli import main
from colld_fairseq.models.averaging import IN_TRAINING
from colld_fairseq.modules.encoder_config import EncoderConfig

CTC = ["--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--arch", "student_ctc", *TINY_ENCODER]


@pytest.fixture(scope="module")
def saved(corpus, vocab, tmp_path_factory):
    """A recogniser's checkpoint as it is read."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    return torch.load(save_untrained(set_up(corpus, *CTC, "--vocab", vocab), path), weights_only=True)


@pytest.fixture
def checkpoint(saved, tmp_path):
    """checkpoint(name, updates, weights={name: tensor}, model={setting: value}) -> path; other weights every time."""

    def make(name, updates, weights=None, model=None):
        torch.manual_seed(updates)
        state = {key: value + 0.1 * torch.randn_like(value) for key, value in saved["model"].items()}
        cfg = {**saved["cfg"], "model": {**saved["cfg"]["model"], **(model or {})}}
        history = [{**saved["optimizer_history"][0], "num_updates": updates}]
        extra = {**saved["extra_state"], "val_loss": 1.0, "ema": state}
        content = {"cfg": cfg, "model": {**state, **(weights or {})}, "optimizer_history": history}
        content.update(extra_state=extra, task_state={"seen": updates}, last_optimizer_state={"m": torch.ones(10**5)})
        torch.save({**saved, **content}, tmp_path / name)
        return tmp_path / name

    return make


def average(*arguments):
    return main(["average", *map(str, arguments)])


def read(path):
    return torch.load(path, weights_only=True)


def numpy_means(paths):
    states = [read(path)["model"] for path in paths]
    return {name: np.mean([state[name].double().numpy() for state in states], axis=0) for name in states[0]}


def test_means_are_those_of_numpy(checkpoint, tmp_path, capsys):
    """Floating point is averaged, the rest comes from the newest, wherever it stands."""
    extra = [{"steps": torch.tensor(n), "half": torch.full((3,), 1 + n / 1024).half()} for n in (7, 2, 3)]
    paths = [checkpoint(f"{n}.pt", updates, extra[n]) for n, updates in enumerate((900, 100, 200))]
    assert average(*paths, "--out", tmp_path / "new" / "mean.pt") == 0
    mean, expected = read(tmp_path / "new" / "mean.pt"), numpy_means(paths)
    assert mean["model"].keys() == expected.keys()
    assert mean["model"].pop("steps") == 7 and mean["model"]["half"].dtype == torch.float32
    for name, value in mean["model"].items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert mean["task_state"] == {"seen": 900} and mean["cfg"] == read(paths[0])["cfg"]
    assert mean["last_optimizer_state"] is None and "ema" not in mean["extra_state"]
    assert mean["extra_state"]["averaged"] == [str(path) for path in paths]
    assert (tmp_path / "new" / "mean.pt").stat().st_size < paths[0].stat().st_size / 2
    assert f"{paths[0]}, after 900 updates" in capsys.readouterr().out


def test_the_newest_of_a_folder(checkpoint, tmp_path, capsys):
    """By number, not by name; copies of others are passed over."""
    paths = {}
    for index, name in enumerate(("9", "10", "11", "_1_900", "_2_1000", "_2_1100", "_last", "_best"), start=1):
        paths[name] = checkpoint(f"checkpoint{name}.pt", index)
    out = tmp_path / "mean.pt"
    for by, names in (("epoch", ("10", "11")), ("update", ("_2_1000", "_2_1100")), ("epoch", ("11",))):
        assert average("--dir", tmp_path, "--last", len(names), "--by", by, "--out", out) == 0
        expected = numpy_means([paths[name] for name in names])
        for name, value in read(out)["model"].items():
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-6, atol=1e-7)
    capsys.readouterr()
    assert average("--dir", tmp_path, "--last", "4", "--out", out) == 2
    assert "holds 3 by epoch, 3 by update" in capsys.readouterr().err


def test_where_a_student_lay_is_no_difference(checkpoint, tmp_path):
    paths = [checkpoint(f"{n}.pt", n + 1, model={"student": f"runs/{n}/checkpoint_best.pt"}) for n in range(2)]
    assert average(*paths, "--out", tmp_path / "mean.pt") == 0


def test_every_reader_takes_it(checkpoint, corpus, vocab, tmp_path):
    """Transcribing, fairseq-generate, a student to start from, and a training that goes on; the transcripts are those
    of the same weights put into a checkpoint by hand."""
    paths, out, by_hand = [checkpoint("a.pt", 1), checkpoint("b.pt", 2)], tmp_path / "mean.pt", tmp_path / "hand.pt"
    assert average(*paths, "--out", out) == 0
    weights = {name: torch.from_numpy(value).float() for name, value in numpy_means(paths).items()}
    torch.save({**read(paths[1]), "model": weights, "last_optimizer_state": None}, by_hand)
    transcripts, generated = {}, {}
    fixed = [corpus, "--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--vocab", vocab]
    for path in (out, by_hand, paths[0]):
        manifest = ["--manifest", str(corpus / "test.tsv"), "--out", str(tmp_path / "transcripts.tsv")]
        assert main(["transcribe", str(path), *manifest]) == 0
        transcripts[path] = (tmp_path / "transcripts.tsv").read_text()
    for path in (out, by_hand):
        output = call("generate", *fixed, "--path", path, "--gen-subset", "test", "--num-workers", "0")
        generated[path] = sorted(re.findall(r"^D-.*", output, re.MULTILINE))
    assert transcripts[out] == transcripts[by_hand] != transcripts[paths[0]]
    assert len(generated[out]) == 9 and generated[out] == generated[by_hand]
    for name, value in load_student(str(out)).state_dict().items():
        torch.testing.assert_close(value, weights[f"encoder.student.{name}"])
    train = [corpus, *CTC, *TRAINING, "--vocab", vocab, "--restore-file", out, "--save-dir", tmp_path / "run"]
    output = call("train", *train, "--max-update", "1", "--disable-validation")
    assert f"Loaded checkpoint {out}" in output and len(log_records(output, "train_inner")) == 1


def test_a_run_may_go_on_with_other_settings_of_training(checkpoint, tmp_path):
    """There is one of each name in the models' options, or in an encoder's configuration."""
    names = {
        field.name for kind in (*MODEL_DATACLASS_REGISTRY.values(), EncoderConfig) for field in fields(kind) if kind
    }
    assert IN_TRAINING <= names
    first = checkpoint("a.pt", 1)
    recorded = read(first)["cfg"]["model"]["encoder_config"]
    other = json.dumps({**json.loads(recorded), "dropout": 0.5})
    second = checkpoint("b.pt", 2, model={"dropout": 0.5, "mask_prob": 0.1, "encoder_config": other})
    assert average(first, second, "--out", tmp_path / "mean.pt") == 0


def test_refused_with_the_reason(checkpoint, tmp_path, capsys):
    path, out = checkpoint("a.pt", 1), tmp_path / "mean.pt"

    def refused(*arguments):
        assert average(*arguments, "--out", out) == 2
        assert not out.exists()
        return capsys.readouterr().err

    name, value = next(iter(read(path)["model"].items()))
    for weights, model, message in (
        ({"more": torch.ones(1)}, None, "b.pt has weight more"),
        ({name: value[:1]}, None, f"weight {name} is {[1, *value.shape[1:]]}, in {path} {list(value.shape)}"),
        ({name: value * torch.nan}, None, f"b.pt: {name} holds NaN"),
        (None, {"encoder_position": "x"}, "b.pt: the model's encoder_position is 'x'"),
        (None, {"other": 1}, "b.pt has the model's other"),
    ):
        assert message in refused(path, checkpoint("b.pt", 2, weights, model))
    recorded = read(path)["cfg"]["model"]["encoder_config"].replace('"layers": 2', '"layers": 3')
    other = checkpoint("b.pt", 2, model={"encoder_config": recorded})
    assert "encoder_config.layers is 3, in" in refused(path, other)
    (tmp_path / "copy.pt").write_bytes(path.read_bytes())
    assert f"copy.pt has the weights of {path}" in refused(path, tmp_path / "copy.pt")
    assert "is the same file as" in refused(path, path)
    (tmp_path / "junk.pt").write_bytes(path.read_bytes()[:5000])
    assert "junk.pt: cannot be read as weights" in refused(path, tmp_path / "junk.pt")
    assert "no checkpoint" in refused(tmp_path / "absent.pt")
    assert "no such folder" in refused("--dir", tmp_path / "absent", "--last", "2")
    assert "at least 1" in refused("--dir", tmp_path, "--last", "0")
    for arguments in ([], ["--dir", tmp_path], ["--last", "2", path], [path, "--dir", tmp_path, "--last", "1"]):
        assert "one of the two" in refused(*arguments)


def test_no_checkpoint_is_lost(checkpoint, tmp_path, monkeypatch, capsys):
    """An input is never overwritten; a failure while writing leaves what was there."""
    paths = [checkpoint("a.pt", 1), checkpoint("b.pt", 2)]
    assert average(*paths, "--out", paths[0]) == 2 and "is an input, which would be" in capsys.readouterr().err
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    out = tmp_path / "mean.pt"
    assert average(paths[0], "--out", out) == 0
    before[out.name] = out.read_bytes()

    def disk_full(value, file):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    assert average(*paths, "--out", out) == 2 and "No space left on device; make room" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
