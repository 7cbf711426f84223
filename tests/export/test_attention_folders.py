"""Attention models for ONNX Runtime: the decoder of fairseq, and those of M2M-100 and mBART-50.

Graphs beside PyTorch, step by step with the cache; text beside fairseq-generate.
"""

import re
from dataclasses import replace

import numpy as np
import pretrained
import pytest
import soundfile
import torch
from checkpoints import enlarged
from commands import PACKAGE, TINY_ENCODER, call
from spoiling import change_weights, copied
from students import save
from task_setup import set_up

from colld_fairseq.cli import main
from colld_fairseq.data.audio import read_audio
from colld_fairseq.data.manifest import read_manifest
from colld_fairseq.data.manifest_writer import write_manifest
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.attention import PROMPTS
from colld_fairseq.export.comparison import Session
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions, first_difference
from colld_fairseq.export.folder import write_folder
from colld_fairseq.recogniser import load_recogniser

OWN, PRETRAINED = ["attention", "attention_tags"], ["m2m100", "mbart50"]
KINDS = [*OWN, *PRETRAINED]
LANGUAGES = {"xx": "en", "yy": "ru", "ar": "es"}  # of the synthetic corpus -> of pretrained decoders


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """Folder of test.tsv in the languages that a kind of decoder knows."""
    known = tmp_path_factory.mktemp("data")
    manifest = read_manifest(str(corpus / "test.tsv"))
    rows = [manifest.row(index) for index in range(len(manifest))]
    named = [row._replace(src_lang=LANGUAGES[row.src_lang], tgt_lang=LANGUAGES[row.tgt_lang]) for row in rows]
    write_manifest(known / "test.tsv", named)
    return lambda kind: known if kind in PRETRAINED else corpus


@pytest.fixture(scope="module")
def paths(data, checkpoint, tmp_path_factory):
    """Checkpoints: own decoders that have learned something, pretrained ones with random weights."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = checkpoint(kind) if kind in OWN else with_pretrained(kind)
        return made[kind]

    def with_pretrained(kind):
        folder = tmp_path_factory.mktemp(kind)
        # Ends of text that are not too likely: hypotheses of several lengths.
        directory = getattr(pretrained, f"write_{kind}")(folder / "decoder", ends=2.0)
        task = [data(kind), "--task", "multilingual_speech_to_text", "--criterion", "ctc_attention"]
        shape = [*TINY_ENCODER, "--decoder-from", f"hf:{directory}", "--adaptor-layers", "1"]
        torch.manual_seed(3)
        run = set_up(*task, "--arch", "student_s2t", *shape)
        adaptor = run.model.encoder.adaptor  # from which the decoder gets what differs between utterances
        adaptor.load_state_dict({name: enlarged(value) for name, value in adaptor.state_dict().items()})
        return save(run, folder / "model.pt")

    return make


@pytest.fixture(scope="module")
def folders(paths, tmp_path_factory):
    """Exported folders with 8-bit weights, each made once."""
    made = {}

    def make(kind):
        if kind not in made:
            family = family_of(load_recogniser(paths(kind), device="cpu"), ExportOptions("onnx"))
            made[kind] = write_folder(tmp_path_factory.mktemp(kind) / "model", family, True, "torchscript")
        return made[kind]

    return make


def told(folder, source, target):
    """The same folder, compared in these languages."""
    family = folder.family
    options = replace(family.options, src_lang=source, tgt_lang=target)
    return folder._replace(family=type(family)(family.recogniser, options))


def in_one_language(kind, folder):
    source, target = {"attention": ("", ""), "attention_tags": ("yy", "xx")}.get(kind, ("ru", "en"))
    return told(folder, source, target)


def teacher_forced(family, waveform, tokens):
    """PyTorch's logits [U + 1, V] behind the prompt and each of `tokens` [U], in double precision: processors round
    single precision in their own ways, by as much as the graphs may differ."""
    source = torch.from_numpy(family.recogniser.input(waveform))[None].double()
    own, prompt = family.vocabulary.tags_in_targets, family.prompt
    prefix = None if own else torch.tensor([prompt])
    # fairseq's start stands in the place of a pretrained decoder's prompt.
    given = torch.tensor([[*(prompt if own else prompt[:1]), *tokens]])
    model = family.model.double()
    try:
        with torch.no_grad():
            encoded = model.encoder(source, torch.tensor([source.size(1)]), prefix)
            return model.decoder(given, encoder_out=encoded)[0][0, -1 - len(tokens) :].numpy()
    finally:
        model.float()  # the same weights as before


@pytest.mark.parametrize("kind", KINDS)
def test_steps_with_a_cache_equal_pytorch(kind, folders, waveforms):
    """Of a batch whose padding is noise; one token after another behind the prompt."""
    folder = in_one_language(kind, folders(kind))
    family, inputs = folder.family, [folder.family.plain_input(waveform) for waveform in waveforms[:3]]
    batch = np.random.default_rng(0).standard_normal((3, max(map(len, inputs)), 80)).astype(np.float32)
    for row, own in enumerate(inputs):
        batch[row, : len(own)] = own
    encoder, decoder = (Session(folder.graph(name)) for name in ("encoder", "decoder"))
    cross_keys, cross_values, frames = encoder(batch, np.array(list(map(len, inputs))))
    tokens = np.random.default_rng(1).integers(4, len(family.vocabulary.dictionary), (3, 9))
    keys = values = np.zeros((len(cross_keys), 3, 0, cross_keys.shape[-1]), dtype=np.float32)
    logits = []
    for given in [np.array([family.prompt] * 3), *(tokens[:, index, None] for index in range(9))]:
        step, keys, values = decoder(given, keys, values, cross_keys, cross_values, frames)
        logits.append(step[:, -1])
    for row, theirs in enumerate(np.stack(logits, axis=1)):
        allowed = np.isfinite(theirs)
        assert allowed.any(axis=1).all()
        ours = teacher_forced(family, waveforms[row], tokens[row].tolist())
        np.testing.assert_allclose(theirs[allowed], ours[allowed], atol=1e-5 * np.abs(ours).max(), rtol=1e-5)
        assert ours.std() > 0.1


def generated(data, path):
    """Hypotheses of the test set by row."""
    task = ["--user-dir", PACKAGE, "--task", "multilingual_speech_to_text", "--gen-subset", "test"]
    output = call("generate", data, *task, "--path", path, "--beam", "1", "--max-tokens", "60000")
    return {int(row): text for row, text in re.findall(r"^D-(\d+)\t[^\t]*\t(.*)$", output, re.MULTILINE)}


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_that_of_fairseq_generate(kind, folders, paths, data):
    hypotheses, runtimes = generated(data(kind), paths(kind)), {}
    manifest = read_manifest(str(data(kind) / "test.tsv"))
    assert len(hypotheses) == len(manifest) and len(set(hypotheses.values())) > 3
    for index, expected in hypotheses.items():
        row = manifest.row(index)
        pair = (row.src_lang, row.tgt_lang) if kind != "attention" else ("", "")
        if pair not in runtimes:
            folder = told(folders(kind), *pair)
            runtimes[pair] = folder.family.runtime(folder)
        assert runtimes[pair](read_audio(row.audio), []).text == expected


@pytest.mark.parametrize("kind", KINDS)
def test_all_stages_agree(kind, folders, waveforms, tmp_path):
    folder = in_one_language(kind, folders(kind))
    stages = folder.family.stages(folder, waveforms[0])
    names = [stage.name for stage in stages]
    assert first_difference(stages) is None and {PROMPTS, "decoder logits", "8 bits, ONNX Runtime"} <= set(names)
    wrong = copied(folder, tmp_path)
    change_weights(wrong.graph("decoder"))
    assert first_difference(wrong.family.stages(wrong, waveforms[0])).name == "decoder logits"


@pytest.mark.parametrize("kind", ["attention", "attention_tags", "m2m100"])
def test_hypotheses_end_where_ours_do(kind, folders, waveforms, monkeypatch):
    """At fairseq's limit, of which a tag that its own decoder writes is a part."""
    folder = in_one_language(kind, folders(kind))
    family = folder.family
    longest = max(len(family.student_output(waveform).tokens) for waveform in waveforms)
    generator = family.recogniser.search.generator
    monkeypatch.setattr(generator, "max_len_a", 0)
    lengths = set()
    for limit in range(2, longest + 2):
        monkeypatch.setattr(generator, "max_len_b", limit)
        for waveform in waveforms[:2]:
            ours = family.student_output(waveform).tokens
            assert family.runtime_output(folder, waveform, []).tokens == ours
            lengths.add(len(ours))
    assert len(lengths) > 3


