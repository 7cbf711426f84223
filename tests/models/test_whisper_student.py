"""Students in Whisper's shape: transformers' numbers, the teacher's layers, and no label to learn from it."""

import numpy as np
import pytest
import torch
import transformers
from task_setup import set_up
from tiny_whisper import tiny_whisper

from colld_fairseq.checkpoints.encoder import read_encoder
from colld_fairseq.cli import main as colld
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import AudioError, ConfigError
from colld_fairseq.models.colld_student import start_student
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.input_config import InputConfig

FRAMES = 200  # of the window: 4 s
BINS = [80, 128]
SHAPE = [
    *["--encoder-embed-dim", "24", "--encoder-ffn-embed-dim", "40", "--encoder-attention-heads", "2"],
    *["--encoder-layers", "3", "--task", "speech_distillation", "--arch", "colld_student_whisper_base"],
]


@pytest.fixture(scope="module", params=BINS)
def whisper(request, tmp_path_factory):
    """Directory of a tiny random Whisper, and the model."""
    directory = tmp_path_factory.mktemp("whisper")
    return directory, tiny_whisper(directory, FRAMES, request.param)


def noise(samples, seed=0):
    generator = np.random.default_rng(seed)
    return (0.1 * generator.standard_normal(samples) * np.linspace(0.2, 1, samples)).astype(np.float32)


