"""Which teachers run on the student encoder's modules, and what stands in their padding."""

import pytest
import torch

from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.teachers import load_teacher
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
