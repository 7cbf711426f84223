"""A complete Whisper in transformers' layout: a student's encoder, and all the rest of its teacher as it is.

Clients take such a directory as they take OpenAI's: transformers' pipeline, CTranslate2's converter, faster-whisper.
"""

import shutil
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import torch

from colld_fairseq.checkpoints import names_whisper
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, StateDict, check_fits
from colld_fairseq.checkpoints.files import load_tokenizer, read_json, read_state, resolve_directory, write_json
from colld_fairseq.checkpoints.names_hf import read_preprocessor
from colld_fairseq.checkpoints.whisper_card import model_card
from colld_fairseq.checkpoints.whisper_generation import complete_generation
from colld_fairseq.checkpoints.whisper_tokens import WhisperTokens, is_multilingual, read_tokens
from colld_fairseq.compat import absolute_path
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig

GENERATION, CARD = "generation_config.json", "README.md"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "normalizer.json"),
)
WRITTEN = ("config.json", "model.safetensors", "preprocessor_config.json", GENERATION, CARD, *TOKENIZER_FILES)
EMBEDDINGS, HEAD = "model.decoder.embed_tokens.weight", "proj_out.weight"
# What encoder and decoder share: their name in config.json -> in ours.
SHARED = {name: ours for ours, name in names_whisper.FIELDS.theirs.items() if ours in names_whisper.SHARED}
OWN = {name: ours for ours, name in names_whisper.FIELDS.theirs.items() if name.startswith("encoder_")}


@dataclass
class Whisper:
    """A directory that a decoder is taken from."""

    spec: str
    directory: Path
    settings: Dict[str, Any]
    """config.json."""
    preprocessor: Dict[str, Any]
    """Settings of its feature extractor, {} where it has none."""
    generation: Dict[str, Any]
    """generation_config.json, completed."""
    tokenizer: Any
    tokens: WhisperTokens

    @property
    def name(self) -> str:
        """Directory or name on the hub."""
        return self.spec.removeprefix("hf:")

    @property
    def is_local(self) -> bool:
        """Whether `name` is a directory."""
        return Path(absolute_path(self.name)).is_dir()


def open_whisper(spec: str) -> Whisper:
    """All but the weights of the Whisper in hf:DIR.

    Raises ConfigError where it is none, or its files contradict each other.
    """
    scheme, _, name = spec.partition(":")
    if scheme != "hf" or not name:
        raise ConfigError(f"--decoder-from {spec!r}: write hf:DIR")
    directory = resolve_directory(name)
    settings = read_json(directory / "config.json")
    if settings.get("model_type") != "whisper":
        raise ConfigError(f"--decoder-from {spec}: a Whisper is needed, not model_type {settings.get('model_type')!r}")
    said = read_json(directory / GENERATION) if (directory / GENERATION).is_file() else {}
    if not any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(f"{directory}: has neither tokenizer.json nor vocab.json; copy the complete Whisper")
    tokenizer = load_tokenizer(directory, str(directory))
    try:
        size, largest = settings.get("vocab_size"), max(tokenizer.get_vocab().values())
        if size is not None and largest >= size:
            raise ConfigError(f"config.json says vocab_size {size}, the tokenizer has ids up to {largest}")
        tokens = read_tokens(tokenizer, is_multilingual(settings, said))
        generation = complete_generation(said, settings, tokens)
    except ConfigError as error:
        raise ConfigError(f"{directory}: {error}") from error
    preprocessor = read_preprocessor(directory, "whisper")
    return Whisper(spec, directory, settings, preprocessor, generation, tokenizer, tokens)


def write(
    target: Path, encoder: EncoderCheckpoint, decoder_from: str, training: Optional[Mapping[str, Any]] = None
) -> None:
    """Write the directory `target`, which must not be there.

    Args:
        encoder: a student in Whisper's shape.
        decoder_from: hf:DIR, the Whisper whose decoder, tokenizer and settings are taken.
        training: settings of the run that made the encoder, for the model card.

    Raises ConfigError that names what does not go together, with both values; nothing is written then.
    """
    from safetensors.torch import save_file

    check_shape(encoder.config)
    whisper = open_whisper(decoder_from)
    check_together(encoder.config, whisper)
    weights = {f"model.encoder.{n}": t for n, t in names_whisper.NAMES.to_theirs(encoder.weights).items()}
    weights.update(decoder_weights(whisper))
    config = complete_config(encoder.config, whisper, weights)
    check_complete(weights, config, whisper)
    preprocessor = whisper.preprocessor or names_whisper.extractor_of(encoder.config).to_dict()
    card = model_card(encoder, whisper, {name: tensor.numel() for name, tensor in weights.items()}, training or {})

    target.mkdir()
    config.save_pretrained(target)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    write_json(target / GENERATION, whisper.generation)
    write_json(target / "preprocessor_config.json", preprocessor)
    write_tokenizer(target, whisper)
    (target / CARD).write_text(card, encoding="utf-8")


