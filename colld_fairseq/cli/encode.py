"""`colld encode`: text as a vocabulary's tokens, a line an utterance, for language models.

What it writes, fairseq-preprocess and KenLM read: `fairseq-preprocess --only-source --srcdict VOCAB/dict.txt`, or
`lmplz` for an n-gram model over tokens (`--ctc-lm-unit token`). Text is normalised as the vocabulary's was; lines
without a word are left out.
"""

import argparse
import os
import sys
from typing import Iterator

from colld_fairseq.data.manifest import join_manifests, read_manifest
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import written_whole

COLUMNS = ("tgt_text", "src_text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `colld encode`."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="text in UTF-8, by lines; - is standard input")
    parser.add_argument("--vocab", required=True, metavar="DIR", help="folder written by `colld vocab`")
    parser.add_argument("--manifest", metavar="A.tsv[,B.tsv]", help="also the texts of speech-to-text manifests")
    parser.add_argument("--column", choices=COLUMNS, default=COLUMNS[0], help="of the manifests (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Writes the file; prints how much it holds. Raises ColldError."""
    if not args.files and not args.manifest:
        raise ConfigError("nothing to encode: give text files, - for standard input, or --manifest")
    vocabulary = Vocabulary(args.vocab)
    lines = tokens = unknown = 0
    with written_whole(args.out, "w", encoding="utf-8") as out:
        for text in texts(args):
            encoded = vocabulary.codec.encode(text)
            if encoded:
                print(*encoded, file=out)
                lines, tokens = lines + 1, tokens + len(encoded)
                unknown += sum(token not in vocabulary.dictionary for token in encoded)
        if not lines:
            raise ConfigError("nothing to encode: there is no line with a word in it")
    print(f"{args.out}: {lines} lines, {tokens} tokens, {unknown / tokens:.2%} of them unknown to {args.vocab}")
    return 0


def texts(args: argparse.Namespace) -> Iterator[str]:
    """Lines of the files, then texts of the manifests."""
    for name in args.files:
        if name == "-":
            yield from sys.stdin
            continue
        try:
            with open(name, encoding="utf-8") as handle:
                yield from handle
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: cannot be read as text in UTF-8: {error}") from error
    if args.manifest:
        rows = join_manifests([read_manifest(os.path.expanduser(path)) for path in args.manifest.split(",")])
        if not rows.has_text:
            raise ConfigError(f"{rows.path}: no texts; a speech-to-text manifest has the column tgt_text")
        yield from (getattr(rows.row(i), args.column) for i in range(len(rows)))
