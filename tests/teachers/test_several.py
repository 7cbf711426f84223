"""The mapping of several teachers: options to sources, and what each of them gives."""

import pytest
import torch

from colld_fairseq.checkpoints.encoder import hash_of
from colld_fairseq.errors import ConfigError
from colld_fairseq.teachers.several import Teachers

TWO = "slow=hf:/a,fast=fairseq:/b.pt"


def test_one_teacher_is_the_case_of_length_one(teacher):
    teachers = Teachers.from_options(teacher)
    assert list(teachers) == ["teacher"] and teachers.weights == {"teacher": 1.0}
    assert teachers.record() == {"teacher": teacher, "teacher_hash": hash_of(teacher)}


def test_options_of_each(teacher, fast_teacher):
    spec = f"slow={teacher},fast={fast_teacher}"
    teachers = Teachers.from_options(
        spec, kind="fast=ffn", dtype="bfloat16", cache="fast=/c", frame_rule="fast=stack", weights="fast=3,slow=1"
    )
    assert list(teachers) == ["slow", "fast"]
    slow, fast = teachers.values()
    assert (slow.kind, slow.dtype, slow.cache_folder, slow.frame_rule, slow.weight) == (
        *("layer", "bfloat16", "", "average", 0.25),
    )
    assert (fast.kind, fast.dtype, fast.cache_folder, fast.frame_rule, fast.weight) == (
        *("ffn", "bfloat16", "/c", "stack", 0.75),
    )
    assert (slow.info.frame_rate_hz, slow.target_width(25.0)) == (50.0, 24)
    assert (fast.info.frame_rate_hz, fast.target_width(25.0)) == (100.0, 64)
    record = teachers.record()
    assert record["teacher"] == spec
    assert record["teacher_hash"] == f"slow={hash_of(teacher)},fast={hash_of(fast_teacher)}"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(teacher=""), "--teacher is missing"),
        (dict(teacher="a=hf:/a,b=/b"), "'/b'.*hf:DIR, "),
        (dict(teacher=TWO, kind="rows"), "--teacher-kind.*'rows' is not one of layer, ffn"),
        (dict(teacher=TWO, frame_rule="slow=pile"), "--frame-rule.*'pile'"),
        (dict(teacher=TWO, dtype="int8"), "--teacher-dtype.*'int8'"),
        (dict(teacher=TWO, cache="/c"), "a cache is of one teacher; write slow=/c"),
        (dict(teacher=TWO, weights="slow=1"), "gives 'fast' no value"),
        (dict(teacher=TWO, weights="slow=1,fast=0"), "'fast' must be above 0"),
        (dict(teacher=TWO, weights="slow=1,fast=x"), "write numbers"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Teachers.from_options(**options)


@pytest.fixture
def batch():
    torch.manual_seed(2)
    lengths = torch.tensor([9000, 6000, 8000])
    names = ["x", "y", "z"]
    return {
        "utt_id": names,
        "net_input": {"src_tokens": torch.zeros(3, 56, 80)},
        "teacher_input": {"waveforms": 0.1 * torch.randn(3, 9000).double(), "lengths": lengths},
    }


def test_a_teacher_at_100_hz_for_some_utterances(fast_teacher, batch):
    """Rows are taken before the teacher runs; stacked frames are four of the teacher's own."""
    source = Teachers.from_options(fast_teacher, frame_rule="stack").first
    source.load([2, 4])
    lengths = torch.tensor([13, 9, 12])
    whole, frames = source.targets(batch, lengths, 25.0)
    some, some_frames = source.targets(batch, lengths, 25.0, rows=torch.tensor([2, 1]))
    assert some_frames.tolist() == [frames[2], frames[1]]
    for layer in (2, 4):
        assert torch.allclose(some[layer][0, : frames[2]], whole[layer][2, : frames[2]], atol=1e-5)
        assert torch.allclose(some[layer][1, : frames[1]], whole[layer][1, : frames[1]], atol=1e-5)
    own = source.teacher(**batch["teacher_input"]).features[4]
    assert torch.allclose(whole[4][0, 1], own[0, 4:8].flatten(), atol=1e-5)
    none, no_frames = source.targets(batch, lengths, 25.0, rows=torch.tensor([], dtype=torch.int64))
    assert none[2].shape == (0, 0, 64) and no_frames.shape == (0,)
