"""CTC students in onnx-asr, in a process of its own: its greedy search of a transducer writes the best path of CTC."""

import json

import numpy as np
import onnx
import pytest
import torch
from spoiling import copied

from colld_fairseq.decoding.ctc import greedy_ctc
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.clients import run_client
from colld_fairseq.export.ctc_onnx_asr import BlankRepeats, MarkedCtc, Silent
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions, first_difference


class Given(torch.nn.Module):
    """In place of a student: these log-probabilities."""

    def forward(self, x, lengths):
        return x, lengths


def test_labels_that_go_on_and_labels_that_come_twice():
    path = torch.tensor([[0, 3, 3, 0, 3, 4, 4, 4, 0, 0, 5, 4, 3, 3, 3, 0]])
    log_probs = torch.nn.functional.one_hot(path, 6).float().log_softmax(-1)
    marked, frames = MarkedCtc(Given())(log_probs, torch.tensor([16]))
    joined = BlankRepeats(6, 0)(marked[0], Silent()(torch.zeros(16, 2, dtype=torch.int64)))
    emitted = [token for token in joined.argmax(-1).tolist() if token]
    ((best),) = greedy_ctc(log_probs, frames)
    assert emitted == best.tokens == [3, 3, 4, 5, 4, 3]


def test_text_and_times_are_the_student_s(recogniser, exported, waveforms):
    pytest.importorskip("onnx_asr")
    ours, folder = recogniser("icefall"), exported("icefall", "onnx-asr")
    results = run_client(folder.family.client_model(folder), waveforms)
    expected = [best for (best,) in ours.transcribe(waveforms)]
    assert [result.text.strip() for result in results] == [own.text for own in expected]
    assert any(" " in own.text for own in expected)
    for result, own in zip(results, expected):
        np.testing.assert_allclose(result.timestamps, np.array(own.frames) / 25, atol=1e-3)


def test_all_stages_agree_and_what_was_spoiled_is_named(exported, waveforms, tmp_path):
    pytest.importorskip("onnx_asr")
    folder = exported("icefall", "onnx-asr")
    stages = folder.family.stages(folder, waveforms[0])
    names = [stage.name for stage in stages]
    assert first_difference(stages) is None and "text of onnx-asr" in names and "8 bits, onnx-asr" in names
    assert "onnx_asr.load_model(" in (folder.folder / "README.md").read_text()
    copy = copied(folder, tmp_path)
    joiner = onnx.load(copy.graph("model/joiner"))
    for value in [*joiner.graph.initializer]:  # repetitions are not made blanks any more
        value.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(value), value.name))
    onnx.save(joiner, copy.graph("model/joiner"))
    assert first_difference(folder.family.stages(copy, waveforms[0])).name == "text of onnx-asr"
    config = json.loads((copy.folder / "config.json").read_text())
    (copy.folder / "config.json").write_text(json.dumps({**config, "subsampling_factor": 2}, indent=2))
    assert first_difference(folder.family.stages(copy, waveforms[0])).name == "config.json"


def test_the_exporter_that_fails_is_not_the_usual_one(recogniser):
    family = family_of(recogniser("icefall"), ExportOptions("onnx-asr"))
    assert family.exporter() == "torchscript"
    with pytest.raises(ConfigError, match="--exporter dynamo"):
        family.exporter("dynamo")
