"""The `colld` command: one file a subcommand, each with HELP, `add_arguments(parser)` and `run(args) -> exit code`."""

import argparse
import importlib
import logging
import sys
from typing import List, Optional

from colld_fairseq.errors import ColldError

SUBCOMMANDS = {
    "doctor": "check the installation, or a manifest before training",
    "vocab": "make a character or sentencepiece vocabulary from manifests",
    "cmvn": "mean and deviation of a corpus' filterbanks, for --cmvn FILE in training",
    "features": "write a teacher's features of a manifest once, to train from them",
    "cluster": "k-means codes of a teacher layer, and frame labels to pre-train HuBERT on",
    "score": "WER, CER, BLEU and chrF per language of fairseq-generate's output",
    "similarity": "CKA and CCA between the layers of a student and a teacher, as numbers and as a heat map",
    "convert": "an encoder between transformers, fairseq and this project, with the difference per layer",
    "profile": "parameters, MACs and real-time factor of a student or a teacher",
}


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point. Errors a user can act on are printed without a traceback; the exit code is then 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="colld", description="Distil speech encoders with fairseq")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in SUBCOMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name in argv[:1]:  # only the chosen one is imported: the others may need what is not installed
            module = importlib.import_module(f"colld_fairseq.cli.{name}")
            module.add_arguments(command)
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s")  # warnings of libraries, and
    logging.getLogger("colld_fairseq").setLevel(logging.INFO)  # what this package has to say
    try:
        return module.run(args)
    except ColldError as error:
        print(f"colld {args.command}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
