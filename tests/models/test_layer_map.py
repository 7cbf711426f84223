"""The grammar of layer maps, and the rules behind dense and sparse."""

import pytest

from colld_fairseq.errors import ConfigError
from colld_fairseq.models.layer_map import LayerPair, averaged_widths, parse_layer_map, parse_layer_maps


def as_tuples(text, student, teacher):
    return [(pair.student_layer, pair.teacher_layers) for pair in parse_layer_map(text, student, teacher)]


def test_dense_is_every_second_teacher_layer_for_the_half():
    assert as_tuples("dense", 12, 24) == [(k, (2 * k,)) for k in range(1, 13)]
    assert as_tuples("dense", 12, 12) == [(k, (k,)) for k in range(1, 13)]


def test_dense_rounds_half_up_and_ends_with_the_last_layer():
    # 6/4 k = 1.5, 3, 4.5, 6
    assert as_tuples("dense", 4, 6) == [(1, (2,)), (2, (3,)), (3, (5,)), (4, (6,))]
    assert as_tuples("dense", 6, 4)[0] == (1, (1,))  # 0.67


def test_sparse_is_usads_rule():
    # Figure of the paper: K = 4 of 12 student layers takes 3, 6, 9, 12.
    assert as_tuples("sparse:4", 12, 12) == [(3, (3,)), (6, (6,)), (9, (9,)), (12, (12,))]
    assert as_tuples("sparse:4", 12, 24) == [(3, (6,)), (6, (12,)), (9, (18,)), (12, (24,))]
    assert as_tuples("sparse:3", 7, 10) == [(2, (3,)), (4, (6,)), (7, (10,))]  # floors
    assert as_tuples("sparse:1", 5, 9) == [(5, (9,))]


def test_explicit_pairs_and_averaged_ranges():
    assert as_tuples("2:4,2:8,2:12", 2, 12) == [(2, (4,)), (2, (8,)), (2, (12,))]
    assert as_tuples("12:5-12", 12, 12) == [(12, tuple(range(5, 13)))]
    assert as_tuples("0:0,1:3-3", 1, 3) == [(0, (0,)), (1, (3,))]
    assert str(LayerPair(12, (5, 6))) == "12<-5+6"


@pytest.mark.parametrize(
    "text, message",
    [
        ("sparse:7", "number of pairs must be 1 to 6 .student 6 layers, teacher 12"),
        ("sparse:0", "number of pairs must be 1 to 6"),
        ("sparse:x", "'x' is not a layer number"),
        ("7:1", "the student has layers 0 to 6, there is no layer 7"),
        ("6:13", "the teacher has layers 0 to 12, there is no layer 13"),
        ("6:5-13", "there is no layer 13"),
        ("6:8-5", "range '8-5' is empty"),
        ("6", "'6' is not STUDENT:TEACHER"),
        ("", "'' is not STUDENT:TEACHER"),
        ("six:1", "'six' is not a layer number"),
        ("1:1,", "'' is not STUDENT:TEACHER"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_layer_map(text, 6, 12)


def test_maps_of_several_teachers():
    depths = {"a": 4, "b": 12}
    pairs = parse_layer_maps("b=1:6,2:11-12,a=2:4", 2, depths)
    assert [(pair.teacher, pair.student_layer, pair.teacher_layers) for pair in pairs] == [
        *[("a", 2, (4,)), ("b", 1, (6,)), ("b", 2, (11, 12))],
    ]
    shared = parse_layer_maps("sparse:2", 2, depths)
    assert [pair.teacher_layers for pair in shared] == [(2,), (4,), (6,), (12,)]
    with pytest.raises(ConfigError, match="gives 'b' no value"):
        parse_layer_maps("a=2:4", 2, depths)
    with pytest.raises(ConfigError, match="'2:5'.*layers 0 to 4"):
        parse_layer_maps("a=2:5,b=2:5", 2, depths)


def test_heads_of_averaged_teachers():
    pairs = parse_layer_maps("a=1:2,2:4,b=1:6,2:12", 2, {"a": 4, "b": 12})
    assert averaged_widths(pairs, [24] * 4, teachers=2) == [24, 24]
    with pytest.raises(ConfigError, match="one width, not a 24, b 32"):
        averaged_widths(pairs, [24, 24, 32, 32], teachers=2)
    other = parse_layer_maps("a=1:2,2:4,b=2:12", 2, {"a": 4, "b": 12})
    with pytest.raises(ConfigError, match="different student layers"):
        averaged_widths(other, [24] * 3, teachers=2)
