"""`colld transcribe --streaming`: the hypotheses of whole utterances under the same context, as they come."""

import io
import itertools
import random
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from checkpoints import save_transducer

from colld_fairseq.cli import main
from colld_fairseq.cli.transcribe.streaming import StreamPrinter, raw_pcm
from colld_fairseq.data.hypotheses import hypotheses_path, read_entries
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.decoding.hypothesis import Hypothesis, joined
from colld_fairseq.decoding.streaming import StreamingResult
from colld_fairseq.errors import AudioError

SPEAKS = ["--options", "blank_penalty=0.5,max_symbols=1"]  # an untrained model would say little else than blanks
CONTEXT = ["--chunk-ms", "160", "--left-context", "2"]


@pytest.fixture(scope="module")
def statistics(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("cmvn") / "stats.npz"
    assert main(f"cmvn --manifest {corpus}/train.tsv --out {path}".split()) == 0
    return path


@pytest.fixture(scope="module")
def checkpoint(corpus, vocab, statistics, tmp_path_factory):
    path = tmp_path_factory.mktemp("streaming") / "model.pt"
    return save_transducer(path, corpus, "chunk", "--vocab", vocab, "--cmvn", statistics)


@pytest.fixture
def run(checkpoint, capsys):
    """Output and messages of `colld transcribe` on the streaming model."""

    def run(*arguments, code=0, model=checkpoint):
        capsys.readouterr()
        assert main(["transcribe", model, *SPEAKS, *map(str, arguments)]) == code
        return capsys.readouterr()

    return run


def lines(output):
    return [line.split("\t") for line in output.splitlines()]


def test_hypotheses_grow_into_those_of_whole_utterances(run, corpus):
    whole = dict(lines(run(corpus / "test.zip", *CONTEXT).out))
    assert len(whole) == 3 and all(whole.values())
    printed = run("--streaming", corpus / "test.zip", *CONTEXT, "--endpoint", "none")
    results = lines(printed.out)
    assert [(name, text) for kind, name, *_, text in results if kind == "final"] == list(whole.items())
    assert {kind for kind, *_ in results} == {"partial", "final"}
    for before, after in zip(results, results[1:]):
        if before[1] == after[1]:
            assert after[4].startswith(before[4]) and float(after[3]) >= float(before[3])
    for figure in ("3 streams", "real-time factor ", "emission delay ", "first text ", "last result "):
        assert figure in printed.err
    other = run("--streaming", corpus / "test.zip", "--chunk-ms", "40", "--left-context", "0", "--endpoint", "none").out
    assert [line[4] for line in lines(other) if line[0] == "final"] != list(whole.values())


def test_manifest_of_streams_decoded_side_by_side(run, corpus, tmp_path):
    """One file is broken; it is named, and the others are those of whole utterances."""
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    audio = [corpus / "valid.zip", tmp_path / "broken.wav", corpus / "test.zip"]
    whole, streamed = tmp_path / "whole.tsv", tmp_path / "streamed.tsv"
    run(*audio, *CONTEXT, "--out", whole)
    printed = run("--streaming", "--streams", "4", *audio, *CONTEXT, "--endpoint", "none", "--out", streamed)
    assert printed.out == "" and "1 of 7 utterances cannot be used" in printed.err and "6 streams" in printed.err
    scores = [[float(line[8]) for line in lines(path.read_text())[1:]] for path in (whole, streamed)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert [line[:8] for line in lines(whole.read_text())] == [line[:8] for line in lines(streamed.read_text())]


def test_languages_of_the_rows(run, corpus, tagged_vocab, statistics, tmp_path):
    options = ["--vocab", tagged_vocab, "--cmvn", statistics]
    model = save_transducer(tmp_path / "tagged.pt", corpus, "chunk", *options)
    manifest, out = ["--manifest", corpus / "test.tsv", *CONTEXT], tmp_path / "o.tsv"
    transcripts = []
    for options in ([], ["--streaming", "--endpoint", "none", "--streams", "5"], ["--lang", "yy"]):
        run(*manifest, *options, "--out", out, model=model)
        transcripts.append([line[3] for line in lines(out.read_text())])
    assert transcripts[0] == transcripts[1] != transcripts[2]
    assert "--lang" in run("--streaming", corpus / "test.zip", code=2, model=model).err


def test_utterances_end_by_the_rules(run, corpus, tmp_path):
    ends = ["--endpoint", "inf,inf,0.3"]
    printed = run("--streaming", corpus / "test.zip", *CONTEXT, *ends).out
    finals = [line for line in lines(printed) if line[0] == "final"]
    for name in {line[1] for line in finals}:
        own = [line for line in finals if line[1] == name]
        for before, after in zip(own, own[1:]):
            assert before[3] == after[2] and float(before[3]) - float(before[2]) > 0.3
    assert len(finals) > 5
    run("--streaming", corpus / "test.zip", *CONTEXT, *ends, "--out", tmp_path / "o.tsv")
    rows = read_manifest(str(tmp_path / "o.tsv"))
    transcripts = [rows.row(i).tgt_text for i in range(3)]
    assert transcripts == [" ".join(line[4] for line in finals if line[1] == rows.row(i).id) for i in range(3)]


def test_beams_and_their_lists(run, corpus, tmp_path):
    """A beam acts in streams as on whole utterances, and so does a length bonus; --out has the lists of hypotheses."""
    options = ["--beam", "3", "--options", "blank_penalty=0.5,max_symbols=1,length_bonus=1.5", *CONTEXT]
    streaming = ["--streaming", "--streams", "2", "--endpoint", "none"]
    by_utterance = []
    for name, more in (("whole", []), ("streamed", streaming)):
        run(corpus / "test.zip", *options, *more, "--nbest", "2", "--out", tmp_path / f"{name}.tsv")
        entries = read_entries(hypotheses_path(tmp_path / f"{name}.tsv"))
        by_utterance.append({utterance: [Hypothesis(**fields) for fields in n_best] for utterance, n_best in entries})
    whole, streamed = by_utterance
    assert list(whole) == list(streamed) and len(whole) == 3
    for name, n_best in whole.items():
        assert len(n_best) == 2
        for one, other in zip(n_best, streamed[name]):
            assert (one.text, one.tokens) == (other.text, other.tokens)
            assert (one.score, one.log_prob) == pytest.approx((other.score, other.log_prob), abs=1e-3)
    best = [(name, n_best[0].text) for name, n_best in whole.items()]
    printed = lines(run("--streaming", corpus / "test.zip", *options, "--endpoint", "none").out)
    assert [(name, text) for kind, name, *_, text in printed if kind == "final"] == best
    assert {kind for kind, *_ in printed} == {"partial", "final"}
    assert best != [tuple(line) for line in lines(run(corpus / "test.zip", *CONTEXT).out)]


def test_hypotheses_of_a_recording_combine_those_of_its_utterances():
    """Against all combinations."""
    draw = random.Random(1)

    def utterance(letters):
        scores = sorted((draw.uniform(-9, 0) for _ in letters), reverse=True)
        return [StreamingResult([ord(letter)], score, score - 1, text=letter) for letter, score in zip(letters, scores)]

    utterances = [utterance(letters) for letters in ("abc", "def", "g", "hij")]
    every = [
        (" ".join(one.text for one in way), sum(one.score for one in way)) for way in itertools.product(*utterances)
    ]
    expected = sorted(every, key=lambda way: -way[1])[:3]
    best = joined(utterances, 3)
    assert [one.text for one in best] == [text for text, _ in expected]
    assert [one.score for one in best] == pytest.approx([score for _, score in expected])
    assert [one.log_prob + 4 for one in best] == pytest.approx([one.score for one in best])
    assert best[0].tokens == [ord(letter) for letter in "adgh"]
    silence = [StreamingResult([], -1.0, -1.0)]
    assert joined([silence, utterances[2], silence], 1)[0].text == "g"
    assert joined([], 2)[0].text == ""


def test_standard_input(run, corpus, monkeypatch, tmp_path):
    utterance = next(path for path in sorted(corpus.glob("test-*.wav")))
    samples, rate = soundfile.read(utterance, dtype="int16")
    assert rate == 16000
    expected = [line[2:] for line in lines(run("--streaming", utterance, *CONTEXT).out)]

    def stream(content, **options):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        return run("--streaming", "-", *CONTEXT, **options)

    printed = stream(samples.astype("<i2").tobytes() + b"\0")
    assert [line[2:] for line in lines(printed.out)] == expected
    assert {line[1] for line in lines(printed.out)} == {"-"} and "real-time factor" in printed.err
    assert "raw PCM" in stream(b"", code=2).err
    assert "is an audio file, and raw samples are read there" in stream(utterance.read_bytes(), code=2).err


@pytest.mark.parametrize(
    "begin",
    [
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"FORM\0\0\1\0AIFFCOMM",
        b".snd\0\0\0\x18\0\0\0\0\0\0\0\3",
        b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81",  # WebM, of a browser's recorder
        b"\0\0\0\x1cftypM4A \0\0\2\0",
    ],
)
@pytest.mark.parametrize("arrives", [1, 3, 16])
def test_audio_files_are_no_samples(begin, arrives):
    """Also where their first bytes do not arrive at once."""

    class Pipe(io.BytesIO):
        def read1(self, size):
            return super().read1(min(size, arrives))

    with pytest.raises(AudioError, match="is an audio file, and raw samples are read there"):
        list(raw_pcm(Pipe(begin)))


def test_samples_are_no_audio_file():
    """Whatever bytes arrive at once; a sample may be the two bytes that AAC begins with."""
    samples = np.array([-3585, 4, 9, -1], dtype="<i2")

    class Pipe(io.BytesIO):
        def read1(self, size):
            return super().read1(min(size, 3))

    np.testing.assert_array_equal(np.concatenate(list(raw_pcm(Pipe(samples.tobytes())))), samples)


def test_interrupted_recording_is_finished(run, corpus, monkeypatch):
    samples, _ = soundfile.read(next(corpus.glob("test-*.wav")), dtype="int16")

    class Microphone(io.BytesIO):
        def read1(self, size):
            read = super().read1(size)
            if not read:
                raise KeyboardInterrupt
            return read

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Microphone(samples.astype("<i2").tobytes())))
    assert lines(run("--streaming", "-", *CONTEXT).out)[-1][0] == "final"


