"""`colld convert --head`: a student with a CTC layer writes in transformers what it writes here."""

import functools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from checkpoints import save_untrained
from task_setup import set_up

from colld_fairseq import load_recogniser
from colld_fairseq.checkpoints.ctc_directory import NEVER
from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.checkpoints.statistics import Statistics, write_statistics
from colld_fairseq.cli import main as colld
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.vocabulary_making import make_vocabulary
from colld_fairseq.teachers import describe_teacher, load_teacher

SMALL = ["--encoder-layers", "2", "--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "48"]
SMALL += ["--encoder-attention-heads", "2"]
CONVOLUTIONS = ["--conv-feature-layers", "[(16,10,5)]+[(16,3,2)]*4+[(16,2,2)]*2"]
STATISTICS = "cmvn.npz"  # beside the checkpoint
REFUSED = {"fbank, transformer": ["--encoder-preset", "usad_small"]}
SHAPES = {
    "hubert": ["--encoder-preset", "half_l2l", *CONVOLUTIONS],
    "hubert, normalized": ["--encoder-preset", "lighthubert_small", "--normalize-waveform", *CONVOLUTIONS],
    "w2v-bert": ["--encoder-preset", "conformer_1024"],
    "conformer": ["--encoder-preset", "small"],
    "conformer, corpus": ["--encoder-preset", "conformer_10m", "--fbank", "icefall", "--cmvn", STATISTICS],
}
CLASSES = {"hubert": "HubertForCTC", "hubert, normalized": "HubertForCTC", "w2v-bert": "Wav2Vec2BertForCTC"}
CLASSES.update({"conformer": "ColldForCTC", "conformer, corpus": "ColldForCTC"})
CUSTOM = [shape for shape, name in CLASSES.items() if name == "ColldForCTC"]


def save_student(shape, corpus, vocab, path, arch="student_ctc"):
    arguments = [corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--vocab", vocab]
    write_statistics(str(path.parent / STATISTICS), Statistics(np.linspace(-14, -8, 80), np.full(80, 3.0), "icefall"))
    options = [str(path.parent / STATISTICS) if word == STATISTICS else word for word in {**SHAPES, **REFUSED}[shape]]
    torch.manual_seed(2)
    run = set_up(*arguments, "--arch", arch, *options, *SMALL)
    with torch.no_grad():  # <unk> is what a student that was never trained would write most of the time
        run.model.ctc.weight[3], run.model.ctc.bias[3] = 0.0, -100.0
    return save_untrained(run, path)


@pytest.fixture(scope="module")
def conversion(corpus, vocab, tmp_path_factory):
    """conversion(shape) -> (checkpoint, directory)"""

    @functools.cache
    def convert(shape):
        folder = tmp_path_factory.mktemp("ctc")
        path, directory = save_student(shape, corpus, vocab, folder / "model.pt"), folder / "student"
        words = ["convert", "--from", f"colld:{path}", "--to", f"hf:{directory}", "--head", "--tolerance", "1e-3"]
        assert colld(words) == 0
        return path, directory

    return convert


@pytest.fixture(params=SHAPES)
def converted(request, conversion):
    """(shape, checkpoint, directory)"""
    return request.param, *conversion(request.param)


@pytest.fixture(scope="module")
def utterances(corpus):
    rows = read_manifest(str(corpus / "test.tsv"))
    return [read_audio(rows.audio_path(index)) for index in range(len(rows))]


def pipeline(shape, directory):
    return transformers.pipeline("automatic-speech-recognition", str(directory), trust_remote_code=shape in CUSTOM)


def test_the_pipeline_writes_our_text(converted, utterances):
    shape, path, directory = converted
    recogniser = load_recogniser(str(path))
    recognize = pipeline(shape, directory)
    assert type(recognize.model).__name__ == CLASSES[shape]
    same, written = 0, set()
    for waveform in utterances:
        ((ours,),) = recogniser.transcribe([waveform])
        theirs = recognize({"raw": waveform, "sampling_rate": 16000})["text"]
        same += ours.text == theirs
        written.add(ours.text)
    # transformers' filterbanks of w2v-BERT have an even number of frames, and another divisor of the variance.
    assert len(written) > 2 and same >= len(utterances) - (3 if shape == "w2v-bert" else 0)


def test_logits_are_ours_but_for_what_is_never_written(converted, utterances):
    shape, path, directory = converted
    recogniser = load_recogniser(str(path))
    trust = dict(trust_remote_code=shape in CUSTOM)
    processor = transformers.AutoProcessor.from_pretrained(directory, **trust)
    model = transformers.AutoModelForCTC.from_pretrained(directory, dtype=torch.float32, **trust).eval()
    source = torch.from_numpy(recogniser.input(utterances[0]))[None]
    if shape == "w2v-bert":
        source = source[:, : source.size(1) // 2 * 2]
        given = source.reshape(1, -1, 160)
    elif shape in CUSTOM:
        given = processor(utterances[0], sampling_rate=16000, return_tensors="pt")["input_features"]
        assert given.shape == source.shape and (given - source).abs().max() < 2e-3
        given = source
    else:
        given = processor(utterances[0], sampling_rate=16000, return_tensors="pt")["input_values"]
        assert (given - source).abs().max() < 1e-3  # a variance floor of 1e-7 there, of 1e-5 here
        given = source
    with torch.no_grad():
        theirs = model(given).logits
        ours = recogniser.models[0](source, torch.tensor([source.size(1)]))["ctc_logits"]
    never = [1, 2, 3]
    kept = [index for index in range(ours.size(-1)) if index not in never]
    assert theirs.shape == ours.shape and (theirs[..., never] == NEVER).all()
    assert (theirs[..., kept] - ours[..., kept]).abs().max() < 1e-3 * max(1.0, ours.abs().max())


def test_tokens_keep_their_ids(converted, vocab):
    shape, path, directory = converted
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=shape in CUSTOM)
    dictionary = load_recogniser(str(path)).vocabulary.dictionary
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<unk>"]
    for index in range(4, len(dictionary)):
        assert tokenizer.convert_ids_to_tokens(index) == dictionary[index]
    config = json.loads((directory / "config.json").read_text())
    assert (config["pad_token_id"], config["vocab_size"]) == (0, len(dictionary))


def test_times_of_words(converted, utterances):
    shape, _, directory = converted
    recognize = pipeline(shape, directory)
    result = recognize({"raw": utterances[0], "sampling_rate": 16000}, return_timestamps="word")
    assert " ".join(chunk["text"] for chunk in result["chunks"]).split() == result["text"].split()
    times = np.array([chunk["timestamp"] for chunk in result["chunks"]])
    assert (times >= 0).all() and (np.diff(times.ravel()) >= 0).all()


# Conformers, with their code in the directory


@pytest.fixture(params=CUSTOM)
def conformer(request, conversion):
    """(checkpoint, directory)"""
    return conversion(request.param)


WITHOUT_THIS_PACKAGE = """\
import importlib.abc, json, sys
import numpy as np

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("colld_fairseq", "fairseq", "kaldi_native_fbank"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import transformers

recognize = transformers.pipeline("automatic-speech-recognition", sys.argv[1], trust_remote_code=True)
waveforms = [np.load(path) for path in sys.argv[2:]]
print(json.dumps([recognize(waveform, return_timestamps="word") for waveform in waveforms]))
"""


def test_runs_where_this_package_is_not(conversion, utterances, tmp_path):
    path, directory = conversion("conformer, corpus")
    for index, waveform in enumerate(utterances):
        np.save(tmp_path / f"{index}.npy", waveform)
    files = [str(tmp_path / f"{index}.npy") for index in range(len(utterances))]
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-c", WITHOUT_THIS_PACKAGE, str(directory), *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    recogniser = load_recogniser(str(path))
    for result, waveform in zip(results, utterances):
        ((ours,),) = recogniser.transcribe([waveform])
        assert result["text"] == ours.text
        assert [chunk["text"] for chunk in result["chunks"]] == ours.text.split()
        assert all(
            0 <= start < end <= len(waveform) / 16000 for start, end in map(lambda c: c["timestamp"], result["chunks"])
        )


def test_batches_write_what_each_utterance_does(conformer, utterances):
    recognize = pipeline(CUSTOM[0], conformer[1])
    alone = [recognize(waveform)["text"] for waveform in utterances]
    assert [result["text"] for result in recognize(list(utterances), batch_size=4)] == alone


def test_long_recordings_in_chunks(conformer, utterances):
    recording = np.concatenate(utterances)
    recognize = pipeline(CUSTOM[0], conformer[1])
    whole = recognize(recording)["text"]
    result = recognize(recording, chunk_length_s=4, stride_length_s=1, return_timestamps="word")
    assert len(result["text"]) > len(whole) / 2  # each chunk is normalized on its own
    ends = [chunk["timestamp"][1] for chunk in result["chunks"]]
    assert ends == sorted(ends) and ends[-1] <= len(recording) / 16000


def test_the_encoder_comes_back(conformer, utterances, tmp_path):
    path, directory = conformer
    ours, theirs = read_encoder(f"colld:{path}"), read_encoder(f"hf:{directory}")
    assert theirs.config == replace(ours.config, conv_layers=theirs.config.conv_layers)
    for name, value in theirs.weights.items():
        assert name == "mask_emb" or torch.equal(value, ours.weights[name])
    info = describe_teacher(f"hf:{directory}")
    teacher = load_teacher(f"hf:{directory}", [2])
    assert (info.num_layers, info.width, info.frame_rate_hz) == (2, 32, teacher.frame_rate_hz)
    waveform = torch.from_numpy(utterances[0])[None]
    given = waveform, torch.tensor([waveform.size(1)])
    expected = load_teacher(f"colld:{path}", [2])(*given).features[2]
    torch.testing.assert_close(teacher(*given).features[2], expected)
    assert colld(["convert", "--from", f"hf:{directory}", "--to", f"colld:{tmp_path}/student.pt"]) == 0


def test_code_that_was_changed_is_not_run(conversion, tmp_path, capsys):
    directory = tmp_path / "changed"
    shutil.copytree(conversion("conformer")[1], directory)
    with open(directory / "modeling_colld.py", "a") as file:
        file.write("raise SystemExit('run')\n")
    assert colld(["convert", "--from", f"hf:{directory}", "--to", f"colld:{tmp_path}/student.pt"]) == 2
    assert "modeling_colld.py is not as colld_fairseq writes it" in capsys.readouterr().err


# Vocabularies of sentencepiece


@pytest.fixture(scope="module")
def pieces(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    make_vocabulary([str(corpus / "train.tsv")], folder, kind="sentencepiece", size=40, lang_tags=True)
    return folder


@pytest.mark.parametrize("shape", ["hubert", "conformer"])
def test_pieces_are_joined(shape, corpus, pieces, utterances, tmp_path):
    path, directory = save_student(shape, corpus, pieces, tmp_path / "model.pt"), tmp_path / "student"
    words = ["convert", "--from", f"colld:{path}", "--to", f"hf:{directory}", "--head", "--tolerance", "1e-3"]
    assert colld(words) == 0
    recogniser, recognize = load_recogniser(str(path)), pipeline(shape, directory)
    assert type(recognize.model).__name__ == CLASSES[shape]
    ours = [recogniser.transcribe([waveform])[0][0].text for waveform in utterances]
    same = sum(recognize(waveform)["text"] == text for waveform, text in zip(utterances, ours))
    assert len(set(ours)) > 2 and same == len(utterances)
    codec = recogniser.vocabulary.codec
    targets = read_manifest(str(corpus / "train.tsv")).table.column("tgt_text").to_pylist()
    for text in set(map(codec.clean, targets)):
        ids = recognize.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == recogniser.vocabulary.encode(text, append_eos=False).tolist()
        assert recognize.tokenizer.decode(ids, group_tokens=False) == text
    boundary, letter = map(recogniser.vocabulary.dictionary.index, (codec.boundary, codec.encode("ab")[-1]))
    around = [boundary, 0, boundary, letter, 0, boundary]
    assert recognize.tokenizer.decode(around) == recogniser.vocabulary.detokenize(around) != ""
    with pytest.raises(TypeError):  # transformers has no times of pieces; docs/formats.md says so
        recognize(utterances[0], return_timestamps="word")


def test_models_of_bpe_are_refused(corpus, pieces, tmp_path, capsys):
    """Their scores are ranks: the tokenizer would cut words elsewhere."""
    folder = tmp_path / "bpe"
    shutil.copytree(pieces, folder)
    path = save_student("hubert", corpus, folder, tmp_path / "model.pt")
    lines = ["abc de abcde", "bca ed", "абв гё"] * 20
    options = dict(vocab_size=24, model_type="bpe", minloglevel=2, bos_id=0, pad_id=1, eos_id=2, unk_id=3)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(folder / "spm"), **options)
    assert colld(["convert", "--from", f"colld:{path}", "--to", f"hf:{tmp_path}/x", "--head"]) == 2
    assert "sentencepiece model of BPE" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_what_cannot_be_is_named(corpus, vocab, tmp_path, capsys):
    transformer = save_student("fbank, transformer", corpus, vocab, tmp_path / "transformer.pt")
    whisper = ["--encoder-preset", "whisper_base", *SMALL]
    log_mel = save_untrained(
        set_up(corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--vocab", vocab,
               "--arch", "student_ctc", *whisper), tmp_path / "whisper.pt",
    )  # fmt: skip
    state = torch.load(save_student("hubert", corpus, vocab, tmp_path / "hubert.pt"), weights_only=True)
    state["model"] = {name: value for name, value in state["model"].items() if not name.startswith("ctc.")}
    torch.save(state, tmp_path / "headless.pt")

    def message(source, *more, to=f"hf:{tmp_path}/out"):
        assert colld(["convert", "--from", source, "--to", to, "--head", *more]) == 2
        return capsys.readouterr().err

    assert "front_end='fbank'" in message(f"colld:{transformer}")
    assert "Whisper's encoder" in message(f"colld:{log_mel}")
    assert "no CTC layer" in message(f"colld:{tmp_path}/headless.pt")
    assert "--head goes with --to hf:DIR" in message(f"colld:{transformer}", to=f"colld:{tmp_path}/x.pt")
    assert "--from colld:FILE.pt" in message(f"hf:{tmp_path}")
    assert not (tmp_path / "out").exists()
