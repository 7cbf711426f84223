"""`colld score`: nothing missing, right languages, figures as sacrebleu and jiwer give them."""

import argparse
import json

import jiwer
import pytest
from sacrebleu.metrics import BLEU

from colld_fairseq.cli import options, score
from colld_fairseq.errors import ColldError

HEADER = "id\taudio\tn_frames\ttgt_text\tsrc_lang\ttgt_lang\n"
GERMAN = ["Guten Tag, die Herren.", "Wo ist der Bahnhof?", "Das Wetter ist heute schön."]
RUSSIAN = ["Где находится вокзал?", "Сегодня хорошая погода."]
ROWS = [(text, "en", "de") for text in GERMAN] + [(text, "ru", "ru") for text in RUSSIAN]
HYPOTHESES = [
    "Guten Tag die Herren.",
    "Wo ist der Hof?",
    "Сегодня погода",
    "Где вокзал?",
    "Сегодня хорошая погода.",
]


def write_manifest(path, rows=ROWS):
    lines = [f"{path.stem}{i}\ta.wav\t16000\t{text}\t{src}\t{tgt}\n" for i, (text, src, tgt) in enumerate(rows)]
    path.write_text(HEADER + "".join(lines), encoding="utf-8")
    return str(path)


def write_output(path, rows=ROWS, hypotheses=HYPOTHESES, order=None, leave_out=()):
    lines = ["2026-01-01 | INFO | fairseq_cli.generate | {'_name': None}\n"]
    for i in order or range(len(rows)):
        lines.append(f"T-{i}\t{rows[i][0]}\n")
        if i not in leave_out:
            lines += [
                f"H-{i}\t-0.5\tx y z\n",
                f"D-{i}\t-0.5\t{hypotheses[i]}\n",
                f"P-{i}\t-0.1 -0.4\n",
                f"D-{i}\t-0.9\tsecond best\n",
            ]
    lines.append("Generate test with beam=5: WER: 12.00\n")
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def colld_score(*arguments):
    parser = argparse.ArgumentParser()
    options.score(parser.add_argument)
    return score.run(parser.parse_args([str(a) for a in arguments]))


def score_json(tmp_path, *arguments):
    assert colld_score(*arguments, "--json", tmp_path / "out.json") == 0
    return json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))


def test_generate_output_in_any_order_is_scored_per_pair(tmp_path, capsys):
    manifest = write_manifest(tmp_path / "test.tsv")
    output = write_output(tmp_path / "out.txt", order=[3, 0, 4, 2, 1])
    report = score_json(tmp_path, "--generate-output", output, "--manifest", manifest)
    assert [(p["src_lang"], p["tgt_lang"], p["sentences"]) for p in report["pairs"]] == [
        ("en", "de", 3),
        ("ru", "ru", 2),
    ]
    for pair, references, hypotheses in zip(report["pairs"], (GERMAN, RUSSIAN), (HYPOTHESES[:3], HYPOTHESES[3:])):
        assert pair["wer"] == pytest.approx(100 * jiwer.wer(references, hypotheses))
        assert pair["bleu"] == pytest.approx(BLEU().corpus_score(hypotheses, [references]).score)
    assert report["overall"]["cer"] == pytest.approx(100 * jiwer.cer(GERMAN + RUSSIAN, HYPOTHESES))
    assert report["language_confusion"]["de"]["wrong_script"] == 1
    assert report["language_confusion"]["ru"]["wrong_script"] == 0
    printed = capsys.readouterr().out
    for expected in ("en-de", "ru", "all", "tok:13a", f"{report['pairs'][0]['wer']:.2f}", "wrong script"):
        assert expected in printed


def test_missing_hypotheses_are_named(tmp_path):
    manifest = write_manifest(tmp_path / "test.tsv")
    output = write_output(tmp_path / "out.txt", leave_out=[1, 4])
    with pytest.raises(
        ColldError, match=r"2 of 5 rows .* no D- line: ids 1 \(test1\), 4 \(test4\); .*take the rows out"
    ):
        colld_score("--generate-output", output, "--manifest", manifest)


