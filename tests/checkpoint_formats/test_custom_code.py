"""The code that goes along with Conformers: filterbanks of Kaldi, and the student encoder's output."""

import dataclasses

import numpy as np
import pytest
import torch

from colld_fairseq.checkpoints import names_custom
from colld_fairseq.checkpoints.custom_code.configuration_colld import ColldConfig
from colld_fairseq.checkpoints.custom_code.feature_extraction_colld import ColldFeatureExtractor
from colld_fairseq.checkpoints.custom_code.modeling_colld import NEVER, ColldForCTC
from colld_fairseq.checkpoints.encoder import lost_fields
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.input_config import InputConfig

SIZES = dict(layers=2, embed_dim=24, ffn_dim=40, attention_heads=2, depthwise_conv_kernel=5, subsampling_channels=3)
STREAMING = dict(context="chunk", causal_conv=True, chunk_sizes=[2, 4], left_contexts=[1])
SHAPES = {
    "rotary, stacked": dict(front_end="fbank_stack", fbank_stack=3, activation="swish"),
    "rotary, conv2d": dict(front_end="conv2d", activation="gelu"),
    "rotary, strided convolution": dict(front_end="fbank", activation="relu", causal_conv=True),
    "relative keys": dict(position="relative_key", max_left_position=4, max_right_position=2),
    "no positions, no norm": dict(position="none", feature_norm=False),
    "chunks": dict(front_end="conv2d", **STREAMING),
    "causal": dict(**{**STREAMING, "context": "causal", "left_contexts": [3]}),
}
CORPUS = dict(normalization="corpus", mean=[float(k % 7) for k in range(80)], std=[2.0 + k / 40 for k in range(80)])
INPUTS = [dict(), dict(fbank="icefall"), CORPUS, dict(CORPUS, fbank="icefall"), dict(normalization="none")]


def student_of(shape):
    torch.manual_seed(5)
    student = StudentEncoder(EncoderConfig(**SIZES, **SHAPES[shape], input=InputConfig())).eval()
    for value in student.parameters():
        value.data.add_(0.2 * torch.randn_like(value))
    return student


def copy_of(student):
    """The same encoder in the code for transformers, under a CTC layer of 6 tokens."""
    settings, _ = names_custom.settings_of(student.config)
    torch.manual_seed(6)
    model = ColldForCTC(ColldConfig(**{**settings, "model_type": None}, vocab_size=6)).eval()
    weights = {name: value for name, value in student.state_dict().items() if name != "mask_emb"}
    model.encoder.load_state_dict(weights)
    return model


def test_every_shape_comes_back():
    for shape in SHAPES.values():
        config = EncoderConfig(**SIZES, **shape, input=InputConfig(**CORPUS))
        assert not lost_fields(config, names_custom.LAYOUT)
        again = names_custom.config_of(*names_custom.settings_of(config))
        assert dataclasses.replace(again, conv_layers=config.conv_layers) == config
    others = [dict(front_end="waveform"), dict(block="transformer"), dict(position="conv", conv_pos_groups=4)]
    for other in [*others, dict(front_end="conv2d", time_reduction=2)]:
        assert lost_fields(EncoderConfig(**SIZES, **other), names_custom.LAYOUT), other


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_output_of_padded_batches(shape):
    student = student_of(shape)
    model = copy_of(student)
    lengths = torch.tensor([61, 50, 33, 8])
    features = torch.randn(4, 61, 80)
    mask = (torch.arange(61) < lengths[:, None]).long()
    expected = student(features, lengths)
    x, frames = model.encoder(features, lengths)
    logits = model(features, mask).logits
    assert frames.tolist() == expected.lengths.tolist()
    assert model.config.inputs_to_logits_ratio == round(16000 / student.frame_rate_hz)
    for row, size in enumerate(frames.tolist()):
        assert size > 0 and expected.x[row, :size].std() > 0.3
        torch.testing.assert_close(x[row, :size], expected.x[row, :size], atol=1e-5, rtol=1e-5)
        alone = model(features[row : row + 1, : lengths[row]]).logits
        torch.testing.assert_close(logits[row, :size], alone[0, :size], atol=2e-5, rtol=1e-5)
        assert (logits[row, size:, 0] == 0).all() and (logits[row, size:, 1:] == NEVER).all()


