"""`colld vocab`: a vocabulary from the text of manifests."""

import argparse
from pathlib import Path

from colld_fairseq.data.text import TextNormalizer
from colld_fairseq.data.vocabulary_making import make_vocabulary
from colld_fairseq.files import split_paths


def run(args: argparse.Namespace) -> int:
    """Writes the folder; prints how many tokens there are. Raises ColldError."""
    size = make_vocabulary(
        split_paths(args.manifest),
        Path(args.out),
        kind=args.kind,
        size=args.size,
        column=args.column,
        lang_tags=args.lang_tags,
        normalizer=TextNormalizer(args.lowercase, args.remove_punctuation),
        temperature=args.temperature,
        character_coverage=args.character_coverage,
    )
    print(f"{args.out}/dict.txt: {size} tokens ({args.kind}), special symbols included")
    return 0
