"""The `colld` command: one file a subcommand, each with `add_arguments(parser)` and `run(args) -> exit code`."""

import argparse
import importlib
import logging
import sys
from typing import List, Optional

from colld_fairseq.errors import ColldError

SUBCOMMANDS = {
    "doctor": "check the installation, or a manifest before training",
    "vocab": "make a character or sentencepiece vocabulary from manifests",
    "encode": "text as tokens of a vocabulary, to train language models on",
    "cmvn": "mean and deviation of a corpus' filterbanks, for --cmvn FILE in training",
    "features": "write a teacher's features of a manifest once, to train from them",
    "cluster": "k-means codes of a teacher layer, and frame labels to pre-train HuBERT on",
    "average": "the mean of several checkpoints of a run, to decode with or to train on from",
    "transcribe": "texts of audio files, folders or manifests: recognition, translation, pseudo-labels",
    "score": "WER, CER, BLEU and chrF per language of fairseq-generate's output",
    "similarity": "CKA and CCA between the layers of a student and a teacher, as numbers and as a heat map",
    "convert": "an encoder between transformers, fairseq and this project, with the difference per layer",
    "profile": "parameters, MACs and real-time factor of a student or a teacher",
}


class Parser(argparse.ArgumentParser):
    """Lets options stand between the files they are about: `colld transcribe model.pt --out o.tsv a.wav b.wav`."""

    intermixing = False

    def parse_known_args(self, args=None, namespace=None):
        if self.intermixing:  # called by what is called here
            return super().parse_known_args(args, namespace)
        self.intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.intermixing = False


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point. Errors a user can act on are printed without a traceback; the exit code is then 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="colld", description="Distil speech encoders with fairseq")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
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
