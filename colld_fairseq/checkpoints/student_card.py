"""The model card (README.md) of a converted student: an encoder alone, or a CTC recognizer."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from colld_fairseq.checkpoints.card import LICENSE_FIELDS, TO_BE_FILLED, metadata_of, training_table
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint
from colld_fairseq.checkpoints.files import read_json
from colld_fairseq.errors import ConfigError

NAME = "README.md"
TEMPLATE = """\
---
{metadata}
---

# {title}

{what} Made with colld_fairseq.

| | |
|---|---|
| class | `{architecture}` |
| encoder | {layers} layers × {width} |
| parameters | {parameters:,} |
| input | 16 kHz audio; {input} |
{rows}
## How to run it

{run}

## How it was made

{training}

{encoder_training}## Results

{scores}

## License

Of the model: *{to_be_filled}*.{teacher_license}
"""
ENCODER = """\
```python
import torch
from transformers import AutoFeatureExtractor, AutoModel

extractor, model = AutoFeatureExtractor.from_pretrained("DIRECTORY"), AutoModel.from_pretrained("DIRECTORY")
inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    features = model(**inputs).last_hidden_state
```"""
RECOGNIZER = """\
```python
from transformers import pipeline

recognize = pipeline("automatic-speech-recognition", "DIRECTORY"{trust})
print(recognize("speech.wav"{times}))
```
{notes}"""
CODE_NOTE = (
    "The model's code is in this directory (three files of Python on torch and numpy); transformers runs it with"
    " `trust_remote_code=True` only."
)
PIECES_NOTE = "The vocabulary is one of sentencepiece, for which transformers has no times of words."
UNTOUCHED = f"# license: {TO_BE_FILLED}"  # gone from a card that somebody filled in
FIGURES = ("wer", "cer", "bleu", "chrf")


@dataclass(frozen=True)
class Recognizer:
    """What a card says of a recognizer beside its encoder."""

    vocabulary_kind: str
    """"char" or "sentencepiece"."""
    languages: Sequence[str] = ()
    """Of the transcripts; none where the vocabulary does not say."""
    scores: Mapping[str, Any] = field(default_factory=dict)
    """A report of `colld score --json`."""


def write(
    directory: Path,
    encoder: EncoderCheckpoint,
    training: Mapping[str, Any],
    earlier: Mapping[str, Any],
    recognizer: Any,
) -> None:
    """Write the card of a directory that is complete otherwise.

    Args:
        training: sections of the configuration in the checkpoint.
        earlier: of the one that the encoder was taken from, if there was one.
        recognizer: a :class:`Recognizer`, or None for an encoder alone.
    """
    text = card_of(read_json(directory / "config.json"), encoder, training, earlier, recognizer)
    (directory / NAME).write_text(text, encoding="utf-8")


def is_untouched(path: Path) -> bool:
    """Whether a file is a card as it was written, which another may replace."""
    return path.name == NAME and path.is_file() and UNTOUCHED in path.read_text(encoding="utf-8", errors="replace")


def card_of(
    settings: Mapping[str, Any],
    encoder: EncoderCheckpoint,
    training: Mapping[str, Any],
    earlier: Mapping[str, Any],
    recognizer: Any,
) -> str:
    """The card's text; settings: config.json. The others: see :func:`write`."""
    config = encoder.config
    vocabulary = settings["vocab_size"] if recognizer else 0
    made = f"### The encoder\n\n{training_table(earlier)}\n\n" if earlier else ""
    return TEMPLATE.format(
        metadata=front_matter(recognizer),
        title="A speech recognizer" if recognizer else "A speech encoder",
        what="An encoder and a CTC layer." if recognizer else "An encoder without a head.",
        architecture=settings["architectures"][0],
        layers=config.layers,
        width=config.embed_dim,
        parameters=encoder.num_parameters() + vocabulary * (config.embed_dim + 1),
        input=config.input,
        rows="\n".join([*vocabulary_rows(vocabulary, recognizer), ""]) if recognizer else "",
        run=run_lines("auto_map" in settings, recognizer) if recognizer else ENCODER,
        training=training_table(training),
        encoder_training=made,
        scores=score_table(recognizer.scores) if recognizer else f"*{TO_BE_FILLED}*",
        to_be_filled=TO_BE_FILLED,
        teacher_license=teacher_license(earlier or training),
    )


def front_matter(recognizer: Any) -> str:
    """The card's YAML, as the hub reads it; what is not known stands there as a comment."""
    from huggingface_hub import ModelCardData

    languages = list(recognizer.languages) if recognizer else []
    task = "automatic-speech-recognition" if recognizer else "feature-extraction"
    data = ModelCardData(language=languages or None, library_name="transformers", pipeline_tag=task)
    missing = [*LICENSE_FIELDS[:1], *([] if languages else ["language"]), "datasets", "base_model"]
    return "\n".join([data.to_yaml(), *(f"# {name}: {TO_BE_FILLED}" for name in missing)])


def vocabulary_rows(size: int, recognizer: Recognizer) -> List[str]:
    """Vocabulary and languages, as rows of a table."""
    kind = {"char": "characters", "sentencepiece": "pieces of sentencepiece"}[recognizer.vocabulary_kind]
    languages = ", ".join(recognizer.languages) or f"*{TO_BE_FILLED}*"
    return [f"| vocabulary | {size} {kind}; token 0, `<pad>`, is the blank |", f"| languages | {languages} |"]


def run_lines(has_code: bool, recognizer: Recognizer) -> str:
    """How transformers runs a recognizer."""
    with_times = recognizer.vocabulary_kind == "char"
    notes = [CODE_NOTE] * has_code + [PIECES_NOTE] * (not with_times)
    return RECOGNIZER.format(
        trust=", trust_remote_code=True" if has_code else "",
        times=', return_timestamps="word"' if with_times else "",
        notes="\n" + " ".join(notes) if notes else "",
    ).rstrip()


def score_table(report: Mapping[str, Any]) -> str:
    """Of a report of `colld score`: one row for each pair of languages. ConfigError where it is none."""
    if not report:
        return f"*{TO_BE_FILLED}* (`colld convert --scores` takes what `colld score --json` wrote)"
    lines = ["| pair | sentences | WER | CER | BLEU | chrF |", "|---|---|---|---|---|---|"]
    try:
        pairs = [(name_of(pair), pair) for pair in report["pairs"]]
        if len(pairs) > 1:
            pairs.append(("all", report["overall"]))
        for name, figures in pairs:
            cells = ["-" if figures[key] is None else f"{figures[key]:.2f}" for key in FIGURES]
            lines.append(f"| {name} | {figures['sentences']} | {' | '.join(cells)} |")
        signatures = [f"{metric}: `{text}`" for metric, text in report["signatures"].items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"--scores: not what `colld score --json` writes ({error!r})") from error
    return "\n".join([*lines, "", "Percent. " + "; ".join(signatures)])


def name_of(pair: Mapping[str, Any]) -> str:
    """Source and target language, or the one there is."""
    source, target = pair["src_lang"], pair["tgt_lang"]
    return (target or "-") if source in ("", target) else f"{source}-{target}"


def teacher_license(training: Mapping[str, Any]) -> str:
    """What the card of the teacher says, where the run names a directory that has one."""
    teacher = (training.get("task") or {}).get("teacher") or ""
    if not isinstance(teacher, str) or not teacher.startswith("hf:"):
        return ""
    known: Dict[str, Any] = metadata_of(Path(teacher.removeprefix("hf:")))
    said = known.get("license_name") or known.get("license")
    return f" Of the teacher, by its card: {said}." if said else f" Of the teacher: *{TO_BE_FILLED}*."
