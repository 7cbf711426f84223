"""Graphs in ONNX Runtime beside PyTorch: single utterances, padded batches, odd lengths, silence, other positions."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from students import SHAPES

from colld_fairseq.data.fbank import log_mel_fbank
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions
from colld_fairseq.export.folder import write_folder
from colld_fairseq.export.symbols import never_emitted
from colld_fairseq.modules.positions import rotary_table


def emitted(recogniser):
    """Ids that decoding may emit."""
    ids = set(range(len(recogniser.vocabulary.dictionary)))
    return sorted(ids - never_emitted(recogniser.vocabulary))


def raw(recogniser, waveform):
    """What a client gives the graph: filterbanks or samples, not normalized."""
    given = recogniser.input.config
    return log_mel_fbank(waveform, variant=given.fbank) if given.kind == "fbank" else waveform


def run_batch(model, parts):
    """log_probs and frames of a padded batch, whose padding is noise."""
    session = onnxruntime.InferenceSession(str(model))
    shape = (len(parts), max(map(len, parts)), *parts[0].shape[1:])
    batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for row, part in enumerate(parts):
        batch[row, : len(part)] = part
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (batch, np.array([len(part) for part in parts])))))


@pytest.mark.parametrize("shape", SHAPES)
def test_onnx_runtime_equals_pytorch(shape, recogniser, exported, waveforms):
    ours, folder = recogniser(shape), exported(shape, "onnx")
    family, model = folder.family, folder.graph("model")
    silence = np.zeros(12345, dtype=np.float32)
    inputs = [*waveforms, silence, waveforms[0][:1601]]
    expected = [family.student_output(waveform) for waveform in inputs]
    log_probs, frames = run_batch(model, [raw(ours, waveform) for waveform in inputs])
    columns = emitted(ours)
    for row, own in enumerate(expected):
        assert frames[row] == len(own.log_probs)
        alone = family.runtime_output(folder, inputs[row])
        for theirs in (log_probs[row, : frames[row]], alone.log_probs):
            np.testing.assert_allclose(theirs[:, columns], own.log_probs[:, columns], atol=1e-5, rtol=1e-5)
        assert alone.tokens == own.tokens
        assert alone.text == own.text
    assert sum(len(own.text) for own in expected[:6]) > 20  # they have learned to write


def test_what_is_never_emitted_is_masked(recogniser, exported, waveforms):
    ours = recogniser("conformer")
    log_probs, _ = run_batch(exported("conformer", "onnx").graph("model"), [raw(ours, waveforms[0])])
    hidden = sorted(never_emitted(ours.vocabulary))
    assert hidden == [1, 2, 3] and (log_probs[..., hidden] < -1e8).all()
    assert (np.delete(log_probs, hidden, axis=2) > -100).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["conformer", "hubert"])
def test_the_exporter_that_torch_supports(shape, recogniser, waveforms, tmp_path):
    ours = recogniser(shape)
    family = family_of(ours, ExportOptions("onnx"))
    folder = write_folder(tmp_path / "m", family, False, "dynamo")
    columns = emitted(ours)
    log_probs, frames = run_batch(folder.graph("model"), [raw(ours, waveform) for waveform in waveforms])
    for row, waveform in enumerate(waveforms):
        own = family.student_output(waveform).log_probs
        np.testing.assert_allclose(log_probs[row, : frames[row]][:, columns], own[:, columns], atol=1e-5, rtol=1e-5)


class Table(torch.nn.Module):
    def forward(self, x):
        return rotary_table(x.size(0), 64, x)


def test_rotary_positions_of_exported_graphs(tmp_path):
    """No operator in double precision, and the angles of torch, to the last position and not beyond it."""
    path, frames = str(tmp_path / "rotary.onnx"), 16384
    torch.onnx.export(
        Table(), (torch.zeros(300),), path, dynamo=False, input_names=["x"], dynamic_axes={"x": [0]}, opset_version=17
    )
    session = onnxruntime.InferenceSession(path)
    theirs = session.run(None, {"x": np.zeros(frames, dtype=np.float32)})
    for part, own in zip(theirs, rotary_table(frames, 64, torch.zeros(1))):
        np.testing.assert_allclose(part, own.numpy(), atol=3e-7)
    graph = onnx.load(path).graph
    assert not any(node.op_type in ("Cos", "Sin") for node in graph.node)
    with pytest.raises(Exception, match="(?i)out of (data )?bounds|indices"):
        session.run(None, {"x": np.zeros(frames + 1, dtype=np.float32)})