@pytest.mark.parametrize("kind", ["attention", "m2m100"])
def test_the_lines_of_the_card(kind, folders, waveforms, monkeypatch):
    folder = folders(kind)
    card = (folder.folder / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    language = re.search(r'rules\["write"\]\["(\w+)"\]', lines)
    features = folder.family.plain_input(waveforms[0])[None]
    monkeypatch.chdir(folder.folder)
    ran = {"features": features, "lengths": np.array([features.shape[1]])}
    exec(compile(lines, "README.md", "exec"), ran)
    ours = folder.family.recogniser
    ((best,),) = ours.transcribe(waveforms[:1], [language[1]] if language else None)
    assert ran["written"] == best.tokens and best.tokens


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkpoint_comes_back(kind, folders, waveforms, tmp_path):
    folder, out = in_one_language(kind, folders(kind)), str(tmp_path / "imported.pt")
    assert main(["import", f"onnx:{folder.folder}", "--out", out]) == 0
    before, after = folder.family.recogniser, load_recogniser(out, device="cpu")
    ours, theirs = (one.models[0].state_dict() for one in (before, after))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    languages = [folder.family.target] * 3 if before.needs_language else None
    expected, results = (one.transcribe(waveforms[:3], languages) for one in (before, after))
    assert [best.tokens for (best,) in results] == [best.tokens for (best,) in expected]
    assert not after.settings["model"].get("decoder_from")  # which was a folder of another machine


def test_the_command(paths, waveforms, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", waveforms[0], 16000)
    command = ["export", "--checkpoint", paths("m2m100"), "--to", "onnx", str(tmp_path / "m")]
    command += ["--exporter", "torchscript", "--wav", str(tmp_path / "a.wav")]
    assert main(command) == 2
    assert "--lang" in capsys.readouterr().err
    assert main([*command, "--lang", "de", "--src-lang", "es"]) == 0
    assert "decoder logits" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["sherpa-onnx", "onnx-asr"])
def test_clients_that_know_whisper_alone(target, paths):
    with pytest.raises(ConfigError, match="a decoder of Whisper alone: take --to onnx"):
        family_of(load_recogniser(paths("attention"), device="cpu"), ExportOptions(target))


def test_the_exporter_that_loses_the_caches_is_refused(paths, tmp_path, capsys):
    command = ["export", "--checkpoint", str(paths("attention")), "--to", "onnx", str(tmp_path / "m")]
    assert main([*command, "--exporter", "dynamo"]) == 2
    assert "--exporter dynamo writes graphs of this model that give other text" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
