"""`colld convert`: from files to files, what is printed, and what is left when something is wrong."""

import dataclasses
import errno
import json
import re

import pytest
import soundfile
import torch
import transformers
from checkpoints import save_untrained

from colld_fairseq import load_student
from colld_fairseq.checkpoints import encoder as encoders
from colld_fairseq.cli import convert, main


def printed_rows(text):
    """layer -> (largest difference, relative) of the table."""
    rows = re.findall(r"│ (\w+) +│ +(\S+) │ +(\S+) │", text)
    return {layer: (float(difference), float(relative)) for layer, difference, relative in rows}


@pytest.fixture
def wav(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "tone.wav"
    soundfile.write(path, (0.1 * torch.randn(9000)).numpy(), 16000)
    return str(path)


def test_round_trip(teacher, tmp_path, wav, capsys):
    specs = [teacher, f"colld:{tmp_path}/a.pt", f"fairseq:{tmp_path}/new/b.pt", f"hf:{tmp_path}/c"]
    for source, target in zip(specs, specs[1:]):
        assert main(["convert", "--from", source, "--to", target, "--wav", wav]) == 0
        text = capsys.readouterr().out
        rows = printed_rows(text)
        assert list(rows) == ["input", "0", "1", "2", "3", "4", "output"]
        assert all(difference <= 1e-5 for layer, (difference, _) in rows.items() if layer != "input")
        assert f"{target}: 4 layers × 24" in text and "input: waveforms, normalized" in text
        if target.startswith("colld:"):
            assert text.endswith(f"--student {tmp_path}/a.pt\n")
    first = transformers.HubertModel.from_pretrained(teacher.removeprefix("hf:"))
    last = transformers.HubertModel.from_pretrained(tmp_path / "c")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, last.state_dict()[name]), name
    assert json.loads((tmp_path / "c" / "preprocessor_config.json").read_text())["do_normalize"] is True
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "new", "c", "tone.wav"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.pt"]


def test_the_wav_is_what_is_compared_on(teacher, tmp_path, capsys, monkeypatch):
    lengths = []
    compare = convert.compare

    def listen(source, target, waveform):
        lengths.append(len(waveform))
        return compare(source, target, waveform)

    monkeypatch.setattr(convert, "compare", listen)
    soundfile.write(tmp_path / "short.wav", torch.rand(2000).numpy(), 16000)
    for index, more in enumerate(([], ["--wav", f"{tmp_path}/short.wav"])):
        assert main(["convert", "--from", teacher, "--to", f"colld:{tmp_path}/{index}.pt", *more]) == 0
    assert lengths == [32000, 2000]


