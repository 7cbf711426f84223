"""Streaming transducers: chunk by chunk beside PyTorch's streams, greedy text of sherpa-onnx, what was spoiled."""

import numpy as np
import pytest
import soundfile
from spoiling import change_input, change_weights, copied, drop_metadata

from colld_fairseq.checkpoints.onnx_reading import read_metadata
from colld_fairseq.cli import main
from colld_fairseq.export.clients import ClientError, run_client
from colld_fairseq.export.comparison import Session, client_stage
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import Exported, ExportOptions, first_difference
from colld_fairseq.export.onnx_file import add_metadata

STREAMS = {
    "chunks": dict(streaming=True, chunk_ms=320, left_context="trained"),
    "causal": dict(streaming=True, chunk_ms=160, left_context="12"),
}


@pytest.fixture
def streaming(exported):
    """Folders of streaming transducers by shape."""
    return lambda shape: exported(shape, "sherpa-onnx", **STREAMS[shape])


def with_tail(waveform):
    return np.pad(waveform, (0, 10560))


def streamed(recogniser, waveform, options):
    """What our own stream writes, of chunks that are full."""
    streams = recogniser.streaming(options["chunk_ms"], options["left_context"], endpoint=None)
    stream = streams.create_stream()
    stream.accept_waveform(with_tail(waveform))
    while streams.decode([stream]):
        pass
    return streams.result(stream).text


