"""`colld convert --head`: a student with a CTC layer writes in transformers what it writes here."""

import json

import numpy as np
import pytest
import torch
import transformers
from checkpoints import save_untrained
from task_setup import set_up

from colld_fairseq import load_recogniser
from colld_fairseq.checkpoints.ctc_directory import NEVER
from colld_fairseq.cli import main as colld
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest

SMALL = ["--encoder-layers", "2", "--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "48"]
SMALL += ["--encoder-attention-heads", "2"]
CONVOLUTIONS = ["--conv-feature-layers", "[(16,10,5)]+[(16,3,2)]*4+[(16,2,2)]*2"]
SHAPES = {
    "hubert": ["--encoder-preset", "half_l2l", *CONVOLUTIONS],
    "hubert, normalized": ["--encoder-preset", "lighthubert_small", "--normalize-waveform", *CONVOLUTIONS],
    "w2v-bert": ["--encoder-preset", "conformer_1024"],
}
CLASSES = {"hubert": "HubertForCTC", "hubert, normalized": "HubertForCTC", "w2v-bert": "Wav2Vec2BertForCTC"}


def save_student(shape, corpus, vocab, path, arch="student_ctc"):
    arguments = [corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--vocab", vocab]
    torch.manual_seed(2)
    run = set_up(*arguments, "--arch", arch, *SHAPES[shape], *SMALL)
    with torch.no_grad():  # <unk> is what a student that was never trained would write most of the time
        run.model.ctc.weight[3], run.model.ctc.bias[3] = 0.0, -100.0
    return save_untrained(run, path)


@pytest.fixture(scope="module", params=SHAPES)
def converted(request, corpus, vocab, tmp_path_factory):
    """(shape, checkpoint, directory)"""
    folder = tmp_path_factory.mktemp("ctc")
    path, directory = save_student(request.param, corpus, vocab, folder / "model.pt"), folder / "student"
    words = ["convert", "--from", f"colld:{path}", "--to", f"hf:{directory}", "--head", "--tolerance", "1e-3"]
    assert colld(words) == 0
    return request.param, path, directory


@pytest.fixture(scope="module")
def utterances(corpus):
    rows = read_manifest(str(corpus / "test.tsv"))
    return [read_audio(rows.audio_path(index)) for index in range(len(rows))]


def test_the_pipeline_writes_our_text(converted, utterances):
    shape, path, directory = converted
    recogniser = load_recogniser(str(path))
    recognize = transformers.pipeline("automatic-speech-recognition", str(directory))
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
    processor = transformers.AutoProcessor.from_pretrained(directory)
    model = transformers.AutoModelForCTC.from_pretrained(directory, dtype=torch.float32).eval()
    source = torch.from_numpy(recogniser.input(utterances[0]))[None]
    if shape == "w2v-bert":
        source = source[:, : source.size(1) // 2 * 2]
        given = source.reshape(1, -1, 160)
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
    _, path, directory = converted
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    dictionary = load_recogniser(str(path)).vocabulary.dictionary
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<unk>"]
    for index in range(4, len(dictionary)):
        assert tokenizer.convert_ids_to_tokens(index) == dictionary[index]
    config = json.loads((directory / "config.json").read_text())
    assert (config["pad_token_id"], config["vocab_size"]) == (0, len(dictionary))


def test_times_of_words(converted, utterances):
    shape, _, directory = converted
    recognize = transformers.pipeline("automatic-speech-recognition", str(directory))
    result = recognize({"raw": utterances[0], "sampling_rate": 16000}, return_timestamps="word")
    assert " ".join(chunk["text"] for chunk in result["chunks"]).split() == result["text"].split()
    times = np.array([chunk["timestamp"] for chunk in result["chunks"]])
    assert (times >= 0).all() and (np.diff(times.ravel()) >= 0).all()


def test_what_cannot_be_is_named(corpus, vocab, tmp_path, capsys):
    conformer = save_untrained(
        set_up(corpus, "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention", "--vocab", vocab,
               "--arch", "student_ctc", *SMALL), tmp_path / "rotary.pt",
    )  # fmt: skip
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

    assert "position='rotary'" in message(f"colld:{conformer}")
    assert "Whisper's encoder" in message(f"colld:{log_mel}")
    assert "no CTC layer" in message(f"colld:{tmp_path}/headless.pt")
    assert "--head goes with --to hf:DIR" in message(f"colld:{conformer}", to=f"colld:{tmp_path}/x.pt")
    assert "--from colld:FILE.pt" in message(f"hf:{tmp_path}")
    assert not (tmp_path / "out").exists()
