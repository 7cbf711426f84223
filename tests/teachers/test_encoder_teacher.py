"""Which teachers run on the student encoder's modules, and that clip by clip is the same as in one batch."""

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
def test_clip_by_clip_is_the_batch(name, tiny_teacher, clips):
    """On a CPU clips run one after the other; elsewhere, and where padding is asked for, as one batch."""
    directory, _ = tiny_teacher(name)
    teacher = load_teacher(f"hf:{directory}", [0, 2, 3])
    runs = []
    teacher.module.register_forward_hook(lambda module, arguments, output: runs.append(output.x.size(0)))
    alone, batch = teacher(*clips), teacher(*clips, keep_padding=True)
    assert runs == [1, 1, 1, 3]
    for layer in (0, 2, 3):
        for row, frames in enumerate(alone.lengths.tolist()):
            torch.testing.assert_close(
                alone.features[layer][row, :frames], batch.features[layer][row, :frames], atol=1e-4, rtol=0
            )
        assert not alone.features[layer][1, alone.lengths[1] :].any()
        assert batch.features[layer][1, alone.lengths[1] :].any()


def test_layer_0_runs_no_block(tiny_teacher, clips):
    directory, _ = tiny_teacher("hubert-group")
    teacher = load_teacher(f"hf:{directory}", [0])
    assert len(teacher.module.blocks) == 0
    expected = load_teacher(f"hf:{directory}", [0, 3])(*clips).features[0]
    torch.testing.assert_close(teacher(*clips).features[0], expected)