@torch.no_grad()
@pytest.mark.parametrize("frames", [0, 1, 3, 6])
@pytest.mark.parametrize("shape", ["rotary, stacked", "rotary, conv2d", "rotary, strided convolution"])
def test_too_short_for_a_frame_is_blank(shape, frames):
    """The last piece of a long recording may be."""
    student = student_of(shape)
    logits = copy_of(student)(torch.randn(1, frames, 80)).logits
    valid = int(student.output_lengths(torch.tensor([frames])).clamp(min=0))
    assert logits.isfinite().all() and logits.size(1) >= 1 and (logits[0, valid:].argmax(-1) == 0).all()


def test_loss_is_that_of_ctc():
    model = copy_of(student_of("rotary, stacked"))
    features, mask = torch.randn(2, 30, 80), torch.ones(2, 30, dtype=torch.long)
    mask[1, 21:] = 0
    labels = torch.tensor([[2, 3, 3, 4], [5, 2, -100, -100]])
    output = model(features, mask, labels=labels)
    log_probs = output.logits.log_softmax(-1).transpose(0, 1)
    loss = torch.nn.CTCLoss()(log_probs, labels.clamp(min=1), torch.tensor([10, 7]), torch.tensor([4, 2]))
    torch.testing.assert_close(output.loss, loss)
    output.loss.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def speech_like(samples):
    """A tone with noise, float32 [N]."""
    generator = np.random.default_rng(samples)
    time = np.arange(samples) / 16000
    tone = sum(np.sin(2 * np.pi * 170 * k * time) / k for k in range(1, 15))
    return (0.05 * tone + 0.01 * generator.standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("samples", [0, 79, 80, 399, 400, 401, 1679, 8001])
def test_filterbanks_are_ours(given, samples):
    """kaldi-native-fbank computes in single precision, this code in double."""
    config = InputConfig(**given)
    _, preprocessor = names_custom.settings_of(EncoderConfig(**SIZES, input=config))
    ours, theirs = StudentInput(config)(speech_like(samples)), ColldFeatureExtractor(**preprocessor)
    features = theirs.features(speech_like(samples))
    assert features.dtype == ours.dtype == np.float32 and features.shape == ours.shape
    np.testing.assert_allclose(features, ours, atol=2e-3)
    if samples == 8001:
        assert np.abs(features - ours).mean() < 2e-5


def test_silence_has_the_energy_floor():
    for fbank in ("kaldi", "icefall"):
        config = InputConfig(fbank=fbank, normalization="none")
        expected = StudentInput(config)(np.zeros(4000, np.float32))
        features = ColldFeatureExtractor(fbank=fbank, normalization="none").features(np.zeros(4000, np.float32))
        np.testing.assert_allclose(features, expected, atol=1e-5)


def test_extractor_pads_and_remembers(tmp_path):
    extractor = ColldFeatureExtractor(fbank="icefall", **CORPUS)
    extractor.save_pretrained(tmp_path)
    again = ColldFeatureExtractor.from_pretrained(tmp_path)
    batch = [speech_like(4001), speech_like(2400)]
    for one in (extractor, again):
        inputs = one(batch, sampling_rate=16000, return_tensors="pt")
        assert inputs["input_features"].shape == (2, 25, 80)
        assert inputs["attention_mask"].sum(1).tolist() == [25, 15]
        np.testing.assert_array_equal(inputs["input_features"][1, :15], extractor.features(batch[1]))
        assert not inputs["input_features"][1, 15:].any()
    with pytest.raises(ValueError, match="8000 Hz"):
        extractor(batch[0], sampling_rate=8000)
    with pytest.raises(ValueError, match="mono"):
        extractor(np.zeros((1, 2, 400)), sampling_rate=16000)
