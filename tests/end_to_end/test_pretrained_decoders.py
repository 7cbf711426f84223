"""student_s2t with a pretrained decoder, from the command line: assembled, decoded, trained, trained on."""

import math
import re
import shutil

import pretrained
import pytest
import torch
import transformers
from commands import PACKAGE, TINY_ENCODER, TRAINING, call, log_records, spawn
from task_setup import set_up

from colld_fairseq import load_recogniser
from colld_fairseq.cli import main
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.errors import ConfigError, ManifestError
from colld_fairseq.models.assembly import assemble
from colld_fairseq.scoring.metrics import CorpusScores

LANGUAGES = {"xx": "en", "yy": "ru", "ar": "es"}  # of the synthetic corpus -> of the decoder


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """The corpus in languages that Whisper knows: transcription and translation into English, mixed."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid", "test"):
        header, *rows = (corpus / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        columns = header.split("\t")
        lines = [header]
        for row in rows:
            fields = dict(zip(columns, row.split("\t")))
            fields["audio"] = str(corpus / fields["audio"])
            fields.update({name: LANGUAGES[fields[name]] for name in ("src_lang", "tgt_lang")})
            lines.append("\t".join(fields[name] for name in columns))
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A directory with a random Whisper of width 32."""
    return pretrained.write_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def student(corpus, teacher, tmp_path_factory):
    """A checkpoint of colld_student, as wide as the decoder."""
    arguments = [corpus, "--task", "speech_distillation", "--teacher", teacher, "--criterion", "colld"]
    run = set_up(*arguments, "--arch", "colld_student", "--layer-map", "sparse:2", *TINY_ENCODER)
    path = tmp_path_factory.mktemp("student") / "student.pt"
    state = {"cfg": {"model": {"encoder_config": run.cfg.model.encoder_config}}, "model": run.model.state_dict()}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def assembled(student, whisper, tmp_path_factory):
    path = tmp_path_factory.mktemp("assembled") / "model.pt"
    assert main(["assemble", "--student", str(student), "--decoder-from", f"hf:{whisper}", "--out", str(path)]) == 0
    return path


def test_a_target_that_the_decoder_has_no_positions_for_is_named_before_training(data, whisper, student, tmp_path):
    rows = [read_manifest(str(data / "train.tsv")).row(index) for index in range(4)]
    longest = 64 - 4 + 1  # positions, less start, language, task and "no times", and one: the end is not read
    write_manifest(tmp_path / "train.tsv", [*rows[:3], rows[3]._replace(tgt_text="x" * 100)])
    write_manifest(tmp_path / "test.tsv", [rows[3]._replace(tgt_text="x" * 100)])
    task = ["--task", "multilingual_speech_to_text", "--arch", "student_s2t", "--criterion", "ctc_attention"]
    run = set_up(tmp_path, *task, "--student", student, "--decoder-from", f"hf:{whisper}", "--ctc-weight", "0")
    assert run.task.longest_target == longest
    with pytest.raises(ManifestError, match=f"train.tsv:5: tgt_text has 102 tokens.*positions for {longest}"):
        run.task.load_dataset("train")


def generate(data, path, *more):
    """{row: (score, hypothesis)} of the test set, and {row: reference}."""
    arguments = [
        "--task",
        "multilingual_speech_to_text",
        "--gen-subset",
        "test",
        "--path",
        path,
        "--max-tokens",
        "60000",
    ]
    output = call("generate", data, "--user-dir", PACKAGE, *arguments, *more)
    lines = re.findall(r"^([DT])-(\d+)\t(.*)$", output, re.MULTILINE)
    hypotheses = {int(row): tuple(text.split("\t", 1)) for kind, row, text in lines if kind == "D"}
    return hypotheses, {int(row): text for kind, row, text in lines if kind == "T"}


def test_the_decoder_of_an_assembled_model_is_that_of_the_directory(assembled, whisper):
    weights = torch.load(assembled, weights_only=False)["model"]
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).model.decoder.state_dict()
    ours = {
        name.removeprefix("decoder.network."): value for name, value in weights.items() if "decoder.network." in name
    }
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_assembled_model_decodes_without_anything_else(assembled, data, whisper, tmp_path):
    """Neither the decoder's directory, nor a dictionary, nor options: all is in the checkpoint."""
    moved = tmp_path / "moved"
    shutil.move(whisper, moved)
    try:
        hypotheses, references = generate(data, assembled, "--beam", "2")
        recogniser = load_recogniser(str(assembled), beam=2)
    finally:
        shutil.move(moved, whisper)
    manifest = read_manifest(str(data / "test.tsv"))
    rows = [manifest.row(index) for index in range(len(manifest))]
    assert [references[index] for index in range(9)] == [row.tgt_text for row in rows]
    assert len({text for _, text in hypotheses.values()}) > 3
    for index, row in enumerate(rows):  # one by one and by another way in: the same hypotheses
        ((best, *_),) = recogniser.transcribe([read_audio(row.audio)], [row.tgt_lang], source_languages=[row.src_lang])
        score, text = hypotheses[index]
        assert (best.text, best.score) == (text, pytest.approx(float(score) * math.log(2), abs=1e-4))


