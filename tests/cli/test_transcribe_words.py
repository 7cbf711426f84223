"""`colld transcribe --words`: what is read back from each format are the words of the hypothesis."""

import json
import re

import pytest
import torch
from checkpoints import save_ctc
from commands import TINY_ENCODER
from task_setup import set_up

from colld_fairseq.cli import main
from colld_fairseq.cli.transcribe.words import Timed, clock, cues, srt, text_grid, vtt, write_words
from colld_fairseq.data.hypotheses import read_entries
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.decoding.hypothesis import Hypothesis, Word
from colld_fairseq.recogniser import load_recogniser


@pytest.fixture(scope="module")
def checkpoint(corpus, vocab, tmp_path_factory):
    """Of an untrained model, in which a word boundary takes the part of a letter that it emits often."""
    path = save_ctc(tmp_path_factory.mktemp("ctc") / "model.pt", corpus, "chunk", "--vocab", vocab, "--cmvn", "none")
    state = torch.load(path, weights_only=False)
    boundary, often = (Vocabulary(str(vocab)).dictionary.index(symbol) for symbol in "|ё")
    for name in ("ctc.weight", "ctc.bias"):
        state["model"][name][[boundary, often]] = state["model"][name][[often, boundary]]
    torch.save(state, path)
    return path


def words(*times, text="w"):
    return [Word(f"{text}{i}", start, end, 0.5) for i, (start, end) in enumerate(times)]


def read_clock(text):
    hours, minutes, seconds = text.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def test_every_format_holds_the_words(checkpoint, corpus, tmp_path, capsys):
    out = tmp_path / "o.tsv"
    command = ["transcribe", checkpoint, "--manifest", str(corpus / "test.tsv"), "--out", str(out)]
    assert main([*command, "--words", "srt,vtt,json,ctm,TextGrid", "--beam", "3", "--nbest", "2"]) == 0
    assert "words with their times" in capsys.readouterr().err
    folder, kept = tmp_path / "o.words", dict(read_entries(tmp_path / "o.hypotheses.jsonl"))
    assert len(kept) == 9 and sum(len(lists[0].get("words", ())) for lists in kept.values()) > 20
    for name, (best, *_) in kept.items():
        expected = best.get("words", [])
        content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert content["words"] == expected and content["text"] == best["text"]
        text = " ".join(best["text"].split())
        assert " ".join(word["text"] for word in expected) == text
        lines = [line.split() for line in (folder / f"{name}.ctm").read_text(encoding="utf-8").splitlines()]
        assert [line[4] for line in lines] == [word["text"] for word in expected]
        assert [float(line[2]) for line in lines] == pytest.approx([word["start"] for word in expected], abs=1e-3)
        ends = [float(line[2]) + float(line[3]) for line in lines]
        assert ends == pytest.approx([word["end"] for word in expected], abs=2e-3)
        grid = (folder / f"{name}.TextGrid").read_text(encoding="utf-8")
        assert [text for text in re.findall(r'text = "(.*)"', grid) if text] == [word["text"] for word in expected]
        for ending, pattern in (("srt", r"^\d+\n(\S+) --> (\S+)\n(.+)$"), ("vtt", r"^(\S+) --> (\S+)\n(.+)$")):
            subtitles = (folder / f"{name}.{ending}").read_text(encoding="utf-8")
            blocks = re.findall(pattern, subtitles, re.MULTILINE)
            assert " ".join(line for _, _, line in blocks) == text
            if blocks:
                assert read_clock(blocks[0][0]) == pytest.approx(expected[0]["start"], abs=1e-3)
                assert read_clock(blocks[-1][1]) == pytest.approx(expected[-1]["end"], abs=1e-3)


def test_streams_have_the_times_of_the_whole_recording(checkpoint, corpus, tmp_path):
    def written(name, *more):
        out = tmp_path / f"{name}.tsv"
        command = ["transcribe", checkpoint, "--manifest", str(corpus / "test.tsv"), "--out", str(out)]
        assert main([*command, "--words", "json", "--chunk-ms", "160", *more]) == 0
        files = sorted((tmp_path / f"{name}.words").glob("*.json"))
        return [json.loads(file.read_text(encoding="utf-8"))["words"] for file in files]

    def without_confidence(utterances):
        return [[(w["text"], w["start"], w["end"]) for w in one] for one in utterances]

    whole, streamed = written("whole"), written("streamed", "--streaming", "--endpoint", "none")
    assert without_confidence(whole) == without_confidence(streamed) and any(whole)
    cut = written("cut", "--streaming", "--endpoint", "inf,inf,0.5")
    assert all(a["end"] <= b["start"] for one in cut for a, b in zip(one, one[1:]))
    assert max(word["start"] for one in cut for word in one) > 0.5


