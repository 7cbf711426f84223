"""Which teachers run on the student encoder's modules, and what stands in their padding."""

import pytest
import torch

from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, write_encoder
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import TeacherError
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.teachers import describe_teacher, load_teacher
from colld_fairseq.teachers.encoder_teacher import EncoderTeacher
from colld_fairseq.teachers.huggingface import ConvTeacher

EXACT = ["wav2vec2-group", "wav2vec2-layer", "hubert-group", "hubert-layer"]


@pytest.mark.parametrize("name", EXACT)
def test_exact_families(name, tiny_teacher):
    directory, _ = tiny_teacher(name)
    teacher = load_teacher(f"hf:{directory}", [1, 3])
    assert isinstance(teacher, EncoderTeacher) and isinstance(teacher.module, StudentEncoder)
    assert (teacher.num_layers, teacher.width, teacher.frame_rate_hz) == (3, 24, 16000 / 40)


@pytest.mark.parametrize("name", ["wavlm-group", "data2vec", "hubert-group-batchnorm"])
def test_others_keep_their_own_modules(name, tiny_teacher):
    directory, _ = tiny_teacher(name)
    assert isinstance(load_teacher(f"hf:{directory}", [3]), ConvTeacher)


@pytest.mark.parametrize("name", EXACT)
def test_padding_is_computed_only_where_it_is_asked_for(name, tiny_teacher, utterances):
    directory, _ = tiny_teacher(name)
    teacher = load_teacher(f"hf:{directory}", [0, 2, 3])
    seen = []
    teacher.module.blocks[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[:2]))
    without, whole = teacher(*utterances), teacher(*utterances, keep_padding=True)
    assert seen == [(1, without.lengths.sum()), (3, without.lengths.max())]
    for layer in (0, 2, 3):
        for row, frames in enumerate(without.lengths.tolist()):
            ours, expected = without.features[layer][row], whole.features[layer][row]
            torch.testing.assert_close(ours[:frames], expected[:frames], atol=1e-4, rtol=0)
            assert not ours[frames:].any()
            assert frames == len(expected) or expected[frames:].any(-1).all()


def test_layer_0_runs_no_block(tiny_teacher, utterances):
    directory, _ = tiny_teacher("hubert-group")
    teacher = load_teacher(f"hf:{directory}", [0])
    assert len(teacher.module.blocks) == 0
    expected = load_teacher(f"hf:{directory}", [0, 3])(*utterances).features[0]
    torch.testing.assert_close(teacher(*utterances).features[0], expected)


def own_student(path, front_end, given):
    """A random student of this project with an input of its own; path is of its checkpoint."""
    torch.manual_seed(4)
    shape = dict(layers=3, embed_dim=16, ffn_dim=24, attention_heads=2, conv_layers=[[8, 10, 5], [8, 8, 8], [8, 8, 8]])
    config = EncoderConfig(front_end=front_end, input=given, **shape)
    encoder = StudentEncoder(config).eval()
    for value in encoder.parameters():
        value.data.add_(0.1 * torch.randn_like(value))
    write_encoder("colld", path, EncoderCheckpoint(config, encoder.state_dict()))
    return encoder


CORPUS = InputConfig(normalization="corpus", mean=[float(k) / 10 for k in range(80)], std=[2.0] * 80)


@pytest.mark.parametrize(
    "front_end, given",
    [
        ("fbank_stack", CORPUS),
        ("fbank", InputConfig(normalization="none")),
        ("conv2d", InputConfig()),
        ("waveform", InputConfig.waveforms(True)),
        ("waveform", InputConfig.waveforms(False)),
    ],
)
def test_a_student_as_teacher_takes_what_its_training_gave_it(front_end, given, tmp_path, utterances):
    student = own_student(tmp_path / "s.pt", front_end, given)
    teacher, prepare = load_teacher(f"colld:{tmp_path}/s.pt", [0, 2]), StudentInput(given)
    info = describe_teacher(f"colld:{tmp_path}/s.pt")
    assert (info.num_layers, info.width) == (teacher.num_layers, teacher.width) == (3, 16)
    assert info.frame_rate_hz == teacher.frame_rate_hz == student.frame_rate_hz
    waveforms, lengths = utterances
    output = teacher(waveforms, lengths)
    assert output.lengths.tolist() == teacher.output_lengths(lengths).tolist()
    for row, (length, frames) in enumerate(zip(lengths.tolist(), output.lengths.tolist())):
        source = torch.from_numpy(prepare(waveforms[row, :length].numpy()))[None]
        with torch.no_grad():
            expected = student(source, layers=(0, 2)).features
        for layer in (0, 2):
            assert expected[layer].size(1) == frames
            torch.testing.assert_close(output.features[layer][row, :frames], expected[layer][0], atol=1e-4, rtol=1e-4)


def test_layers_that_a_student_does_not_have(tmp_path):
    own_student(tmp_path / "s.pt", "fbank", InputConfig())
    with pytest.raises(TeacherError, match="layer 4 does not exist; kind 'layer' offers layers 0 to 3"):
        load_teacher(f"colld:{tmp_path}/s.pt", [4])
    with pytest.raises(TeacherError, match="none.pt: no such file"):
        load_teacher(f"colld:{tmp_path}/none.pt", [1])
