"""Whoever runs a model had to remember how its input was normalized, and a transducer's topology; else it was wrong.

Every door through which a checkpoint is used must give the features and hypotheses of its training without being told.
What is expected is computed here from the audio, the statistics and the weights alone.
"""

import contextlib
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from checkpoints import enlarged
from commands import PACKAGE, TINY_ENCODER, TRAINING, call, spawn
from task_setup import set_up
from torch.nn.utils.rnn import pad_sequence

from colld_fairseq.checkpoints.names_colld import load_student, read_model
from colld_fairseq.cli import main as colld
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.fbank import GlobalCmvn, log_mel_fbank
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import AudioError, CheckpointError, ConfigError
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.recogniser import load_recogniser
from colld_fairseq.teachers import TeacherInfo, describe_teacher, load_teacher

TASK = ["--task", "multilingual_speech_to_text"]
TRANSDUCER = ["--arch", "transducer_student", "--criterion", "transducer", "--topology", "modified"]
SMALL = ["--predictor-embed-dim", "16", "--joiner-dim", "24", "--front-end", "conv2d"]
WAVEFORM = ["--front-end", "waveform", "--conv-feature-layers", "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2"]
NEVER = [1, 2, 3]  # padding, the end of sentence and <unk> are no labels
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
    if kind == "icefall":
        fbank = log_mel_fbank(waveform, variant="icefall").astype(np.float64)
        return (fbank - fbank.mean(0)) / fbank.std(0)
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
    """A `modified` transducer on filterbanks with corpus statistics, which are gone, and CTC on normalized waveforms
    and on icefall's filterbanks: kind -> path of the checkpoint, hypotheses by greedy search on inputs made by hand."""
    made = {}
    folder = tmp_path_factory.mktemp("fbank")
    statistics = corpus_statistics(folder)
    made["fbank"] = train(corpus, vocab, folder, *TRANSDUCER, *SMALL, "--cmvn", statistics)
    shutil.move(statistics, folder / "moved.npz")
    made["waveform"] = train(
        corpus, vocab, tmp_path_factory.mktemp("waveform"), *CTC, *WAVEFORM, "--normalize-waveform"
    )
    made["icefall"] = train(corpus, vocab, tmp_path_factory.mktemp("icefall"), *CTC, "--fbank", "icefall")
    return {
        kind: SimpleNamespace(kind=kind, path=path, transcripts=greedy(corpus, kind, path))
        for kind, path in made.items()
    }


@torch.no_grad()
def greedy(corpus, kind, path):
    """The text of each test utterance, by the model alone."""
    recogniser = load_recogniser(path, device="cpu")  # for its weights and vocabulary
    model, transcripts = recogniser.models[0], []
    for waveform in waveforms(corpus):
        source = torch.from_numpy(by_hand(kind, waveform).astype(np.float32))[None]
        lengths = torch.tensor([source.size(1)])
        if kind != "fbank":
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
        transcripts.append(recogniser.detokenize(tokens))
    assert len(set(transcripts)) > 4
    return transcripts


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


# Doors that transcribe: (checkpoint, corpus, vocab, tmp_path) -> text of each test utterance


def generate(path, corpus, vocab, tmp_path, *more):
    options = ["--gen-subset", "test", "--max-tokens", "60000", "--num-workers", "0", "--beam", "1", "--path", path]
    output = call("generate", corpus, "--user-dir", PACKAGE, *TASK, "--vocab", vocab, *options, *more)
    transcripts = dict(re.findall(r"^D-(\d+)\t\S+\t(.*)$", output, re.MULTILINE))
    return [transcripts[str(i)].replace("<unk>", "") for i in range(len(transcripts))]


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
    transcripts = dict(re.findall(r"^D-(\d+)\t\S+\t(.*)$", output, re.MULTILINE))
    return [transcripts[str(i)].replace("<unk>", "") for i in range(len(transcripts))]


def transcribe(path, corpus, vocab, tmp_path, *more):
    out = tmp_path / "out.tsv"
    assert colld(["transcribe", path, "--manifest", str(corpus / "test.tsv"), "--out", str(out), *more]) == 0
    rows = read_manifest(str(out))
    return [rows.row(i).tgt_text for i in range(len(rows))]


def python(path, corpus, vocab, tmp_path, **options):
    result = load_recogniser(path, device="cpu", **options).transcribe(waveforms(corpus))
    return [n_best[0].text for n_best in result]


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


