"""`colld vocab`: a vocabulary from the text of manifests."""

import argparse
from pathlib import Path

from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.data.vocabulary_making import extend_vocabulary, make_vocabulary
from colld_fairseq.errors import ConfigError
from colld_fairseq.files import split_paths


def run(args: argparse.Namespace) -> int:
    """Writes the folder; prints how many tokens there are. Raises ColldError."""
    manifests = split_paths(args.manifest)
    of_pieces = args.temperature != 1 or args.character_coverage != 1
    if args.extend:
        others = args.kind != "char" or args.size or args.lang_tags or args.lowercase or args.remove_punctuation
        if of_pieces or others:
            raise ConfigError("--extend keeps the settings of the old vocabulary: give it with --column alone")
        size = extend_vocabulary(manifests, args.extend, Path(args.out), args.column)
        print(f"{args.out}/dict.txt: {size} tokens, those of {args.extend} first")
        return 0
    if of_pieces and args.kind == "char":
        raise ConfigError("--temperature and --character-coverage are about pieces: give --kind sentencepiece, too")
    names = ("kind", "size", "column", "lang_tags", "temperature", "character_coverage")
    options = {name: getattr(args, name) for name in names}
    normalizer = TextNormalizer(args.lowercase, args.remove_punctuation)
    size = make_vocabulary(manifests, Path(args.out), normalizer=normalizer, **options)
    print(f"{args.out}/dict.txt: {size} tokens ({args.kind}), special symbols included")
    return 0
