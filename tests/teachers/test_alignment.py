"""Teacher frames brought to the student's rate and length."""

import pytest
import torch

from colld_fairseq.errors import TeacherError
from colld_fairseq.teachers.alignment import align_frames

FEATURES = torch.arange(2 * 7 * 2, dtype=torch.float32).view(2, 7, 2)


def align(rule, target_lengths, lengths=(7, 4), source_hz=50.0, target_hz=25.0, **more):
    return align_frames(
        FEATURES, torch.tensor(lengths), source_hz, target_hz, rule, torch.tensor(target_lengths), **more
    )


def test_average_of_pairs_and_of_the_single_frame_left_over():
    features, lengths = align("average", [4, 2], lengths=(7, 3))
    assert lengths.tolist() == [4, 2]
    assert features.shape == (2, 4, 2)
    assert features[0, :, 0].tolist() == [1.0, 5.0, 9.0, 12.0]  # (0+2)/2, (4+6)/2, (8+10)/2, 12
    assert features[1, :, 0].tolist() == [15.0, 18.0, 0.0, 0.0]  # frame 3 of utterance 1 is padding


def test_stack_of_pairs_drops_the_single_frame_left_over():
    features, lengths = align("stack", [3, 1], lengths=(7, 3))
    assert lengths.tolist() == [3, 1]
    assert features.shape == (2, 3, 4)
    assert features[0, 1].tolist() == FEATURES[0, 2:4].flatten().tolist()
    assert features[1, 0].tolist() == FEATURES[1, 0:2].flatten().tolist()
    assert not features[1, 1:].any()


@pytest.mark.parametrize("rule", ["none", "average", "stack"])
def test_equal_rates_keep_the_frames(rule):
    features, lengths = align(rule, [7, 4], target_hz=50.0)
    assert lengths.tolist() == [7, 4]
    assert torch.equal(features[0], FEATURES[0])
    assert torch.equal(features[1, :4], FEATURES[1, :4])


def test_up_to_two_frames_off_takes_the_minimum():
    features, lengths = align("none", [5, 6], target_hz=50.0)  # teacher 7 and 4
    assert lengths.tolist() == [5, 4]
    assert features.shape == (2, 5, 2)
    assert not features[1, 4:].any()


@pytest.mark.parametrize("target", [[7, 7], [7, 1]])
def test_three_frames_off_names_the_utterance(target):
    with pytest.raises(TeacherError, match=r"utterance audio/b\.wav: at 50 Hz the teacher gives 4 frames"):
        align("none", target, target_hz=50.0, ids=["audio/a.wav", "audio/b.wav"])


def test_three_frames_off_without_names():
    with pytest.raises(TeacherError, match="number 1 of the batch"):
        align("none", [7, 7], target_hz=50.0)


@pytest.mark.parametrize("target_hz", [40.0, 100.0])
def test_rates_that_do_not_fit(target_hz):
    with pytest.raises(TeacherError, match="no whole multiple"):
        align("average", [7, 4], target_hz=target_hz)


def test_messages_name_the_source_and_the_target():
    """Between two students, or where the student is the faster one, other names than teacher and student are given."""
    names = ("student", "teacher")
    with pytest.raises(TeacherError, match="at 50 Hz the student gives 4 frames, the teacher 1"):
        align("none", [7, 1], target_hz=50.0, names=names)
    with pytest.raises(TeacherError, match="the student's 50 Hz are no whole multiple of the teacher's 40 Hz"):
        align("average", [7, 4], target_hz=40.0, names=names)
    with pytest.raises(TeacherError, match="the student runs at 50 Hz, the teacher at 25 Hz"):
        align("none", [4, 2], names=names)


def test_other_rates_need_a_rule():
    with pytest.raises(TeacherError, match="'average' or 'stack'"):
        align("none", [4, 2])
    with pytest.raises(TeacherError, match="choose one of none, average, stack"):
        align("mean", [4, 2])


def test_average_of_four_in_half_precision():
    features = torch.full((1, 6, 3), 2.0, dtype=torch.bfloat16)
    out, lengths = align_frames(features, torch.tensor([6]), 100.0, 25.0, "average", torch.tensor([2]))
    assert out.dtype == torch.bfloat16
    assert lengths.tolist() == [2]
    assert out.unique().tolist() == [2.0]
