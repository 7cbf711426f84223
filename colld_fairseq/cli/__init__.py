"""The `colld` command: one module per subcommand with `run(args) -> exit code`; their options are in `options.py`."""

import argparse
import importlib
import logging
import os
import signal
import sys
from typing import List, NamedTuple, Optional

import colld_fairseq
from colld_fairseq.cli import options
from colld_fairseq.cli.system import describe, failed, operating_system_error, print_any_text
from colld_fairseq.errors import ColldError, ConfigError


class Command(NamedTuple):
    """What a subcommand is for, and whether it needs torch and what is registered with fairseq."""

    help: str
    models: bool = True


SUBCOMMANDS = {
    "doctor": Command("check the installation, or a manifest before training", models=False),
    "quickstart": Command("a smaller Whisper in half an hour: distilled, decoded and reported", models=False),
    "prepare": Command("manifests from a corpus as it lies on disk: LibriSpeech, Common Voice, ...", models=False),
    "vocab": Command("make a character or sentencepiece vocabulary from manifests", models=False),
    "encode": Command("text as tokens of a vocabulary, to train language models on"),
    "ngram": Command("an n-gram language model of a text, for --ngram-lm in decoding"),
    "cmvn": Command("mean and deviation of a corpus' filterbanks, for --cmvn FILE in training"),
    "join": Command("utterances joined to longer ones, as audio files and a manifest: for `colld features`"),
    "features": Command("write a teacher's features of a manifest once, to train from them"),
    "cluster": Command("k-means codes of a teacher layer, and frame labels to pre-train HuBERT on"),
    "codebooks": Command("a residual quantizer of a teacher layer, and its indexes: a teacher in bytes per frame"),
    "average": Command("the mean of several checkpoints of a run, to decode with or to train on from"),
    "assemble": Command("a student encoder and a pretrained decoder as one model, ready to decode without training"),
    "transcribe": Command("transcripts of audio files, folders or manifests: recognition, translation, pseudo-labels"),
    "delay": Command("how much later a student says its labels at each latency than with full context"),
    "score": Command("WER, CER, BLEU and chrF per language of fairseq-generate's output", models=False),
    "report": Command("a page of one experiment or several: scores, curves, utterances with audio", models=False),
    "similarity": Command("CKA and CCA between the layers of a student and a teacher, as numbers and as a heat map"),
    "convert": Command("an encoder between transformers, fairseq and this project, with the difference per layer"),
    "export": Command("a trained model as a folder for ONNX Runtime, sherpa-onnx or onnx-asr, compared with the model"),
    "import": Command("a folder of `colld export` as a checkpoint again, to train on from or to export anew"),
    "profile": Command("parameters, MACs and real-time factor of a student or a teacher"),
}


class Parser(argparse.ArgumentParser):
    """Lets options stand between the files they are about: `colld transcribe model.pt --out o.tsv a.wav b.wav`."""

    intermixing = False

    def add_argument(self, *names, **how):
        """Names the default in the help, which may say it in its own words."""
        if how.get("default") not in (None, "", [], argparse.SUPPRESS) and "default" not in how["help"]:
            how["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **how)

    def parse_known_args(self, args=None, namespace=None):
        if self.intermixing:  # called by what is called here
            return super().parse_known_args(args, namespace)
        self.intermixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.intermixing = False


def main(argv: Optional[List[str]] = None) -> int:
    """Entry point; returns the exit code: 2 after what a user can act on (ColldError, errors of the operating system),
    told in one line; 130 after Ctrl-C. Where nobody reads the output any more (`| head`), SIGPIPE ends the process."""
    argv = sys.argv[1:] if argv is None else argv
    name = " ".join(["colld", *argv[:1]])
    print_any_text()
    try:
        try:
            return run(argv)
        finally:
            sys.stdout.flush()
    except SystemExit as stop:  # of argparse: after --help, or what cannot be parsed
        if isinstance(stop.code, str):  # a recipe that stopped, and why
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except ColldError as error:
        return failed(name, str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
        raise
    except Exception as error:
        cause = operating_system_error(error)
        if cause is None:
            raise
        return failed(name, describe(cause))


def run(argv: List[str]) -> int:
    """The subcommand. Only the chosen one is imported: the others may need what is not installed."""
    parser = argparse.ArgumentParser(prog="colld", description="Distil speech encoders with fairseq")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, command in SUBCOMMANDS.items():
        added = commands.add_parser(name, help=command.help, description=command.help)
        if name in argv[:1]:
            options.of(name)(added.add_argument)
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s")  # warnings of libraries, and
    logging.getLogger("colld_fairseq").setLevel(logging.INFO)  # what this package has to say
    if SUBCOMMANDS[args.command].models:
        try:
            colld_fairseq.register()
        except ImportError as error:
            raise ConfigError(f"{error} (`colld doctor` looks at everything that is needed)") from error
    return importlib.import_module(f"colld_fairseq.cli.{options.python_name(args.command)}").run(args)
