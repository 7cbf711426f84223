"""Recipes (YAML files as fairseq-hydra-train reads them) as jobs: overridden, sized, trained, decoded, scored."""

import argparse
import contextlib
import math
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence

from omegaconf import OmegaConf

from colld_fairseq.errors import ColldError, ConfigError
from colld_fairseq.files import split_paths
from colld_fairseq.teachers import TeacherInfo
from examples.driver.jobs import USER_DIR, Job

Config = Dict[str, Any]
SMALL = Path(__file__).with_name("small.yaml")


def read_yaml(path: Path) -> Config:
    """Interpolations (`${task.data}`) stay what they are."""
    return OmegaConf.to_container(OmegaConf.load(path))


def override(config: Config, *changes: Config) -> Config:
    """A copy with the changes, the last of which wins; a group that gets another `_name` keeps none of its values."""
    config = dict(config)
    for change in changes:
        for key, value in change.items():
            before = config.get(key)
            if isinstance(value, dict) and isinstance(before, dict):
                other = before.get("_name") != value.get("_name", before.get("_name"))
                config[key] = value if other else override(before, value)
            else:
                config[key] = value
    return config


def parse_settings(words: Sequence[str]) -> Config:
    """`common.bf16=true`, `optimization.update_freq=[2]` of a command line as a change of a recipe."""
    wrong = [word for word in words if "=" not in word or "." not in word.split("=")[0]]
    if wrong:
        sys.exit(f"{wrong[0]!r} is no setting: write GROUP.NAME=VALUE, such as common.bf16=true")
    return OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))


def sized(save_dir: Path, seed: int, updates: int, lr: float, max_tokens: int) -> Config:
    """Of a run: `max_tokens` samples at 16 kHz per batch. Ten validations and checkpoints, by updates: epochs of 10 and
    of 60 minutes of labels are not alike."""
    return {
        "common": {"seed": seed},
        "dataset": {"max_tokens": max_tokens, "max_tokens_valid": 4 * max_tokens},
        "optimization": {"max_update": updates, "lr": [lr]},
        "checkpoint": {"save_dir": str(save_dir), "save_interval_updates": max(1, math.ceil(updates / 10))},
    }


def training_job(out: Path, name: str, config: Config, needs: Sequence[str] = ()) -> Job:
    """Trains `config`, which is left in OUT/NAME.yaml; checkpoints in `checkpoint.save_dir`."""
    missing = [f"{group}.{key}" for group in config for key, value in config[group].items() if value == "???"]
    assert not missing, f"{name} lacks {missing}"
    config = override(config, {"common": {"user_dir": USER_DIR}})
    path = out / name
    command = ["fairseq-hydra-train", "--config-dir", str(path.parent), "--config-name", path.name]
    return Job(name, command, needs, config["optimization"]["max_update"], config)


def cmvn_job(name: str, manifest: Path, out: Path, needs: Sequence[str] = ()) -> Job:
    """Statistics of a corpus' filterbanks, of two hours drawn at random: a mean of 80 numbers needs no more."""
    return Job(name, ["colld", "cmvn", "--manifest", str(manifest), "--max-hours", "2", "--out", str(out)], needs)


def decoding_jobs(
    out: Path,
    name: str,
    data: Path,
    subset: str,
    checkpoint: Path,
    options: Sequence[str],
    needs: Sequence[str],
    scoring: Sequence[str] = (),
    vocab: str = "vocab",
) -> List[Job]:
    """fairseq-generate into the folder OUT/NAME, and colld score into OUT/NAME.json.

    vocab: its folder in OUT; empty for models that bring their own.
    """
    run, way = name.rsplit("/", 1)
    generate = [
        *("fairseq-generate", str(data), "--user-dir", USER_DIR, "--task", "multilingual_speech_to_text"),
        *(["--vocab", str(out / vocab)] if vocab else []),
        *("--path", str(checkpoint), "--gen-subset", subset, *options),
        *("--num-workers", "0", "--results-path", str(out / name)),
    ]
    score = [
        *("colld", "score", "--generate-output", str(out / name / f"generate-{subset}.txt")),
        *("--manifest", str(data / f"{subset}.tsv"), "--json", str(out / f"{name}.json"), *scoring),
    ]
    first = Job(f"{run}/generate_{way}", generate, needs)
    return [first, Job(f"{run}/score_{way}", score, [first.name])]


class Shape(NamedTuple):
    """Of a student's Transformer or Conformer; written LAYERSxWIDTH/FFN/HEADS."""

    layers: int
    width: int
    ffn: int
    heads: int

    @classmethod
    def parse(cls, text: str) -> "Shape":
        try:
            layers, rest = text.split("x")
            return cls(int(layers), *(int(width) for width in rest.split("/")))
        except (TypeError, ValueError):
            sys.exit(f"{text!r} is no shape: write LAYERSxWIDTH/FFN/HEADS, such as 12x480/480/12")

    def options(self) -> Config:
        """Of the model in a recipe."""
        names = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
        return {f"encoder_{name}": value for name, value in zip(names, self)}


def run_options(add: Callable[..., Any]) -> None:
    """Options that every comparison has, by `add` of an argparse parser."""
    add("--seeds", type=whole_numbers, default="1", help="comma-separated (default: %(default)s)")
    add("--max-tokens", type=int, default=224000, help="audio of a batch, in samples at 16 kHz (default: 14 s)")
    add("--jobs", type=int, help="parallel jobs (default: one a core, or one with a GPU)")


def absolute_spec(spec: str) -> str:
    """A teacher's `hf:DIRECTORY` or `fairseq:FILE.pt` for jobs, which run in the root of the clone."""
    scheme, _, name = spec.partition(":")
    return f"{scheme}:{Path(name).resolve()}" if Path(name).exists() else spec


def manifests(paths: str) -> str:
    """Comma-separated manifests, likewise; this and the next ones are types of argparse."""
    return ",".join(str(file(path)) for path in split_paths(paths) if path)


def file(path: str) -> Path:
    """One that is there."""
    if not resolved(path).is_file():
        raise argparse.ArgumentTypeError(f"no file {resolved(path)}")
    return resolved(path)


def folder_with(*names: str) -> Callable[[str], Path]:
    """One that has these manifests."""

    def folder(path: str) -> Path:
        for name in names:
            file(str(Path(path) / f"{name}.tsv"))
        return resolved(path)

    return folder


def resolved(path: str) -> Path:
    return Path(path).resolve()


def words(text: str) -> List[str]:
    """Of `1,2,3`."""
    return [word for word in text.split(",") if word]


def numbers(text: str) -> List[str]:
    """The words of `10,0.5`; all above zero."""
    for word in words(text):
        if not float(word) > 0:
            raise argparse.ArgumentTypeError(f"{word} is not above zero")
    return words(text)


def whole_numbers(text: str) -> List[str]:
    """The words of `10,60`."""
    for word in words(text):
        int(word)
    return words(text)


def check_layers(option: str, layers: Sequence[str], teacher: TeacherInfo) -> None:
    """Raises ConfigError for a layer that a teacher does not have."""
    for layer in layers:
        if not layer.isdecimal() or int(layer) > teacher.num_layers:
            raise ConfigError(f"{option}: the teacher has the layers 0 to {teacher.num_layers}, and not {layer!r}")


@contextlib.contextmanager
def errors_told() -> Iterator[None]:
    """What is wrong with the input ends a driver with a line, not with a traceback."""
    try:
        yield
    except ColldError as error:
        sys.exit(f"error: {error}")