def log_mels(waveform, bins, samples):
    """[T, bins] by transformers, of the waveform padded with silence to `samples`."""
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    padded = np.pad(waveform, (0, samples - len(waveform)))
    return extractor(padded, sampling_rate=16000, padding=False, return_tensors="np").input_features[0].T


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("samples", [401, 16000, 16159, 16160, 47999, 56000, 63900, 64000])
def test_log_mels_of_an_utterance_and_its_tail_are_those_of_the_library(samples, bins):
    given = InputConfig("log_mel", bins=bins, normalization="none", window_seconds=4.0)
    waveform = noise(samples, samples)
    frames = min((samples // 160 + 1) // 2 + 25, FRAMES)
    ours = StudentInput(given)(waveform)
    assert len(ours) == int(StudentInput(given).lengths(torch.tensor([samples]))) == 2 * frames + (frames < FRAMES)
    expected = log_mels(waveform, bins, FRAMES * 320)
    np.testing.assert_allclose(ours, expected[: len(ours)], atol=1e-5)


def test_what_is_longer_than_the_window_is_refused():
    given = InputConfig("log_mel", normalization="none", window_seconds=4.0)
    with pytest.raises(AudioError, match="4 s: cut it"):
        StudentInput(given)(noise(64001))


@pytest.mark.parametrize("samples", [9000, 64000])
def test_features_of_every_layer_are_those_of_the_library(whisper, samples):
    """In windows as the original has them."""
    directory, model = whisper
    checkpoint = read_encoder(f"hf:{directory}")
    checkpoint.config.input.tail_seconds = 4.0
    encoder, bins = checkpoint.build(), checkpoint.config.fbank_bins
    waveform = noise(samples)
    source = torch.from_numpy(StudentInput(checkpoint.config.input)(waveform))[None]
    output = encoder(source, torch.tensor([source.size(1)]), layers=range(5))
    expected = torch.from_numpy(log_mels(waveform, bins, FRAMES * 320)).T[None]
    with torch.no_grad():
        theirs = model.model.encoder(expected, output_hidden_states=True)
    assert output.lengths.tolist() == [FRAMES]
    for layer, states in enumerate(theirs.hidden_states[:-1]):
        torch.testing.assert_close(output.features[layer], states, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.features[4], theirs.last_hidden_state, atol=1e-4, rtol=0)
    torch.testing.assert_close(output.x, theirs.last_hidden_state, atol=1e-4, rtol=0)


def test_an_utterance_does_not_depend_on_its_batch(whisper):
    checkpoint = read_encoder(f"hf:{whisper[0]}")
    encoder, make = checkpoint.build(), StudentInput(checkpoint.config.input)
    arrays = [torch.from_numpy(make(noise(samples, samples))) for samples in (64000, 20000, 3000)]
    batch = torch.nn.utils.rnn.pad_sequence(arrays, batch_first=True)
    together = encoder(batch, torch.tensor([len(array) for array in arrays]))
    for row, array in enumerate(arrays):
        alone = encoder(array[None])
        frames = int(alone.lengths[0])
        assert int(together.lengths[row]) == frames
        torch.testing.assert_close(together.x[row, :frames], alone.x[0], atol=2e-5, rtol=0)


def test_it_starts_from_chosen_layers(whisper):
    directory, model = whisper
    given = read_encoder(f"hf:{directory}").config
    student = StudentEncoder(type(given)(**{**given.__dict__, "layers": 2}))
    start_student(student, f"hf:{directory}", "1,3")
    for block, layer in zip(student.blocks, (0, 2)):
        assert torch.equal(block.ffn.linear_in.weight, model.model.encoder.layers[layer].fc1.weight)
    assert torch.equal(student.layer_norm.weight, model.model.encoder.layer_norm.weight)
    assert torch.equal(student.positions.weight, model.model.encoder.embed_positions.weight)
    assert not student.positions.weight.requires_grad


@pytest.mark.parametrize("change, message", [({"embed_dim": 32}, "embed_dim"), ({"fbank_bins": 96}, "fbank_bins")])
def test_another_width_is_refused_or_starts_at_random_on_request(whisper, change, message):
    given = read_encoder(f"hf:{whisper[0]}").config
    student = StudentEncoder(type(given)(**{**given.__dict__, "input": None, **change}))
    with pytest.raises(ConfigError, match=message):
        start_student(student, f"hf:{whisper[0]}")
    if "fbank_bins" in change:  # of another width nothing would fit
        start_student(student, f"hf:{whisper[0]}", "none")


@pytest.mark.parametrize("silence", [[], ["--least-seconds", "6"], ["--tail-seconds", "30"]])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(silence, corpus, tmp_path):
    """All layers, the output and the silence behind the utterances: every frame of a batch equals its target."""
    tiny_whisper(tmp_path, 1500)
    spec = f"hf:{tmp_path}"
    run = set_up(
        *[corpus, *SHAPE, *silence, "--init-from", spec, "--teacher", spec, "--head", "none", "--mask-prob", "0"],
        *["--layer-map", "1:1,2:2,3:3,out:out", "--criterion", "feature_regression"],
    )
    run.model.eval()
    run.task.load_dataset("valid")
    dataset = run.task.dataset("valid")
    sample = dataset.collater([dataset[0], dataset[1]])
    loss, frames, log = run.criterion(run.model, sample)
    own = max((samples // 160 + 1) // 2 + 25 for samples in sample["samples"].tolist())
    expected = {0: own, 6: 300, 30: 1500}[int(silence[-1]) if silence else 0]
    assert own < 300
    assert sample["net_input"]["src_lengths"].max() // 2 == expected
    assert log["valid_frames"] == (sample["net_input"]["src_lengths"] // 2).sum()
    assert float(log["l1"]) / float(frames) < 1e-4


def test_heads_of_none_need_the_width_of_the_teacher(corpus, tmp_path):
    tiny_whisper(tmp_path, 1500)
    with pytest.raises(ConfigError, match="--head none"):
        set_up(
            *[corpus, *SHAPE, "--encoder-embed-dim", "32", "--teacher", f"hf:{tmp_path}", "--head", "none"],
            *["--layer-map", "out:out", "--criterion", "feature_regression"],
        )


def test_a_student_with_a_tail_learns_from_a_teacher_without(corpus, tmp_path, teacher):
    """On the frames of the utterance alone."""
    run = set_up(
        *[corpus, *SHAPE, "--teacher", teacher, "--layer-map", "3:2", "--mask-prob", "0"],
        *["--criterion", "feature_regression"],
    )
    run.task.load_dataset("valid")
    dataset = run.task.dataset("valid")
    sample = dataset.collater([dataset[0], dataset[1]])
    _, _, log = run.criterion(run.model, sample)
    expected = sum(-(-samples // 320) for samples in sample["samples"].tolist())
    assert abs(int(log["valid_frames"]) - expected) <= 4


@pytest.mark.parametrize("name", ["--tail-seconds", "--least-seconds"])
def test_a_cache_without_the_students_silence_is_refused(name, corpus, tmp_path):
    spec = f"hf:{tmp_path / 'whisper'}"
    tiny_whisper(tmp_path / "whisper", 1500)
    cache = tmp_path / "cache"
    arguments = ["features", "--manifest", str(corpus / "valid.tsv"), "--teacher", spec, "--layers", "1,out"]
    assert colld([*arguments, "--tail-seconds", "0.5", "--least-seconds", "2", "--out", str(cache)]) == 0
    options = [corpus, *SHAPE, "--init-from", spec, "--teacher", spec, "--head", "none", "--mask-prob", "0"]
    options += ["--layer-map", "1:1,out:out", "--criterion", "feature_regression"]
    silence = {"--tail-seconds": "0.5", "--least-seconds": "2"}
    with pytest.raises(ConfigError, match="make another with `colld features --tail-seconds"):
        wrong = {**silence, name: "3"}
        set_up(*options, "--teacher-cache", cache, *[word for pair in wrong.items() for word in pair])
    given = [word for pair in silence.items() for word in pair]
    losses = []
    for more in (["--teacher-cache", cache], []):
        run = set_up(*options, *given, *more)
        run.model.eval()
        run.task.load_dataset("valid")
        dataset = run.task.dataset("valid")
        loss, frames, _ = run.criterion(run.model, dataset.collater([dataset[0], dataset[1]]))
        losses.append(float(loss) / float(frames))
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_frozen_blocks_stay_what_they_were(corpus, tmp_path):
    spec = f"hf:{tmp_path}"
    tiny_whisper(tmp_path, 1500)
    options = [corpus, *SHAPE, "--teacher", spec, "--layer-map", "out:out", "--criterion", "feature_regression"]
    run = set_up(*options, "--init-from", spec, "--frozen-blocks", "1")
    frozen = {name for name, value in run.model.encoder.named_parameters() if not value.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"front_end", "positions", "blocks"}
    assert {name.split(".")[1] for name in frozen if name.startswith("blocks")} == {"0"}
    with pytest.raises(ConfigError, match="no --init-from"):
        set_up(*options, "--frozen-blocks", "1")
    with pytest.raises(ConfigError, match="3 blocks"):
        set_up(*options, "--init-from", spec, "--frozen-blocks", "3")
