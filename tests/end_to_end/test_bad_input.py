"""What happens with damaged audio, odd text and wrong options: the promised handling, a last line one can act on."""

import shutil

import numpy as np
import pytest
import soundfile
import synthetic
from commands import PACKAGE, TINY_ENCODER, TRAINING, call, log_records, losses, spawn

from colld_fairseq.errors import AudioError, ColldError, ConfigError, ManifestError, TeacherError

ROW = "{}\t{}\t{}\t{}\ts\t{}\txx\txx\n"


@pytest.fixture
def folder(corpus, tmp_path):
    """A copy of the corpus that may be damaged."""
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path / "corpus"


def distil(folder, teacher, *more):
    return call(
        "train", folder, "--user-dir", PACKAGE, "--task", "speech_distillation", "--teacher", teacher,
        *["--arch", "colld_student", *TINY_ENCODER, "--criterion", "colld", "--layer-map", "sparse:2", *TRAINING],
        *["--max-epoch", "1", "--disable-validation", "--save-dir", folder / "saved", *more],
    )  # fmt: skip


def add_row(folder, name, waveform, rate=16000, text="abc", split="train"):
    """Append an utterance to a manifest, with the length it should have at 16 kHz."""
    soundfile.write(folder / name, waveform, rate)
    with open(folder / f"{split}.tsv", "a", encoding="utf-8") as out:
        out.write(ROW.format(name, name, len(waveform) * 16000 // rate, text, text))


def damage(kind, folder):
    """One more row in train.tsv, whose audio cannot be used."""
    sound = 0.1 * np.sin(np.arange(16000) / 20)
    if kind == "truncated":
        add_row(folder, "bad.wav", sound)
        whole = (folder / "bad.wav").read_bytes()
        (folder / "bad.wav").write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        add_row(folder, "bad.wav", sound)
        soundfile.write(folder / "bad.wav", np.zeros(0), 16000)
    elif kind == "nan":
        soundfile.write(folder / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
        add_row(folder, "bad.wav", sound)
        shutil.move(folder / "nan.wav", folder / "bad.wav")
    elif kind == "missing":
        add_row(folder, "bad.wav", sound)
        (folder / "bad.wav").unlink()
    elif kind == "no audio":
        add_row(folder, "bad.wav", sound)
        (folder / "bad.wav").write_text("this is no audio\n" * 100)


@pytest.mark.parametrize("kind", ["truncated", "empty", "nan", "missing", "no audio"])
def test_one_unusable_utterance_is_named_and_left_out(kind, folder, teacher):
    damage(kind, folder)
    output = distil(folder, teacher)
    assert output.count("skipping unreadable utterance bad.wav (1 so far, limit 1)") == 1
    assert sum(float(record["bsz"]) for record in log_records(output, "train_inner")) == 24
    assert "done training" in output


def test_too_many_unusable_utterances_are_fatal(folder, teacher):
    for path in sorted(folder.glob("train-*.wav"))[:3]:
        path.unlink()
    with pytest.raises(AudioError, match="2 of 24 utterances cannot be read.*colld doctor --manifest.*--max-bad-audio"):
        distil(folder, teacher)
    output = distil(folder, teacher, "--max-bad-audio", "0.2", "--reset-dataloader")
    assert output.count("skipping unreadable utterance") == 3 and "done training" in output


def test_too_many_unusable_utterances_end_the_command_in_a_loader_process(folder, teacher):
    for path in folder.glob("train-*.wav"):
        path.unlink()
    run = spawn(
        "fairseq-train", folder, "--user-dir", PACKAGE, "--task", "speech_distillation", "--teacher", teacher,
        *["--arch", "colld_student", *TINY_ENCODER, "--criterion", "colld", "--layer-map", "sparse:2", *TRAINING],
        *["--num-workers", "1", "--disable-validation", "--save-dir", folder / "saved"],
        check=False,
    )  # fmt: skip
    assert run.code == 1
    assert "utterances cannot be read" in run.last_line and "--max-bad-audio" in run.last_line


def test_batches_of_unusable_utterances_only(folder, teacher):
    """Also when it is the first one, which fairseq would need for skipping the others. Another takes its place."""
    rows = [line.split("\t") for line in (folder / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    bad = [fields[1] for fields in rows if fields[1].endswith(".wav")]
    for name in bad:
        (folder / name).unlink()
    output = distil(folder, teacher, "--batch-size", "1", "--max-bad-audio", "0.5")
    assert len(losses(output)) == len(rows) and output.count("skipping unreadable") == len(bad) == 8
    assert "done training" in output


def test_validation_and_decoding_go_on_without_unusable_utterances(folder, recogniser, vocab):
    (folder / "valid-0.wav").unlink()
    options = [folder, "--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--vocab", vocab]
    options += ["--path", recogniser.checkpoint, "--batch-size", "1", "--num-workers", "0"]
    assert "wer" in call("validate", *options, "--valid-subset", "valid")
    output = call("generate", *options, "--gen-subset", "valid")
    assert "skipping unreadable utterance valid-0" in output
    assert [f"\nD-{i}\t" in output for i in range(10)] == [False] + [True] * 9


def test_stereo_44k_and_its_mono_16k_train_alike(folder, teacher):
    generator = np.random.default_rng(3)
    sound = synthetic.make_utterance("x", "xx", "xx", generator).waveform
    add_row(folder, "stereo.wav", np.stack([np.repeat(sound, 3), np.repeat(sound, 3)], 1)[: 3 * 16000], 48000)
    add_row(
        folder,
        "other.flac",
        np.stack([np.interp(np.arange(0, 8000, 0.3628), np.arange(8000), sound[:8000])] * 2, 1),
        44100,
    )
    output = distil(folder, teacher)
    assert "skipping" not in output
    assert sum(float(record["bsz"]) for record in log_records(output, "train_inner")) == 26


def test_a_tab_inside_a_field_is_named_with_its_line(folder, teacher):
    with open(folder / "train.tsv", "a", encoding="utf-8") as out:
        out.write(ROW.format("tabbed", "train-0.wav", 9600, "a\tb", "ab"))
    with pytest.raises(ManifestError, match=r"train\.tsv:26.*8 tab-separated fields"):
        distil(folder, teacher)


def test_non_ascii_and_right_to_left_text_train_and_come_back(folder, tmp_path):
    """Combining marks, Arabic, Hebrew with points, Devanagari, emoji, quotes: trained on, decoded, printed in full."""
    transcripts = ["لغة عربيّة", "שָׁלוֹם", "हिन्दी में", "e\u0301te\u0301 à l’été", 'ein "Zitat" 😀', "中文 字"]
    (folder / "train.tsv").write_text(synthetic.HEADER, encoding="utf-8")
    (folder / "valid.tsv").write_text(synthetic.HEADER, encoding="utf-8")
    for i, text in enumerate(transcripts):
        sound = 0.1 * np.sin(np.arange(16000 + 800 * i) / (10 + i))
        add_row(folder, f"t{i}.wav", sound, text=text)
        add_row(folder, f"v{i}.wav", sound, text=text, split="valid")
    from colld_fairseq.data.vocabulary_making import make_vocabulary

    make_vocabulary([str(folder / "train.tsv")], tmp_path / "vocab")
    common = ["--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--vocab", tmp_path / "vocab"]
    call(
        "train", folder, *common, "--arch", "student_ctc", "--criterion", "ctc_attention", *TINY_ENCODER, *TRAINING,
        *["--max-update", "1", "--save-dir", folder / "saved"],
    )  # fmt: skip
    output = call(
        "generate", folder, *common, "--gen-subset", "valid", "--max-tokens", "60000", "--num-workers", "0",
        *["--path", folder / "saved" / "checkpoint_last.pt"],
    )  # fmt: skip
    import unicodedata

    for i, text in enumerate(transcripts):
        assert f"T-{i}\t{unicodedata.normalize('NFC', text)}\n" in output


WRONG = {
    "teacher directory": (["--teacher", "hf:/nowhere/at-all"], TeacherError, "/nowhere/at-all"),
    "teacher scheme": (["--teacher", "hubert"], ConfigError, "hf:DIR, "),
    "teacher layer": (["--layer-map", "2:9"], ConfigError, "teacher has layers 0 to 4, there is no layer 9"),
    "student layer": (["--layer-map", "3:4"], ConfigError, "student has layers 0 to 2, there is no layer 3"),
    "layer map": (["--layer-map", "all"], ConfigError, "'all'"),
    "preset": (["--encoder-preset", "huge"], ConfigError, "'huge'.*tiny"),
    "layer weights": (["--layer-weights", "1,2,3"], ConfigError, "3 weights for 2 layer pairs"),
    "data folder": (["--train-subset", "train_other"], ManifestError, "train_other.tsv"),
    "feature cache": (["--teacher-cache", "/nowhere/cache"], TeacherError, "/nowhere/cache.*colld features"),
    "lengths": (["--min-seconds", "5"], ManifestError, "no utterance between"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_distillation_options(what, folder, teacher):
    options, error, message = WRONG[what]
    with pytest.raises(error, match=message):
        distil(folder, teacher, *options)


def test_teacher_with_missing_weights_names_them(folder, teacher, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "teacher"
    shutil.copytree(teacher.partition(":")[2], broken)
    state = load_file(broken / "model.safetensors")
    removed = [name for name in state if "layers.1.attention" in name]
    save_file({name: value for name, value in state.items() if name not in removed}, broken / "model.safetensors")
    with pytest.raises(TeacherError, match=r"8 missing \(encoder\.layers\.1\.attention"):
        distil(folder, f"hf:{broken}")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--student", "/nowhere/checkpoint.pt"], "/nowhere/checkpoint.pt: no such file"),
        (["--student", __file__], "test_bad_input.py: cannot be read as weights"),
        (["--vocab", "/nowhere/vocab"], "no vocabulary in /nowhere/vocab: make one with `colld vocab"),
        (["--decoder", "attention"], "the model has a CTC layer only"),
    ],
    ids=["no student", "not a student", "no vocabulary", "no decoder"],
)
def test_wrong_finetuning_options(options, message, folder, vocab):
    with pytest.raises(ColldError, match=message):
        call(
            "train", folder, "--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--vocab", vocab,
            *["--arch", "student_ctc", "--criterion", "ctc_attention", *TINY_ENCODER, *TRAINING, "--max-update", "1"],
            *["--save-dir", folder / "saved", *options],
        )  # fmt: skip


def test_an_audio_only_manifest_is_no_text(folder, vocab):
    (folder / "train.tsv").write_text(".\ntrain-0.wav\t9600\n")
    with pytest.raises(ConfigError, match="speech-to-text manifest"):
        call(
            "train", folder, "--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--vocab", vocab,
            *["--arch", "student_ctc", "--criterion", "ctc_attention", *TINY_ENCODER, *TRAINING],
            *["--disable-validation", "--save-dir", folder / "saved"],
        )  # fmt: skip


def test_the_last_line_of_the_command_is_the_message(folder, teacher):
    run = spawn(
        "fairseq-train", folder, "--user-dir", PACKAGE, "--task", "speech_distillation", "--teacher", teacher,
        *["--arch", "colld_student", *TINY_ENCODER, "--criterion", "colld", "--layer-map", "2:7", *TRAINING],
        *["--save-dir", folder / "saved"],
        check=False,
    )  # fmt: skip
    assert run.code == 1
    assert run.last_line.startswith("colld_fairseq.errors.ConfigError: layer map '2:7': the teacher has layers 0 to 4")