TRANSCRIBING = [generate, interactive, transcribe, python, average, ensemble]
KINDS = ["fbank", "waveform", "icefall"]
KINDS_BEFORE = ["fbank", "waveform"]  # of older checkpoints


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", TRANSCRIBING, ids=lambda door: door.__name__)
def test_hypotheses(door, kind, trained, corpus, vocab, tmp_path):
    model = trained[kind]
    result = door(model.path, corpus, vocab, tmp_path)
    assert [" ".join(text.split()) for text in result] == [" ".join(text.split()) for text in model.transcripts]


# Doors that give something else: (checkpoint, corpus, vocab, tmp_path); what encoders are given there is looked at


def twice(corpus, tmp_path):
    """Options to train and to validate on the test utterances: under two names, because training crops and drops."""
    shutil.copy(corpus / "test.tsv", tmp_path / "same.tsv")
    return ["--valid-subset", "test", "--train-subset", tmp_path / "same", "--audio-root", corpus]


def restored(path, corpus, vocab, tmp_path, *more):
    """Training goes on from the file; the dry run over the validation set comes first."""
    saved = read_model(path)
    kind = [*CTC, *(WAVEFORM if saved.config.input_kind == "waveform" else [])]
    if "topology" in saved.model:
        kind = ["--arch", "transducer_student", "--criterion", "transducer", *SMALL]
    shutil.copy(path, tmp_path / "checkpoint_last.pt")
    on = ["--save-dir", tmp_path, *twice(corpus, tmp_path), "--max-update", "3"]
    call("train", corpus, *TASK, "--vocab", vocab, *TINY_ENCODER, *kind, *on, *TRAINING, *more)
    assert read_model(str(tmp_path / "checkpoint_last.pt")).model.get("topology") in (None, "modified")
    assert_same_input(path, tmp_path / "checkpoint_last.pt")


def second_stage(path, corpus, vocab, tmp_path, *more):
    on = ["--save-dir", tmp_path, *twice(corpus, tmp_path), "--max-update", "1"]
    call("train", corpus, *TASK, "--vocab", vocab, *CTC, "--student", path, *on, *TRAINING, *more)
    if "--cmvn" not in more:
        assert_same_input(path, tmp_path / "checkpoint_last.pt")


def validate(path, corpus, vocab, tmp_path, *more):
    options = ["--valid-subset", "test", "--max-tokens", "60000", "--num-workers", "0", "--path", path]
    call("validate", corpus, "--user-dir", PACKAGE, *TASK, "--vocab", vocab, *options, *more)


def similarity(path, corpus, vocab, tmp_path):
    models = ["--student", path, path, "--manifest", str(corpus / "test.tsv"), "--out", str(tmp_path / "cka")]
    assert colld(["similarity", *models, "--device", "cpu"]) == 0


def api(path, corpus, vocab, tmp_path):
    student = load_student(path)
    prepare = StudentInput(student.config.input)
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


HYDRA = """# @package _global_
common: {{user_dir: {package}, log_format: json, no_progress_bar: true}}
task: {{_name: multilingual_speech_to_text, data: {corpus}, vocab: {vocab}}}
model: {{_name: student_ctc, student: {student}}}
criterion: {{_name: ctc_attention}}
optimizer: {{_name: adam}}
lr_scheduler: fixed
dataset: {{max_tokens: 60000, num_workers: 0, disable_validation: true}}
optimization: {{max_update: 1, lr: [0.002]}}
checkpoint: {{save_dir: {folder}, no_epoch_checkpoints: true}}
"""


def test_hydra(trained, corpus, vocab, tmp_path):
    values = dict(package=PACKAGE, corpus=corpus, vocab=vocab, student=trained["fbank"].path, folder=tmp_path)
    (tmp_path / "tiny.yaml").write_text(HYDRA.format(**values))
    spawn("fairseq-hydra-train", "--config-dir", tmp_path, "--config-name", "tiny", cwd=tmp_path)
    assert_same_input(trained["fbank"].path, tmp_path / "checkpoint_last.pt")


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


@pytest.mark.parametrize("kind", KINDS)
def test_student_as_a_teacher(kind, trained, corpus):
    """As `colld features` and `colld cluster` run it, on batches of waveforms."""
    spec, utterances = f"colld:{trained[kind].path}", [torch.from_numpy(utterance) for utterance in waveforms(corpus)]
    teacher, student = load_teacher(spec, [0, 2]), load_student(trained[kind].path)
    assert describe_teacher(spec) == TeacherInfo(teacher.num_layers, teacher.width, teacher.frame_rate_hz)
    result = teacher(
        pad_sequence(utterances, batch_first=True), torch.tensor([len(utterance) for utterance in utterances])
    )
    for row, utterance in enumerate(utterances):
        source = torch.from_numpy(by_hand(kind, utterance.numpy()).astype(np.float32))[None]
        with torch.no_grad():
            expected = student(source, layers=[0, 2])
        assert result.lengths[row] == expected.x.size(1)
        for layer in (0, 2):
            features = result.features[layer][row, : result.lengths[row]]
            torch.testing.assert_close(features, expected.features[layer][0], atol=1e-3, rtol=1e-4)