@pytest.mark.parametrize("shape", STREAMS)
def test_chunk_by_chunk_equals_our_streams(shape, streaming, waveforms):
    """Three streams in one batch that begin at different steps, so that their memories are of different ages."""
    folder = streaming(shape)
    family, encode = folder.family, Session(folder.graph("encoder"))
    parts = [family.chunks(family.features(np.tile(waveform, 4))) for waveform in waveforms[:3]]
    expected = [family.student_frames(np.tile(waveform, 4)) for waveform in waveforms[:3]]
    memories = [memory.numpy() for memory in family.encoder_graph().module.start(3)]
    frames, steps = [[], [], []], np.zeros(3, dtype=np.int64)
    count = min(map(len, parts)) - 2
    for time in range(count + 2):
        active = [row for row in range(3) if time >= row]
        chunks = np.concatenate([parts[row][steps[row]] for row in active])
        attention, conv = (memory[:, :, active] for memory in memories)
        x, attention, conv = encode(chunks, attention, conv, family.shift * steps[active])
        memories[0][:, :, active], memories[1][:, :, active] = attention, conv
        for row, own in zip(active, x):
            frames[row].append(own)
        steps[active] += 1
    for row, own in enumerate(expected):
        theirs = np.concatenate(frames[row])
        assert len(theirs) > family.streaming.context.left_frames + 2 * family.streaming.chunk  # memories are full
        np.testing.assert_allclose(theirs, own[: len(theirs)], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", STREAMS)
def test_greedy_text_of_sherpa_onnx(shape, streaming, waveforms):
    folder = streaming(shape)
    results = run_client(folder.family.client_model(folder), waveforms)
    expected = [streamed(folder.family.recogniser, waveform, STREAMS[shape]) for waveform in waveforms]
    assert [result.text.strip() for result in results] == expected
    assert sum(map(len, expected)) > 20 and len(set(expected)) > 3


@pytest.mark.parametrize("shape", STREAMS)
def test_all_stages_agree(shape, streaming, waveforms):
    folder = streaming(shape)
    stages = folder.family.stages(folder, waveforms[1])
    assert first_difference(stages) is None
    assert {"encoder", "text of sherpa-onnx", "8 bits, sherpa-onnx"} <= {stage.name for stage in stages}


def test_long_chunks_are_filled_with_more_silence(exported, waveforms):
    """sherpa-onnx's 0.66 s are less than a chunk of 1.28 s: the end of the speech, or all of it, would be lost."""
    folder = exported("chunks", "sherpa-onnx", streaming=True, chunk_ms=1280, left_context="1")
    family = folder.family
    assert family.tail_seconds == 1.4 and "1280 ms need 1.4 s of silence" in family.notes()[-1]
    assert "int(1.4 * rate)" in (folder.folder / "README.md").read_text()
    for waveform in waveforms:
        frames = len(family.student_frames(waveform))
        assert frames / family.student.frame_rate_hz >= len(waveform) / 16000
    stages = family.stages(folder, waveforms[1])
    assert first_difference(stages) is None and "text of sherpa-onnx" in {stage.name for stage in stages}


def test_metadata_for_the_client(streaming):
    values = read_metadata(streaming("chunks").graph("encoder"))
    expected = {
        "T": "35",
        "decode_chunk_len": "32",
        "left_context": "32",
        "encoder_dim": "32",
        "num_encoder_layers": "2",
    }
    assert values.items() >= {**expected, "model_type": "conformer", "cnn_module_kernel": "15"}.items()


def test_kaldi_s_filterbanks_are_set_in_python_alone(streaming):
    card = (streaming("causal").folder / "README.md").read_text()
    assert "high_freq=0.0, normalize_samples=False, snip_edges=True" in card and "write wrong text" in card
    assert "Kotlin" in (streaming("chunks").folder / "README.md").read_text()


def no_left_context(folder):
    drop_metadata(folder.graph("encoder"), "left_context")


def other_chunk(folder):
    add_metadata(folder.graph("encoder"), {"T": "67", "decode_chunk_len": "64"})


def other_features(folder):
    change_input(folder.graph("encoder"), fbank="kaldi")


def other_weights(graph):
    return lambda folder: change_weights(folder.graph(graph))


@pytest.mark.parametrize(
    "spoil, stage, detail",
    [
        (no_left_context, "metadata of encoder.onnx", "left_context is None"),
        (other_chunk, "metadata of encoder.onnx", "T is '67', not '35'"),
        (other_features, "input of encoder.onnx", "'fbank': 'kaldi'"),
        (other_weights("encoder"), "encoder", "from chunk 1 of"),
        (other_weights("decoder"), "decoder", "largest difference"),
        (other_weights("joiner"), "joiner", "largest difference"),
    ],
)
def test_what_was_spoiled_is_named_first(spoil, stage, detail, streaming, waveforms, tmp_path):
    folder = copied(streaming("chunks"), tmp_path)
    spoil(folder)
    wrong = first_difference(folder.family.stages(folder, waveforms[1]))
    assert wrong.name == stage and detail in wrong.detail


def test_another_chunk_than_that_of_the_folder(streaming, waveforms):
    folder, options = streaming("chunks"), {**STREAMS["chunks"], "chunk_ms": 640}
    family = family_of(folder.family.recogniser, ExportOptions("sherpa-onnx", **options))
    wrong = first_difference(family.stages(Exported(family, folder.folder), waveforms[1]))
    assert wrong.name == "metadata of encoder.onnx"
    assert """colld_stream is '{"chunk_ms": 320""" in wrong.detail and """not '{"chunk_ms": 640""" in wrong.detail


def test_a_client_with_other_features_is_caught_by_its_text(streaming, waveforms):
    """What those get who forget the arguments of the card."""
    folder = streaming("causal")
    text = streamed(folder.family.recogniser, waveforms[1], STREAMS["causal"])
    model = folder.family.client_model(folder)
    features = ("high_freq", "normalize_samples", "snip_edges")
    assert client_stage(model, waveforms[1], text).same
    default = model._replace(arguments={name: v for name, v in model.arguments.items() if name not in features})
    assert not client_stage(default, waveforms[1], text).same


def test_a_client_that_ends_its_process_is_an_error(streaming, waveforms, tmp_path):
    folder = copied(streaming("chunks"), tmp_path)
    drop_metadata(folder.graph("encoder"), "T")
    with pytest.raises(ClientError, match="ended with exit code .*encoder.onnx.*'T' does not exist"):
        run_client(folder.family.client_model(folder), waveforms[:1])


@pytest.mark.parametrize("option", [["--chunk-ms", "160"], ["--left-context", "2"]])
def test_options_of_streams_without_one(option, checkpoint, tmp_path, capsys):
    command = ["export", "--checkpoint", checkpoint("causal"), "--to", "onnx", str(tmp_path / "m")]
    assert main([*command, *option]) == 2
    assert f"{option[0]} is of streams: give --streaming" in capsys.readouterr().err and not (tmp_path / "m").exists()


def test_the_command(checkpoint, waveforms, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", waveforms[0], 16000)
    command = ["export", "--checkpoint", checkpoint("causal"), "--to", "sherpa-onnx", str(tmp_path / "m")]
    command += ["--streaming", "--chunk-ms", "160", "--left-context", "12", "--exporter", "torchscript"]
    assert main([*command, "--wav", str(tmp_path / "a.wav")]) == 0
    printed = capsys.readouterr().out
    assert "slot conformer" in printed and "DIFFERS" not in printed and "Python interface" in printed
    files = {"encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt", "README.md"}
    assert {path.name for path in (tmp_path / "m").iterdir()} == files
    assert read_metadata(tmp_path / "m" / "encoder.onnx")["left_context"] == "24"
