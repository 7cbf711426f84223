"""Forced alignment of transducers and CTC, and `colld delay`."""

import itertools
import json

import numpy as np
import pytest
import torch
from checkpoints import save_ctc, save_recogniser, save_transducer
from streams import UTTERANCES

from colld_fairseq.cli import main
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.decoding.forced_alignment import align_arcs
from colld_fairseq.decoding.label_delay import LabelDelay
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.recogniser import load_recogniser


def score(blank, label, emitted, topology):
    """ln p of the path that emits label u in frame emitted[u]; None if there is none."""
    frames, u, total = len(blank), 0, 0.0
    for t in range(frames):
        here = sum(1 for frame in emitted if frame == t)
        total += sum(label[t, u + i] for i in range(here))
        u += here
        if topology == "regular" or here == 0:
            total += blank[t, u]
        elif here > 1:
            return None
    return total


@pytest.mark.parametrize("topology", ["regular", "modified"])
def test_best_of_all_paths(topology):
    generator = np.random.default_rng(0)
    for frames, labels in itertools.product((1, 2, 4, 5), (0, 1, 3)):
        blank = -3 * generator.random((frames, labels + 1))
        label = -3 * generator.random((frames, labels))
        ways = list(itertools.combinations_with_replacement(range(frames), labels))
        scores = [score(blank, label, way, topology) for way in ways]
        if all(one is None for one in scores):
            with pytest.raises(ColldError, match="no path of"):
                align_arcs(blank, label, topology)
            continue
        best = max((one, way) for one, way in zip(scores, ways) if one is not None)[1]
        assert align_arcs(blank, label, topology) == list(best)


@pytest.fixture(scope="module")
def models(corpus, vocab, tagged_vocab, statistics, tmp_path_factory):
    folder, chunks = tmp_path_factory.mktemp("delay"), ["--chunk-sizes", "1,4,full", "--cmvn", statistics["kaldi"]]
    return {
        "ctc": save_ctc(folder / "ctc.pt", corpus, "chunk", "--vocab", vocab, *chunks),
        "transducer": save_transducer(folder / "t.pt", corpus, "chunk", "--vocab", tagged_vocab, *chunks),
        "causal": save_ctc(folder / "causal.pt", corpus, "causal", "--vocab", vocab, *chunks[2:]),
    }


def test_ctc_of_a_best_path_is_that_path(models):
    recogniser = load_recogniser(models["ctc"])
    for chunk_ms in (40, "full"):
        recogniser.limit_context(chunk_ms)
        ((hypothesis,),) = recogniser.transcribe(UTTERANCES[:1])
        assert len(hypothesis.tokens) > 3
        assert recogniser.align(UTTERANCES[0], hypothesis.tokens) == hypothesis.frames
    with pytest.raises(ColldError, match="tokens need at least"):
        recogniser.align(UTTERANCES[1], [5] * 40)


def test_transducer_symbol_by_symbol(models):
    """Against arcs of pairs joined one by one, as a search reads them; the tag of the language counts."""
    recogniser = load_recogniser(models["transducer"])
    (network,), tokens = recogniser.models, [9, 7, 9, 12]
    results = {}
    for language in recogniser.vocabulary.tag_ids and ("xx", "yy"):
        tag = torch.tensor([recogniser.vocabulary.tag_id(language)])
        source = torch.from_numpy(recogniser.input(UTTERANCES[0]))[None]
        with torch.no_grad():
            frames, _ = network.encode_for_search(source, torch.tensor([source.size(1)]))
            symbols = [network.start(1, tag)]
            for token in tokens:
                symbols.append(network.extend(torch.tensor([token]), symbols[-1][1]))
            rows = [[network.join(frame[None], one)[0].log_softmax(-1) for one, _ in symbols] for frame in frames[0]]
        blank = np.array([[float(cell[0]) for cell in row] for row in rows])
        label = np.array([[float(row[u][token]) for u, token in enumerate(tokens)] for row in rows])
        results[language] = recogniser.align(UTTERANCES[0], tokens, language)
        assert results[language] == align_arcs(blank, label)
        assert sorted(results[language]) == results[language]
    assert len(results) == 2


