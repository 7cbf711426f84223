"""Transducers of whole utterances: graphs beside PyTorch, greedy text of sherpa-onnx and of onnx-asr."""

import numpy as np
import pytest
import torch

from colld_fairseq.decoding.transducer import GreedySearch
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.clients import run_client
from colld_fairseq.export.comparison import Session
from colld_fairseq.export.families import family_of
from colld_fairseq.export.family import ExportOptions, first_difference
from colld_fairseq.export.folder import write_folder
from colld_fairseq.export.transducer_slots import PLAIN, slot_for
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.modules.input_config import InputConfig

SHAPES = ["stateless", "lstm"]


def transcripts(recogniser, waveforms, language=""):
    """Text of `colld transcribe`, one label per frame at most."""
    search, own = recogniser.search, recogniser.search.search
    search.search = GreedySearch(1, own.topology)
    try:
        n_best = recogniser.transcribe(waveforms, [language] * len(waveforms) if language else None)
    finally:
        search.search = own
    return [best.text for best, *_ in n_best]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_encoder_equals_pytorch(shape, exported, waveforms):
    """A batch whose padding is noise, odd lengths, silence."""
    folder = exported(shape, "sherpa-onnx")
    family, inputs = folder.family, [*waveforms, np.zeros(12345, dtype=np.float32), waveforms[0][:1601]]
    features = [family.features(waveform) for waveform in inputs]
    batch = np.random.default_rng(0).standard_normal((len(inputs), max(map(len, features)), 80)).astype(np.float32)
    for row, own in enumerate(features):
        batch[row, : len(own)] = own
    frames, counts = Session(folder.graph("encoder"))(batch, np.array(list(map(len, features))))
    for row, waveform in enumerate(inputs):
        own = family.student_frames(waveform)
        assert counts[row] == len(own)
        np.testing.assert_allclose(frames[row, : len(own)], own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_decoders_and_joiner_equal_pytorch(shape, exported):
    folder = exported(shape, "sherpa-onnx")
    family, generator = folder.family, np.random.default_rng(1)
    for language in family.languages:
        tokens = generator.integers(4, len(family.recogniser.vocabulary.dictionary), 40).tolist()
        runtime, beginnings = family.runtime(folder, language), [tokens[:end] for end in range(41)]
        symbols = family.predicted(beginnings, language)
        np.testing.assert_allclose([runtime.predict(b) for b in beginnings], symbols, atol=1e-5, rtol=1e-5)
        frames = generator.standard_normal(symbols.shape).astype(np.float32)
        logits = family.model.join(torch.from_numpy(frames), torch.from_numpy(symbols)).detach().numpy()
        joined = runtime.join(frames, symbols)
        hidden = [1, 2, 3, *sorted(family.recogniser.vocabulary.tag_ids)]
        assert (joined[:, hidden] < -1e8).all()
        np.testing.assert_allclose(np.delete(joined, hidden, 1), np.delete(logits, hidden, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_text_of_sherpa_onnx(shape, exported, waveforms):
    """All utterances in one batch of the client, each target language by its own decoder."""
    folder = exported(shape, "sherpa-onnx")
    family, written = folder.family, set()
    for language in family.languages:
        results = run_client(family.client_model(folder, language), waveforms)
        expected = transcripts(family.recogniser, waveforms, language)
        assert [result.text.strip() for result in results] == expected
        assert sum(map(len, expected)) > 10  # they have learned to write
        written.add(tuple(expected))
    assert len(written) > 1 or len(family.languages) == 1


def test_times_are_those_of_the_frames(exported, waveforms):
    folder = exported("stateless", "sherpa-onnx")
    (result,) = run_client(folder.family.client_model(folder), waveforms[:1])
    ((best,),) = folder.family.recogniser.transcribe(waveforms[:1])
    np.testing.assert_allclose(result.timestamps, np.array(best.frames) / 25, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_stages_agree(shape, exported, waveforms):
    folder = exported(shape, "sherpa-onnx")
    stages = folder.family.stages(folder, waveforms[0])
    assert first_difference(stages) is None
    names = [stage.name for stage in stages]
    suffix = f" ({folder.family.languages[-1]})" if shape == "lstm" else ""
    assert f"text of sherpa-onnx{suffix}" in names and f"8 bits, sherpa-onnx{suffix}" in names
    assert (f"with several labels per frame{suffix}" in names) == (shape == "lstm")  # trained with topology regular


def test_a_decoder_for_each_language(exported):
    folder = exported("lstm", "sherpa-onnx")
    names = {path.name for path in folder.folder.glob("decoder.*.onnx")}
    languages = folder.family.languages
    assert len(languages) > 1 and names == {f"decoder.{one}{bits}.onnx" for one in languages for bits in ("", ".int8")}
    card = (folder.folder / "README.md").read_text()
    assert "topology regular" in card and f'decoder="decoder.{languages[0]}.onnx"' in card


def test_known_to_sherpa_onnx_without_a_model_type(exported, waveforms):
    """As its programs and interfaces open a folder that are not told."""
    folder = exported("stateless", "sherpa-onnx")
    model = folder.family.client_model(folder)
    untold = model._replace(arguments={**model.arguments, "model_type": ""})
    assert run_client(untold, waveforms[:2]) == run_client(model, waveforms[:2])


def test_onnx_asr(exported, waveforms):
    pytest.importorskip("onnx_asr")
    folder = exported("stateless", "onnx-asr")
    results = run_client(folder.family.client_model(folder), waveforms)
    assert [result.text for result in results] == transcripts(folder.family.recogniser, waveforms)
    assert first_difference(folder.family.stages(folder, waveforms[0])) is None
    assert (folder.folder / "model" / "encoder.int8.onnx").is_file()


def test_what_is_refused(recogniser):
    cases = [
        ("causal", dict(target="sherpa-onnx"), "icefall's filterbanks for transducers, this student takes kaldi"),
        ("causal", dict(target="onnx-asr"), "onnx-asr computes icefall's filterbanks"),
        ("lstm", dict(target="onnx-asr"), "the last 2 symbols"),
        ("chunks", dict(target="onnx-asr", streaming=True), "takes whole utterances"),
        ("chunks", dict(target="sherpa-onnx", streaming=True, left_context="full"), "--left-context how many"),
        ("chunks", dict(target="sherpa-onnx", streaming=True, left_context="0"), "--left-context 1 or more"),
        ("stateless", dict(target="onnx", streaming=True), "cannot stream"),
        ("conformer", dict(target="onnx", streaming=True), "only transducers are exported for streams"),
    ]
    for shape, options, reason in cases:
        with pytest.raises(ConfigError, match=reason):
            family_of(recogniser(shape), ExportOptions(**options))


def test_students_that_sherpa_onnx_would_get_wrong():
    small = dict(layers=1, embed_dim=16, ffn_dim=16, attention_heads=2)
    cases = [
        (dict(input=InputConfig(fbank="icefall")), "40 ms .* this student's are 20 ms"),
        (dict(fbank_bins=40, input=InputConfig(fbank="icefall", bins=40)), "80 bins"),
        (dict(front_end="waveform", input=InputConfig.waveforms(True)), "computes filterbanks for transducers"),
    ]
    for values, reason in cases:
        student = StudentEncoder(EncoderConfig(**small, **values))
        with pytest.raises(ConfigError, match=reason):
            slot_for(ExportOptions("sherpa-onnx"), student)
        assert slot_for(ExportOptions("onnx"), student) is PLAIN


@pytest.mark.slow
@pytest.mark.parametrize("shape, options", [("stateless", {}), ("chunks", dict(streaming=True, left_context="2"))])
def test_the_exporter_that_torch_supports(shape, options, recogniser, waveforms, tmp_path):
    family = family_of(recogniser(shape), ExportOptions("sherpa-onnx", **options))
    folder = write_folder(tmp_path / "m", family, False, "dynamo")
    for waveform in waveforms[:2]:
        theirs, ours = family.runtime_frames(folder, family.features(waveform)), family.student_frames(waveform)
        np.testing.assert_allclose(theirs, ours, atol=1e-5, rtol=1e-5)
        assert first_difference(family.stages(folder, waveform)) is None
