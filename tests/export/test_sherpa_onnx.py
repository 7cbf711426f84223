"""The wheel of sherpa-onnx on exported folders, in a process of its own: greedy text is the student's."""

import numpy as np
import onnx
import pytest
import soundfile
from spoiling import change_input, change_weights, copied, drop_metadata

from colld_fairseq.checkpoints.onnx_folder import KEY
from colld_fairseq.checkpoints.onnx_reading import read_metadata
from colld_fairseq.cli import main
from colld_fairseq.export.clients import ClientError, run_client
from colld_fairseq.export.ctc_slots import ZIPFORMER
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import Exported, ExportOptions, first_difference
from colld_fairseq.export.onnx_file import add_metadata

CLIENT_SHAPES = ["conformer", "subsampled", "icefall", "hubert"]


@pytest.mark.parametrize("shape", CLIENT_SHAPES)
def test_greedy_text_is_the_student_s(shape, exported, waveforms):
    """All utterances in one batch of the client: padding must not be seen either."""
    folder = exported(shape, "sherpa-onnx")
    results = run_client(folder.family.client_model(folder), waveforms)
    expected = [folder.family.student_output(waveform) for waveform in waveforms]
    assert [result.text.strip() for result in results] == [own.text for own in expected]
    assert any(" " in own.text for own in expected)  # word boundaries come out as spaces
    for result, own in zip(results, expected):
        assert len(result.tokens) == len(own.tokens)


@pytest.mark.parametrize("shape", CLIENT_SHAPES)
def test_times_are_those_of_the_frames(shape, recogniser, exported, waveforms):
    ours, folder = recogniser(shape), exported(shape, "sherpa-onnx")
    (result,) = run_client(folder.family.client_model(folder), waveforms[:1])
    ((best,),) = ours.transcribe(waveforms[:1])
    seconds = np.array(best.frames) / ours.models[0].encoder.student.frame_rate_hz
    np.testing.assert_allclose(result.timestamps, seconds, atol=1e-3)


@pytest.mark.parametrize("shape", ["conformer", "icefall", "hubert"])
def test_eight_bits_run_in_the_client(shape, exported, waveforms):
    folder = exported(shape, "sherpa-onnx")
    values = read_metadata(folder.graph("model"))
    assert values.pop(KEY)  # of the 32-bit weights, which 8 bits are not
    assert read_metadata(folder.graph("model", int8=True)).items() >= values.items()
    results = run_client(folder.family.client_model(folder, int8=True), waveforms[:2])
    assert all(result.text.strip() for result in results)


def test_eight_bits_are_signed_and_of_reduced_range(exported):
    """Full range overflows on processors without VNNI."""
    model = onnx.load(exported("conformer", "sherpa-onnx").graph("model", int8=True))
    weights = [
        onnx.numpy_helper.to_array(value) for value in model.graph.initializer if value.name.endswith("_quantized")
    ]
    assert weights and all(values.dtype == np.int8 for values in weights)
    assert max(np.abs(values.astype(int)).max() for values in weights) <= 64
    waveform = onnx.load(exported("hubert", "sherpa-onnx").graph("model", int8=True))
    assert any(node.op_type == "ConvInteger" for node in waveform.graph.node)


def statistics(folder):
    """A client that normalizes what the graph normalizes as well: other features."""
    for path in (folder.graph("model"), folder.graph("model", int8=True)):
        add_metadata(path, {"cmvn_mean": ",".join(["3"] * 80)})


def no_model_type(folder):
    drop_metadata(folder.graph("model"), "model_type")


def other_model_type(folder):
    """Of a slot whose features are others."""
    add_metadata(folder.graph("model"), {"model_type": "wenet_ctc"})


def not_normalized(folder):
    change_input(folder.graph("model"), normalization="none")


def other_fbank(folder):
    change_input(folder.graph("model"), fbank="kaldi")


def other_blank(folder):
    lines = folder.tokens.read_text().splitlines()
    folder.tokens.write_text("\n".join(["<s> 0", *lines[1:-1], "<blk> " + lines[-1].split()[1]]) + "\n")


def other_weights(folder):
    change_weights(folder.graph("model"))


