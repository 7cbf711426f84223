"""The model card (README.md) of a Whisper with a student's encoder: what is known is said, the rest marked."""

from typing import Any, Mapping

from colld_fairseq.checkpoints.card import LICENSE_FIELDS, TO_BE_FILLED, metadata_of, training_table
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint
from colld_fairseq.modules.input_config import InputConfig

ENCODER = "model.encoder."
TEMPLATE = """\
---
{metadata}
---

# Whisper with an encoder of {layers} layers

The encoder is a student; decoder, tokenizer and input are those of {teacher}, unchanged. Made with colld_fairseq.

| part | layers | parameters |
|---|---|---|
| encoder | {layers} × {width} (the teacher: {teacher_layers}) | {encoder_parameters:,} |
| decoder | {decoder_layers} × {width} | {decoder_parameters:,} |

Input: 16 kHz audio, {bins} mel bins. Languages of the decoder: {languages}.
{tail}
## How the encoder was made

{training}

Audio that it was made with: {to_be_filled}. Results beside the teacher's: {to_be_filled}.

## How to run it

```python
from transformers import pipeline

recognize = pipeline("automatic-speech-recognition", "DIRECTORY")
print(recognize("speech.wav"{transcribe})["text"])
{translate}```

With CTranslate2 and faster-whisper (`pip install faster-whisper`):

```bash
ct2-transformers-converter --model DIRECTORY --output_dir CONVERTED --quantization int8 \\
  --copy_files tokenizer.json preprocessor_config.json
```

```python
from faster_whisper import WhisperModel

segments, _ = WhisperModel("CONVERTED").transcribe("speech.wav"{language})
print("".join(segment.text for segment in segments))
```

## License

{license}
"""
TRANSLATE = """\
print(recognize("speech.wav", generate_kwargs={{"language": "{}", "task": "translate"}})["text"])
"""


def model_card(encoder: EncoderCheckpoint, whisper: Any, sizes: Mapping[str, int], training: Mapping[str, Any]) -> str:
    """The card's text.

    Args:
        encoder, whisper: the student and the `whisper_directory.Whisper` that its decoder is of.
        sizes: elements of each weight of the whole model, by transformers' names.
        training: sections of the configuration in the student's checkpoint.
    """
    config, known = encoder.config, metadata_of(whisper.directory)
    languages = [token.strip("<|>") for token in whisper.tokens.languages] or ["en"]
    teacher = f"`{whisper.directory.name if whisper.is_local else whisper.name}`"
    some = languages[0] if len(languages) == 1 or "en" not in languages else "en"
    silence = other_silence(config.input, training)
    multilingual = bool(whisper.tokens.languages)
    return TEMPLATE.format(
        metadata=front_matter(whisper, known),
        layers=config.layers,
        width=config.embed_dim,
        teacher=teacher,
        teacher_layers=whisper.settings.get("encoder_layers", TO_BE_FILLED),
        decoder_layers=whisper.settings.get("decoder_layers"),
        encoder_parameters=sum(sizes[name] for name in sizes if name.startswith(ENCODER)),
        decoder_parameters=sum(sizes[name] for name in sizes if not name.startswith(ENCODER)),
        bins=config.fbank_bins,
        languages=", ".join(languages),
        tail=f"\n{silence}\n" if silence else "",
        training=training_table(training),
        to_be_filled=f"*{TO_BE_FILLED}*",
        transcribe=f', generate_kwargs={{"language": "{some}"}}' if multilingual else "",
        translate=TRANSLATE.format(some) if multilingual else "",
        language=f', language="{some}"' if multilingual else "",
        license=license_of(known, teacher),
    )


def front_matter(whisper: Any, known: Mapping[str, Any]) -> str:
    """The card's YAML, as the hub reads it."""
    from huggingface_hub import ModelCardData

    fields = {name: known[name] for name in ("language", *LICENSE_FIELDS) if known.get(name)}
    if not whisper.is_local:
        fields["base_model"] = whisper.name
    missing = [name for name in ("license", "language", "base_model") if name not in fields]
    data = ModelCardData(
        **fields, library_name="transformers", pipeline_tag="automatic-speech-recognition", tags=["whisper"]
    )
    return "\n".join([data.to_yaml(), *(f"# {name}: {TO_BE_FILLED}" for name in missing)])


def other_silence(given: InputConfig, training: Mapping[str, Any]) -> str:
    """A warning where clients give the encoder more silence than it was trained with; "" where they do not."""
    task = training.get("task") or {}
    padded = task.get("join_padded") and task.get("join_seconds") == given.window_seconds
    if not training.get("criterion") or given.tail_seconds >= given.window_seconds or padded:
        return ""
    return (
        f"The encoder was trained with {given.tail_seconds:g} s of silence behind each utterance; the clients of such a"
        f" directory fill a window of {given.window_seconds:g} s with it. Measure both, or train with --join-seconds"
        f" {given.window_seconds:g} --join-padded 0.3, say, or --tail-seconds {given.window_seconds:g}."
    )


def license_of(known: Mapping[str, Any], teacher: str) -> str:
    """The teacher's, by its card."""
    said = known.get("license_name") or known.get("license")
    if not said:
        return (
            f"*{TO_BE_FILLED}*: {teacher} comes without a card that says its license, and the decoder stays under it."
        )
    return f"Of {teacher}, by its card: {said}. The decoder stays under it; of the encoder: *{TO_BE_FILLED}*."
