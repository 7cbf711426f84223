"""The journal of `colld transcribe`, and where its results may go."""

import pytest

from colld_fairseq.cli.transcribe.output import Journal, Result, check_places
from colld_fairseq.decoding.hypothesis import Hypothesis
from colld_fairseq.errors import ConfigError

SETTINGS = {"checkpoint": "a", "options": "b"}
RESULT = Result(1, [Hypothesis([1, 2], -1.0, -1.5, text="x")])


def kept(path):
    journal = Journal(str(path), SETTINGS)
    journal.close()
    return {name: (result.samples, [one.text for one in result.hypotheses]) for name, result in journal.results.items()}


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\r", "\n", "\r\n", "\x1c", "\x0b", "\udce9", "\t"])
def test_any_id_and_text_can_be_taken_up_again(odd, tmp_path):
    path = tmp_path / "o.tsv.partial"
    journal = Journal(str(path), SETTINGS)
    journal.add({f"a{odd}b": Result(7, [Hypothesis([1], -1.0, -1.0, text=f"x{odd}y")]), "next": RESULT})
    journal.close()
    assert kept(path) == {f"a{odd}b": (7, [f"x{odd}y"]), "next": (1, ["x"])}


@pytest.mark.parametrize("left", [b"", b'{"checkpo', b"\0" * 40, b"\n"])
def test_what_a_killed_run_left_before_its_first_line_begins_anew(left, tmp_path):
    path = tmp_path / "o.tsv.partial"
    path.write_bytes(left)
    assert kept(path) == {}
    journal = Journal(str(path), SETTINGS)
    journal.add({"a": RESULT})
    journal.close()
    assert list(kept(path)) == ["a"]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b'{"id": "a"}\n', b'{"other": 1}\n', b"\xff\n", b"3\n"])
@pytest.mark.parametrize("first", [True, False])
def test_a_damaged_journal_is_named_with_the_remedy(line, first, tmp_path):
    path = tmp_path / "o.tsv.partial"
    Journal(str(path), SETTINGS).close()
    path.write_bytes(line if first else path.read_bytes() + line)
    with pytest.raises(ConfigError, match="o.tsv.partial: no journal of this version, or damaged; remove it"):
        Journal(str(path), SETTINGS)


def test_neither_inputs_nor_manifests_of_others_are_overwritten(tmp_path):
    def refused(out, message, inputs=(), manifests=None):
        with pytest.raises(ConfigError, match=message):
            check_places(str(tmp_path / out), inputs, manifests)

    for name in ("a.tsv", "b.tsv", "b.hypotheses.jsonl", "model.pt"):
        (tmp_path / name).write_text("id\taudio\tn_frames\ttgt_text\n")
    (tmp_path / "folder").mkdir()
    both = f"{tmp_path}/a.tsv,{tmp_path}/b.tsv"
    refused("b.tsv", "b.tsv is an input", manifests=both)
    refused("b.txt", "b.hypotheses.jsonl is an input", manifests=both)  # lists are found by the manifest's name
    refused("model.pt", "model.pt is an input", [str(tmp_path / "model.pt")])
    refused("a.tsv", "not written by `colld transcribe`")
    refused("folder", "is a folder")
    refused("a.tsv/o.tsv", "a.tsv is a file, not a folder")
    (tmp_path / "own.tsv").write_text("id\taudio\tn_frames\ttgt_text\tmean_log_prob\n")
    for own in ("own.tsv", "new/deep/o.tsv"):
        check_places(str(tmp_path / own), [], both)


def test_results_of_audio_that_was_replaced_are_left_out(tmp_path):
    path, states = str(tmp_path / "o.tsv.partial"), {"a": [1, 2], "b": None}
    journal = Journal(path, SETTINGS, states.get)
    journal.add({"a": RESULT, "b": RESULT})
    journal.close()
    assert list(Journal(path, SETTINGS, states.get).results) == ["a", "b"]
    states["a"] = [1, 3]
    journal = Journal(path, SETTINGS, states.get)
    assert list(journal.results) == ["b"]
    journal.add({"a": RESULT})
    journal.close()
    assert sorted(Journal(path, SETTINGS, states.get).results) == ["a", "b"]
