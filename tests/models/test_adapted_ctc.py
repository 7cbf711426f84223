"""One more language for a trained recogniser: hypotheses of the others stay the same to the last bit."""

import json
import re

import numpy as np
import pytest
import torch
from checkpoints import enlarged, save_weights
from commands import TINY_ENCODER
from task_setup import set_up

from colld_fairseq.cli import main
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.recogniser import load_recogniser

STEPS = 60
TASK = ["--task", "multilingual_speech_to_text", "--criterion", "ctc_attention"]


@pytest.fixture(scope="module")
def spoken(corpus, tmp_path_factory):
    """Folders by language, with train.tsv: the corpus' utterances in that language, with what was said as target."""
    rows = read_manifest(str(corpus / "train.tsv"))
    rows = [rows.row(index)._replace(audio=rows.audio_path(index)) for index in range(len(rows))]
    folders = {}
    for language in ("xx", "yy"):
        own = [row for row in rows if row.src_lang == language and row.tgt_lang == language]
        folders[language] = tmp_path_factory.mktemp(language)
        write_manifest(folders[language] / "train.tsv", own)
    return folders


@pytest.fixture(scope="module")
def old(spoken, tmp_path_factory):
    """A vocabulary of one language, and a recogniser that may stream."""
    folder = tmp_path_factory.mktemp("old")
    assert main(["vocab", "--manifest", str(spoken["xx"] / "train.tsv"), "--out", str(folder / "vocab")]) == 0
    shape = ["--arch", "student_ctc", *TINY_ENCODER, "--front-end", "conv2d", "--encoder-context", "chunk"]
    torch.manual_seed(8)
    run = set_up(spoken["xx"], *TASK, *shape, "--vocab", folder / "vocab", "--cmvn", "none")
    weights = {name: enlarged(value) for name, value in run.model.state_dict().items()}
    return folder / "vocab", save(run, folder / "old.pt", weights)


def save(run, path, weights):
    return str(save_weights(run, path, weights, task_state=run.task.state_dict()))


