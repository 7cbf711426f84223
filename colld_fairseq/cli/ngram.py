"""`colld ngram`: an n-gram language model of a text, for `--ngram-lm` in decoding.

Text is normalized as the vocabulary's was. The whole model is estimated in memory; for corpora of many millions of
words use KenLM's `lmplz` on what `colld encode` writes.
"""

import argparse
from typing import Iterator, List

from colld_fairseq.cli.encode import text_of
from colld_fairseq.data.manifest import read_manifests
from colld_fairseq.data.text import vocabulary_file
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.decoding.ngram import estimate, write_arpa
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import written_atomically
from colld_fairseq.outputs import check_output


def run(args: argparse.Namespace) -> int:
    """Writes the file; prints how much it holds. Raises ColldError."""
    if not args.files and not args.manifest:
        raise ConfigError("no text: give text files, - for standard input, or --manifest")
    vocabulary = Vocabulary(args.vocab)
    manifest = read_manifests(args.manifest) if args.manifest else None
    inputs = [*args.files, *vocabulary_file(args.vocab).parent.iterdir(), *(manifest.files if manifest else ())]
    check_output(args.out, "--out", inputs)
    model = estimate(sentences(text_of(args, manifest), vocabulary, args.unit), args.order)
    with written_atomically(args.out, "w", encoding="utf-8") as out:
        write_arpa(model, out)
    sizes = ", ".join(f"{len(entries)} {n}-grams" for n, entries in enumerate(model.orders, start=1))
    print(f"{args.out}: {sizes} (of {args.unit}s)")
    return 0


def sentences(text: Iterator[str], vocabulary: Vocabulary, unit: str) -> Iterator[List[str]]:
    """Each line that has a word, as words or as the vocabulary's tokens."""
    codec = vocabulary.codec
    split = codec.encode if unit == "token" else lambda line: codec.clean(line).split()
    return (symbols for symbols in map(split, text) if symbols)
