"""`colld encode`: text as a vocabulary's tokens, one line per utterance, for language models.

What it writes, fairseq-preprocess and KenLM read: `fairseq-preprocess --only-source --srcdict VOCAB/dict.txt`, or
`lmplz` for an n-gram model over tokens (`--ngram-lm-unit token`). Text is normalized as the vocabulary's was; lines
without a word are left out.
"""

import argparse
from typing import Iterator, Optional

from colld_fairseq.data.manifest import JoinedManifest, read_manifests
from colld_fairseq.data.text import vocabulary_file
from colld_fairseq.data.text_files import text_lines
from colld_fairseq.data.vocabulary import Vocabulary
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import written_atomically
from colld_fairseq.outputs import check_output


def run(args: argparse.Namespace) -> int:
    """Writes the file; prints how much it holds. Raises ColldError."""
    if not args.files and not args.manifest:
        raise ConfigError("nothing to encode: give text files, - for standard input, or --manifest")
    vocabulary = Vocabulary(args.vocab)
    manifest = read_manifests(args.manifest) if args.manifest else None
    check_output(
        args.out,
        "--out",
        [*args.files, *vocabulary_file(args.vocab).parent.iterdir(), *(manifest.files if manifest else ())],
    )
    lines = tokens = unknown = 0
    with written_atomically(args.out, "w", encoding="utf-8") as out:
        for text in text_of(args, manifest):
            encoded = vocabulary.codec.encode(text)
            if encoded:
                print(*encoded, file=out)
                lines, tokens = lines + 1, tokens + len(encoded)
                unknown += sum(token not in vocabulary.dictionary for token in encoded)
        if not lines:
            raise ConfigError("nothing to encode: there is no line with a word in it")
    print(f"{args.out}: {lines} lines, {tokens} tokens, {unknown / tokens:.2%} of them unknown to {args.vocab}")
    return 0


def text_of(args: argparse.Namespace, manifest: Optional[JoinedManifest]) -> Iterator[str]:
    """Lines of the files, then the chosen column of the manifests."""
    for name in args.files:
        yield from text_lines(name)
    if manifest is not None:
        if not manifest.has_text:
            raise ConfigError(f"{manifest.path}: no transcripts; a speech-to-text manifest has the column tgt_text")
        yield from (manifest.text(args.column, row) for row in range(len(manifest)))