def check_shape(config: EncoderConfig) -> None:
    """Raises ConfigError for an encoder that no Whisper has."""
    if config.front_end != "whisper":
        raise ConfigError(
            "--decoder-from is for students in Whisper's shape (front_end='whisper'), not"
            f" front_end={config.front_end!r}"
        )
    check_fits(config, names_whisper.LAYOUT)


def check_together(config: EncoderConfig, whisper: Whisper) -> None:
    """Raises ConfigError, with both values, where the decoder was made for another encoder."""
    other = names_whisper.config_of(whisper.settings, whisper.preprocessor)
    for name, ours in SHARED.items():
        value, there = getattr(config, ours), getattr(other, ours)
        if value != there:
            raise ConfigError(f"the student has {name} {value}, the decoder of {whisper.spec} needs {there}")
    seconds = names_whisper.extractor_of(config).chunk_length
    given = whisper.preprocessor.get("chunk_length", seconds)
    if given != seconds:
        raise ConfigError(
            f"the student takes in windows of {seconds} s, preprocessor_config.json of {whisper.spec} says chunk_length"
            f" {given}"
        )


def decoder_weights(whisper: Whisper) -> StateDict:
    """The decoder's tensors as they are, under the names of a complete model.

    Its output layer is the embeddings again: current files leave it out, older ones hold it twice.
    """
    state = {name.removeprefix("model."): tensor for name, tensor in read_state(whisper.directory).items()}
    weights = {f"model.{name}": tensor for name, tensor in state.items() if name.startswith("decoder.")}
    head = state.get(HEAD)
    if not whisper.settings.get("tie_word_embeddings", True):
        return weights if head is None else {**weights, HEAD: head}
    if head is not None and not torch.equal(weights.setdefault(EMBEDDINGS, head), head):
        raise ConfigError(
            f"{whisper.directory}: {HEAD} differs from {EMBEDDINGS}, but config.json does not say"
            " tie_word_embeddings false: one of them would be lost"
        )
    return weights


def complete_config(config: EncoderConfig, whisper: Whisper, weights: StateDict) -> Any:
    """transformers' WhisperConfig of both; in the wider of two precisions, which loses nothing of either."""
    from transformers import WhisperConfig

    dropped = ("forced_decoder_ids", "_name_or_path", "torch_dtype", "dtype")  # of the teacher as it was published
    # With its aliases: num_hidden_layers beside encoder_layers would count the teacher's layers again.
    given = {name: value for name, value in whisper.settings.items() if name not in dropped}
    settings = WhisperConfig.from_dict(
        {name: v for name, v in given.items() if name not in WhisperConfig.attribute_map}
    )
    for name, ours in OWN.items():
        setattr(settings, name, getattr(config, ours))
    for name in ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(settings, name, whisper.generation[name])
    settings.architectures = ["WhisperForConditionalGeneration"]
    settings.dtype = reduce(torch.promote_types, {tensor.dtype for tensor in weights.values()})
    return settings


def check_complete(weights: StateDict, config: Any, whisper: Whisper) -> None:
    """Raises CheckpointError that names decoder weights which are missing, left over, or of another shape."""
    from transformers import WhisperForConditionalGeneration

    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in WhisperForConditionalGeneration(config).state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop(HEAD, None)
    for name in sorted(expected.keys() | weights.keys()):
        there, needed = weights[name].shape if name in weights else None, expected.get(name)
        if there != needed:
            shapes = [str(list(shape)) if shape is not None else "absent" for shape in (there, needed)]
            raise CheckpointError(f"{whisper.directory}: {name} is {shapes[0]}, by its config.json {shapes[1]}")


def write_tokenizer(target: Path, whisper: Whisper) -> None:
    """The teacher's files, and those that it lacks and clients look for."""
    for name in TOKENIZER_FILES:
        if (whisper.directory / name).is_file():
            shutil.copyfile(whisper.directory / name, target / name)
    if not (target / "tokenizer.json").is_file():
        whisper.tokenizer.backend_tokenizer.save(str(target / "tokenizer.json"))
    if not (target / "tokenizer_config.json").is_file():
        roles = {f"{role}_token": "<|endoftext|>" for role in ("bos", "eos", "pad", "unk")}
        classes = dict(tokenizer_class="WhisperTokenizer", processor_class="WhisperProcessor")
        write_json(target / "tokenizer_config.json", {**roles, **classes, "add_prefix_space": False})
