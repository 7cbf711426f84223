"""The Whisper encoder: equal to the library on full windows, independent of padding, cheap on short utterances."""

import numpy as np
import pytest
import torch
import transformers
from second_device import DEVICE, second_device
from tiny_whisper import tiny_whisper

from colld_fairseq.data.log_mel import LogMel
from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers import load_teacher

LAYERS = [0, 1, 2, 3]
TAIL = 25  # frames of silence that are computed after an utterance
FRAMES = 100  # of the tiny model's window: 2 s
WINDOW = FRAMES * 320


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """Directory of a tiny random Whisper, and its encoder."""
    directory = tmp_path_factory.mktemp("whisper")
    return directory, tiny_whisper(directory, FRAMES).model.encoder


def library_mel(waveform, samples):
    """[1, 80, samples / 160] as transformers pads and computes it."""
    extractor = transformers.WhisperFeatureExtractor()
    mel = extractor(waveform.numpy(), sampling_rate=16000, max_length=samples, return_tensors="pt")
    return mel.input_features


def library_states(encoder, waveform):
    """Layer number -> [FRAMES, D] of an utterance padded with silence to the full window."""
    states = {}
    handles = [encoder.layers[0].register_forward_pre_hook(lambda m, a: states.__setitem__(0, a[0][0].clone()))]
    for layer_index, block in enumerate(encoder.layers, start=1):
        handles.append(block.register_forward_hook(lambda m, a, o, n=layer_index: states.__setitem__(n, o[0].clone())))
    with torch.no_grad():
        encoder(library_mel(waveform, WINDOW))
    for handle in handles:
        handle.remove()
    return states