def test_an_attention_decoder_has_no_times(corpus, vocab, tmp_path, capsys):
    from checkpoints import save_untrained

    shape = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "48"]
    task = [corpus, "--task", "multilingual_speech_to_text", "--vocab", vocab, "--criterion", "ctc_attention"]
    path = save_untrained(set_up(*task, "--arch", "student_s2t", *TINY_ENCODER, *shape), tmp_path / "model.pt")
    wav = str(next(corpus.glob("*.wav")))
    assert main(["transcribe", str(path), wav, "--words", "srt", "--out", str(tmp_path / "o.tsv")]) == 2
    assert "--decoder ctc" in capsys.readouterr().err
    assert main(["transcribe", str(path), wav, "--words", "srt"]) == 2
    assert "give --out" in capsys.readouterr().err
    assert main(["transcribe", str(path), wav, "--words", "doc", "--out", str(tmp_path / "o.tsv")]) == 2
    assert "'doc': the formats are srt" in capsys.readouterr().err
    assert not (tmp_path / "o.tsv").exists()
    assert load_recogniser(str(path)).transcribe([[0.0] * 16000])[0][0].words == []


def test_files_of_folders_above_have_words_of_their_own(tmp_path):
    utterances = [
        Timed(name, 0.5, Hypothesis([], 0, 0, words=words((0, 0.5), text=text)))
        for name, text in (("talk.wav", "one"), ("../talk.wav", "two"))
    ]
    folder, former = write_words(str(tmp_path / "out.jsonl"), ["srt"], utterances)
    assert former == 0 and write_words(str(tmp_path / "out.jsonl"), ["srt", "vtt"], utterances[:1])[1] == 1
    written = [path.read_text() for path in sorted(folder.rglob("*.srt"))]
    assert len(written) == 2 and "two0" in written[0] and "one0" in written[1]


def test_subtitles_end_at_pauses_and_where_they_are_long():
    spoken = words((0, 0.5), (0.6, 1), (2, 2.5), (2.6, 3), *((3 + i, 4 + i) for i in range(9)))
    parts = cues(spoken)
    assert [len(part) for part in parts][:2] == [2, 7]
    assert [word for part in parts for word in part] == spoken
    assert max(part[-1].end - part[0].start for part in parts) <= 6
    long = cues(words((0, 0.1), (0.1, 0.2), text="x" * 50))
    assert [len(part) for part in long] == [1, 1]


def test_marks_and_quotes_are_written_as_each_format_wants_them():
    one = Timed("a", 3661.0, Hypothesis([], 0, 0, text='<"&>', words=[Word('<"&>', 3600.5, 3600.75, 1.0)]))
    assert '01:00:00.500 --> 01:00:00.750\n&lt;"&amp;&gt;\n' in vtt(one)
    assert '01:00:00,500 --> 01:00:00,750\n<"&>\n' in srt(one)
    assert 'text = "<""&>"' in text_grid(one) and "xmax = 3661.000" in text_grid(one)
    assert clock(59.9996, ".") == "00:01:00.000"
    bounds = [
        float(x) for x in re.findall(r"^ {12}xm..= ?(\S+)|^ {12}xm\w+ = (\S+)", text_grid(one), re.M) for x in x if x
    ]
    assert bounds == [0, 3600.5, 3600.5, 3600.75, 3600.75, 3661.0]


@pytest.mark.parametrize(
    "seconds, times",
    [
        (1.23406, [(1.0, 1.234)]),  # the audio ends within the millisecond in which the word does
        (1.2336, [(1.0, 1.234)]),
        (1.234, [(1.234, 1.234)]),
        (2.0, [(0.28, 0.28), (0.28, 0.28), (0.282, 0.282), (1.999, 2.0)]),
        (0.5, []),
    ],
)
def test_no_interval_is_empty_of_time_or_leaves_its_tier(seconds, times):
    grid = text_grid(Timed("a", seconds, Hypothesis([], 0, 0, words=words(*times))))
    bounds = [float(bound) for bound in re.findall(r"^ {12}xm\w+ = (\S+)", grid, re.MULTILINE)]
    starts, ends = bounds[::2], bounds[1::2]
    assert all(start < end for start, end in zip(starts, ends)) and starts == [0.0, *ends[:-1]]
    tier = re.findall(r"^(?: {8})?xmax = (\S+)", grid, re.MULTILINE)
    assert [float(end) for end in tier] == [ends[-1]] * 2 and ends[-1] == pytest.approx(seconds, abs=2e-3)
