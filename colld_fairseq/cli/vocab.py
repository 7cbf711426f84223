"""`colld vocab`: a vocabulary from the text of manifests."""

import argparse
from pathlib import Path

from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.data.vocabulary_making import make_vocabulary
from colld_fairseq.files import split_paths


def run(args: argparse.Namespace) -> int:
    """Writes the folder; prints how many tokens there are. Raises ColldError."""
    names = ("kind", "size", "column", "lang_tags", "temperature", "character_coverage")
    options = {name: getattr(args, name) for name in names}
    normalizer = TextNormalizer(args.lowercase, args.remove_punctuation)
    size = make_vocabulary(split_paths(args.manifest), Path(args.out), normalizer=normalizer, **options)
    print(f"{args.out}/dict.txt: {size} tokens ({args.kind}), special symbols included")
    return 0
