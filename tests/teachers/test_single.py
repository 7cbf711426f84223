"""Graphs of ONNX and classes of the user's own as teachers: the features of the encoder that they were made of."""

import json
import sys

import pytest
import torch
import yaml
from commands import TINY_ENCODER, TRAINING, call, log_records
from task_setup import set_up
from torch import nn

from colld_fairseq.cli import main as colld
from colld_fairseq.errors import ConfigError, TeacherError
from colld_fairseq.teachers import describe_teacher, load_teacher

SAMPLES = [16000, 9111, 401, 12345]


class Stack(nn.Module):
    """A waveform encoder: 50 Hz, 24 wide, a layer of convolutions and two more."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(1, 24, 400, stride=320)
        self.blocks = nn.ModuleList(nn.Linear(24, 24) for _ in range(2))

    def forward(self, waveform):
        x = self.stem(waveform[:, None]).transpose(1, 2)
        inner = []
        for block in self.blocks:
            x = x + torch.tanh(block(x))
            inner.append(x)
        return inner[0], inner[1], inner[1].transpose(1, 2)


@pytest.fixture(scope="module")
def stack():
    torch.manual_seed(1)
    return Stack().eval()


@pytest.fixture
def graph(stack, tmp_path):
    """encoder.onnx of `stack`; its second layer is an inner tensor too."""
    path = tmp_path / "encoder.onnx"
    axes = {
        "audio": {0: "batch", 1: "samples"},
        "first": {1: "frames"},
        "second": {1: "frames"},
        "turned": {2: "frames"},
    }
    names = dict(input_names=["audio"], output_names=["first", "second", "turned"])
    torch.onnx.export(stack, (torch.randn(1, 8000),), path, dynamo=False, dynamic_axes=axes, **names)
    describe(path, layers={1: "first", 2: "second"})
    return path


def describe(path, **fields):
    content = dict(frame_rate_hz=50, width=24, kernel_samples=400, **fields)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def waveforms():
    torch.manual_seed(2)
    return torch.randn(len(SAMPLES), max(SAMPLES)).clamp(-1, 1), torch.tensor(SAMPLES)


def check(teacher, stack, waveforms):
    """Features of a padded batch are those of the module on each utterance alone."""
    output = teacher(*waveforms)
    assert output.frame_rate_hz == 50 and output.lengths.tolist() == [(size - 400) // 320 + 1 for size in SAMPLES]
    for row, size, frames in zip(range(len(SAMPLES)), SAMPLES, output.lengths.tolist()):
        with torch.no_grad():
            expected = stack(waveforms[0][row : row + 1, :size])
        for layer, value in output.features.items():
            torch.testing.assert_close(value[row, :frames], expected[layer - 1][0], rtol=1e-4, atol=1e-5)
            assert not value[row, frames:].any()


def test_features_are_those_of_the_module(graph, stack, waveforms):
    teacher = load_teacher(f"onnx:{graph}", [1, 2])
    check(teacher, stack, waveforms)
    info = describe_teacher(f"onnx:{graph}")
    assert (info.num_layers, info.width, info.frame_rate_hz) == (2, 24, 50.0)


def test_profile_and_similarity_of_a_graph(graph, stack, corpus, tmp_path):
    """Its size is that of the module; all layers are those that are described."""
    assert colld(["profile", "--teacher", f"onnx:{graph}", "--runs", "1", "--json", str(tmp_path / "p.json")]) == 0
    (model,) = json.loads((tmp_path / "p.json").read_text())["models"]
    assert model["parameters"] == sum(value.numel() for value in stack.parameters())
    assert model["mb_stored"] == graph.stat().st_size / 1e6 and model["gmacs_per_10s"] is None
    words = ["similarity", "--manifest", str(corpus / "test.tsv"), "--teacher", f"onnx:{graph}", f"onnx:{graph}"]
    assert colld([*words, "--out", str(tmp_path / "s")]) == 0
    assert layers_in(tmp_path / "s.tsv") == {"1", "2"}


def layers_in(table):
    header, *rows = (line.split("\t") for line in table.read_text().splitlines())
    assert rows
    return {row[header.index("row_layer")] for row in rows}


def test_time_last_and_inner_tensors(graph, stack, waveforms):
    import onnx

    describe(graph, layers={2: "turned"}, axes="time_last")
    check(load_teacher(f"onnx:{graph}", [2]), stack, waveforms)
    model = onnx.load(graph)
    del model.graph.output[0]  # an inner tensor from now on
    onnx.save(model, graph)
    describe(graph, layers={1: "first", 2: "second"})
    lower = load_teacher(f"onnx:{graph}", [1])
    check(lower, stack, waveforms)
    assert [value.name for value in lower.graph.graph.output] == ["first"]


def test_input_is_normalized_as_described(graph, stack, waveforms):
    describe(graph, layers={2: "second"}, input={"kind": "waveform", "normalization": "utterance"})
    teacher = load_teacher(f"onnx:{graph}", [2])
    one, lengths = waveforms[0][:1] * 0.1 + 0.3, torch.tensor([max(SAMPLES)])
    scaled = teacher(one * 2, lengths).features[2]
    torch.testing.assert_close(teacher(one, lengths).features[2], scaled, rtol=1e-2, atol=1e-3)
    with torch.no_grad():
        expected = stack((one - one.mean()) / one.std(unbiased=False))[1]
    torch.testing.assert_close(scaled, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(layers={1: "nothing"}), "has no tensor 'nothing'; its outputs are first, second, turned"),
        (dict(layers={2: "second"}), "layer 1 is not described; there are 2"),
        (dict(layers={1: "turned"}), r"layer 1 of 16000 samples is \(24, 49\), its description says \[frames, 24\]"),
        (dict(layers={1: "first"}, kernel_samples=1), r"has 49 frames, but 50 .* kernel_samples .*321 to 640"),
        (dict(layers={1: "first"}, source="wave"), "has no input 'wave'; it takes audio"),
        (dict(layers=[1]), "encoder.yaml: layers must name"),
        (dict(layers={1: "first"}, frame_rate_hz=0), "encoder.yaml: frame_rate_hz is 0"),
        (dict(layers={1: "first"}, rate=3), "encoder.yaml: rate is no field; there are frame_rate_hz"),
        (dict(layers={1: "first"}, input={"kind": "mel"}), "encoder.yaml: input: kind='mel' is not known"),
    ],
)
def test_what_does_not_agree_is_named(graph, waveforms, fields, message):
    content = {**dict(frame_rate_hz=50, width=24, kernel_samples=400), **fields}
    graph.with_suffix(".yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(TeacherError, match=message):
        load_teacher(f"onnx:{graph}", [1])(*waveforms)


def test_files_that_are_missing_or_damaged(graph, tmp_path):
    with pytest.raises(TeacherError, match="nothing.onnx: no such file"):
        load_teacher(f"onnx:{tmp_path / 'nothing.onnx'}", [1])
    graph.with_suffix(".yaml").unlink()
    with pytest.raises(TeacherError, match="encoder.yaml: cannot be read.*described beside it"):
        load_teacher(f"onnx:{graph}", [1])
    describe(graph, layers={1: "first"})
    graph.write_bytes(graph.read_bytes()[:500])
    with pytest.raises(TeacherError, match="encoder.onnx: is no graph of ONNX"):
        load_teacher(f"onnx:{graph}", [1])


def test_weights_in_a_file_beside_it_are_read_and_counted(graph, stack, waveforms, tmp_path):
    import onnx

    model, path = onnx.load(graph), tmp_path / "large.onnx"
    onnx.save(model, path, save_as_external_data=True, location="large.data", size_threshold=0)
    describe(path, layers={1: "first", 2: "second"})
    teacher = load_teacher(f"onnx:{path}", [1, 2])
    check(teacher, stack, waveforms)
    weights = path.with_name("large.data")
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    assert load_teacher(f"onnx:{path}", [1]).content_hash != teacher.content_hash
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../large.data"
    onnx.save(model, path)
    with pytest.raises(TeacherError, match="outside its folder"):
        load_teacher(f"onnx:{path}", [1])


OWN = """
import torch
from torch import nn


