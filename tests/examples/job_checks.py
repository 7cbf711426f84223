"""Jobs of the examples' drivers: does each command parse with the program it is for?"""

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
from commands import call
from fairseq import options

from colld_fairseq.cli import SUBCOMMANDS
from colld_fairseq.cli import main as colld
from colld_fairseq.cli import options as colld_options


def load_script(path: Path, name: str):
    """The script as a module `name`, with its folder on the path as when it is run."""
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module


def check_command(job, out: str) -> str:
    """Raises (or exits) where the command does not parse, trains for other updates or into another folder than the job
    says, or would stop on several GPUs. Returns the program."""
    program, *words = job.command
    if program == "fairseq-train":
        parsed = options.parse_args_and_arch(options.get_training_parser(), words)
        assert job.updates == parsed.max_update
        assert parsed.save_dir == f"{out}/{job.name}"
        assert parsed.ddp_backend == "legacy_ddp"  # else a frozen encoder's parameters are waited for
    elif program == "fairseq-generate":
        parser = options.get_generation_parser()
        parser.add_argument("--arch", default="wav2vec2")  # as fairseq-generate itself does
        assert options.parse_args_and_arch(parser, words).gen_subset.startswith("test")
    elif program == "colld":
        assert words[0] in SUBCOMMANDS
        parser = argparse.ArgumentParser()
        getattr(colld_options, words[0])(parser)
        parser.parse_args(words[1:])
    else:
        assert Path(words[0]).name == "prepare.py"
    return program


def run_here(jobs):
    """The jobs one after another, in this process; their logs where the lanes would leave them."""
    for job in jobs:
        program, *words = job.command
        log = Path(words[words.index("--save-dir") + 1] + ".log") if program == "fairseq-train" else None
        if program == "colld":
            assert colld(words) == 0, job.name
        elif program == sys.executable:
            prepare = load_script(Path(words[0]), f"prepare_of_{Path(words[0]).parent.name}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", words)
                prepare.main()
        else:
            output = call(program.removeprefix("fairseq-"), *words)
            if log:
                log.write_text(output)