@pytest.mark.parametrize("name, begin", [("-", ""), ("utterance", "utterance: ")])
def test_a_terminal_shows_one_growing_line(name, begin, monkeypatch):
    """What no longer fits moves out at the left; the final text is there in full."""
    monkeypatch.setenv("COLUMNS", str(len(begin) + 4))
    out = io.StringIO()
    printer = StreamPrinter(out, in_place=True)
    for text, final in (("a", False), ("a b c", False), ("a b c", True)):
        printer(name, StreamingResult([], 0.0, 0.0, text=text), final)
    assert re.sub(r"\r\x1b\[K", "<", out.getvalue()) == f"<{begin}a<{begin}b c<{begin}a b c\n"


def test_bar_on_a_terminal_leaves_standard_output_alone(run, corpus, monkeypatch):
    """`colld transcribe ... > transcripts` with the progress bar in sight."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for options in ([], ["--streaming"]):
        assert "test-2.ogg\t" in run(corpus / "test.zip", *options).out


def test_refused_with_the_remedy(run, corpus, vocab, tmp_path):
    audio = corpus / "test.zip"
    full = save_transducer(tmp_path / "full.pt", corpus, "full", "--vocab", vocab, "--cmvn", "none")
    assert "--encoder-context chunk" in run("--streaming", audio, code=2, model=full).err
    assert "--encoder-context chunk" in run("--chunk-ms", "320", audio, code=2, model=full).err
    assert "leave the option out" in run("--streaming", audio, "--options", "cmvn=utterance", code=2).err
    assert "alone" in run("-", code=2).err
    assert "alone" in run("--streaming", "-", audio, code=2).err
    assert "give --out" in run("--streaming", audio, "--beam", "2", "--nbest", "2", code=2).err
    assert "--streams: '0' is not a whole number" in run("--streaming", audio, "--streams", "0", code=2).err
    assert "without --chunk-ms" in run(audio, "--left-context", "2", code=2).err
    for rules in ("1,2", "1,2,x", "1,2,0", "nan,1,1"):
        assert f"--endpoint '{rules}'" in run("--streaming", audio, "--endpoint", rules, code=2).err