class Own(nn.Module):
    num_layers, width, frame_rate_hz, kernel_samples = 2, 24, 50.0, 400

    def __init__(self):
        super().__init__()
        from test_single import Stack
        torch.manual_seed(1)
        self.stack = Stack()

    def features(self, waveform, layers):
        return {layer: self.stack(waveform[None])[layer - 1][0] for layer in layers}


class Shapeless:
    num_layers, width = 2, 24


class Failing(Own):
    def __init__(self):
        raise OSError("weights are on holiday")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_teachers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "python:own_teachers:Own"
    sys.modules.pop("own_teachers")


def test_profile_and_similarity_of_a_class(own, stack, corpus, tmp_path):
    assert colld(["profile", "--teacher", own, "--runs", "1", "--json", str(tmp_path / "p.json")]) == 0
    (model,) = json.loads((tmp_path / "p.json").read_text())["models"]
    assert model["parameters"] == sum(value.numel() for value in stack.parameters())
    assert model["mb_stored"] == model["mb_float32"] and model["gmacs_per_10s"] > 0
    words = ["similarity", "--manifest", str(corpus / "test.tsv"), "--teacher", own, own, "--out", str(tmp_path / "s")]
    assert colld(words) == 0
    assert layers_in(tmp_path / "s.tsv") == {"1", "2"}


