import pytest

from colld_fairseq.durations import duration_text

CASES = [
    (0, "0.0 s"),
    (41.26, "41.3 s"),
    (119.9, "119.9 s"),
    (120, "2.0 min"),
    (7199, "120.0 min"),
    (7200, "2.00 h"),
    (8892, "2.47 h"),
]


@pytest.mark.parametrize("seconds, text", CASES)
def test_unit_fits_the_length(seconds, text):
    assert duration_text(seconds) == text
