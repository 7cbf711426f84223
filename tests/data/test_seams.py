"""Parts of a text put together: spaces where the writing has them."""

import pytest

from colld_fairseq.data.joining import join
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.seams import join_parts
from colld_fairseq.decoding.hypothesis import Hypothesis, joined


@pytest.mark.parametrize(
    "parts, text",
    [
        (["guten", "Tag"], "guten Tag"),
        (["", "a", "", "b", ""], "a b"),
        ([], ""),
        (["你好。", "今天", "很好"], "你好。今天很好"),
        (["こんにちは", "「世界」"], "こんにちは「世界」"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["안녕하세요", "여러분"], "안녕하세요 여러분"),
        (["我用", "Linux", "系统"], "我用 Linux 系统"),
        (["𠀀", "𠀁"], "𠀀𠀁"),
    ],
)
def test_seams(parts, text):
    assert join_parts(parts) == text
    (recording,) = joined([[Hypothesis([], 0.0, 0.0, text=part)] for part in parts], nbest=1)
    assert recording.text == text


def test_windows_of_rows():
    rows = [Row(str(n), f"{n}.wav", 10, "今天", src_text=text, line=n) for n, text in enumerate(("good", "day"))]
    assert (join(rows).tgt_text, join(rows).src_text) == ("今天今天", "good day")