def test_a_class_of_the_users_own(own, stack, waveforms):
    teacher = load_teacher(own, [1, 2])
    check(teacher, stack, waveforms)
    assert not teacher.module.training and not any(p.requires_grad for p in teacher.module.parameters())
    assert describe_teacher(own).width == 24


@pytest.mark.parametrize(
    "spec, message",
    [
        ("python:own_teachers:Other", "own_teachers has no Other"),
        ("python:own_teachers", "write python:package.module:Class"),
        ("python:no_such_module:Own", "No module named 'no_such_module'.*PYTHONPATH"),
        ("python:own_teachers:Shapeless", "the class has no frame_rate_hz"),
        ("python:own_teachers:Failing", r"Failing\(\) fails \(weights are on holiday\)"),
    ],
)
def test_what_a_class_lacks_is_named(own, spec, message):
    load_teacher(own, [1])
    with pytest.raises(TeacherError, match=message):
        load_teacher(spec, [1])


def test_module_and_graph_teach_alike(graph, own, corpus, tmp_path):
    """Online and from a cache, the student's losses are equal; so they are of both teachers at once."""

    def losses(*teacher):
        recipe = [corpus, *TRAINING, "--task", "speech_distillation", "--arch", "colld_student", *TINY_ENCODER]
        recipe += [
            "--criterion",
            "feature_regression",
            "--max-update",
            "3",
            "--save-dir",
            tmp_path / "run",
            "--no-save",
        ]
        log = call("train", *recipe, "--layer-map", "1:1,2:2", *teacher)
        return [float(record["loss"]) for record in log_records(log, "train_inner")]

    module, spec = losses("--teacher", own), f"onnx:{graph}"
    assert losses("--teacher", spec) == pytest.approx(module, rel=1e-4)
    manifest = f"{corpus / 'train.tsv'},{corpus / 'valid.tsv'}"
    words = ["--manifest", manifest, "--teacher", spec, "--layers", "1,2"]
    assert colld(["features", *words, "--out", str(tmp_path / "features")]) == 0
    cached = losses("--teacher", spec, "--teacher-cache", tmp_path / "features")
    assert cached == pytest.approx(module, rel=2e-3)  # kept in half precision


def test_two_graphs_of_unlike_rates_teach_one_student(graph, corpus, fast_teacher):
    arguments = [corpus, "--task", "speech_distillation", "--criterion", "multi_teacher", "--arch", "colld_student"]
    several = ["--teacher", f"one=onnx:{graph},two={fast_teacher}", "--layer-map", "one=1:1,2:2,two=2:3"]
    run = set_up(*arguments, *several, *TINY_ENCODER)
    run.task.load_dataset("test")
    dataset = run.task.dataset("test")
    loss, size, _ = run.criterion(run.model, dataset.collater([dataset[0], dataset[2]]))
    assert float(loss) > 0 and size > 0


def test_no_student_starts_from_a_graph(graph, corpus):
    options = ["--teacher", f"onnx:{graph}", "--criterion", "feature_regression", "--init-from", f"onnx:{graph}"]
    arguments = [corpus, "--task", "speech_distillation", "--arch", "colld_student", "--layer-map", "1:1"]
    with pytest.raises(ConfigError, match="onnx: can teach, but has no weights"):
        set_up(*arguments, *options, *TINY_ENCODER)
