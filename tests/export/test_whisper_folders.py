"""Whisper's decoder behind a student: graphs in ONNX Runtime, and in the clients that know Whisper."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pretrained
import pytest
import soundfile
import torch
from spoiling import change_weights, copied

from colld_fairseq.checkpoints import onnx_folder
from colld_fairseq.checkpoints.onnx_reading import read_metadata
from colld_fairseq.cli import main
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.log_mel import LogMel
from colld_fairseq.errors import AudioError, ConfigError
from colld_fairseq.export.byte_tokens import byte_of_character
from colld_fairseq.export.clients import run_client
from colld_fairseq.export.eight_bits import BLOCK
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions, first_difference
from colld_fairseq.export.folder import exported_in, write_folder
from colld_fairseq.export.onnx_file import add_metadata
from colld_fairseq.export.silence import WINDOW, ZEROS, TrainedSilence
from colld_fairseq.export.whisper import client_limit, client_log_mels, lead_in
from colld_fairseq.models.assembly import assemble
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.recogniser import load_recogniser

SILENCE = dict(tail_seconds=0.5, least_seconds=2.0)
PAIRS = [("en", "en"), ("ru", "ru"), ("es", "en")]


def utterance(seconds, seed):
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16000)) / 16000
    tone = np.sin(2 * np.pi * generator.uniform(100, 900) * time * (1 + 0.2 * np.sin(3 * time)))
    return (0.3 * tone + 0.05 * generator.standard_normal(len(time))).astype(np.float32)


def quiet_ends(waveform):
    """What a client mirrors there, and we do not, is nothing then."""
    waveform = waveform.copy()
    waveform[:700] = waveform[-700:] = 0
    return waveform


WAVEFORMS = [utterance(seconds, seed) for seed, seconds in enumerate([1.003, 2.5, 4.777, 6.01])]


@pytest.fixture(scope="module")
def recognisers(tmp_path_factory):
    """Random Whispers with the silence of a student: multilingual or English only."""
    made = {}

    def make(multilingual=True):
        if multilingual not in made:
            folder = tmp_path_factory.mktemp("whisper")
            pretrained.write_whisper(folder, multilingual)
            torch.save(assemble(f"hf:{folder}", f"hf:{folder}", silence=SILENCE), folder / "model.pt")
            made[multilingual] = load_recogniser(str(folder / "model.pt"), device="cpu")
            made[multilingual].path = str(folder / "model.pt")
        return made[multilingual]

    return make


@pytest.fixture(scope="module")
def folders(recognisers, tmp_path_factory):
    """Exported folders with 8-bit weights, each made once."""
    made = {}

    def make(target, multilingual=True):
        if (target, multilingual) not in made:
            family = family_of(recognisers(multilingual), ExportOptions(target))
            folder = tmp_path_factory.mktemp(target) / "model"
            made[target, multilingual] = write_folder(folder, family, True, "torchscript")
        return made[target, multilingual]

    return make


def told(folder, source, target):
    """The same folder, compared in these languages."""
    family = folder.family
    options = replace(family.options, src_lang=source, tgt_lang=target)
    return folder._replace(family=type(family)(family.recogniser, options))


def written_by(recogniser, waveforms, source, target):
    n = len(waveforms)
    return [
        whole(best.text) for best, *_ in recogniser.transcribe(waveforms, [target] * n, source_languages=[source] * n)
    ]


@pytest.mark.parametrize("source, target", PAIRS)
@pytest.mark.parametrize("kind", ["onnx", "sherpa-onnx", "onnx-asr"])
def test_onnx_runtime_gives_our_text(kind, source, target, folders):
    if kind == "onnx-asr" and source != target:
        pytest.skip("it only transcribes")
    folder = told(folders(kind), source, target)
    family = folder.family
    for waveform in map(quiet_ends, WAVEFORMS) if kind == "sherpa-onnx" else WAVEFORMS:
        ours = family.student_output(waveform)
        theirs = family.runtime_output(folder, waveform, ours.tokens)
        np.testing.assert_allclose(theirs.keys, ours.keys, atol=2e-5)
        allowed = np.isfinite(theirs.logits)
        assert allowed.any(axis=1).all() and not allowed[:, sorted(family.rules.never)].any()
        np.testing.assert_allclose(theirs.logits[allowed], ours.logits[allowed], atol=5e-5)
        assert theirs.tokens == ours.tokens and ours.text


def whole(text):
    """Without parts of characters, which clients drop or write as U+FFFD."""
    return " ".join(text.replace("\ufffd", "").split())


def most_of(tokens, waveform):
    """What sherpa-onnx writes of them at most."""
    return tokens[: client_limit(len(waveform), 64)]


@pytest.mark.parametrize("source, target", PAIRS)
def test_sherpa_onnx_gives_our_text(source, target, recognisers, folders):
    folder, waveforms = told(folders("sherpa-onnx"), source, target), [quiet_ends(one) for one in WAVEFORMS]
    given = [lead_in(waveform) for waveform in waveforms]
    results = run_client(folder.family.client_model(folder), given)
    ours = recognisers()
    n_best = ours.transcribe(waveforms, [target] * 4, source_languages=[source] * 4)
    expected = [whole(ours.detokenize(most_of(best.tokens, waveform))) for (best, *_), waveform in zip(n_best, given)]
    assert [whole(result.text) for result in results] == expected and len(set(expected)) > 1


def test_english_only_models_in_sherpa_onnx(recognisers, folders):
    folder, waveforms = told(folders("sherpa-onnx", False), "en", "en"), [quiet_ends(one) for one in WAVEFORMS]
    given = [lead_in(waveform) for waveform in waveforms]
    results = run_client(folder.family.client_model(folder), given)
    ours = recognisers(False)
    expected = [
        whole(ours.detokenize(most_of(best.tokens, one))) for (best, *_), one in zip(ours.transcribe(waveforms), given)
    ]
    assert [whole(result.text) for result in results] == expected and len(set(expected)) > 1
    assert read_metadata(folder.graph("encoder"))["is_multilingual"] == "0"


@pytest.mark.parametrize("language", ["en", "ru"])
def test_onnx_asr_gives_our_text(language, recognisers, folders):
    pytest.importorskip("onnx_asr")
    folder = told(folders("onnx-asr"), language, language)
    results = run_client(folder.family.client_model(folder), WAVEFORMS)
    expected = written_by(recognisers(), WAVEFORMS, language, language)
    # Where the random model comes to no end, ours stops after 15 tokens for each second, and the client does not.
    assert all(whole(result.text).startswith(own) for result, own in zip(results, expected)) and len(set(expected)) > 1


def test_eight_bits_run_in_the_clients(folders):
    """And hold the table of embeddings once."""
    for target, name in (("sherpa-onnx", "decoder"), ("onnx-asr", "decoder_model_merged")):
        folder = told(folders(target), "en", "en")
        graph = onnx.load(folder.graph(name, True)).graph
        tables = {value.data_type: list(value.dims) for value in graph.initializer if "steps.table" in value.name}
        tokens, blocks, size = tables.pop(onnx.TensorProto.UINT8)
        assert tables == {onnx.TensorProto.FLOAT: [tokens, blocks]} and size == BLOCK  # scales
        if target == "sherpa-onnx":
            results = run_client(folder.family.client_model(folder, int8=True), WAVEFORMS[:2])
            assert all(result.text.strip() for result in results)


@pytest.mark.parametrize(("target", "name"), [("sherpa-onnx", "encoder"), ("onnx-asr", "encoder_model")])
def test_the_first_attention_stays_in_32_bits(target, name, folders):
    """Of 8 bits in it comes most of an encoder's error."""
    graph = onnx.load(folders(target).graph(name, True)).graph
    weights = {value.name for value in graph.initializer}
    products = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    assert len(products) == 2 and all("blocks.0/attention" in product for product in products)
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) > 2