# Options that say something else


@pytest.fixture
def others(tmp_path):
    """Statistics that no model here was trained with."""
    path = tmp_path / "others.npz"
    GlobalCmvn(np.zeros(80), np.ones(80)).save(str(path))
    return str(path)


CONTRADICTIONS = {
    "generate": lambda *at: generate(*at, "--cmvn", "none"),
    "interactive": lambda *at: interactive(*at, "--cmvn", "utterance"),
    "validate": lambda *at: validate(*at, "--cmvn", "utterance"),
    "python": lambda *at: python(*at, cmvn="none"),
    "restored": lambda *at: restored(*at, "--cmvn", "utterance"),
    "topology of restored": lambda *at: restored(*at, "--topology", "regular"),
    "second stage": lambda *at: second_stage(*at, "--cmvn", "utterance"),
    "load_student": lambda path, *at: load_student(path, cmvn="none"),
}


@pytest.mark.parametrize("door", CONTRADICTIONS)
def test_contradictions_name_both_values_and_the_file(door, trained, corpus, vocab, tmp_path):
    with pytest.raises(ConfigError) as error:
        CONTRADICTIONS[door](trained["fbank"].path, corpus, vocab, tmp_path)
    folder = str(tmp_path) if "restored" in door else trained["fbank"].path
    assert folder in str(error.value)
    topologies, inputs = ("--topology regular", "modified"), ("--cmvn ", "the statistics of a corpus (means 8 to")
    assert all(value in str(error.value) for value in (topologies if "topology" in door else inputs))


@pytest.mark.parametrize("door", ["generate", "validate", "python", "restored", "second stage"])
def test_other_filterbanks_contradict(door, trained, corpus, vocab, tmp_path):
    """Of the same normalization: only the variant differs."""
    doors = {
        "generate": lambda *at: generate(*at, "--fbank", "kaldi"),
        "validate": lambda *at: validate(*at, "--fbank", "kaldi"),
        "python": lambda *at: python(*at, fbank="kaldi"),
        "restored": lambda *at: restored(*at, "--fbank", "kaldi"),
        "second stage": lambda *at: second_stage(*at, "--fbank", "kaldi"),
    }
    file = str(tmp_path / "checkpoint_last.pt") if door == "restored" else trained["icefall"].path
    message = (
        f"--fbank kaldi asks for kaldi filterbanks normalized.*{file} was trained on icefall filterbanks normalized"
    )
    with pytest.raises(ConfigError, match=message):
        doors[door](trained["icefall"].path, corpus, vocab, tmp_path)


def test_the_same_filterbanks_agree(trained, corpus, vocab, tmp_path):
    assert python(trained["icefall"].path, corpus, vocab, tmp_path, fbank="icefall") == trained["icefall"].transcripts


def test_other_statistics_contradict_and_the_same_in_another_file_agree(trained, corpus, vocab, tmp_path, others):
    with pytest.raises(ConfigError, match=r"others.npz asks for .*\(means 0 to 0\).*checkpoint_last.pt was trained on"):
        python(trained["fbank"].path, corpus, vocab, tmp_path, cmvn=others)
    same = str(corpus_statistics(tmp_path))
    assert python(trained["fbank"].path, corpus, vocab, tmp_path, cmvn=same) == trained["fbank"].transcripts
    with pytest.raises(ConfigError, match="others.npz: this student takes waveforms"):
        python(trained["waveform"].path, corpus, vocab, tmp_path, cmvn=others)
    with pytest.raises(ConfigError, match="normalize_waveform=False asks for waveforms as they are.*normalized"):
        python(trained["waveform"].path, corpus, vocab, tmp_path, normalize_waveform=False)


def test_options_of_the_other_kind_of_input(distillation, others):
    """--cmvn utterance and none were of no effect on waveforms, and may stay in recipes."""
    for cmvn in ("utterance", "none"):
        assert distillation(*WAVEFORM, "--cmvn", cmvn).task.encoder.input == InputConfig.waveforms()
    with pytest.raises(ConfigError, match="others.npz: this student takes waveforms"):
        distillation(*WAVEFORM, "--cmvn", others)
    with pytest.raises(ConfigError, match="--normalize-waveform: this student takes filterbanks"):
        distillation("--normalize-waveform")