def test_validation_scores_what_generation_writes(assembled, data):
    options = ["--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--max-tokens", "60000"]
    log = call("validate", data, *options, "--path", assembled, "--valid-subset", "test", "--log-format", "json")
    record = log_records(log, "test")[-1]
    hypotheses, references = generate(data, assembled, "--beam", "1")
    manifest = read_manifest(str(data / "test.tsv"))
    scores = CorpusScores()
    for index, (_, text) in hypotheses.items():
        scores.add(text, references[index], *(manifest.text(name, index) for name in ("src_lang", "tgt_lang")))
    expected = {f"cer_{source}-{target}": one.cer for (source, target), one in scores.per_pair().items()}
    assert expected and math.isfinite(float(record["test_loss"]))
    assert len(set(expected.values())) > 1
    for name, cer in expected.items():
        assert float(record[f"test_{name}"]) == pytest.approx(cer, abs=0.01)


def test_interactive_writes_what_the_recogniser_writes(assembled, data):
    """Of files, whose languages the options say."""
    manifest = read_manifest(str(data / "test.tsv"))
    paths = [manifest.row(index).audio for index in range(4)]
    recogniser = load_recogniser(str(assembled))
    options = ["--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--path", assembled, "--beam", "1"]
    options += ["--tgt-lang", "en", "--src-lang", "ru", "--max-tokens", "60000"]
    output = spawn("fairseq-interactive", data, *options, input="".join(f"{path}\n" for path in paths)).output
    written = {int(row): text for row, text in re.findall(r"^D-(\d+)\t[^\t]*\t(.*)$", output, re.MULTILINE)}
    for index, path in enumerate(paths):
        ((best, *_),) = recogniser.transcribe([read_audio(path)], ["en"], source_languages=["ru"])
        assert written[index] == best.text
    assert len(set(written.values())) > 1


def test_what_is_written_depends_on_language_and_task(assembled, data):
    own, _ = generate(data, assembled)
    english, _ = generate(data, assembled, "--tgt-lang", "en")
    manifest = read_manifest(str(data / "test.tsv"))
    changed = {index for index in own if own[index] != english[index]}
    assert changed == {index for index in own if manifest.text("tgt_lang", index) != "en"}


def test_data_with_a_pair_of_languages_that_whisper_cannot_write(assembled, data, tmp_path):
    lines = (data / "test.tsv").read_text(encoding="utf-8").splitlines()
    lines[3] = re.sub(r"\tru\ten$", "\tru\tes", lines[3])
    assert lines[3].endswith("\tru\tes")
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="test.tsv:4: from 'ru' into 'es': Whisper translates into English only"):
        generate(tmp_path, assembled)


TRAIN = ["--task", "multilingual_speech_to_text", "--arch", "student_s2t", "--criterion", "ctc_attention"]


def train(data, save_dir, student, directory, *more):
    """The log of fairseq-train on a pretrained decoder."""
    own = [*TRAIN, *TRAINING, "--student", student, "--decoder-from", f"hf:{directory}", "--save-dir", save_dir]
    return call("train", data, *own, *more)


def test_training_goes_on_without_the_directory(data, student, whisper, tmp_path):
    """Loss on the target's tokens alone; a second run takes tokenizer and weights from the checkpoint."""
    directory = shutil.copytree(whisper, tmp_path / "teacher")
    log = train(data, tmp_path / "run", student, directory, "--max-update", "4")
    assert float(log_records(log, "valid")[-1]["valid_loss"]) > 0
    assert "valid_wer_es-en" in log_records(log, "valid")[-1]
    shutil.rmtree(directory)
    log = train(data, tmp_path / "run", student, directory, "--max-update", "6")
    assert log_records(log, "train_inner")[-1]["num_updates"] == "6"
    hypotheses, _ = generate(data, tmp_path / "run" / "checkpoint_last.pt", "--beam", "1")
    assert len(hypotheses) == 9
    pretrained.write_m2m100(tmp_path / "teacher")
    with pytest.raises(ConfigError, match="its config.json is not that of the decoder in .*checkpoint_last.pt"):
        train(data, tmp_path / "run", student, directory, "--max-update", "8")


def test_other_widths_are_adapted(data, student, tmp_path):
    """M2M-100 of another width: refused by `colld assemble`, trained with an adaptor, with its tokens cut."""
    directory = pretrained.write_m2m100(tmp_path / "m2m100", d_model=16)
    with pytest.raises(ConfigError, match="is 32 wide, the decoder of hf:.* attends to 16.*fairseq-train"):
        assemble(str(student), f"hf:{directory}")
    cut = ["--decoder-tokens-from", data / "train.tsv", "--adaptor-layers", "1", "--freeze-decoder-updates", "2"]
    train(data, tmp_path / "run", student, directory, "--max-update", "3", *cut)
    hypotheses, references = generate(data, tmp_path / "run" / "checkpoint_last.pt")
    manifest = read_manifest(str(data / "test.tsv"))
    known = [index for index in references if "unk" not in references[index]]
    assert len(hypotheses) == 9 and len(known) > 3
    assert all(references[index] == manifest.text("tgt_text", index) for index in known)


def test_transcribe_tells_whisper_what_is_spoken(assembled, data, capsys):
    row = read_manifest(str(data / "test.tsv")).row(2)

    def written(*languages):
        assert main(["transcribe", str(assembled), row.audio, "--nbest", "1", *languages]) == 0
        return capsys.readouterr().out

    recogniser = load_recogniser(str(assembled))
    for source in ("ru", "es"):
        ((best,),) = recogniser.transcribe([read_audio(row.audio)], ["en"], source_languages=[source])
        assert written("--lang", "en", "--src-lang", source).split("\t")[1].rstrip("\n") == best.text
    assert main(["transcribe", str(assembled), row.audio]) == 2
    assert "say with --lang which" in capsys.readouterr().err
    assert main(["transcribe", str(assembled), row.audio, "--lang", "es", "--src-lang", "ru"]) == 2
    assert "from 'ru' into 'es': Whisper translates into English only" in capsys.readouterr().err
