"""A student's encoder in a complete Whisper directory: what is in it, and what its clients make of it."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_whisper import ENGLISH_ONLY, MULTILINGUAL, complete_whisper
from transformers.models.whisper.tokenization_whisper import LANGUAGES as WHISPER_LANGUAGES

from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, read_encoder, write_encoder
from colld_fairseq.checkpoints.whisper_directory import WRITTEN, write
from colld_fairseq.cli import main
from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.encoder_config import EncoderConfig

RATE = 16000


def noise(seconds=1.5, seed=0):
    generator = np.random.default_rng(seed)
    samples = int(seconds * RATE)
    return (0.1 * generator.standard_normal(samples) * np.linspace(0.2, 1, samples)).astype(np.float32)


def tensors(directory):
    return load_file(directory / "model.safetensors")


def settings_of(directory, name="config.json"):
    return json.loads((directory / name).read_text())


def change(directory, name="config.json", **fields):
    settings = {**(settings_of(directory, name) if (directory / name).exists() else {}), **fields}
    kept = {field: value for field, value in settings.items() if value is not ...}
    (directory / name).write_text(json.dumps(kept))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """Directory of a tiny Whisper of the old kind, the model, and its tokenizer."""
    directory = tmp_path_factory.mktemp("whisper")
    return directory, *complete_whisper(directory)


@pytest.fixture
def copy(whisper, tmp_path):
    """One that a test may change."""
    directory = tmp_path / "teacher"
    directory.mkdir()
    for path in whisper[0].iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory


@pytest.fixture(scope="module")
def student(whisper):
    """The first two of its three layers, changed."""
    teacher = read_encoder(f"hf:{whisper[0]}")
    config = EncoderConfig(**{**vars(teacher.config), "layers": 2})
    torch.manual_seed(5)
    weights = {name: t for name, t in teacher.weights.items() if not name.startswith("blocks.2.")}
    changed = {name: t + 0.05 * torch.randn_like(t) for name, t in weights.items() if name.startswith("blocks.")}
    return EncoderCheckpoint(config, {**weights, **changed})


def written_ids(model, tokenizer, waveform, prompt, forbidden, first, bins=80):
    """Greedy search by hand, without transformers' generation."""
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins)
    mel = extractor(waveform, sampling_rate=RATE, return_tensors="pt").input_features
    ids = [tokenizer.token_to_id(f"<|{name}|>") for name in prompt]
    given, end = len(ids), tokenizer.token_to_id("<|endoftext|>")
    with torch.no_grad():
        states = model.model.encoder(mel)
        while len(ids) < model.config.max_target_positions:
            logits = model(encoder_outputs=states, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
            logits[tokenizer.token_to_id("<|notimestamps|>") + 1 :] = -torch.inf
            logits[forbidden + (first if len(ids) == given else [])] = -torch.inf
            if (best := int(logits.argmax())) == end:
                break
            ids.append(best)
    return tokenizer.decode(ids[given:])


@pytest.mark.parametrize("bins, dtype", [(80, torch.float32), (128, torch.float16)])
def test_there_and_back(bins, dtype, tmp_path, capsys):
    """Every tensor, bit by bit, and the same settings."""
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    complete_whisper(teacher, bins)
    state = {name: tensor.to(dtype) for name, tensor in tensors(teacher).items()}
    save_file(state, teacher / "model.safetensors", metadata={"format": "pt"})
    decoder = ["--decoder-from", f"hf:{teacher}"]
    for source, target, more in [
        (f"hf:{teacher}", f"colld:{tmp_path}/a.pt", []),
        (f"colld:{tmp_path}/a.pt", f"hf:{tmp_path}/b", decoder),
        (f"hf:{tmp_path}/b", f"hf:{tmp_path}/c", decoder),
    ]:
        assert main(["convert", "--from", source, "--to", target, *more]) == 0
        text = capsys.readouterr().out
        assert f"{target}: 3 layers × 24" in text and f"log-mels of {bins} bins" in text and "output" in text
    for name in ("b", "c"):
        again = tensors(tmp_path / name)
        assert again.keys() == state.keys()
        for key, tensor in state.items():
            assert again[key].dtype == dtype and torch.equal(again[key], tensor), key
        assert {path.name for path in (tmp_path / name).iterdir()} <= set(WRITTEN)
        before, after = settings_of(teacher), settings_of(tmp_path / name)
        assert after.pop("dtype") == str(dtype).removeprefix("torch.") and before.pop("dtype") == "float32"
        assert after == before
        assert settings_of(tmp_path / name, "preprocessor_config.json")["feature_size"] == bins
    command = ["convert", "--from", f"colld:{tmp_path}/a.pt", "--to", f"hf:{tmp_path}/b", *decoder]
    assert main(command) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_a_student_with_the_decoder_of_its_teacher(student, whisper, tmp_path):
    directory, _, _ = whisper
    write(tmp_path / "out", student, f"hf:{directory}")
    model, report = transformers.WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    assert (model.config.encoder_layers, model.config.decoder_layers) == (2, 1)
    before, after = tensors(directory), tensors(tmp_path / "out")
    assert {name for name in before.keys() ^ after.keys()} == {n for n in before if ".encoder.layers.2." in n}
    assert all(torch.equal(before[name], after[name]) for name in after if ".decoder." in name)
    assert model.proj_out.weight.data_ptr() == model.model.decoder.embed_tokens.weight.data_ptr()
    mel = torch.randn(1, 80, 3000)
    config = EncoderConfig(**{**vars(student.config)})
    ours = EncoderCheckpoint(config, student.weights).build()
    with torch.no_grad():
        expected = ours(mel.transpose(1, 2)).x
        torch.testing.assert_close(model.model.encoder(mel).last_hidden_state, expected, atol=1e-4, rtol=0)


def test_the_wider_precision_of_encoder_and_decoder(student, copy, tmp_path):
    """An encoder in float32 behind a decoder in half precision loses nothing, and neither does the decoder."""
    state = {name: tensor.half() for name, tensor in tensors(copy).items()}
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    write(tmp_path / "out", student, f"hf:{copy}")
    after = tensors(tmp_path / "out")
    assert {tensor.dtype for name, tensor in after.items() if ".decoder." in name} == {torch.float16}
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    fc1 = model.model.encoder.layers[0].fc1.weight
    assert torch.equal(fc1, student.weights["blocks.0.ffn.linear_in.weight"])


@pytest.fixture(scope="module", params=[80, 128])
def converted(request, tmp_path_factory):
    """Directory with an unchanged encoder, the original model, tokenizer and bins."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "teacher").mkdir()
    languages = list(WHISPER_LANGUAGES)[:99]  # clients tell the kind of a model by the ids of its special tokens
    model, tokenizer = complete_whisper(folder / "teacher", request.param, languages=languages, size=MULTILINGUAL)
    write(folder / "out", read_encoder(f"hf:{folder}/teacher"), f"hf:{folder}/teacher")
    return folder / "out", model, tokenizer, request.param


def test_the_pipeline_transcribes_and_translates(converted):
    directory, model, tokenizer, bins = converted
    recognize = transformers.pipeline("automatic-speech-recognition", str(directory))
    generation = settings_of(directory, "generation_config.json")
    lists = generation["suppress_tokens"], generation["begin_suppress_tokens"]
    hypotheses = {}
    for seed, language in enumerate(("es", "ru")):
        for task in ("transcribe", "translate"):
            audio = {"raw": noise(seed=seed), "sampling_rate": RATE}
            text = recognize(audio, generate_kwargs={"language": language, "task": task, "num_beams": 1})["text"]
            prompt = ("startoftranscript", language, task, "notimestamps")
            assert text == written_ids(model, tokenizer, noise(seed=seed), prompt, *lists, bins)
            hypotheses[language, task] = text
    assert len(set(hypotheses.values())) > 1 and all(hypotheses.values())
    audio = {"raw": noise(), "sampling_rate": RATE}
    timed = recognize(audio, return_timestamps=True, generate_kwargs={"language": "german", "task": "translate"})
    assert timed.keys() == {"text", "chunks"}


def test_the_task_is_there_where_nothing_is_asked_for(converted):
    """The language is detected; transformers alone would leave the task out of the prompt then."""
    directory, _, tokenizer, bins = converted
    model = transformers.WhisperForConditionalGeneration.from_pretrained(directory)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(directory)
    mel = extractor(noise(), sampling_rate=RATE, return_tensors="pt").input_features
    assert mel.shape == (1, bins, 3000)
    given = []
    model.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    model.generate(mel)
    prompt = [tokenizer.id_to_token(token) for token in max(given, key=len)]
    assert prompt[0] == "<|startoftranscript|>" and prompt[1].strip("<|>") in WHISPER_LANGUAGES
    assert prompt[2:] == ["<|transcribe|>", "<|notimestamps|>"]


def test_an_english_only_model(tmp_path):
    """Neither language nor task in its prompt, though its tokenizer has the tokens."""
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    model, tokenizer = complete_whisper(teacher, size=ENGLISH_ONLY)
    write(tmp_path / "out", read_encoder(f"hf:{teacher}"), f"hf:{teacher}")
    generation = settings_of(tmp_path / "out", "generation_config.json")
    assert generation["is_multilingual"] is False
    assert not {"lang_to_id", "task_to_id", "language", "task"} & generation.keys()
    recognize = transformers.pipeline("automatic-speech-recognition", str(tmp_path / "out"))
    text = recognize({"raw": noise(), "sampling_rate": RATE}, generate_kwargs={"num_beams": 1})["text"]
    lists = generation["suppress_tokens"], generation["begin_suppress_tokens"]
    assert text == written_ids(model, tokenizer, noise(), ("startoftranscript", "notimestamps"), *lists)


def test_ctranslate2_and_faster_whisper_load_it(converted, tmp_path):
    """The same words as by hand, on the log-mels of transformers; faster-whisper fills windows with zeros instead of
    the log-mels of silence."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    converters = pytest.importorskip("ctranslate2.converters")  # of what ct2-transformers-converter is a command
    faster_whisper = pytest.importorskip("faster_whisper")
    directory, model, tokenizer, bins = converted
    out = str(tmp_path / "ct2")
    files = ["tokenizer.json", "preprocessor_config.json"]
    converters.TransformersConverter(str(directory), copy_files=files).convert(out)
    client = faster_whisper.WhisperModel(out, device="cpu", compute_type="float32")
    assert client.model.is_multilingual and client.feature_extractor.mel_filters.shape[0] == bins
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(directory)
    mel = ctranslate2.StorageView.from_array(extractor(noise(), sampling_rate=RATE, return_tensors="np").input_features)
    generation = settings_of(directory, "generation_config.json")
    lists = generation["suppress_tokens"], generation["begin_suppress_tokens"]
    for language, task in (("es", "transcribe"), ("ru", "translate")):
        prompt = ("startoftranscript", language, task, "notimestamps")
        ids = [tokenizer.token_to_id(f"<|{name}|>") for name in prompt]
        result = client.model.generate(mel, [ids], beam_size=1, max_length=40)[0]  # of which half is written
        assert tokenizer.decode(result.sequences_ids[0]) == written_ids(model, tokenizer, noise(), prompt, *lists, bins)
        how = dict(language=language, task=task, beam_size=1, temperature=0, max_new_tokens=16)
        segments, info = client.transcribe(noise(), **how)
        assert info.language == language and all(segment.text for segment in segments)


@pytest.mark.parametrize("missing", ["none", "preprocessor", "vocab.json", "nested"])
def test_what_the_teacher_lacks_is_made(missing, student, copy, tmp_path):
    if missing == "preprocessor":
        (copy / "preprocessor_config.json").unlink()
    elif missing == "nested":
        content = settings_of(copy, "preprocessor_config.json")
        change(copy, "processor_config.json", feature_extractor=content, processor_class="WhisperProcessor")
        (copy / "preprocessor_config.json").unlink()
    elif missing == "vocab.json":
        model = settings_of(copy, "tokenizer.json")["model"]
        added = {token["content"]: token["id"] for token in settings_of(copy, "tokenizer.json")["added_tokens"]}
        (copy / "vocab.json").write_text(json.dumps(model["vocab"]))
        (copy / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
        (copy / "added_tokens.json").write_text(json.dumps(added))
        specials = [token for token in added if not token[2].isdigit()]
        change(copy, "special_tokens_map.json", additional_special_tokens=specials)
        (copy / "tokenizer.json").unlink()
    write(tmp_path / "out", student, f"hf:{copy}")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert (extractor.feature_size, extractor.chunk_length, extractor.nb_max_frames) == (80, 30, 3000)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(processor) is transformers.WhisperProcessor
    ids = processor.tokenizer("¿Qué - tal?", add_special_tokens=False).input_ids
    assert ids == tokenizer_of(tmp_path / "out").encode("¿Qué - tal?", add_special_tokens=False).ids
    assert processor.tokenizer.decode(ids) == "¿Qué - tal?"
    assert processor.tokenizer.pad_token_id == processor.tokenizer.eos_token_id
    prompt = processor.get_decoder_prompt_ids(task="translate", language="en")
    names = [processor.tokenizer.convert_ids_to_tokens(token) for _, token in prompt]
    assert names == ["<|en|>", "<|translate|>", "<|notimestamps|>"]


def tokenizer_of(directory):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def test_other_shapes_have_no_such_decoder(whisper, teacher, tmp_path, capsys):
    spec = f"hf:{whisper[0]}"
    for arguments, message in [
        (["--from", spec, "--to", f"hf:{tmp_path}/x"], "--decoder-from hf:TEACHER"),
        (["--from", teacher, "--to", f"hf:{tmp_path}/x", "--decoder-from", spec], "front_end='waveform'"),
        (["--from", spec, "--to", f"colld:{tmp_path}/x.pt", "--decoder-from", spec], "goes with --to hf:DIR"),
        (["--from", spec, "--to", f"fairseq:{tmp_path}/x.pt"], "transformers' Whisper"),
        (["--from", spec, "--to", f"hf:{tmp_path}/x", "--decoder-from", teacher], "not model_type 'hubert'"),
        (["--from", spec, "--to", f"hf:{tmp_path}/x", "--decoder-from", "x.pt"], "write hf:DIR"),
    ]:
        assert main(["convert", *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="--decoder-from"):
        write_encoder("hf", tmp_path / "x", read_encoder(spec))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "ours, theirs, message",
    [
        (dict(embed_dim=32), {}, "d_model 32, the decoder of .* needs 24"),
        (dict(fbank_bins=128), {}, "num_mel_bins 128, the decoder of .* needs 80"),
        (dict(activation="relu"), {}, "activation_function relu, the decoder of .* needs gelu"),
        (dict(max_positions=750), {}, "max_source_positions 750, the decoder of .* needs 1500"),
        ({}, dict(vocab_size=700), "vocab_size 700, the tokenizer has ids up to 1769"),
        ({}, dict(vocab_size=1800), r"embed_tokens.weight is \[1770, 24\], by its config.json \[1800, 24\]"),
        ({}, dict(decoder_layers=2), "decoder.layers.1.* is absent"),
        ({}, dict(num_mel_bins=128), "num_mel_bins 128, preprocessor_config.json feature_size 80"),
        ({}, dict(decoder_start_token_id=257, _file="generation_config.json"), "start_token_id 257, the tok.* 258"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_both_values(ours, theirs, message, student, copy, tmp_path):
    config = EncoderConfig(**{**vars(student.config), "input": None, **ours})
    encoder = EncoderCheckpoint(config, StudentEncoder(config).state_dict()) if ours else student
    change(copy, theirs.pop("_file", "config.json"), **theirs)
    with pytest.raises(ColldError, match=message):
        write(tmp_path / "out", encoder, f"hf:{copy}")
    assert not (tmp_path / "out").exists()


def test_a_window_of_another_length(student, copy, tmp_path):
    change(copy, "preprocessor_config.json", chunk_length=15)
    with pytest.raises(ConfigError, match="windows of 30 s.*chunk_length 15"):
        write(tmp_path / "out", student, f"hf:{copy}")


def test_a_tokenizer_that_is_none(student, copy, tmp_path):
    content = settings_of(copy, "tokenizer.json")
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<|notimestamps|>"]
    (copy / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="no <|notimestamps|>"):
        write(tmp_path / "out", student, f"hf:{copy}")
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ColldError, match="no tokenizer that can be read"):
        write(tmp_path / "out", student, f"hf:{copy}")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ColldError, match="neither tokenizer.json nor vocab.json"):
        write(tmp_path / "out", student, f"hf:{copy}")


def test_the_card(student, copy, tmp_path):
    """What is known is said; what is not is marked."""
    training = {
        "criterion": {"_name": "feature_regression"},
        "task": {"teacher": f"hf:{copy}", "teacher_kind": "layer"},
        "model": {"layer_map": "1:1,2:3", "init_layers": "1,3", "init_from": ""},
        "optimization": {"max_update": 1200, "lr": [0.0003]},
    }
    write(tmp_path / "a", student, f"hf:{copy}", training)
    card = (tmp_path / "a" / "README.md").read_text()
    encoder = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "a").get_encoder()
    assert encoder.num_parameters() == student.num_parameters()
    for line in (
        f"| encoder | 2 × 24 (the teacher: 3) | {encoder.num_parameters():,} |",  # as transformers counts
        "Languages of the decoder: en, de, es, ru.",
        "| objective | `feature_regression` |",
        "| its layers | `1,3` |",
        "| updates | `1200` |",
        "# license: to be filled in",
        "with 0.5 s of silence behind each utterance",
        'generate_kwargs={"language": "en", "task": "translate"}',
    ):
        assert line in card
    assert "started from" not in card
    training["task"].update(join_seconds=30.0, join_padded=0.3, perturb_speed=0.1, perturb_volume_db=0.0)
    write(tmp_path / "joined", student, f"hf:{copy}", training)
    card = (tmp_path / "joined" / "README.md").read_text()
    assert "of silence behind each" not in card and "| share of windows filled up with silence | `0.3` |" in card
    assert "speed perturbed" in card and "volume" not in card
    (copy / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, de]\n---\n# Teacher\n")
    write(tmp_path / "b", student, f"hf:{copy}")
    from huggingface_hub import ModelCard

    data = ModelCard.load(tmp_path / "b" / "README.md").data
    assert (data.license, data.language, data.pipeline_tag) == (
        "apache-2.0",
        ["en", "de"],
        "automatic-speech-recognition",
    )
    card = (tmp_path / "b" / "README.md").read_text()
    assert "by its card: apache-2.0" in card and "# license:" not in card and "silence" not in card
