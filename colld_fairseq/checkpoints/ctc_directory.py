"""A complete CTC recognizer in transformers' layout: `HubertForCTC` or `Wav2Vec2BertForCTC`, processor and tokenizer.

transformers' CTC blank is the pad token. Ids stay what they are: our token 0 `<s>`, the blank, is called `<pad>` there
and our 1 `<pad>`, which is never written, `<s>`. What our searches never write has a logit of NEVER there.
"""

from pathlib import Path
from typing import Any, Dict, List

import torch

from colld_fairseq.checkpoints import names_whisper
from colld_fairseq.checkpoints.encoder import EncoderCheckpoint, StateDict, check_fits
from colld_fairseq.checkpoints.files import write_json
from colld_fairseq.checkpoints.names_hf import FAMILIES, extractor_class, layout_of
from colld_fairseq.errors import ConfigError

HEAD = {"weight": "ctc.weight", "bias": "ctc.bias"}  # of student_ctc
NEVER = -1e4  # a logit that no softmax of half precision turns into NaN
BLANK, OTHER_PAD, END, UNKNOWN = range(4)  # ids; fairseq's dictionaries begin with <s>, <pad>, </s>, <unk>
NAMES = ("<pad>", "<s>", "</s>", "<unk>")  # of these ids in transformers
WRITTEN = (
    *("config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "added_tokens.json"),
)


def write(directory: Path, encoder: EncoderCheckpoint, weights: StateDict, vocabulary: Any) -> None:
    """Write the directory, which must not be there.

    Args:
        encoder: of a `student_ctc`.
        weights: of the whole model.
        vocabulary: its `data.vocabulary.Vocabulary`; of characters.

    Raises ConfigError that says what has no counterpart in transformers.
    """
    import transformers
    from safetensors.torch import save_file

    layout = layout_of(encoder.config)
    if layout is names_whisper.LAYOUT:
        raise ConfigError("transformers has no CTC model on Whisper's encoder: give --decoder-from instead of --head")
    check_fits(encoder.config, layout)
    symbols = symbols_of(vocabulary)
    settings, preprocessor = layout.write(encoder.config)
    stem = FAMILIES[settings["model_type"]]
    prefix = settings["model_type"].replace("-", "_")
    content = {f"{prefix}.{name}": tensor for name, tensor in layout.names.to_theirs(encoder.weights).items()}
    content.update(head_of(weights, len(symbols), vocabulary))

    directory.mkdir()
    config_class = getattr(transformers, f"{stem}Config")
    ids = dict(vocab_size=len(symbols), pad_token_id=BLANK, bos_token_id=OTHER_PAD, eos_token_id=END)
    dtype = str(content["lm_head.weight"].dtype).removeprefix("torch.")
    config = config_class(**settings, **ids, final_dropout=0.0, dtype=dtype, architectures=[f"{stem}ForCTC"])
    config.save_pretrained(directory)
    save_file(content, directory / "model.safetensors", metadata={"format": "pt"})
    write_json(directory / "vocab.json", {symbol: index for index, symbol in enumerate(symbols)})
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(directory / "vocab.json"),
        pad_token=NAMES[BLANK],
        bos_token=NAMES[OTHER_PAD],
        eos_token=NAMES[END],
        unk_token=NAMES[UNKNOWN],
        word_delimiter_token=vocabulary.codec.boundary,
        clean_up_tokenization_spaces=False,
    )
    extractor = extractor_class(settings)(**preprocessor)
    kind = transformers.Wav2Vec2BertProcessor if stem == "Wav2Vec2Bert" else transformers.Wav2Vec2Processor
    kind(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(directory)


def symbols_of(vocabulary: Any) -> List[str]:
    """What each id is called in transformers; ConfigError where its tokenizer would write other text."""
    dictionary, codec = vocabulary.dictionary, vocabulary.codec
    if codec.kind != "char":
        raise ConfigError(
            "--head: transformers' CTC tokenizer cannot join pieces of sentencepiece; a vocabulary of characters"
            " (`colld vocab`) is needed"
        )
    ids = [dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()]
    if ids != [BLANK, OTHER_PAD, END, UNKNOWN]:
        raise ConfigError(f"--head: the dictionary has its special tokens at {ids}, not at 0 to 3")
    symbols = [*NAMES, *dictionary.symbols[len(NAMES) :]]
    if len(set(symbols)) < len(symbols):
        raise ConfigError("--head: the dictionary has a token twice")
    return symbols


def head_of(weights: StateDict, size: int, vocabulary: Any) -> Dict[str, torch.Tensor]:
    """lm_head of a `student_ctc`, which never writes what our searches never write."""
    missing = [name for name in HEAD.values() if name not in weights]
    if missing:
        raise ConfigError(f"--head: this model has no CTC layer (no {missing[0]}); student_ctc has one")
    if len(weights[HEAD["weight"]]) != size:
        raise ConfigError(f"--head: CTC layer of {len(weights[HEAD['weight']])} tokens, vocabulary of {size}")
    head = {name: weights[ours].clone() for name, ours in HEAD.items()}
    never = sorted({OTHER_PAD, END, UNKNOWN, *vocabulary.tag_ids})
    head["weight"][never], head["bias"][never] = 0.0, NEVER
    return {f"lm_head.{name}": tensor for name, tensor in head.items()}