def test_figures():
    delay = LabelDelay(40.0, 4)
    delay.add([0, 5, 9], [0, 3, 10])
    delay.add([], [])
    assert delay.shifts == [0, 2, -1] and delay.waits == [4, 5, 2]
    summary = delay.summary()
    assert summary["labels"] == 3 and summary["shift_ms"] == pytest.approx(40 / 3)
    assert summary["shift_90_ms"] == pytest.approx(40 * 1.6) and summary["wait_ms"] == pytest.approx(40 * 11 / 3)
    later = LabelDelay(40.0, 4, right=2)
    later.add([0, 5, 9], [0, 3, 10])
    assert later.waits == [6, 7, 4]
    assert set(LabelDelay(40.0, None).summary().values()) == {0, None}


@pytest.mark.parametrize("kind", ["ctc", "transducer"])
def test_the_command(kind, models, corpus, tmp_path, capsys):
    out = tmp_path / "delay.json"
    manifest = corpus / "test.tsv"
    arguments = ["delay", models[kind], "--manifest", str(manifest), "--json", str(out), "--left-context", "2"]
    assert main([*arguments, "--chunk-ms", "40,160,full"]) == 0
    printed = capsys.readouterr()
    written = json.loads(out.read_text())
    assert (written["manifest"], written["decoder"], written["lang"]) == (str(manifest), kind, "")
    short, long, full = written["delays"]
    assert [row["chunk_ms"] for row in (short, long, full)] == [40, 160, "full"]
    assert full["shift_ms"] == 0 and full["wait_ms"] is None and short["labels"] == long["labels"] == full["labels"] > 9
    assert "160" in printed.out and "trained with" not in printed.err
    recogniser, rows = load_recogniser(models[kind]), read_manifest(str(manifest))
    shifts, seen = [], set()
    for index in range(len(rows)):
        row = rows.row(index)
        if row.id in seen:
            continue
        seen.add(row.id)
        tokens = recogniser.vocabulary.encode(row.tgt_text, append_eos=False).tolist()
        frames = []
        for chunk_ms in ("full", 160):
            recogniser.limit_context(chunk_ms, "2")
            frames.append(recogniser.align(read_audio(rows.audio_path(index)), tokens, row.tgt_lang))
        shifts += [late - early for early, late in zip(*frames)]
    assert long["shift_ms"] == pytest.approx(40 * np.mean(shifts)) and len(set(shifts)) > 1


def test_refused_with_the_remedy(models, corpus, capsys):
    manifest = ["--manifest", str(corpus / "test.tsv")]
    assert main(["delay", models["causal"], *manifest]) == 2
    assert "--reference CKPT" in capsys.readouterr().err
    assert main(["delay", models["ctc"], *manifest, "--reference", models["transducer"]]) == 2
    assert "frame rate and vocabulary" in capsys.readouterr().err
    assert main(["delay", models["ctc"], *manifest, "--chunk-ms", "100"]) == 2
    assert "multiple of 40" in capsys.readouterr().err
    assert main(["delay", models["ctc"], *manifest, "--json", models["ctc"]]) == 2
    assert "--json" in capsys.readouterr().err and main(["delay", models["ctc"], *manifest, "--json", str(corpus)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_what_no_utterance_can_have_is_no_fault_of_the_utterances(models, corpus, vocab, tmp_path, capsys):
    """It is refused as such, and before any is read."""
    ensemble = ":".join([models["ctc"]] * 2)
    with pytest.raises(ConfigError, match="one model"):
        load_recogniser(ensemble).align(UTTERANCES[0], [5])
    attending = ["--arch", "student_s2t", "--criterion", "ctc_attention", "--vocab", vocab, "--cmvn", "none"]
    attending = save_recogniser(tmp_path / "s2t.pt", corpus, "chunk", *attending)
    manifest = ["--manifest", str(corpus / "test.tsv")]
    for model in (ensemble, attending):
        assert main(["delay", model, *manifest, "--chunk-ms", "full"]) == 2
        said = capsys.readouterr().err
        assert "one model with CTC (--decoder ctc) or a transducer" in said and "utterances" not in said
    rows = [line.split("\t") for line in (corpus / "test.tsv").read_text().splitlines()]
    column = rows[0].index("tgt_lang")
    (tmp_path / "test.tsv").write_text("".join("\t".join(row[:column] + row[column + 1 :]) + "\n" for row in rows))
    elsewhere = ["--manifest", str(tmp_path / "test.tsv"), "--audio-root", str(corpus)]
    assert main(["delay", models["transducer"], *elsewhere]) == 2
    said = capsys.readouterr().err
    assert "test.tsv:2: target language '' has no tag" in said and "utterances" not in said
