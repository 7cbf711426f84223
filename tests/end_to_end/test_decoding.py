"""fairseq-generate, fairseq-interactive and fairseq-validate on fine-tuned models."""

import re
from typing import Dict, NamedTuple, Tuple

import pytest
from commands import call, log_records, spawn

from colld_fairseq.cli import main as colld
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import ConfigError

NUM_TEST = 9


class Hypothesis(NamedTuple):
    text: str
    score: float
    token_scores: Tuple[float, ...]


def hypotheses(output: str) -> Dict[int, Hypothesis]:
    """id -> hypothesis from the D- and P- lines; every id once."""
    result = {}
    for index, score, text in re.findall(r"^D-(\d+)\t(\S+)\t(.*)$", output, re.MULTILINE):
        assert int(index) not in result
        token_scores = re.search(rf"^P-{index}\t(.*)$", output, re.MULTILINE)[1]
        result[int(index)] = Hypothesis(text, float(score), tuple(map(float, token_scores.split())))
    return result


def references(output: str) -> Dict[int, str]:
    return {int(index): text for index, text in re.findall(r"^T-(\d+)\t(.*)$", output, re.MULTILINE)}


def generate(decoding, trained, vocab, *more) -> str:
    options = ["--max-len-a", "0.1", "--max-len-b", "5", "--path", trained.checkpoint, "--vocab", vocab]
    return call("generate", *decoding, "--gen-subset", "test", *options, *more)


KINDS = {
    "ctc-greedy": ("recogniser", "vocab", ["--beam", "1"]),
    "ctc-beam": ("recogniser", "vocab", ["--beam", "4", "--nbest", "1"]),
    "attention-greedy": ("translator", "vocab", ["--beam", "1"]),
    "attention-beam": ("translator", "vocab", ["--beam", "3"]),
    "attention-tags": ("tagged_translator", "tagged_vocab", ["--beam", "3"]),
    "ctc-of-attention-model": ("translator", "vocab", ["--decoder", "ctc", "--beam", "2"]),
}


@pytest.fixture(params=KINDS)
def model(request):
    name, vocab, options = KINDS[request.param]
    return request.getfixturevalue(name), request.getfixturevalue(vocab), options


def test_hypotheses_do_not_depend_on_the_batches(model, decoding, corpus):
    """Every id comes back, and text and scores are the same alone, in small batches and in one."""
    trained, vocab, options = model
    limits = [["--max-tokens", "200000"], ["--max-tokens", "45000"], ["--batch-size", "1"]]
    together, some, alone = (hypotheses(generate(decoding, trained, vocab, *options, *limit)) for limit in limits)
    assert set(together) == set(some) == set(alone) == set(range(NUM_TEST))
    for index, expected in alone.items():
        for other in (together[index], some[index]):
            assert other.text == expected.text
            assert other.score == pytest.approx(expected.score, abs=1e-4)
            assert other.token_scores == pytest.approx(expected.token_scores, abs=2e-4)


def test_references_are_the_text_of_the_manifest(decoding, recogniser, vocab, corpus):
    """Words, not letters, without --post-process; with it, the same."""
    rows = read_manifest(str(corpus / "test.tsv"))
    expected = {i: rows.row(i).tgt_text for i in range(len(rows))}
    assert any(not text.isascii() for text in expected.values())
    plain = generate(decoding, recogniser, vocab, "--max-tokens", "200000")
    assert references(plain) == expected
    asked = generate(decoding, recogniser, vocab, "--max-tokens", "200000", "--post-process", "letter")
    assert references(asked) == expected and hypotheses(asked) == hypotheses(plain)
    tokens = generate(decoding, recogniser, vocab, "--max-tokens", "200000", "--post-process", "none")
    assert references(tokens) == {i: " ".join(text.replace(" ", "|")) for i, text in expected.items()}
    other = generate(decoding, recogniser, vocab, "--max-tokens", "200000", "--post-process", "sentencepiece")
    assert references(other) == expected


def test_tokens_are_not_scored_as_words(decoding, recogniser, vocab, corpus, tmp_path, capsys):
    output = generate(decoding, recogniser, vocab, "--max-tokens", "200000", "--post-process", "none")
    (tmp_path / "generate-test.txt").write_text(output, encoding="utf-8")
    arguments = ["score", "--generate-output", str(tmp_path / "generate-test.txt")]
    assert colld([*arguments, "--manifest", str(corpus / "test.tsv")]) == 2
    assert "they are tokens and no text; decode again without --post-process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--match-source-len"], "--match-source-len: a text has not"),
        (["--score-reference"], "--score-reference: references are not scored"),
        (["--print-alignment", "hard"], "--print-alignment: no decoder here"),
    ],
)
def test_options_that_this_decoder_does_not_have(options, message, decoding, recogniser, vocab):
    with pytest.raises(ConfigError, match=message):
        generate(decoding, recogniser, vocab, "--max-tokens", "200000", *options)


