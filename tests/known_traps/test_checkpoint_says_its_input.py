"""Whoever runs a model had to remember how its input was normalized, and a transducer's topology; else it was wrong.

Every door through which a checkpoint is used must give the features and hypotheses of its training without being told.
What is expected is computed here from the audio, the statistics and the weights alone.
"""

import contextlib
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import enlarged
from commands import PACKAGE, TINY_ENCODER, TRAINING, call
from task_setup import set_up

from colld_fairseq.cli import main as colld
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.models.loading import load_student, read_input, read_model
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.recogniser import load_recogniser

TASK = ["--task", "multilingual_speech_to_text"]
TRANSDUCER = ["--arch", "transducer_student", "--criterion", "transducer", "--topology", "modified"]
SMALL = ["--predictor-embed-dim", "16", "--joiner-dim", "24", "--front-end", "conv2d"]
WAVEFORM = ["--front-end", "waveform", "--conv-feature-layers", "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2"]
NEVER = [1, 2]  # padding and the end of sentence are no labels
CTC = ["--arch", "student_ctc", "--criterion", "ctc_attention"]


def corpus_statistics(folder):
    """Those of another corpus: nothing like the statistics of an utterance."""
    path = folder / "stats.npz"
    GlobalCmvn(np.linspace(8.0, 12.0, 80), np.linspace(1.5, 4.0, 80)).save(str(path))
    return path


def by_hand(kind, waveform):
    """The input that the models here were trained on."""
    if kind == "waveform":
        return (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-5)
    return (log_mel_fbank(waveform) - np.linspace(8.0, 12.0, 80)) / np.linspace(1.5, 4.0, 80)


def train(corpus, vocab, folder, *options):
    """Two updates; the weights are then made larger, so that a wrong input or topology makes a difference."""
    limits = ["--max-update", "2", "--disable-validation", "--save-dir", folder]
    call("train", corpus, *TASK, "--vocab", vocab, *TINY_ENCODER, *options, *TRAINING, *limits)
    path = folder / "checkpoint_last.pt"
    state = torch.load(path, weights_only=True)
    torch.manual_seed(8)
    state["model"] = {name: enlarged(value) for name, value in state["model"].items()}
    torch.save(state, path)
    return str(path)


@pytest.fixture(scope="module")
def trained(corpus, vocab, tmp_path_factory):
    """A `modified` transducer on filterbanks with corpus statistics, which are gone, and CTC on normalized waveforms:
    kind -> path of the checkpoint, hypotheses by greedy search on the inputs that were made by hand."""
    made = {}
    folder = tmp_path_factory.mktemp("fbank")
    statistics = corpus_statistics(folder)
    made["fbank"] = train(corpus, vocab, folder, *TRANSDUCER, *SMALL, "--cmvn", statistics)
    shutil.move(statistics, folder / "moved.npz")
    made["waveform"] = train(
        corpus, vocab, tmp_path_factory.mktemp("waveform"), *CTC, *WAVEFORM, "--normalize-waveform"
    )
    return {
        kind: SimpleNamespace(kind=kind, path=path, texts=greedy(corpus, kind, path)) for kind, path in made.items()
    }


@torch.no_grad()
def greedy(corpus, kind, path):
    """The text of each test utterance, by the model alone."""
    recogniser = load_recogniser(path, device="cpu")  # for its weights and vocabulary
    model, texts = recogniser.models[0], []
    for waveform in waveforms(corpus):
        source = torch.from_numpy(by_hand(kind, waveform).astype(np.float32))[None]
        lengths = torch.tensor([source.size(1)])
        if kind == "waveform":
            log_probs = model.get_ctc_log_probs(source, lengths)[0][0]
            log_probs[:, NEVER] = -torch.inf
            ids = log_probs.argmax(-1).unique_consecutive()
            tokens = ids[ids != 0].tolist()
        else:
            frames, lengths = model.encode_for_search(source, lengths)
            tokens, (symbols, state) = [], model.start(1)
            for t in range(int(lengths)):  # at most one label per frame
                logits = model.join(frames[:, t], symbols)
                logits[:, NEVER] = -torch.inf
                if logits.argmax(-1) != 0:
                    tokens.append(int(logits.argmax(-1)))
                    symbols, state = model.extend(torch.tensor(tokens[-1:]), state)
        texts.append(recogniser.detokenize(tokens))
    assert len(set(texts)) > 4
    return texts