# Checkpoints from before, whose task had the options of the input and whose criterion had the topology


def older(path, tmp_path, **task):
    """The checkpoint as it was written then."""
    state = torch.load(path, weights_only=True)
    model, criterion = state["cfg"]["model"], state["cfg"]["criterion"]
    encoder = json.loads(model["encoder_config"])
    del encoder["input"]
    model["encoder_config"] = json.dumps(encoder)
    if "topology" in model:
        criterion["topology"] = model.pop("topology")
        task["decoding_topology"] = "regular"
    state["cfg"]["task"].update({"cmvn": "utterance", "normalize_waveform": False, **task})
    torch.save(state, tmp_path / "older.pt")
    return str(tmp_path / "older.pt")


@pytest.fixture
def before(trained, tmp_path):
    """kind -> path; the statistics are where they were."""

    def make(kind):
        task = dict(cmvn=str(corpus_statistics(tmp_path))) if kind == "fbank" else dict(normalize_waveform=True)
        return older(trained[kind].path, tmp_path, **task)

    return make


@pytest.mark.parametrize("kind", KINDS_BEFORE)
@pytest.mark.parametrize("door", [generate, transcribe], ids=lambda door: door.__name__)
def test_hypotheses_of_older_checkpoints(door, kind, before, trained, corpus, vocab, tmp_path, caplog):
    result = door(before(kind), corpus, vocab, tmp_path)
    assert [" ".join(text.split()) for text in result] == [" ".join(text.split()) for text in trained[kind].transcripts]
    (warning,) = [record.getMessage() for record in caplog.records if "does not say" in record.getMessage()]
    assert "older.pt" in warning and "by the options of its training" in warning


def test_mean_of_older_checkpoints(before, trained, corpus, vocab, tmp_path, caplog):
    """It says for itself what they did not; each of them is warned of once."""
    path = before("fbank")
    caplog.clear()
    transcripts = average(path, corpus, vocab, tmp_path)
    warned = [record.getMessage() for record in caplog.records if "does not say" in record.getMessage()]
    assert sorted(message.split()[0] for message in warned) == [str(tmp_path / "older.pt"), str(tmp_path / "other.pt")]
    (tmp_path / "stats.npz").unlink()
    assert transcripts == python(str(tmp_path / "mean.pt"), corpus, vocab, tmp_path) == trained["fbank"].transcripts


@pytest.mark.parametrize("kind", KINDS_BEFORE)
@pytest.mark.parametrize("door", [restored, second_stage, validate, api], ids=lambda door: door.__name__)
def test_features_of_older_checkpoints(door, kind, before, corpus, vocab, tmp_path, monkeypatch):
    with inputs_of_encoders(monkeypatch) as given:
        door(before(kind), corpus, vocab, tmp_path)
    assert_inputs(kind, given, corpus)


def test_older_checkpoints_are_of_kaldi_filterbanks(before, trained, corpus, vocab, tmp_path):
    path = before("fbank")
    assert python(path, corpus, vocab, tmp_path, fbank="kaldi") == trained["fbank"].transcripts
    with pytest.raises(
        ConfigError, match="--fbank icefall asks for icefall.*older.pt was trained on kaldi filterbanks"
    ):
        python(path, corpus, vocab, tmp_path, fbank="icefall")
    GlobalCmvn(np.linspace(8.0, 12.0, 80), np.linspace(1.5, 4.0, 80)).save(str(tmp_path / "stats.npz"), "icefall")
    with pytest.raises(AudioError, match="stats.npz: CMVN statistics of icefall filterbanks, but kaldi ones"):
        load_student(path)


MOVED = {
    "generate": lambda *at: generate(*at),
    "validate": lambda *at: validate(*at),
    "transcribe": lambda path, corpus, *at: load_recogniser(path),
    "second stage": lambda *at: second_stage(*at),
}


@pytest.mark.parametrize("door", MOVED)
def test_statistics_of_an_older_checkpoint_that_are_gone(door, before, corpus, vocab, tmp_path):
    path = before("fbank")
    (tmp_path / "stats.npz").unlink()
    with pytest.raises(ConfigError, match=r"older.pt was trained with .*stats.npz.* not there.*--cmvn FILE"):
        MOVED[door](path, corpus, vocab, tmp_path)