def other_weights(folder):
    change_weights(folder.graph("decoder"))


def other_tokens(folder):
    lines = folder.tokens.read_text().splitlines()
    folder.tokens.write_text("\n".join([lines[1].split()[0] + " 0", *lines[1:]]) + "\n")


def no_layers(folder):
    add_metadata(folder.graph("encoder"), {"n_text_layer": "3"})


@pytest.mark.parametrize(
    "spoil, stage, detail",
    [
        (other_tokens, "tokens.txt", "line 1"),
        (no_layers, "metadata of encoder.onnx", "n_text_layer is '3'"),
        (other_weights, "decoder logits", "largest difference"),
    ],
)
def test_what_was_spoiled_is_named_first(spoil, stage, detail, folders, tmp_path):
    folder = copied(told(folders("sherpa-onnx"), "en", "en"), tmp_path)
    spoil(folder)
    wrong = first_difference(folder.family.stages(folder, quiet_ends(WAVEFORMS[0])))
    assert wrong.name == stage and detail in wrong.detail


@pytest.mark.parametrize("target", ["onnx", "sherpa-onnx", "onnx-asr"])
def test_the_checkpoint_comes_back(target, recognisers, folders, tmp_path):
    out = str(tmp_path / "imported.pt")
    assert main(["import", f"onnx:{folders(target).folder}", "--out", out]) == 0
    before, after = recognisers(), load_recogniser(out, device="cpu")
    ours, theirs = (one.models[0].state_dict() for one in (before, after))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert written_by(after, WAVEFORMS, "es", "en") == written_by(before, WAVEFORMS, "es", "en")
    noted = json.loads(read_metadata(onnx_folder.graph_of(folders(target).folder))[onnx_folder.KEY])
    assert [name for name, note in noted["weights"].items() if "values" in note] == ["encoder.student.mask_emb"]
    assert not noted["model"]["decoder_from"] and str(tmp_path.parent) not in json.dumps(noted)