def test_several_manifests_are_numbered_through(tmp_path):
    first, second = write_manifest(tmp_path / "a.tsv", ROWS[:3]), write_manifest(tmp_path / "b.tsv", ROWS[3:])
    output = write_output(tmp_path / "out.txt")
    report = score_json(tmp_path, "--generate-output", output, "--manifest", f"{first},{second}")
    assert [p["sentences"] for p in report["pairs"]] == [3, 2]
    with pytest.raises(ColldError, match="out.txt:17: id 3, but .* has 3 rows"):
        colld_score("--generate-output", output, "--manifest", first)
    with pytest.raises(ColldError, match="only 0 of 5 references"):
        colld_score("--generate-output", output, "--manifest", f"{second},{first}")


def test_a_file_with_two_decodings_is_refused(tmp_path):
    manifest, output = write_manifest(tmp_path / "test.tsv"), tmp_path / "out.txt"
    write_output(output)
    output.write_text(output.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(ColldError, match="occurs twice"):
        colld_score("--generate-output", output, "--manifest", manifest)


def test_unknown_tokens_never_match(tmp_path):
    rows = [("ab", "", "xx"), ("cd ef", "", "xx")]
    manifest = write_manifest(tmp_path / "test.tsv", rows)
    output = write_output(tmp_path / "out.txt", [("a<<unk>>", "", ""), ("cd ef", "", "")], ["a<unk>", "cd ef"])
    pair = score_json(tmp_path, "--generate-output", output, "--manifest", manifest)["pairs"][0]
    assert (pair["cer"], pair["characters"]) == (pytest.approx(100 / 7), 7)  # one character, not five
    pair = score_json(tmp_path, "--generate-output", output, "--manifest", manifest, "--references", "manifest")[
        "pairs"
    ][0]
    assert pair["cer"] == pytest.approx(100 / 7)


def test_references_of_the_manifest_need_no_target_lines(tmp_path):
    manifest = write_manifest(tmp_path / "test.tsv")
    output = tmp_path / "out.txt"
    output.write_text("".join(f"D-{i}\t0\t{text}\n" for i, (text, *_) in enumerate(ROWS)), encoding="utf-8")
    with pytest.raises(ColldError, match="no T- line.*--references manifest"):
        colld_score("--generate-output", output, "--manifest", manifest)
    report = score_json(tmp_path, "--generate-output", output, "--manifest", manifest, "--references", "manifest")
    assert report["overall"]["wer"] == 0 and report["overall"]["chrf"] == pytest.approx(100)


def test_normalization_is_applied_to_both_sides_and_reported(tmp_path):
    (tmp_path / "hyp").write_text("guten tag\nwo ist er\n", encoding="utf-8")
    (tmp_path / "ref").write_text("Guten Tag!\nWo ist er?\n", encoding="utf-8")
    arguments = ("--hyp", tmp_path / "hyp", "--ref", tmp_path / "ref", "--lang", "de")
    assert score_json(tmp_path, *arguments)["overall"]["wer"] == pytest.approx(80)
    report = score_json(tmp_path, *arguments, "--lowercase", "--remove-punctuation")
    assert report["overall"]["wer"] == 0
    assert report["text_normalization"] == {"lowercase": True, "remove_punctuation": True}


def test_plain_files_with_a_language_a_line(tmp_path):
    (tmp_path / "hyp").write_text("a\u2028b\n\n你好\n", encoding="utf-8")  # U+2028 ends no line; an empty hypothesis
    (tmp_path / "ref").write_text("a b\nc\n你好\n", encoding="utf-8")
    (tmp_path / "lang").write_text("de\ten\nen\nen\tzh\n", encoding="utf-8")
    report = score_json(tmp_path, "--hyp", tmp_path / "hyp", "--ref", tmp_path / "ref", "--lang", tmp_path / "lang")
    assert [(p["src_lang"], p["tgt_lang"], p["wer"]) for p in report["pairs"]] == [
        ("", "en", 100),
        ("de", "en", 0),
        ("en", "zh", 0),
    ]
    assert any("tok:zh" in text for text in report["signatures"].values())


def test_bad_calls_say_what_to_do(tmp_path):
    (tmp_path / "two").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "one").write_text("a\n", encoding="utf-8")
    (tmp_path / "latin").write_bytes(b"\xe9t\xe9\n")
    with pytest.raises(ColldError, match="two has 2 lines, .*one has 1"):
        colld_score("--hyp", tmp_path / "two", "--ref", tmp_path / "one")
    with pytest.raises(ColldError, match="latin:1: byte 1 is not UTF-8"):
        colld_score("--hyp", tmp_path / "latin", "--ref", tmp_path / "one")
    with pytest.raises(ColldError, match="nowhere: cannot be read"):
        colld_score("--hyp", tmp_path / "nowhere", "--ref", tmp_path / "one")
    for path in ("empty", "nothing"):
        (tmp_path / path).write_text("")
    with pytest.raises(ColldError, match="nothing: has no line"):
        colld_score("--hyp", tmp_path / "empty", "--ref", tmp_path / "nothing")
    manifest = ("--transcripts", "a", "--manifest", "b")
    with pytest.raises(ColldError, match="--lang en: only of --hyp and --ref"):
        colld_score(*manifest, "--lang", "en")
    for given in (manifest, ("--hyp", tmp_path / "two", "--ref", tmp_path / "two")):
        with pytest.raises(ColldError, match="--references manifest: only of --generate-output"):
            colld_score(*given, "--references", "manifest")
    for arguments in (
        (),
        ("--hyp", "a"),
        ("--generate-output", "a"),
        ("--hyp", "a", "--ref", "b", "--manifest", "c"),
    ):
        with pytest.raises(ColldError, match="--generate-output or --transcripts with --manifest, or --hyp with --ref"):
            colld_score(*arguments)


