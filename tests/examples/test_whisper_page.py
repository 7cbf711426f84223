"""The commands of docs/whisper.md for large-v3-turbo, in order, with a tiny model of its shape in its place."""

import shlex

import pytest
from commands import PACKAGE, REPOSITORY, call, log_records
from synthetic import write_corpus
from test_readme_commands import commands_of
from tiny_whisper import complete_whisper

from colld_fairseq.cli import main as colld
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.recogniser import load_recogniser

COMMANDS = [words for words in commands_of(REPOSITORY / "docs" / "whisper.md") if "turbo" in shlex.join(words)]
SMALL = ["--encoder-embed-dim", "24", "--encoder-ffn-embed-dim", "40", "--encoder-attention-heads", "2"]
SHORT = ["--max-update", "2", "--num-workers", "0", "--log-format", "json", "--log-interval", "1"]
LANGUAGES = ("en", "de", "es", "ru")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """teachers/turbo, of 32 layers and 128 bins, and data/: what the page says is there."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "teachers" / "turbo").mkdir(parents=True)
    complete_whisper(folder / "teachers" / "turbo", bins=128, layers=32)
    write_corpus(folder / "data", train=6, valid=3, test=3)
    for split in ("train", "valid", "test"):
        rows = read_manifest(str(folder / "data" / f"{split}.tsv"))
        rows = [rows.row(index) for index in range(len(rows))]
        languages = [LANGUAGES[index % len(LANGUAGES)] for index in range(len(rows))]
        changed = [row._replace(src_lang=name, tgt_lang=name) for row, name in zip(rows, languages)]
        write_manifest(folder / "data" / f"{split}.tsv", changed)
    return folder


@pytest.fixture(scope="module")
def outputs(folder):
    """(words, output) of each command, run in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return [(words, run(words)) for words in COMMANDS]


def run(words):
    words = [str(PACKAGE) if word == "colld_fairseq" else word for word in words]
    if words[0] == "colld":
        assert colld(words[1:]) == 0
        return ""
    more = [*SMALL, *SHORT] if words[0] == "fairseq-train" else []
    return call(words[0].removeprefix("fairseq-"), *words[1:], *more)


def test_every_command_runs(outputs, folder):
    programs = [words[:2] if words[0] == "colld" else words[:1] for words, _ in outputs]
    assert [" ".join(program) for program in programs] == [
        *["fairseq-train", "colld assemble", "fairseq-generate", "colld score"],
        *["colld assemble", "colld transcribe"],
    ]
    assert len(log_records(outputs[0][1], "train_inner")) == 2
    model = load_recogniser(str(folder / "runs" / "turbo16" / "model.pt"))
    assert model.models[0].encoder.config.layers == 16


def test_what_the_teacher_writes_trains_with_its_decoder(outputs, folder, monkeypatch):
    """As the page says: --teacher-decoder and --decoder-weight with the manifest that the last command wrote."""
    monkeypatch.chdir(folder)
    rows = read_manifest("data/train_teacher.tsv")
    assert len(rows) == 6
    more = ["--teacher-decoder", "hf:teachers/turbo", "--decoder-weight", "0.1", "--train-subset", "train_teacher"]
    words = [*outputs[0][0], *more, "--disable-validation", "--save-dir", "runs/opinion"]
    records = log_records(run(words), "train_inner")
    assert len(records) == 2 and all(float(record["decoder"]) > 0 for record in records)
