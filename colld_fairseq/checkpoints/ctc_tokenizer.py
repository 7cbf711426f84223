"""Tokenizers of transformers that write what a CTC student's vocabulary writes.

transformers' CTC blank is the pad token. Ids stay what they are: our token 0 `<s>`, the blank, is called `<pad>` there
and our 1 `<pad>`, which is never written, `<s>`.
"""

from pathlib import Path
from typing import Any, List

from colld_fairseq.checkpoints.files import write_json
from colld_fairseq.errors import ConfigError

BLANK, OTHER_PAD, END, UNKNOWN = range(4)  # ids; fairseq's dictionaries begin with <s>, <pad>, </s>, <unk>
NAMES = ("<pad>", "<s>", "</s>", "<unk>")  # of these ids in transformers
LONGEST = 100  # spaces at an end
SPECIAL = dict(
    pad_token=NAMES[BLANK], bos_token=NAMES[OTHER_PAD], eos_token=NAMES[END], unk_token=NAMES[UNKNOWN],
    clean_up_tokenization_spaces=False,
)  # fmt: skip


def symbols_of(vocabulary: Any) -> List[str]:
    """What each id is called in transformers; ConfigError where its tokenizers would write other text."""
    dictionary, codec = vocabulary.dictionary, vocabulary.codec
    if not hasattr(codec, "boundary"):  # one of fairseq's tokenizers
        raise ConfigError(
            f"--head: {vocabulary.folder} has tokens that are neither characters nor sentencepiece's pieces; a"
            " vocabulary of `colld vocab` is needed"
        )
    ids = [dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()]
    if ids != [BLANK, OTHER_PAD, END, UNKNOWN]:
        raise ConfigError(f"--head: the dictionary has its special tokens at {ids}, not at 0 to 3")
    symbols = [*NAMES, *dictionary.symbols[len(NAMES) :]]
    if len(set(symbols)) < len(symbols):
        raise ConfigError("--head: the dictionary has a token twice")
    return symbols


def tokenizer_of(vocabulary: Any, symbols: List[str], directory: Path) -> Any:
    """The tokenizer, which may write files of its own into the directory.

    Characters: `Wav2Vec2CTCTokenizer`, with times of words. Pieces: `ParakeetTokenizer`, without.
    """
    if vocabulary.codec.kind == "char":
        return _of_characters(vocabulary, symbols, directory)
    return _of_pieces(vocabulary, symbols)


def _of_characters(vocabulary: Any, symbols: List[str], directory: Path) -> Any:
    from transformers import Wav2Vec2CTCTokenizer

    write_json(directory / "vocab.json", {symbol: index for index, symbol in enumerate(symbols)})
    return Wav2Vec2CTCTokenizer(
        str(directory / "vocab.json"), word_delimiter_token=vocabulary.codec.boundary, **SPECIAL
    )


def _of_pieces(vocabulary: Any, symbols: List[str]) -> Any:
    """A unigram model with the scores of sentencepiece's; ConfigError for one that is none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers.models.parakeet import ParakeetTokenizer

    scores, boundary = vocabulary.codec.piece_scores(), vocabulary.codec.boundary
    unigram = models.Unigram([(symbol, scores.get(symbol, 0.0)) for symbol in symbols], unk_id=UNKNOWN)
    tokenizer = Tokenizer(unigram)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=boundary)
    # A boundary without a letter at either end is no text: both spaces are cut off, as many as there are.
    ends = decoders.Strip(content=" ", left=LONGEST, right=LONGEST)
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(replacement=boundary), decoders.Fuse(), ends])
    return ParakeetTokenizer(tokenizer_object=tokenizer, **SPECIAL)
