"""A Whisper taken apart and put together again is the Whisper that it was."""

import json
from types import SimpleNamespace

import numpy as np
import pretrained
import pytest
import torch
import transformers

from colld_fairseq import load_recogniser
from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.models.assembly import assemble

WINDOW = 100  # encoder frames: 2 s in place of 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Directory of a random Whisper that writes no special token, transformers' model, and ours, assembled."""
    folder = tmp_path_factory.mktemp("whisper")
    pretrained.write_whisper(folder, layers=3, ends=0, max_source_positions=WINDOW)
    path = folder / "generation_config.json"
    rules = json.loads(path.read_text())
    rules["suppress_tokens"] = [*rules["suppress_tokens"], *range(rules["decoder_start_token_id"], 344)]
    path.write_text(json.dumps(rules))
    model = assemble(f"hf:{folder}", f"hf:{folder}")
    torch.save(model, folder / "model.pt")
    reference = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
    return SimpleNamespace(folder=folder, reference=reference, path=str(folder / "model.pt"))


def utterance(seconds, seed):
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * generator.uniform(100, 900) * time * (1 + 0.2 * np.sin(3 * time)))
    return (0.3 * tone + 0.05 * generator.standard_normal(len(time))).astype(np.float32)


def features(whole, waveforms):
    extract = transformers.WhisperFeatureExtractor.from_pretrained(whole.folder)
    return extract(list(waveforms), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features


def test_logits_of_a_whole_window(whole):
    recogniser = load_recogniser(whole.path)
    (model,), vocabulary, waveform = recogniser.models, recogniser.vocabulary, utterance(2, 1)
    source = torch.from_numpy(recogniser.input(waveform))[None]
    prefix = torch.tensor([vocabulary.prefix("es", "en")])
    tokens = torch.randint(4, 300, (1, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        given = dict(prev_output_tokens=tokens, prefix_tokens=prefix)
        ours = model(source, torch.tensor([source.size(1)]), **given)
        expected = whole.reference(
            features(whole, [waveform]), decoder_input_ids=torch.cat((prefix, tokens[:, 1:]), dim=1)
        ).logits[:, prefix.size(1) - 1 :]
    assert set(ours) == {"logits"}  # no CTC layer
    assert torch.allclose(ours["logits"], expected, atol=1e-4) and expected.std() > 0.1


@pytest.mark.parametrize("seconds", [2, 1.6])
@pytest.mark.parametrize("source, target, task", [("es", "en", "translate"), ("ru", "ru", "transcribe")])
def test_text_of_whole_windows(whole, source, target, task, seconds):
    """transformers' own `generate`, which makes language and task into tokens itself; shorter utterances, too, are in
    windows of the published length unless something else was said."""
    waveforms = [utterance(seconds, seed) for seed in range(6)]
    with torch.no_grad():
        source_features = features(whole, waveforms)
        written = whole.reference.generate(source_features, language=source, task=task, max_new_tokens=40)  # as ours
    tokenizer = transformers.WhisperTokenizer.from_pretrained(whole.folder)
    expected = [" ".join(text.split()) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
    recogniser = load_recogniser(whole.path)
    n_best = recogniser.transcribe(waveforms, [target] * 6, source_languages=[source] * 6)
    assert len(set(expected)) > 1 and max(map(len, expected)) > 9
    for (hypothesis,), text in zip(n_best, expected):
        assert hypothesis.text == text


def test_shorter_utterances_do_not_depend_on_the_batch(whole):
    recogniser = load_recogniser(whole.path, beam=3)
    waveforms = [utterance(seconds, seed) for seed, seconds in enumerate((1.9, 0.4, 1.1))]
    together = recogniser.transcribe(waveforms, ["en"] * 3)
    for waveform, (hypothesis,) in zip(waveforms, together):
        ((alone,),) = recogniser.transcribe([waveform], ["en"])
        assert alone.tokens == hypothesis.tokens and alone.score == pytest.approx(hypothesis.score, abs=1e-4)


def test_shorter_windows_where_they_are_asked_for(whole):
    for silence, seconds in ((None, 2.0), ({"least_seconds": 0.5}, 0.5), ({"tail_seconds": 0.1}, 2.0)):
        content = assemble(f"hf:{whole.folder}", f"hf:{whole.folder}", silence=silence)
        assert json.loads(content["cfg"]["model"]["encoder_config"])["input"]["least_seconds"] == seconds
