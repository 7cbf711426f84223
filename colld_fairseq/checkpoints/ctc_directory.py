"""A complete CTC recognizer as a directory of transformers, with tokenizer and feature extractor.

`HubertForCTC` or `Wav2Vec2BertForCTC` where one of them computes what the student does, else a Conformer with its code
in the directory (`custom_code`). What our searches never write has a logit of NEVER there.
"""

from pathlib import Path
from typing import Any, Dict, List

import torch

from colld_fairseq.checkpoints import custom_code, names_custom, names_whisper
from colld_fairseq.checkpoints.ctc_tokenizer import BLANK, END, OTHER_PAD, UNKNOWN, symbols_of, tokenizer_of
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, Layout, StateDict, check_fits, lost_fields
from colld_fairseq.checkpoints.files import write_json
from colld_fairseq.checkpoints.names_hf import FAMILIES, extractor_class, layout_of
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig

HEAD = {"weight": "ctc.weight", "bias": "ctc.bias"}  # of student_ctc
NEVER = -1e4  # a logit that no softmax of half precision turns into NaN
IDS = dict(pad_token_id=BLANK, bos_token_id=OTHER_PAD, eos_token_id=END)
WRITTEN = (
    *("config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "added_tokens.json", "tokenizer.json"),
    *custom_code.FILES,
)


def write(directory: Path, encoder: EncoderCheckpoint, weights: StateDict, vocabulary: Any) -> None:
    """Write the directory, which must not be there.

    Args:
        encoder: of a `student_ctc`.
        weights: of the whole model.
        vocabulary: its `data.vocabulary.Vocabulary`.

    Raises ConfigError that says what has no counterpart in transformers.
    """
    layout = recognizer_layout(encoder.config)
    symbols = symbols_of(vocabulary)
    head = head_of(weights, len(symbols), vocabulary)
    directory.mkdir()
    tokenizer = tokenizer_of(vocabulary, symbols, directory)
    if layout is names_custom.LAYOUT:
        write_custom(directory, encoder, head, tokenizer)
    else:
        write_native(directory, encoder, layout, head, tokenizer)


def recognizer_layout(config: EncoderConfig) -> Layout:
    """The kind of model that computes what an encoder does; ConfigError names what none of them can hold."""
    layout = layout_of(config)
    if layout is names_whisper.LAYOUT:
        raise ConfigError("transformers has no CTC model on Whisper's encoder: give --decoder-from instead of --head")
    if lost_fields(config, layout) and not lost_fields(config, names_custom.LAYOUT):
        return names_custom.LAYOUT
    check_fits(config, layout)
    return layout


def write_native(directory: Path, encoder: EncoderCheckpoint, layout: Layout, head: StateDict, tokenizer: Any) -> None:
    """Model and processor of classes that transformers has."""
    import transformers
    from safetensors.torch import save_file

    settings, preprocessor = layout.write(encoder.config)
    stem = FAMILIES[settings["model_type"]]
    prefix = settings["model_type"].replace("-", "_")
    content = {f"{prefix}.{name}": tensor for name, tensor in layout.names.to_theirs(encoder.weights).items()}
    content.update({f"lm_head.{name}": tensor for name, tensor in head.items()})
    config_class = getattr(transformers, f"{stem}Config")
    more = dict(vocab_size=len(head["bias"]), final_dropout=0.0, architectures=[f"{stem}ForCTC"])
    config_class(**settings, **IDS, **more, dtype=dtype_of(head)).save_pretrained(directory)
    save_file(content, directory / "model.safetensors", metadata={"format": "pt"})
    extractor = extractor_class(settings)(**preprocessor)
    kind = transformers.Wav2Vec2BertProcessor if stem == "Wav2Vec2Bert" else transformers.Wav2Vec2Processor
    kind(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(directory)


def write_custom(directory: Path, encoder: EncoderCheckpoint, head: StateDict, tokenizer: Any) -> None:
    """Model, feature extractor and tokenizer, with the code of the first two."""
    from safetensors.torch import save_file

    from colld_fairseq.checkpoints.custom_code.configuration_colld import ColldConfig
    from colld_fairseq.checkpoints.custom_code.feature_extraction_colld import ColldFeatureExtractor

    settings, preprocessor = names_custom.settings_of(encoder.config)
    del settings["model_type"]  # the class says it
    more = dict(vocab_size=len(head["bias"]), architectures=["ColldForCTC"], auto_map=custom_code.MODEL_MAP)
    ColldConfig(**settings, **IDS, **more, dtype=dtype_of(head)).save_pretrained(directory)
    content = {f"encoder.{name}": value for name, value in encoder.weights.items() if name != "mask_emb"}
    content.update({f"ctc.{name}": tensor for name, tensor in head.items()})
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in content.items()},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    extractor = ColldFeatureExtractor(**preprocessor).to_dict()
    extractor.update(auto_map=custom_code.EXTRACTOR_MAP, processor_class="Wav2Vec2Processor")
    write_json(directory / "preprocessor_config.json", extractor)
    tokenizer.save_pretrained(directory)
    custom_code.copy_to(directory)


def has_code(directory: Path) -> bool:
    """Whether a directory holds a model whose code goes along with it."""
    return all((directory / name).is_file() for name in custom_code.FILES)


def head_of(weights: StateDict, size: int, vocabulary: Any) -> Dict[str, torch.Tensor]:
    """Weight and bias of the CTC layer of a `student_ctc`, which never write what our searches never write."""
    missing = [name for name in HEAD.values() if name not in weights]
    if missing:
        raise ConfigError(f"--head: this model has no CTC layer (no {missing[0]}); student_ctc has one")
    if len(weights[HEAD["weight"]]) != size:
        raise ConfigError(f"--head: CTC layer of {len(weights[HEAD['weight']])} tokens, vocabulary of {size}")
    head = {name: weights[ours].clone() for name, ours in HEAD.items()}
    never: List[int] = sorted({OTHER_PAD, END, UNKNOWN, *vocabulary.tag_ids})
    head["weight"][never], head["bias"][never] = 0.0, NEVER
    return head


def dtype_of(head: StateDict) -> str:
    """As config.json calls it."""
    return str(head["weight"].dtype).removeprefix("torch.")