@pytest.fixture(scope="module")
def grown(spoken, old, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown")
    manifest = str(spoken["yy"] / "train.tsv")
    assert main(["vocab", "--manifest", manifest, "--extend", str(old[0]), "--out", str(folder)]) == 0
    return folder


def added(data, student, language, vocabulary, *more):
    arguments = ["--arch", "adapted_ctc", "--student", student, "--added-language", language, "--adapter-dim", "16"]
    torch.manual_seed(3)
    return set_up(data, *TASK, "--vocab", vocabulary, *arguments, *more)


@pytest.fixture(scope="module", params=[0, 1], ids=["adapters", "own-block"])
def trained(request, spoken, old, grown, tmp_path_factory):
    """After some updates on the new language; the losses."""
    run, losses = added(spoken["yy"], old[1], "yy", grown, "--own-blocks", str(request.param)), []
    run.task.load_dataset("train")
    dataset = run.task.datasets["train"]
    batch = dataset.collater([dataset[index] for index in range(len(dataset))])
    parameters = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(STEPS):
        run.model.train()
        loss, tokens, _ = run.criterion(run.model, batch)
        optimizer.zero_grad()
        (loss / tokens).backward()
        optimizer.step()
        losses.append(float(loss.detach() / tokens))
    path = tmp_path_factory.mktemp("trained") / "both.pt"
    return save(run, path, run.model.state_dict()), losses


@pytest.fixture(scope="module")
def utterances(spoken):
    """(language, waveform, text) in turn."""
    result = []
    for language, folder in spoken.items():
        rows = read_manifest(str(folder / "train.tsv"))
        result += [(language, read_audio(rows.audio_path(i)), rows.row(i).tgt_text) for i in range(len(rows))]
    return [result[i] for i in np.random.default_rng(5).permutation(len(result))]


def test_a_vocabulary_grows_at_its_end(old, grown, spoken):
    before, after = Vocabulary(str(old[0])), Vocabulary(str(grown))
    symbols = before.dictionary.symbols
    assert after.dictionary.symbols[: len(symbols)] == symbols
    assert set("абвгё") <= set(after.dictionary.symbols[len(symbols) :])
    for text in ("abc de", "ed cba"):
        assert after.encode(text, True).tolist() == before.encode(text, True).tolist()
    rows = read_manifest(str(spoken["yy"] / "train.tsv"))
    written = [after.decode(after.encode(rows.row(i).tgt_text, False)) == rows.row(i).tgt_text for i in range(3)]
    assert all(written)


def test_only_the_new_parts_are_trained(spoken, old, grown):
    model = added(spoken["yy"], old[1], "yy", grown).model
    own = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert own == {name for name in model.state_dict() if name.startswith("parts.0.")}
    assert not model.train().encoder.training
    fresh = sum(parameter.numel() for parameter in model.parts_for("yy").adapters.parameters())
    assert fresh < 0.2 * sum(parameter.numel() for parameter in model.encoder.parameters())


def test_own_blocks_begin_as_the_recognisers_last_ones(spoken, old, grown, utterances):
    before, model = load_recogniser(old[1]), added(spoken["yy"], old[1], "yy", grown, "--own-blocks", "2").model.eval()
    blocks, own = model.encoder.student.blocks, model.parts_for("yy").blocks
    assert len(own) == 2 and all(one.requires_grad for one in own.parameters())
    source = torch.randn(1, 50, 80)
    with torch.no_grad():
        theirs = before.models[0].encoder.encode(source, torch.tensor([50])).x
        same = model.student_for("yy")(source, torch.tensor([50])).x
        torch.testing.assert_close(same, theirs, atol=1e-6, rtol=0.0)
        own[0].load_state_dict({name: 2 * value for name, value in own[0].state_dict().items()})
        assert not torch.allclose(model.student_for("yy")(source, torch.tensor([50])).x, theirs, atol=1e-3)
    assert not any(torch.equal(a, b) for a, b in zip(blocks[-2].parameters(), own[0].parameters()) if a.abs().sum())


def test_the_old_language_stays_the_same_to_the_last_bit(old, trained, utterances):
    path, losses = trained
    assert losses[-1] < 0.7 * losses[0]
    languages, waveforms, _ = zip(*utterances)
    before, after = load_recogniser(old[1], beam=3, nbest=2), load_recogniser(path, beam=3, nbest=2)
    assert after.added_languages == ["yy"]
    of_old = [index for index, language in enumerate(languages) if language == "xx"]
    expected = before.transcribe([waveforms[index] for index in of_old])
    mixed = after.transcribe(waveforms, source_languages=languages)  # old and new in one call
    assert [mixed[index] for index in of_old] == expected and any(one[0].tokens for one in expected)
    assert after.transcribe(waveforms) == before.transcribe(waveforms)  # none of an added language
    new = [n_best[0] for n_best, language in zip(mixed, languages) if language == "yy"]
    assert {one.language for one in new} == {"yy"}
    assert any(set(one.text) & set("абвгё") for one in new)


@pytest.mark.parametrize("right_ms", [0, 80])
def test_streams_of_the_new_language(right_ms, trained, utterances):
    recogniser = load_recogniser(trained[0], src_lang="yy")
    (waveform,) = [waveform for language, waveform, _ in utterances if language == "yy"][:1]
    live = recogniser.streaming(320, "full", None, right_ms)
    stream = live.create_stream()
    stream.accept_waveform(waveform)
    stream.finish()
    while live.decode([stream]):
        pass
    recogniser.limit_context(320, "full", right_ms)
    whole = recogniser.transcribe([waveform])[0][0]
    streamed = live.result(stream)
    assert (streamed.text, streamed.language) == (whole.text, "yy") and whole.tokens


def test_a_stream_of_another_language_is_refused(spoken, trained, tmp_path, capsys):
    """Which --src-lang may say or the rows."""
    rows = [read_manifest(str(spoken[language] / "train.tsv")) for language in ("xx", "yy")]
    rows = [table.row(0)._replace(audio=table.audio_path(0)) for table in rows]
    runs = [("yy", rows, "is 'xx', but .* now yy: give --src-lang xx,"), ("xx", rows[1:], "added: give --src-lang yy,")]
    runs += [("yy", rows[1:], None), ("xx", rows[:1], None)]
    for language, own, refusal in runs:
        write_manifest(tmp_path / "a.tsv", own)
        command = ["transcribe", trained[0], "--streaming", "--manifest", str(tmp_path / "a.tsv")]
        assert main([*command, "--src-lang", language]) == (2 if refusal else 0)
        assert re.search(refusal or "1 stream", capsys.readouterr().err)


def test_another_language_leaves_both(spoken, trained, grown, utterances, tmp_path):
    run = added(spoken["xx"], trained[0], "zz", grown)
    path = save(run, tmp_path / "three.pt", run.model.state_dict())
    languages, waveforms, _ = zip(*utterances)
    two, three = load_recogniser(trained[0]), load_recogniser(path)
    assert three.added_languages == ["yy", "zz"]
    expected = two.transcribe(waveforms, source_languages=languages)
    assert three.transcribe(waveforms, source_languages=languages) == expected


def test_alignments_are_those_of_the_language_spoken(trained, utterances):
    """A greedy hypothesis' own path, whatever was decoded before it."""
    recogniser = load_recogniser(trained[0])
    languages, waveforms, _ = zip(*utterances)
    n_best = recogniser.transcribe(waveforms, source_languages=languages)
    aligned = [
        recogniser.align(waveform, one.tokens, spoken=language)
        for language, waveform, (one,) in zip(languages, waveforms, n_best)
    ]
    assert aligned == [one.frames for (one,) in n_best] and {"xx", "yy"} == set(languages)
    cyrillic = recogniser.vocabulary.encode("абв", append_eos=False).tolist()
    assert len(recogniser.align(waveforms[0], cyrillic, spoken="yy")) == 3
    with pytest.raises(ColldError, match="another language than src_lang says"):
        recogniser.align(waveforms[0], cyrillic, spoken="xx")


def test_delays_are_those_of_the_language_spoken(spoken, old, trained, tmp_path):
    """Those of old utterances are the old recogniser's, and beside others as alone."""

    def delays(model, *languages):
        tables = [read_manifest(str(spoken[language] / "train.tsv")) for language in languages]
        rows = [table.row(i)._replace(audio=table.audio_path(i)) for table in tables for i in (0, 1)]
        manifest, out = tmp_path / "delay.tsv", tmp_path / "delay.json"
        write_manifest(manifest, rows)
        assert main(["delay", model, "--manifest", str(manifest), "--chunk-ms", "80", "--json", str(out)]) == 0
        (figures,) = json.loads(out.read_text())["delays"]
        return figures

    alone = [delays(trained[0], language) for language in ("xx", "yy")]
    assert alone[0] == delays(old[1], "xx")
    together, labels = delays(trained[0], "xx", "yy"), [figures["labels"] for figures in alone]
    for name in ("shift_ms", "wait_ms"):
        assert together[name] == pytest.approx(np.average([figures[name] for figures in alone], weights=labels))
    assert together["labels"] == sum(labels) and min(labels) > 5


def test_training_does_not_depend_on_what_was_decoded(spoken, old, grown):
    run = added(spoken["yy"], old[1], "yy", grown)
    run.model.train()
    torch.nn.init.normal_(run.model.parts[0].adapters[0].up.weight)
    source, lengths = torch.randn(1, 80, 80), torch.tensor([80])
    before = run.model(source, lengths)["ctc_logits"]
    run.model.choose_language("xx")
    torch.testing.assert_close(run.model(source, lengths)["ctc_logits"], before, rtol=0, atol=0)


@pytest.mark.parametrize("language", ["to", "keys", "zh.tw"])
def test_any_code_of_a_language(language, spoken, trained, grown, tmp_path):
    """Tongan, and what else is a name inside torch."""
    run = added(spoken["yy"], trained[0], language, grown)
    path = save(run, tmp_path / "three.pt", run.model.state_dict())
    assert load_recogniser(path).added_languages == ["yy", language]


def test_refused(spoken, old, trained, grown):
    with pytest.raises(ConfigError, match="--added-language 'yy': .* has it already"):
        added(spoken["yy"], trained[0], "yy", grown)
    with pytest.raises(ConfigError, match="does not begin with that of"):
        added(spoken["yy"], trained[0], "zz", old[0])
    with pytest.raises(ConfigError, match="needs --student, a trained student_ctc, and --added-language"):
        added(spoken["yy"], old[1], "", grown)
    with pytest.raises(ConfigError, match="--mask-prob: the encoder of adapted_ctc is frozen"):
        added(spoken["yy"], old[1], "yy", grown, "--mask-prob", "0.1")
    with pytest.raises(ConfigError, match="--compile-encoder: the encoder of adapted_ctc is frozen"):
        added(spoken["yy"], old[1], "yy", grown, "--compile-encoder")
    with pytest.raises(ConfigError, match="--own-blocks 9: the encoder has 2 blocks"):
        added(spoken["yy"], old[1], "yy", grown, "--own-blocks", "9")


def test_a_vocabulary_of_pieces_does_not_grow(spoken, corpus, tmp_path, capsys):
    manifest = ["--manifest", str(corpus / "train.tsv")]
    pieces = str(tmp_path / "pieces")
    assert main(["vocab", *manifest, "--kind", "sentencepiece", "--size", "40", "--out", pieces]) == 0
    assert main(["vocab", *manifest, "--extend", pieces, "--out", str(tmp_path / "o")]) == 2
    assert main(["vocab", *manifest, "--extend", pieces, "--size", "9", "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err
    assert "a vocabulary of pieces cannot grow" in said and "with --column alone" in said


def test_one_with_adapters_is_no_teacher(spoken, old, tmp_path):
    """Its trunk alone, whose layer has the same symbols, would be another model."""
    vocabulary, student = old
    run = added(spoken["yy"], student, "yy", vocabulary)
    path = save(run, tmp_path / "added.pt", run.model.state_dict())
    learning = ["--arch", "student_ctc", *TINY_ENCODER, "--ctc-kd", "teacher", "--teacher-ctc", path]
    with pytest.raises(ConfigError, match="a model with added languages is no teacher"):
        set_up(spoken["xx"], *TASK, "--vocab", vocabulary, *learning)


def test_a_frozen_encoder_learns_nothing_of_itself(spoken, old, grown):
    run = added(spoken["yy"], old[1], "yy", grown, "--ctc-kd", "self")
    run.task.load_dataset("train")
    batch = run.task.datasets["train"].collater([run.task.datasets["train"][0]])
    with pytest.raises(ConfigError, match="--ctc-kd self: this model's encoder stays as it is"):
        run.criterion(run.model.train(), batch)