def test_diverse_beams_of_every_row(decoding, translator, vocab):
    """Rows of a manifest are more than those of a batch, of which fairseq keeps a table."""
    options = ["--diverse-beam-groups", "2", "--beam", "4", "--max-tokens", "60000"]
    assert set(hypotheses(generate(decoding, translator, vocab, *options))) == set(range(NUM_TEST))


def test_options_without_effect_are_named(decoding, recogniser, translator, vocab, caplog):
    generate(decoding, recogniser, vocab, "--max-tokens", "200000", "--lenpen", "2")
    assert "--max-len-a, --max-len-b, --lenpen: of attention decoding, without effect" in caplog.text
    caplog.clear()
    generate(decoding, translator, vocab, "--max-tokens", "200000", "--lenpen", "2")
    assert "without effect" not in caplog.text


@pytest.mark.parametrize("scoring, printed", [("wer", "WER: "), ("sacrebleu", "BLEU = "), ("chrf", "chrF2 = ")])
def test_scorers(scoring, printed, decoding, recogniser, vocab):
    output = generate(decoding, recogniser, vocab, "--max-tokens", "200000", "--scoring", scoring)
    assert f"Generate test with beam=5: {printed}" in output


def test_wer_of_generate_is_the_corpus_wer(decoding, recogniser, vocab):
    """The scorer compares words of the whole text (jiwer as the second opinion)."""
    jiwer = pytest.importorskip("jiwer")
    output = generate(decoding, recogniser, vocab, "--max-tokens", "200000", "--scoring", "wer", "--beam", "4")
    result, expected = hypotheses(output), references(output)
    wer = jiwer.wer([expected[i] for i in range(NUM_TEST)], [result[i].text for i in range(NUM_TEST)])
    assert float(re.search(r"WER: ([\d.]+)", output)[1]) == pytest.approx(100 * wer, abs=0.01)


def test_colld_score_reads_the_output(decoding, recogniser, vocab, corpus, tmp_path, capsys):
    output = generate(decoding, recogniser, vocab, "--max-tokens", "200000")
    (tmp_path / "generate-test.txt").write_text(output, encoding="utf-8")
    arguments = ["score", "--generate-output", str(tmp_path / "generate-test.txt")]
    assert colld([*arguments, "--manifest", str(corpus / "test.tsv")]) == 0
    assert "yy-xx" in capsys.readouterr().out


def test_tags_force_the_language(decoding, tagged_translator, tagged_vocab):
    """The tag is in no hypothesis, carries a score, and another --tgt-lang gives another score."""
    options = ["--beam", "1", "--max-tokens", "200000"]
    own = hypotheses(generate(decoding, tagged_translator, tagged_vocab, *options))
    forced = hypotheses(generate(decoding, tagged_translator, tagged_vocab, *options, "--tgt-lang", "yy"))
    rows = read_manifest(str(decoding[0] / "test.tsv"))
    for i in range(NUM_TEST):
        assert "lang" not in own[i].text
        same = rows.row(i).tgt_lang == "yy"
        assert (own[i].score == pytest.approx(forced[i].score, abs=1e-6)) == same


def test_validate_repeats_the_validation_of_training(model, decoding):
    trained, vocab, _ = model
    options = ["--valid-subset", "valid", "--max-tokens", "60000", "--log-format", "json"]
    output = call("validate", *decoding, *options, "--path", trained.checkpoint, "--vocab", vocab)
    expected = log_records(trained.output, "valid")[-1]
    record = log_records(output, "valid")[-1]
    same = [key for key in expected if re.match(r"valid_(loss|ctc_loss|wer|cer|chrf|bleu|ctc_cer)", key)]
    assert same and {key: record[key] for key in same} == {key: expected[key] for key in same}


def test_interactive_reads_audio_paths(recogniser, vocab, corpus, decoding):
    """One path a line, archives included; the hypotheses are those of fairseq-generate."""
    rows = read_manifest(str(corpus / "test.tsv"))
    lines = "".join(f"{rows.audio_path(i)}\n" for i in range(3))
    run = spawn(
        "fairseq-interactive",
        *decoding,
        "--path",
        recogniser.checkpoint,
        "--vocab",
        vocab,
        "--beam",
        "2",
        input=lines,
    )
    expected = hypotheses(generate(decoding, recogniser, vocab, "--beam", "2", "--max-tokens", "200000"))
    result = hypotheses(run.output)
    assert set(result) == {0, 1, 2}
    for i in result:
        assert result[i].text == expected[i].text
        assert result[i].score == pytest.approx(expected[i].score, abs=1e-4)