BY_SHAPE = {
    "conformer": [
        (statistics, "metadata of model.onnx", "cmvn_mean"),
        (no_model_type, "metadata of model.onnx", "model_type is None"),
        (not_normalized, "input of model.onnx", "'normalization': 'none'"),
        (other_blank, "tokens.txt", "line 1 is '<s> 0'"),
        (other_weights, "log-probabilities", "largest difference"),
    ],
    "icefall": [
        (no_model_type, "metadata of model.onnx", "model_type is None"),
        (other_model_type, "metadata of model.onnx", "'wenet_ctc', not 'zipformer2_ctc'"),
        (other_fbank, "input of model.onnx", "'fbank': 'kaldi'"),
        (other_blank, "tokens.txt", "line 1 is '<s> 0'"),
        (other_weights, "log-probabilities", "largest difference"),
    ],
}


@pytest.mark.parametrize(
    "shape, spoil, stage, detail", [(shape, *case) for shape, cases in BY_SHAPE.items() for case in cases]
)
def test_what_was_spoiled_is_named_first(shape, spoil, stage, detail, exported, waveforms, tmp_path):
    folder = copied(exported(shape, "sherpa-onnx"), tmp_path)
    spoil(folder)
    wrong = first_difference(folder.family.stages(folder, waveforms[1]))
    assert wrong.name == stage and detail in wrong.detail


def test_all_stages_agree_for_icefall_s_filterbanks(exported, waveforms):
    folder = exported("icefall", "sherpa-onnx")
    stages = folder.family.stages(folder, waveforms[0])
    assert first_difference(stages) is None and "text of sherpa-onnx" in [stage.name for stage in stages]


def test_a_client_with_other_filterbanks_is_caught_by_its_text(recogniser, exported, waveforms, tmp_path):
    """A graph in the slot whose client computes the other kind: nothing but its text can tell."""
    folder = copied(exported("conformer", "sherpa-onnx"), tmp_path)
    for path in (folder.graph("model"), folder.graph("model", int8=True)):
        add_metadata(path, {"model_type": "zipformer2_ctc", "colld_slot": "zipformer2_ctc"})
    family = family_of(recogniser("conformer"), ExportOptions("sherpa-onnx"))
    family.kind, family.slot = ZIPFORMER, ZIPFORMER.name
    assert first_difference(family.stages(Exported(family, folder.folder), waveforms[0])).name == "text of sherpa-onnx"


def test_a_client_that_ends_its_process_is_an_error(exported, waveforms, tmp_path):
    folder = copied(exported("conformer", "sherpa-onnx"), tmp_path)
    no_model_type(folder)
    with pytest.raises(ClientError, match="ended with exit code"):
        run_client(folder.family.client_model(folder), waveforms[:1])


def test_the_command(checkpoint, waveforms, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", waveforms[0], 16000)
    command = ["export", "--checkpoint", checkpoint("conformer"), "--to", "sherpa-onnx", str(tmp_path / "m")]
    command += ["--exporter", "torchscript", "--int8"]
    assert main([*command, "--wav", str(tmp_path / "a.wav")]) == 0
    printed = capsys.readouterr().out
    assert "fire_red_asr_ctc" in printed and "text of sherpa-onnx" in printed and "DIFFERS" not in printed
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        *("model.onnx", "model.int8.onnx", "tokens.txt", "README.md")
    }
    assert {path.name for path in tmp_path.iterdir()} == {"m", "a.wav"}
    assert "from_fire_red_asr_ctc(" in (tmp_path / "m" / "README.md").read_text()
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    add_metadata(tmp_path / "m" / "model.onnx", {"subsampling_factor": "4"})
    assert main([*command, "--wav", str(tmp_path / "a.wav")]) == 1
    assert "first stage that differs: metadata of model.onnx" in capsys.readouterr().out


@pytest.mark.parametrize(
    "shape, reason", [("conformer", "does not depend on a target language"), ("lstm", "which has those of xx")]
)
def test_a_language_that_makes_no_difference_or_is_none(shape, reason, checkpoint, tmp_path, capsys):
    command = ["export", "--checkpoint", checkpoint(shape), "--to", "sherpa-onnx", str(tmp_path / "m")]
    assert main([*command, "--lang", "zz"]) == 2
    assert reason in (said := capsys.readouterr().err) and "--lang" in said
    assert not list(tmp_path.iterdir())