def test_transcripts_are_found_by_id(tmp_path):
    """As `colld transcribe` writes them, in any order and with other columns: the scores of the same hypotheses."""
    manifest, output = write_manifest(tmp_path / "m.tsv"), write_output(tmp_path / "o.txt")
    names = ("id", "audio", "n_frames", "tgt_text", "src_lang", "tgt_lang", "mean_log_prob")
    rows = [(f"m{i}", "a.wav", "9", text, *ROWS[i][1:], "-1") for i, text in enumerate(HYPOTHESES)]
    transcripts = tmp_path / "t.tsv"

    def write(rows):
        transcripts.write_text("".join("\t".join(row) + "\n" for row in (names, *rows)), encoding="utf-8")

    write(rows[::-1])
    scores = score_json(tmp_path, "--transcripts", transcripts, "--manifest", manifest)
    assert scores == score_json(tmp_path, "--generate-output", output, "--manifest", manifest)
    write(rows[1:])
    with pytest.raises(ColldError, match=r"1 of 5 rows .* have no transcript: ids 0 \(m0\)"):
        colld_score("--transcripts", transcripts, "--manifest", manifest)
    write([rows[0][:5] + ("fr", "-1"), *rows[1:]])
    with pytest.raises(ColldError, match=r"t\.tsv:2: 'm0' is transcribed in 'fr'.*m\.tsv:2 is in 'de'"):
        colld_score("--transcripts", transcripts, "--manifest", manifest)
    for other in (["--generate-output", output], ["--hyp", output, "--ref", output]):
        with pytest.raises(ColldError, match="give --generate-output or --transcripts with --manifest"):
            colld_score("--transcripts", transcripts, "--manifest", manifest, *other)