@pytest.mark.parametrize("scheme", ["hf", "fairseq", "colld"])
def test_a_difference_above_the_tolerance(scheme, teacher, tmp_path, capsys, monkeypatch):
    write = encoders.write_encoder

    def damaged(scheme, path, encoder):
        state = dict(encoder.weights)
        name = "blocks.2.ffn.linear_out.bias"
        state[name] = state[name] + 0.002 * torch.randn(state[name].shape)
        write(scheme, path, dataclasses.replace(encoder, weights=state))

    monkeypatch.setattr(convert, "write_encoder", damaged)
    command = ["convert", "--from", teacher, "--to", f"{scheme}:{tmp_path}/x"]
    torch.manual_seed(0)
    assert main(command) == 1
    text = capsys.readouterr().out
    assert "Nothing was written: 3, 4, output differ by more than 0.0001" in text
    rows = printed_rows(text)
    assert rows["2"][0] < 1e-5 < 1e-4 < rows["3"][0] < 0.1
    assert not list(tmp_path.iterdir())
    assert main([*command, "--tolerance", "0.1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_overwriting(teacher, tmp_path, capsys):
    for scheme in ("hf", "colld"):
        command = ["convert", "--from", teacher, "--to", f"{scheme}:{tmp_path}/{scheme}"]
        assert main(command) == 0
        assert main(command) == 2
        assert "exists; give another name, or --overwrite" in capsys.readouterr().err
        assert main([*command, "--overwrite"]) == 0
    (tmp_path / "hf" / "README.md").write_text("mine")
    assert main(["convert", "--from", teacher, "--to", f"hf:{tmp_path}/hf", "--overwrite"]) == 2
    assert "does not write (README.md)" in capsys.readouterr().err
    assert main(["convert", "--from", teacher, "--to", f"fairseq:{tmp_path}/hf", "--overwrite"]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["convert", "--from", teacher, "--to", f"hf:{tmp_path}/colld", "--overwrite"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "hf" / "README.md").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colld", "hf"]
    (tmp_path / "empty").mkdir()
    assert main(["convert", "--from", teacher, "--to", f"hf:{tmp_path}/empty"]) == 0


def test_what_is_read_is_not_replaced_by_less(distillation, teacher, tmp_path, capsys):
    """A checkpoint, or a directory with a head, holds more than the encoder that is written of it."""
    file = tmp_path / "student.pt"
    save_untrained(distillation(), file)
    directory = tmp_path / "ctc"
    config = transformers.AutoConfig.from_pretrained(teacher.removeprefix("hf:"))
    transformers.HubertForCTC(config).save_pretrained(directory)
    weights = directory / "model.safetensors"
    before = file.read_bytes(), weights.read_bytes()
    for spec in (f"colld:{file}", f"hf:{directory}"):
        assert main(["convert", "--from", spec, "--to", spec, "--overwrite"]) == 2
        assert "is what --from reads" in capsys.readouterr().err
    assert (file.read_bytes(), weights.read_bytes()) == before


def test_a_failure_while_writing_leaves_nothing(teacher, tmp_path, monkeypatch, capsys):
    def disk_full(value, path):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", disk_full)
    assert main(["convert", "--from", teacher, "--to", f"colld:{tmp_path}/x.pt"]) == 2
    assert "x.pt" in (message := capsys.readouterr().err) and "No space left on device; make room" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arch", ["colld_student", "student_ctc"])
def test_students_of_the_project(arch, distillation, finetuning, tmp_path, capsys):
    """Heads and the output layer stay behind; what transformers has no place for is named."""
    run = distillation() if arch == "colld_student" else finetuning()
    config = run.model.encoder.config if arch == "colld_student" else run.model.encoder.student.config
    cfg = {"model": {"encoder_config": json.dumps(config.to_dict())}, "task": {"cmvn": "none"}}
    torch.save({"cfg": cfg, "model": run.model.state_dict()}, tmp_path / "trained.pt")
    source = f"colld:{tmp_path}/trained.pt"
    assert main(["convert", "--from", source, "--to", f"hf:{tmp_path}/x"]) == 2
    assert "position='rotary'" in capsys.readouterr().err
    assert main(["convert", "--from", source, "--to", f"colld:{tmp_path}/encoder.pt"]) == 0
    assert "input: kaldi filterbanks normalized over the utterance\n" in capsys.readouterr().out
    weights = torch.load(tmp_path / "encoder.pt", weights_only=True)["model"]
    assert weights.keys() == {f"encoder.{name}" for name in load_student(f"{tmp_path}/trained.pt").state_dict()}


@pytest.mark.parametrize(
    "source, target, message",
    [
        ("student.pt", "colld:x.pt", "write hf:DIR, fairseq:FILE.pt, fairseq2:FILE.pt or colld:FILE.pt"),
        ("hf:./absent", "colld:x.pt", "no such directory"),
        ("colld:absent.pt", "hf:x", "absent.pt: no such file"),
        ("TEACHER", "x.pt", "--to 'x.pt': write hf:DIR"),
    ],
)
def test_mistakes_are_named(source, target, message, teacher, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "--from", source.replace("TEACHER", teacher), "--to", target]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