def utterance(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    envelope = torch.linspace(0.2, 1.0, samples)
    return 0.1 * torch.randn(samples, generator=generator) * envelope


@pytest.mark.parametrize("samples", [WINDOW, WINDOW - 1, WINDOW - 160 * 2 * TAIL])
def test_full_window_equals_the_library(whisper, samples):
    """An utterance of a full window, or shorter by at most the silence that is computed anyway."""
    directory, encoder = whisper
    waveform = utterance(samples)
    output = load_teacher(f"hf:{directory}", LAYERS)(waveform[None], torch.tensor([samples]))
    frames = int(output.lengths[0])
    assert frames == -(-(samples // 160) // 2)
    expected = library_states(encoder, waveform)
    for layer in LAYERS:
        assert expected[layer].std() > 0.1
        torch.testing.assert_close(output.features[layer][0], expected[layer][:frames], atol=1e-4, rtol=0)


def test_silence_appended_to_the_window_equals_the_library(whisper):
    directory, encoder = whisper
    waveform = utterance(9000)
    padded = torch.nn.functional.pad(waveform, (0, WINDOW - 9000))
    output = load_teacher(f"hf:{directory}", LAYERS)(padded[None], torch.tensor([WINDOW]))
    expected = library_states(encoder, waveform)
    for layer in LAYERS:
        torch.testing.assert_close(output.features[layer][0], expected[layer], atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [700, 9000, 9079, 9119, 9120, 20001])
def test_short_utterance_enters_the_blocks_as_in_the_window(whisper, samples):
    """The silence that is left out changes neither log-mel, convolutions nor positions."""
    directory, encoder = whisper
    waveform = utterance(samples, seed=samples)
    output = load_teacher(f"hf:{directory}", [0, 3])(waveform[None], torch.tensor([samples]))
    frames = int(output.lengths[0])
    expected = library_states(encoder, waveform)
    torch.testing.assert_close(output.features[0][0], expected[0][:frames], atol=1e-4, rtol=0)


def test_the_input_of_the_blocks_needs_none_of_them(whisper):
    """Layer 0 alone, as an adapted front-end learns it: no block's weights are read."""
    directory = whisper[0]
    waveform, length = torch.randn(1, 8000), torch.tensor([8000])
    alone, among = (load_teacher(f"hf:{directory}", layers)(waveform, length).features[0] for layers in ([0], [0, 2]))
    assert torch.equal(alone, among) and alone.shape[1] == 25


@pytest.mark.parametrize("kind", ["layer", "ffn"])
def test_padding_changes_no_valid_frame(whisper, kind):
    directory, _ = whisper
    layers = LAYERS[1:]
    teacher = load_teacher(f"hf:{directory}", layers, kind=kind)
    lengths = torch.tensor([WINDOW - 3000, 4001, 19999])
    waveforms = torch.full((3, WINDOW + 17), 0.5)
    for row, length in enumerate(lengths.tolist()):
        waveforms[row, :length] = utterance(length, seed=row) * 4 ** (row - 1)
    together = teacher(waveforms, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = teacher(waveforms[row : row + 1, :length], lengths[row : row + 1])
        frames = int(alone.lengths[0])
        assert frames == int(together.lengths[row])
        for layer in layers:
            batch = together.features[layer][row]
            torch.testing.assert_close(batch[:frames], alone.features[layer][0], atol=1e-4, rtol=0)
            assert not batch[frames:].any()


def test_long_utterances_are_cut_into_windows(whisper):
    directory, _ = whisper
    teacher = load_teacher(f"hf:{directory}", [2])
    long, short = utterance(2 * WINDOW + 5000, seed=1), utterance(3000, seed=2)
    lengths = torch.tensor([len(short), len(long), WINDOW + 100])
    waveforms = torch.zeros(3, len(long))
    waveforms[0, : len(short)], waveforms[1] = short, long
    waveforms[2, : WINDOW + 100] = long[: WINDOW + 100]
    output = teacher(waveforms, lengths)
    pieces = [long[:WINDOW], long[WINDOW : 2 * WINDOW], long[2 * WINDOW :]]
    parts = [teacher(piece[None], torch.tensor([len(piece)])).features[2][0] for piece in pieces]
    expected = torch.cat(parts)
    assert output.lengths.tolist() == [9, 2 * FRAMES + 16, FRAMES]  # a rest under one mel frame is dropped
    torch.testing.assert_close(output.features[2][1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.features[2][2, :FRAMES], parts[0], atol=1e-5, rtol=0)
    alone = teacher(short[None], torch.tensor([len(short)])).features[2][0]
    torch.testing.assert_close(output.features[2][0, :9], alone, atol=1e-5, rtol=0)


def test_log_mel_equals_the_library():
    """Batched, on utterances of different lengths, over 30 s: every frame of the padded window."""
    log_mel = LogMel(80, 480000)
    batch = torch.zeros(3, 480000)
    waveforms = [utterance(50000, 1), 5 * utterance(480000, 2), utterance(479900, 3)]
    for row, waveform in zip(batch, waveforms):
        row[: len(waveform)] = waveform
    ours = log_mel(batch, 3000)
    for row, waveform in zip(ours, waveforms):
        expected = library_mel(waveform, 480000)[0]
        np.testing.assert_allclose(row.T.numpy(), expected.numpy(), atol=2e-5)


def test_computes_no_30_seconds(whisper):
    """The cost follows the utterance: its own frames and TAIL frames of silence pass the blocks."""
    directory, _ = whisper
    teacher = load_teacher(f"hf:{directory}", [1])
    seen = []
    teacher.module.blocks[0].register_forward_pre_hook(lambda m, a: seen.append(a[0].size(1)))
    teacher(utterance(3200)[None], torch.tensor([3200]))
    assert seen == [10 + TAIL]


def test_half_precision(whisper):
    directory, _ = whisper
    waveform, length = utterance(9000)[None], torch.tensor([9000])
    full = load_teacher(f"hf:{directory}", [3])(waveform, length).features[3]
    half = load_teacher(f"hf:{directory}", [3], dtype="bfloat16")(waveform.bfloat16(), length).features[3]
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).norm() < 0.05 * full.norm()


def test_it_follows_the_waveforms_to_their_device(whisper):
    """With an utterance that is cut into windows and one that is not."""
    teacher = load_teacher(f"hf:{whisper[0]}", [0, 3])
    torch.manual_seed(2)
    utterances = 0.1 * torch.randn(2, WINDOW + 5000), torch.tensor([WINDOW + 5000, 9000])
    expected = teacher(*utterances).features
    with second_device():
        result = teacher(*(part.to(DEVICE) for part in utterances))
        for layer, features in result.features.items():
            torch.testing.assert_close(features.to("cpu"), expected[layer], atol=2e-4, rtol=1e-3)


def test_layers_that_do_not_exist_are_told_with_what_the_last_one_is(whisper):
    directory, encoder = whisper
    last = len(encoder.layers) + 1
    told = rf"0 to {last} \(0 is the input of the first block, {last} what leaves the encoder, behind its last norm\)"
    with pytest.raises(TeacherError, match=told):
        load_teacher(f"hf:{directory}", [last + 1])
    with pytest.raises(TeacherError, match=f"'ffn' offers layers 1 to {last - 1}$"):
        load_teacher(f"hf:{directory}", [last], kind="ffn")