def test_say_where_the_statistics_of_an_older_checkpoint_are(before, trained, corpus, vocab, tmp_path):
    path, moved = before("fbank"), str(tmp_path / "moved.npz")
    shutil.move(tmp_path / "stats.npz", moved)
    transcripts = trained["fbank"].transcripts
    assert python(path, corpus, vocab, tmp_path, cmvn=moved) == transcripts
    assert generate(path, corpus, vocab, tmp_path, "--cmvn", moved) == transcripts
    validate(path, corpus, vocab, tmp_path, "--cmvn", moved)
    second_stage(path, corpus, vocab, tmp_path, "--cmvn", moved)
    assert load_student(path, cmvn=moved).config.input.mean[0] == 8.0


# Published encoders


def test_published_encoders_say_whether_they_normalize(teacher, coded_teacher, finetuning, distillation):
    started = finetuning("--student", teacher)  # its preprocessor_config.json says so
    assert started.task.encoder.input == InputConfig.waveforms(normalize=True, variance_floor=1e-7)
    assert started.task.student_input(np.array([0.0, 2.0], dtype=np.float32)).tolist() == [-1.0, 1.0]
    assert finetuning("--student", coded_teacher).task.encoder.input == InputConfig.waveforms()
    more = [*WAVEFORM, "--init-from", teacher, "--init-layers", "none"]  # its convolutions are taken
    assert distillation(*more).task.encoder.input.normalization == "utterance"


def test_student_started_from_another(trained, distillation):
    more = ["--init-from", f"colld:{trained['fbank'].path}", "--init-layers", "none"]
    corpus = read_model(trained["fbank"].path).config.input
    assert distillation("--front-end", "conv2d", *more).task.encoder.input == corpus
    assert distillation(*more).task.encoder.input == InputConfig()  # another front-end, of which nothing is taken
    with pytest.raises(ConfigError, match="--cmvn none asks for .*checkpoint_last.pt was trained on .*corpus"):
        distillation("--front-end", "conv2d", *more, "--cmvn", "none")


# The vocabulary


@pytest.mark.parametrize("door", [generate, transcribe, validate], ids=lambda door: door.__name__)
def test_vocabulary_that_is_gone(door, trained, corpus, tmp_path, caplog):
    result = door(trained["waveform"].path, corpus, tmp_path / "gone", tmp_path)
    assert result is None or [" ".join(t.split()) for t in result] == [
        " ".join(t.split()) for t in trained["waveform"].transcripts
    ]
    if door is generate:  # transcribe is told of no folder, and validate takes the handlers of logs away
        assert any("the copy in" in record.getMessage() for record in caplog.records)


def test_vocabulary_of_another_model(trained, corpus, vocab, tagged_vocab, tmp_path):
    """Tokens more, the same number of others, or the same ones of a text in another form."""
    shutil.copytree(vocab, tmp_path / "same size")
    symbols = (tmp_path / "same size" / "dict.txt").read_text().splitlines()
    (tmp_path / "same size" / "dict.txt").write_text("\n".join(symbols[::-1]) + "\n")
    shutil.copytree(vocab, tmp_path / "lower case")
    config = yaml.safe_load((tmp_path / "lower case" / "config.yaml").read_text())
    config["text_normalization"] = {"lowercase": True}
    (tmp_path / "lower case" / "config.yaml").write_text(yaml.safe_dump(config))
    for other in (tagged_vocab, tmp_path / "same size", tmp_path / "lower case"):
        with pytest.raises(ConfigError, match=f"another vocabulary .*than that in {other}"):
            generate(trained["waveform"].path, corpus, other, tmp_path)
    with pytest.raises(ConfigError, match="another vocabulary"):  # of as many tokens: the weights would fit
        restored(trained["waveform"].path, corpus, tmp_path / "same size", tmp_path)


def test_vocabulary_of_an_older_checkpoint_that_is_gone(trained, corpus, vocab, tmp_path):
    state = torch.load(trained["waveform"].path, weights_only=True)
    del state["task_state"]["vocabulary"]
    torch.save(state, tmp_path / "older.pt")
    with pytest.raises(ConfigError, match="older.pt: its vocabulary .*gone is not there; say where it is now"):
        load_recogniser(str(tmp_path / "older.pt"), vocab=str(tmp_path / "gone"))
    assert load_recogniser(str(tmp_path / "older.pt")).vocabulary.folder == str(vocab)


@pytest.mark.parametrize("content", [None, b"not a checkpoint"])
def test_a_checkpoint_that_is_not_there_is_not_taken_for_one_without_its_vocabulary(content, corpus, tmp_path):
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="model.pt"):
        generate(path, corpus, tmp_path / "gone", tmp_path)
