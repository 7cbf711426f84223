"""Jobs of the examples' drivers: does each command parse with the program it is for?"""

import argparse
import importlib
import sys
from pathlib import Path

import pytest
from commands import call
from fairseq import options
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from omegaconf import OmegaConf
from recipes import train

from colld_fairseq.cli import SUBCOMMANDS
from colld_fairseq.cli import main as colld
from colld_fairseq.cli import options as colld_options


def check_command(job, out: str) -> str:
    """Raises (or exits) where the command does not parse, trains for other updates or into another folder than the job
    says, or would stop on several GPUs. Returns the program."""
    program, *words = job.command
    if program == "fairseq-hydra-train":
        folder = Path(f"{out}/{job.name}")
        assert words == ["--config-dir", str(folder.parent), "--config-name", folder.name]
        config = {group: values for group, values in job.config.items() if group != "hydra"}
        parsed = OmegaConf.merge(OmegaConf.structured(FairseqConfig), config)
        add_defaults(parsed)  # refuses what no dataclass has
        OmegaConf.to_container(parsed, resolve=True, throw_on_missing=True)
        assert job.updates == parsed.optimization.max_update
        # Its own folder, or that of the stage that goes on where it ends.
        assert parsed.checkpoint.save_dir in (str(folder), str(folder.with_name("distil")))
        assert parsed.distributed_training.ddp_backend == "legacy_ddp"  # else a frozen encoder's gradients are awaited
    elif program == "fairseq-generate":
        parser = options.get_generation_parser()
        parser.add_argument("--arch", default="wav2vec2")  # as fairseq-generate itself does
        assert options.parse_args_and_arch(parser, words).gen_subset.startswith(("test", "dev"))
    elif program == "colld":
        assert words[0] in SUBCOMMANDS
        parser = argparse.ArgumentParser()
        colld_options.of(words[0])(parser.add_argument)
        parser.parse_args(words[1:])
    else:
        assert words[0] == "-m" and words[1].endswith((".prepare", ".whisper_base"))
    return program


def changes(one, other):
    """{"group.name": (value, other value)} of two configurations."""
    groups = {group: {**one.get(group, {}), **other.get(group, {})} for group in {**one, **other}}
    return {
        f"{group}.{key}": (one.get(group, {}).get(key), other.get(group, {}).get(key))
        for group, keys in groups.items()
        for key in keys
        if one.get(group, {}).get(key) != other.get(group, {}).get(key)
    }


def run_here(out, jobs):
    """The jobs one after another, in this process; their configurations and logs where the driver would leave them."""
    for job in jobs:
        program, *words = job.command
        if program == "fairseq-hydra-train":
            path = out / f"{job.name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(OmegaConf.to_yaml(job.config))
            (out / f"{job.name}.log").write_text(train(path, []))
        elif program == "colld":
            assert colld(words) == 0, job.name
        elif program == sys.executable:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", words[1:])
                importlib.import_module(words[1]).main()
        else:
            call(program.removeprefix("fairseq-"), *words)


def refusal(main, words, monkeypatch, capsys) -> str:
    """What a driver says that is given `words` and ends before it has made its output folder, the first of them."""
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not Path(words[0]).exists()
    return f"{stopped.value}{capsys.readouterr().err}"