def waveforms(corpus):
    rows = read_manifest(str(corpus / "test.tsv"))
    return [read_audio(rows.row(i).audio) for i in range(len(rows))]


@contextlib.contextmanager
def inputs_of_encoders(monkeypatch):
    """Collects, without padding, whatever student encoders are given."""
    given, forward = [], StudentEncoder.forward

    def noting(self, x, lengths=None, *args, **kwargs):
        sizes = [x.size(1)] * len(x) if lengths is None else lengths.tolist()
        given.extend(row[:size].float().cpu().numpy() for row, size in zip(x, sizes))
        return forward(self, x, lengths, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StudentEncoder, "forward", noting)
        yield given


def assert_inputs(kind, given, corpus):
    """Each of `given` is the input of one of the test utterances, and each utterance is among them."""
    expected = [by_hand(kind, waveform) for waveform in waveforms(corpus)]
    there = set()
    for source in given:
        matches = [
            i for i, one in enumerate(expected) if one.shape == source.shape and np.allclose(one, source, atol=1e-4)
        ]
        assert matches
        there.update(matches)
    assert there == set(range(len(expected)))


# Doors that give texts: (checkpoint, corpus, vocab, tmp_path) -> text of each test utterance


def generate(path, corpus, vocab, tmp_path, *more):
    options = ["--gen-subset", "test", "--max-tokens", "60000", "--num-workers", "0", "--beam", "1", "--path", path]
    output = call("generate", corpus, "--user-dir", PACKAGE, *TASK, "--vocab", vocab, *options, *more)
    texts = dict(re.findall(r"^D-(\d+)\t\S+\t(.*)$", output, re.MULTILINE))
    return [texts[str(i)].replace("<unk>", "") for i in range(len(texts))]


def interactive(path, corpus, vocab, tmp_path, *more):
    listed = tmp_path / "paths.txt"
    files = []
    for i, waveform in enumerate(waveforms(corpus)):
        files.append(str(tmp_path / f"{i}.npy.wav"))
        import soundfile

        soundfile.write(files[-1], waveform, 16000, subtype="FLOAT")
    listed.write_text("\n".join(files) + "\n")
    options = ["--input", listed, "--buffer-size", "9", "--batch-size", "9", "--beam", "1", "--path", path]
    output = call("interactive", corpus, "--user-dir", PACKAGE, *TASK, "--vocab", vocab, *options, *more)
    texts = dict(re.findall(r"^D-(\d+)\t\S+\t(.*)$", output, re.MULTILINE))
    return [texts[str(i)].replace("<unk>", "") for i in range(len(texts))]


def transcribe(path, corpus, vocab, tmp_path, *more):
    out = tmp_path / "out.tsv"
    assert colld(["transcribe", path, "--manifest", str(corpus / "test.tsv"), "--out", str(out), *more]) == 0
    rows = read_manifest(str(out))
    return [rows.row(i).tgt_text for i in range(len(rows))]


def python(path, corpus, vocab, tmp_path, **options):
    found = load_recogniser(path, device="cpu", **options).transcribe(waveforms(corpus))
    return [n_best[0].text for n_best in found]


def average(path, corpus, vocab, tmp_path):
    other, mean = tmp_path / "other.pt", tmp_path / "mean.pt"
    state = torch.load(path, weights_only=True)
    state["model"] = {
        name: value * (1 + 1e-7) if value.is_floating_point() else value for name, value in state["model"].items()
    }
    torch.save(state, other)
    assert colld(["average", path, str(other), "--out", str(mean)]) == 0
    return python(str(mean), corpus, vocab, tmp_path)


def ensemble(path, corpus, vocab, tmp_path):
    shutil.copy(path, tmp_path / "copy.pt")
    return python(f"{path}:{tmp_path}/copy.pt", corpus, vocab, tmp_path)


