"""`colld transcribe`: what fairseq-generate decodes; files, folders and archives; pseudo-labels; stopped runs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import save_untrained
from commands import PACKAGE, TINY_ENCODER, call
from task_setup import set_up

from colld_fairseq.cli import main
from colld_fairseq.data.hypotheses import read_entries
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.errors import ConfigError, ManifestError
from colld_fairseq.recogniser import Recogniser, load_recogniser

TEST_UTTERANCES = 9
DECODER = ["--decoder-embed-dim", "32", "--decoder-layers", "1", "--decoder-ffn-embed-dim", "48"]
WAVEFORM = ["--front-end", "waveform", "--conv-feature-layers", "[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2"]
TRANSDUCER = ["--predictor-embed-dim", "16", "--joiner-dim", "24", "--front-end", "conv2d", "--criterion", "transducer"]
MODELS = {
    "ctc": ("student_ctc", "vocab", []),
    "attention": ("student_s2t", "tagged_vocab", [*DECODER, *WAVEFORM, "--ctc-target", "src_text"]),
    "transducer": ("transducer_student", "vocab", TRANSDUCER),
    "modified": ("transducer_student", "tagged_vocab", [*TRANSDUCER, "--topology", "modified"]),
}


@pytest.fixture(scope="module")
def checkpoint(request, corpus, tmp_path_factory):
    """Makes checkpoints by name; each once."""
    made = {}

    def make(name):
        if name not in made:
            arch, vocab, options = MODELS[name]
            torch.manual_seed(1)
            arguments = [corpus, "--task", "multilingual_speech_to_text", "--vocab", request.getfixturevalue(vocab)]
            criterion = [] if "--criterion" in options else ["--criterion", "ctc_attention"]
            run = set_up(*arguments, *criterion, "--arch", arch, *TINY_ENCODER, *options)
            made[name] = str(save_untrained(run, tmp_path_factory.mktemp(name) / "model.pt"))
        return made[name]

    return make


def transcribe(*arguments):
    return main(["transcribe", *map(str, arguments)])


def generated(corpus, path, *options):
    """row -> (hypotheses, scores), best first, by fairseq-generate; at most 30 tokens per second of waveforms."""
    fixed = ["--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--num-workers", "0"]
    limits = ["--gen-subset", "test", "--max-len-a", str(30 / 16000), "--max-len-b", "10", "--max-tokens", "60000"]
    output = call("generate", corpus, *fixed, *limits, "--path", path, *options)
    result = {row: ([], []) for row in range(TEST_UTTERANCES)}
    for row, score, text in re.findall(r"^D-(\d+)\t(\S+)\t(.*)$", output, re.MULTILINE):
        result[int(row)][0].append(text.replace("<unk>", ""))
        result[int(row)][1].append(float(score) * torch.log(torch.tensor(2.0)).item())  # printed to the base 2
    return result


GENERATION = "no_repeat_ngram_size=2,lenpen=0.5,min_len=3,max_len_a=0.0005,max_len_b=4,unkpen=0.5"
CASES = {
    "ctc": ("ctc", ["--beam", "3", "--nbest", "2"], []),
    "attention": ("attention", ["--beam", "2", "--nbest", "2"], []),
    "attention-otherwise": ("attention", ["--beam", "2", "--nbest", "2"], ["--options", GENERATION]),
    "ctc-of-attention": ("attention", ["--decoder", "ctc", "--beam", "1"], []),
    "transducer": ("transducer", ["--beam", "1"], ["--options", "blank_penalty=0.5,max_symbols=2"]),
    "modified": ("modified", ["--beam", "2", "--nbest", "2"], ["--lang", "yy"]),
}
SAME = {
    "--lang": "--tgt-lang",
    "blank_penalty=0.5,max_symbols=2": "--blank-penalty 0.5 --max-symbols 2",
    GENERATION: " ".join(f"--{one.replace('_', '-').replace('=', ' ')}" for one in GENERATION.split(",")),
}


@pytest.mark.parametrize("case", CASES)
def test_hypotheses_are_those_of_fairseq_generate(case, checkpoint, corpus, tmp_path, vocab, tagged_vocab):
    name, options, own = CASES[case]
    path, out = checkpoint(name), tmp_path / "out.tsv"
    assert transcribe(path, "--manifest", corpus / "test.tsv", "--out", out, *options, *own) == 0
    theirs = " ".join(SAME.get(word, word) for word in own if word != "--options").split()
    folder = {"vocab": vocab, "tagged_vocab": tagged_vocab}[MODELS[name][1]]
    expected = generated(corpus, path, "--vocab", folder, *options, *theirs)
    rows = read_manifest(str(out))
    assert len(rows) == TEST_UTTERANCES and any(rows.row(i).tgt_text for i in range(TEST_UTTERANCES))
    n_best = dict(read_entries(tmp_path / "out.hypotheses.jsonl")) if "--nbest" in options else {}
    assert (tmp_path / "out.hypotheses.jsonl").exists() == bool(n_best)
    for i in range(TEST_UTTERANCES):
        row, (transcripts, scores) = rows.row(i), expected[i]
        assert row.id == f"test-{i}" and " ".join(row.tgt_text.split()) == " ".join(transcripts[0].split())
        for transcript, text, score in zip(n_best.get(row.id, []), transcripts, scores):
            assert " ".join(transcript["text"].split()) == " ".join(text.split())
            assert transcript["score"] == pytest.approx(score, abs=1e-3)
        assert "--nbest" not in options or len(n_best[row.id]) == len(transcripts) == 2


@pytest.mark.parametrize("name", MODELS)
def test_in_bfloat16_scores_are_nearly_those_of_float32(name, checkpoint, corpus, tmp_path):
    best = {}
    for dtype in ("float32", "bfloat16"):
        command = [checkpoint(name), "--manifest", corpus / "test.tsv", "--out", tmp_path / f"{dtype}.tsv"]
        own = {"attention": ["--decoder", "ctc"], "modified": ["--lang", "yy"]}.get(name, [])
        assert transcribe(*command, *own, "--dtype", dtype, "--beam", "2", "--nbest", "2") == 0
        lines = (tmp_path / f"{dtype}.hypotheses.jsonl").read_text().splitlines()
        best[dtype] = [json.loads(line)["hypotheses"][0]["score"] for line in lines]
    assert best["bfloat16"] == pytest.approx(best["float32"], rel=0.03, abs=0.05)
    assert best["bfloat16"] != best["float32"]


def test_an_attention_decoder_reads_and_writes_bfloat16(checkpoint):
    """Searches of an untrained one diverge; what they go by does not."""
    waveform, previous = torch.sin(torch.arange(16000) / 7)[None], torch.tensor([[2, 5, 7, 6]])
    log_probs = {}
    for dtype in ("float32", "bfloat16"):
        recogniser = load_recogniser(checkpoint("attention"), dtype=dtype)
        recogniser.transcribe([waveform[0].numpy()], ["yy"])
        (model,) = recogniser.models
        output = model(waveform.to(recogniser.dtype), torch.tensor([16000]), previous)
        log_probs[dtype] = torch.log_softmax(output["logits"].float(), dim=-1)
    assert (log_probs["bfloat16"] - log_probs["float32"]).abs().mean() < 0.02 * log_probs["float32"].abs().mean()


def test_streams_are_refused_in_bfloat16(checkpoint, corpus):
    with pytest.raises(ConfigError, match="float32, not in bfloat16"):
        load_recogniser(checkpoint("ctc"), dtype="bfloat16").streaming()


def test_manifest_can_be_trained_on(checkpoint, corpus, tmp_path, finetuning):
    """Lengths, languages, speakers, audio paths from the new folder on, and a score to choose utterances by."""
    out = tmp_path / "labels" / "train.tsv"
    assert transcribe(checkpoint("ctc"), "--manifest", corpus / "test.tsv", "--out", out) == 0
    labels, given = read_manifest(str(out)), read_manifest(str(corpus / "test.tsv"))
    for i in range(TEST_UTTERANCES):
        ours, theirs = labels.row(i), given.row(i)
        assert ours.tgt_text != theirs.tgt_text
        assert ours._replace(tgt_text="", line=0) == theirs._replace(tgt_text="", line=0)
    header, *lines = out.read_text().splitlines()
    assert header.split("\t")[-1] == "mean_log_prob"
    assert all(-20 < float(line.split("\t")[-1]) < 0 for line in lines)
    run = finetuning()
    run.task.cfg.data = str(out.parent)
    run.task.load_dataset("train")
    dataset = run.task.dataset("train")
    loss, _, _ = run.criterion(run.model, dataset.collater([dataset[i] for i in range(TEST_UTTERANCES)]))
    assert torch.isfinite(loss) and dataset.bad_audio.count == 0


def test_paths_are_relative_to_a_manifest_above_the_audio(checkpoint, corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "here" / "audio")
    out = tmp_path / "here" / "found.tsv"
    assert transcribe(checkpoint("ctc"), tmp_path / "here" / "audio", "--out", out) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    rows = read_manifest(str(tmp_path / "there" / "found.tsv"))
    assert rows.text("audio", 0).startswith("audio/") and len(rows) > 20
    assert all(rows.audio_path(i).startswith(str(tmp_path / "there" / "audio")) for i in range(len(rows)))


def test_lists_of_an_earlier_run_do_not_stay_beside_the_manifest(checkpoint, corpus, tmp_path):
    """Training would take them for those of the new manifest."""
    arguments = [checkpoint("ctc"), corpus / "test.zip", "--out", tmp_path / "o.tsv"]
    lists = tmp_path / "o.hypotheses.jsonl"
    assert transcribe(*arguments, "--beam", "2", "--nbest", "2") == 0 and lists.exists()
    assert transcribe(*arguments) == 0 and not lists.exists()


def test_languages_of_the_rows(checkpoint, corpus, tmp_path):
    """--lang is what is written; CTC trained on transcripts writes the language spoken."""

    def languages(*options):
        assert transcribe(checkpoint("attention"), "--out", tmp_path / "o.tsv", *options) == 0
        rows = read_manifest(str(tmp_path / "o.tsv"))
        return [(rows.row(i).src_lang, rows.row(i).tgt_lang) for i in range(3)]

    manifest = ["--manifest", corpus / "test.tsv"]
    assert languages(*manifest) == [("xx", "xx"), ("yy", "yy"), ("yy", "xx")]
    assert languages(*manifest, "--lang", "yy") == [("xx", "yy"), ("yy", "yy"), ("yy", "yy")]
    assert languages(*manifest, "--decoder", "ctc") == [("xx", "xx"), ("yy", "yy"), ("yy", "yy")]
    assert languages(corpus, "--lang", "xx", "--src-lang", "yy") == [("yy", "xx")] * 3


def test_files_folders_and_archives(checkpoint, corpus, tmp_path, capsys):
    """Printed in the order of the input, whatever the lengths; the same transcripts as from the manifest."""
    out = tmp_path / "out.tsv"
    assert transcribe(checkpoint("ctc"), "--manifest", corpus / "test.tsv", "--out", out) == 0
    rows = read_manifest(str(out))
    transcripts = {rows.row(i).id: rows.row(i).tgt_text for i in range(TEST_UTTERANCES)}
    capsys.readouterr()
    folder = tmp_path / "audio" / "deeper"
    folder.mkdir(parents=True)
    for i in (1, 3):
        name = next(corpus.glob(f"test-{i}.*"))
        shutil.copy(name, folder.parent if i == 1 else folder)
    (folder / "notes.txt").write_text("no audio")
    alone = next(corpus.glob("test-0.*"))
    assert transcribe(checkpoint("ctc"), alone, folder.parent, corpus / "test.zip", alone) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    archive = [f"test-{i}.ogg" for i in (2, 5, 8)]
    assert [name for name, _ in lines] == [str(alone), "test-1.flac", "deeper/test-3.wav", *archive]
    assert [text for _, text in lines] == [transcripts[f"test-{i}"] for i in (0, 1, 3, 2, 5, 8)]


def test_nbest_on_standard_output(checkpoint, corpus, capsys):
    assert transcribe(checkpoint("ctc"), corpus / "test.zip", "--beam", "4", "--nbest", "3") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 9
    for first in range(0, 9, 3):
        names, scores, transcripts = zip(*lines[first : first + 3])
        assert len(set(names)) == 1 and all(transcripts)
        assert float(scores[0]) > float(scores[1]) > float(scores[2])


def test_stopped_run_is_finished(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    """Nothing is done twice, and the files are those of a run that was not stopped."""
    manifest = ["--manifest", corpus / "train.tsv", "--beam", "2", "--nbest", "2", "--batch-seconds", "3"]
    whole, out = tmp_path / "whole.tsv", tmp_path / "out.tsv"
    batch_sizes = []
    plain = Recogniser.transcribe

    def counting(self, waveforms, *languages, **spoken):
        if len(batch_sizes) == stop_at:
            raise KeyboardInterrupt
        batch_sizes.append(len(waveforms))
        return plain(self, waveforms, *languages, **spoken)

    monkeypatch.setattr(Recogniser, "transcribe", counting)
    stop_at = -1
    assert transcribe(checkpoint("ctc"), *manifest, "--out", whole) == 0
    assert sum(batch_sizes) == 24 and len(batch_sizes) > 4
    batch_sizes.clear()
    stop_at = 3
    assert transcribe(checkpoint("ctc"), *manifest, "--out", out) == 130
    assert not out.exists()
    journal = tmp_path / "out.tsv.partial"
    with open(journal, "a") as file:
        file.write('{"id": "train-')  # killed while it wrote
    other = [*manifest[:2], "--beam", "3", "--nbest", "2"]
    assert transcribe(checkpoint("ctc"), *other, "--out", out) == 2
    assert "begun with other options" in capsys.readouterr().err
    assert transcribe(checkpoint("ctc"), *manifest, "--dtype", "bfloat16", "--out", out) == 2
    assert "begun with other options" in capsys.readouterr().err
    stop_at = -1
    assert transcribe(checkpoint("ctc"), *manifest, "--out", out) == 0
    assert sum(batch_sizes) == 24
    assert "utterances are there already" in capsys.readouterr().err and not journal.exists()
    for name in ("{}.tsv", "{}.hypotheses.jsonl"):
        assert (tmp_path / name.format("out")).read_bytes() == (tmp_path / name.format("whole")).read_bytes()


def test_audio_replaced_before_a_stopped_run_goes_on(checkpoint, corpus, tmp_path, monkeypatch):
    wavs = [tmp_path / f"{n}.wav" for n in range(3)]
    for wav, name in zip(wavs, ("test-0.wav", "test-3.wav", "test-6.wav")):
        shutil.copy(corpus / name, wav)
    out = tmp_path / "out.tsv"
    plain, calls = Recogniser.transcribe, []

    def stopping(self, *given, **named):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *given, **named)

    monkeypatch.setattr(Recogniser, "transcribe", stopping)
    command = [checkpoint("ctc"), *wavs, "--batch-seconds", "0.1", "--out"]
    assert transcribe(*command, out) == 130
    for wav in wavs:
        shutil.copy(corpus / "test-1.flac", wav)
    assert transcribe(*command, out) == 0 and transcribe(*command, tmp_path / "whole.tsv") == 0
    assert len(calls) == 9 and out.read_bytes() == (tmp_path / "whole.tsv").read_bytes()


@pytest.fixture
def damaged(corpus, tmp_path):
    """The test utterances: one is no audio, one is gone, one is too short for a frame."""
    shutil.copytree(corpus, tmp_path / "audio")
    wavs = sorted((tmp_path / "audio").glob("test-*.wav"))
    wavs[0].write_bytes(b"not audio")
    wavs[1].unlink()
    soundfile.write(wavs[2], np.zeros(300), 16000)
    return tmp_path / "audio", [wav.name for wav in wavs]


def test_broken_utterances_are_named_and_counted(damaged, checkpoint, tmp_path, capsys):
    folder, names = damaged
    out = tmp_path / "out.tsv"
    arguments = [checkpoint("ctc"), "--manifest", folder / "test.tsv", "--out", out]
    assert transcribe(*arguments, "--max-bad", "0.2") == 2 and not out.exists()
    assert "cannot be used, more than the 1" in capsys.readouterr().err
    assert transcribe(*arguments) == 0
    printed = capsys.readouterr().err
    assert f"3 of {TEST_UTTERANCES} utterances cannot be used" in printed and "too few for one frame" in printed
    assert all(name.removesuffix(".wav") in printed for name in names)
    assert len(read_manifest(str(out))) == TEST_UTTERANCES - 3
    present = [folder / name for name in (names[0], names[2])]
    nothing = tmp_path / "nothing"
    assert transcribe(checkpoint("ctc"), *present, "--out", nothing / "o.tsv") == 2 and not list(nothing.iterdir())
    assert "2 of 2 utterances cannot be used, which leaves none" in capsys.readouterr().err
    assert transcribe(checkpoint("ctc"), *present, folder / "test.zip") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        (["--options", "beam=5"], "--options beam=5: give --beam 5"),
        (["--options", "dtype=bfloat16"], "give --dtype bfloat16"),
        (["--endpoint", "1,1,9"], "--endpoint: says nothing without --streaming"),
        (["--streams", "2"], "--streams: says nothing without --streaming"),
        (["--audio-root", "."], "--audio-root: says nothing without --manifest"),
    ],
)
def test_options_without_effect(options, message, checkpoint, corpus, capsys):
    assert transcribe(checkpoint("ctc"), corpus / "test.zip", *options) == 2
    assert message in capsys.readouterr().err


def test_refused_with_the_remedy(checkpoint, corpus, distillation, tmp_path, capsys):
    def refused(*arguments):
        assert transcribe(*arguments) == 2
        return capsys.readouterr().err

    manifest = ["--manifest", corpus / "test.tsv"]
    assert "nowhere.pt: no such file" in refused("nowhere.pt", *manifest)
    (tmp_path / "junk.pt").write_bytes(b"junk")
    assert "junk.pt: cannot be read" in refused(tmp_path / "junk.pt", *manifest)
    student = save_untrained(distillation(), tmp_path / "student.pt")
    assert "fine-tune it with text first" in refused(student, *manifest)
    path = checkpoint("ctc")
    assert "one of the two" in refused(path) and "one of the two" in refused(path, corpus, *manifest)
    assert "--nbest" in refused(path, *manifest, "--nbest", "2")
    assert "has an option 'nonsense'" in refused(path, *manifest, "--options", "nonsense=1")
    assert "--no-repeat-ngram-size is an option of attention decoding, and what decodes here is ctc" in refused(
        path, *manifest, "--options", "no_repeat_ngram_size=3"
    )
    assert "--max-symbols is an option of transducer" in refused(path, *manifest, "--options", "max_symbols=1")
    for option in ("hotwords=nowhere.txt", "ngram_lm=nowhere.arpa", "length_bonus=1"):
        told = refused(checkpoint("attention"), *manifest, "--options", option)
        assert "is an option of CTC or transducer decoding, and what decodes here is attention" in told
    assert "max_len_a: 'x' is not" in refused(checkpoint("attention"), *manifest, "--options", "max_len_a=x")
    assert "NAME=VALUE" in refused(path, *manifest, "--options", "nonsense")
    assert "CTC layer only" in refused(path, *manifest, "--decoder", "attention")
    assert "vocabulary" in refused(path, *manifest, "--vocab", tmp_path)
    assert "--lang" in refused(checkpoint("attention"), corpus)
    (tmp_path / "empty").mkdir()
    assert "no audio" in refused(path, tmp_path / "empty")
    assert "tab" in refused(path, tmp_path / "a\tb.wav")


def test_a_waveform_has_a_language(checkpoint, corpus):
    recogniser, wave = load_recogniser(Path(checkpoint("attention"))), np.sin(np.arange(16000) / 7)
    for languages, told in ((["yy"], "not 1"), (["yy"] * 3, "not 3"), ("yy", "not 'yy'"), (None, "`languages`")):
        with pytest.raises(ConfigError, match=told):
            recogniser.transcribe([wave, wave], languages)
    with pytest.raises(ConfigError, match="source_languages is a list of one language for each of the 2"):
        recogniser.transcribe([wave, wave], ["yy", "yy"], source_languages=["yy"])


def test_long_utterances_are_pointed_out(checkpoint, corpus, capsys):
    assert transcribe(checkpoint("ctc"), corpus / "test.zip") == 0
    assert "longer than" not in capsys.readouterr().err
    assert transcribe(checkpoint("ctc"), corpus / "test.zip", "--options", "max_seconds=0.2") == 0
    assert "3 of 3 utterances are longer than the 0.2 s" in capsys.readouterr().err


def test_a_utterance_with_two_target_languages(checkpoint, corpus, tmp_path, capsys):
    lines = (corpus / "test.tsv").read_text().splitlines(keepends=True)
    (corpus / "more.tsv").write_text(lines[0] + lines[1].replace("xx\txx", "xx\tyy"))
    out = tmp_path / "o.tsv"
    both = ["--manifest", f"{corpus}/test.tsv,{corpus}/more.tsv", "--out", out]
    assert transcribe(checkpoint("attention"), *both) == 2
    assert "target languages 'xx' and 'yy'" in capsys.readouterr().err
    assert transcribe(checkpoint("attention"), *both, "--lang", "xx") == 0
    assert len(read_manifest(str(out))) == TEST_UTTERANCES


def test_hypotheses_file_is_checked(tmp_path):
    path = tmp_path / "n.jsonl"
    good = {"id": "a", "hypotheses": [{"text": "b", "tokens": [5], "score": -1.0, "log_prob": -1.0}]}
    for content, reason in (
        (json.dumps(good) + "\n" + json.dumps(good), r"n\.jsonl:2: id 'a'"),
        (json.dumps(dict(good, hypotheses=[{"text": "b"}])), r"n\.jsonl:1: no n-best list"),
        ("[1]", r"n\.jsonl:1: no n-best list"),
    ):
        path.write_text(content)
        with pytest.raises(ManifestError, match=reason):
            list(read_entries(path))