def test_the_command(recognisers, tmp_path, capsys):
    soundfile.write(tmp_path / "a.wav", quiet_ends(WAVEFORMS[3])[:40000] * 0.5, 16000)
    command = ["export", "--checkpoint", recognisers().path, "--to", "sherpa-onnx", "--exporter", "torchscript"]
    command += [str(tmp_path / "m"), "--wav", str(tmp_path / "a.wav")]
    assert main(command) == 2
    assert "--lang" in capsys.readouterr().err
    code = main([*command, "--lang", "en", "--src-lang", "es"])
    printed = capsys.readouterr().out
    assert "log-mels of the client" in printed and "encoder output" in printed and "decoder logits" in printed
    assert code == ("DIFFERS" in printed)
    assert 'task="transcribe"' in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize("target", ["sherpa-onnx", "onnx-asr", "onnx"])
def test_graphs_that_are_written_without_naming_an_exporter_give_our_text(target, recognisers, tmp_path, capsys):
    """torch.export loses what lies between the decoder's steps."""
    folder = tmp_path / "m"
    assert main(["export", "--checkpoint", recognisers().path, "--to", target, str(folder)]) == 0
    exported = told(exported_in(folder, family_of(recognisers(), ExportOptions(target))), "en", "en")
    family = exported.family
    for waveform in map(quiet_ends, WAVEFORMS[:2]) if target == "sherpa-onnx" else WAVEFORMS[:2]:
        ours = family.student_output(waveform)
        theirs = family.runtime_output(exported, waveform, ours.tokens)
        allowed = np.isfinite(theirs.logits)
        np.testing.assert_allclose(theirs.logits[allowed], ours.logits[allowed], atol=5e-5)
        assert theirs.tokens == ours.tokens and len(ours.tokens) > 3


@pytest.mark.parametrize(
    "target, changes, reason",
    [
        ("onnx-asr", dict(multilingual=False), "English-only"),
        ("sherpa-onnx", dict(max_source_positions=100), "windows of 30 s"),
    ],
)
def test_what_is_refused(target, changes, reason, tmp_path):
    pretrained.write_whisper(tmp_path, **changes)
    torch.save(assemble(f"hf:{tmp_path}", f"hf:{tmp_path}"), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=reason):
        family_of(load_recogniser(str(tmp_path / "model.pt"), device="cpu"), ExportOptions(target))


def test_more_than_the_window(folders):
    folder = told(folders("sherpa-onnx"), "en", "en")
    with pytest.raises(AudioError, match="at most 30 s: cut it"):
        folder.family.stages(folder, utterance(50, 9))


def test_log_mels_of_sherpa_onnx_are_ours_when_it_is_given_half_a_frame(recognisers):
    waveform = utterance(2.003, 5)
    own = LogMel(80, 480000)(torch.from_numpy(waveform)[None], 200)[0].numpy()
    np.testing.assert_allclose(client_log_mels(lead_in(waveform), 80)[1:198], own[1:198], atol=1e-4)
    assert np.abs(client_log_mels(waveform, 80)[1:198] - own[1:198]).max() > 0.1  # else 5 ms late


@pytest.mark.parametrize("samples", [3200, 16000 + 77, 5 * 16000 + 159, 29 * 16000 + 400, 30 * 16000])
@pytest.mark.parametrize("filling", [ZEROS, WINDOW])
def test_silence_is_that_of_the_training(samples, filling):
    """Whatever the client fills up with: the input that the recogniser computes."""
    config = InputConfig(kind="log_mel", normalization="none", **SILENCE)
    waveform = utterance(samples / 16000, 3)[:samples]
    own = StudentInput(config)(waveform)
    whole = LogMel(80, 480000)(torch.from_numpy(waveform)[None], 3000)
    last = samples // 160
    if filling.zeros:
        whole[:, last + 1 :] = 0
        whole = whole[:, : last + 1 + 100]
    made, lengths = TrainedSilence(config, filling)(whole)
    assert abs(int(lengths) - len(own)) <= 2 and made.size(1) == int(lengths)
    rows = min(last + 1, len(own), int(lengths))
    np.testing.assert_array_equal(made[0, :rows].numpy(), own[:rows])
    np.testing.assert_allclose(made[0, last + 3 :].numpy(), own[-1, 0] if len(own) < 3000 else 0, atol=1e-5)


def test_a_louder_utterance_in_a_batch_changes_no_length():
    """onnx-asr cuts log-mels off below the loudest value of the batch: above the quiet utterance's own floor."""
    config = InputConfig(kind="log_mel", normalization="none", **SILENCE)
    loud, quiet = utterance(2.0, 3), 0.1 * utterance(3.0, 5)
    mels = [LogMel(80, 480000)(torch.from_numpy(waveform)[None], 3000) for waveform in (loud, quiet)]
    assert mels[0].max() > mels[1].max() + 0.2
    batch = torch.cat(mels).clamp(min=float(mels[0].max()) - 2)
    _, together = TrainedSilence(config, WINDOW)(batch)
    alone = [int(TrainedSilence(config, WINDOW)(mel)[1]) for mel in mels]
    assert together.tolist() == alone and max(alone) < 3000


def test_bytes_of_tokens():
    tokens = {chr(code) for code in range(33, 127)}
    table = byte_of_character()
    assert sorted(table.values()) == list(range(256)) and {table[token] for token in tokens} == set(range(33, 127))
    assert table["Ġ"] == 32 and table["Ċ"] == 10
    assert bytes(table[character] for character in "ÐłÐ°") == "Ра".encode()