TEXTS = [generate, interactive, transcribe, python, average, ensemble]
KINDS = ["fbank", "waveform"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", TEXTS, ids=lambda door: door.__name__)
def test_hypotheses(door, kind, trained, corpus, vocab, tmp_path):
    model = trained[kind]
    found = door(model.path, corpus, vocab, tmp_path)
    assert [" ".join(text.split()) for text in found] == [" ".join(text.split()) for text in model.texts]


# Doors that give something else: (checkpoint, corpus, vocab, tmp_path); what encoders are given there is looked at


def restored(path, corpus, vocab, tmp_path):
    """Training goes on from the file; the dry run over the validation set comes first."""
    kind = ["--arch", "student_ctc", "--criterion", "ctc_attention", *WAVEFORM]
    if "topology" in read_model(path).model:
        kind = ["--arch", "transducer_student", "--criterion", "transducer", *SMALL]
    shutil.copy(path, tmp_path / "checkpoint_last.pt")
    on = ["--save-dir", tmp_path, "--valid-subset", "test", "--train-subset", "test", "--max-update", "3"]
    call("train", corpus, *TASK, "--vocab", vocab, *TINY_ENCODER, *kind, *on, *TRAINING)
    assert read_model(str(tmp_path / "checkpoint_last.pt")).model.get("topology") in (None, "modified")
    assert_same_input(path, tmp_path / "checkpoint_last.pt")


def second_stage(path, corpus, vocab, tmp_path):
    on = ["--save-dir", tmp_path, "--valid-subset", "test", "--train-subset", "test", "--max-update", "1"]
    call("train", corpus, *TASK, "--vocab", vocab, *CTC, "--student", path, *on, *TRAINING)
    assert_same_input(path, tmp_path / "checkpoint_last.pt")


def validate(path, corpus, vocab, tmp_path):
    options = ["--valid-subset", "test", "--max-tokens", "60000", "--num-workers", "0", "--path", path]
    call("validate", corpus, "--user-dir", PACKAGE, *TASK, "--vocab", vocab, *options)


def similarity(path, corpus, vocab, tmp_path):
    models = ["--student", path, path, "--manifest", str(corpus / "test.tsv"), "--out", str(tmp_path / "cka")]
    assert colld(["similarity", *models, "--device", "cpu"]) == 0


def api(path, corpus, vocab, tmp_path):
    student, prepare = load_student(path), read_input(path)
    for waveform in waveforms(corpus):
        student(torch.from_numpy(prepare(waveform))[None])


FEATURES = [restored, second_stage, validate, similarity, api]


def assert_same_input(*paths):
    first, second = (read_model(str(path)).config.input for path in paths)
    assert first == second


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", FEATURES, ids=lambda door: door.__name__)
def test_features(door, kind, trained, corpus, vocab, tmp_path, monkeypatch):
    with inputs_of_encoders(monkeypatch) as given:
        door(trained[kind].path, corpus, vocab, tmp_path)
    assert_inputs(kind, given, corpus)


@pytest.mark.parametrize("kind", KINDS)
def test_profile(kind, trained, corpus, monkeypatch):
    """Its signal is noise."""
    from colld_fairseq.cli import profile

    monkeypatch.setattr(profile, "_noise", lambda *size: waveforms(corpus)[0][None])
    with inputs_of_encoders(monkeypatch) as given:
        assert colld(["profile", "--student", trained[kind].path, "--device", "cpu", "--runs", "1"]) == 0
    expected = by_hand(kind, waveforms(corpus)[0])
    assert given and all(np.allclose(source, expected, atol=1e-4) for source in given)


@pytest.mark.parametrize("kind", KINDS)
def test_convert(kind, trained, tmp_path):
    target = tmp_path / "converted.pt"
    assert colld(["convert", "--from", f"colld:{trained[kind].path}", "--to", f"colld:{target}"]) == 0
    assert_same_input(trained[kind].path, target)


def test_teacher_transducer(trained, corpus, vocab):
    """It takes its own input, and its own topology; the student has others."""
    kd = ["--arch", "transducer_student", "--criterion", "transducer", *SMALL, "--kd", "one_best", "--cmvn", "none"]
    run = set_up(corpus, *TASK, "--vocab", vocab, *TINY_ENCODER, *kd, "--teacher-transducer", trained["fbank"].path)
    assert run.task.teacher_transducer.network.topology == "modified" and run.model.topology == "regular"
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    batch = dataset.collater([dataset[i] for i in range(len(dataset))])["teacher_input"]
    given = [row[:size].numpy() for row, size in zip(batch["src_tokens"], batch["src_lengths"].tolist())]
    assert_inputs("fbank", given, corpus)
