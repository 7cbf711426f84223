"""Commands of the READMEs: fairseq-train's are the recipes, option by option; the others parse."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from commands import REPOSITORY
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from recipes import EXAMPLES, RECIPES, full_config

from colld_fairseq.cli import SUBCOMMANDS, Parser
from colld_fairseq.cli import options as colld_options

FOLDERS = ("baselines", "hubert_asr")  # whose recipes are all also written as fairseq-train commands
COMMANDS = {
    f"{folder}/{name}": shlex.split(command.replace("\\\n", " "))
    for folder in FOLDERS
    for name, command in re.findall(
        r"```bash\n# (\w+)\n(fairseq-train .*?)```", (EXAMPLES / folder / "README.md").read_text(), re.DOTALL
    )
}
GROUPS = (
    "task",
    "model",
    "criterion",
    "optimizer",
    "lr_scheduler",
    "optimization",
    "dataset",
    "checkpoint",
    "common",
    "distributed_training",
)
# Options that stand for what the recipe leaves to be filled in.
GIVEN = {"task": ("data", "teacher", "cmvn"), "model": ("student",)}
# The architecture stands for the preset; fairseq fills in `tpu`, a copy of common.tpu, one way only.
NAMES = {"_name", "arch", "tpu"}


def plain(value):
    """Numbers that are written differently, and lists, compared by value."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def test_there_is_a_command_for_every_recipe():
    assert set(COMMANDS) == {name for name in RECIPES if name.split("/")[0] in FOLDERS}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_equals_recipe(name):
    program, *arguments = COMMANDS[name]
    assert program == "fairseq-train"
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)
    typed = OmegaConf.to_container(convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True)
    overrides = [
        f"++{group}.{key}={typed[group][key]}"
        for group, keys in GIVEN.items()
        for key in keys
        if typed[group].get(key) is not None
    ]
    recipe = OmegaConf.to_container(full_config(EXAMPLES / f"{name}.yaml", overrides), enum_to_str=True)
    for group in GROUPS:
        keys = recipe[group].keys() - NAMES
        differ = {
            k: (recipe[group][k], typed[group][k]) for k in keys if plain(recipe[group][k]) != plain(typed[group][k])
        }
        assert not differ, group


def commands_of(readme):
    """Every command of the shell blocks, as lists of words."""
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if shlex.split(line, comments=True)]


def check_hydra(words):
    folder, name = words[words.index("--config-dir") + 1], words[words.index("--config-name") + 1]
    full_config(REPOSITORY / folder / f"{name}.yaml", [word for word in words if "=" in word])


def check_colld(words):
    parser = Parser(exit_on_error=False)
    colld_options.of(words[1])(parser.add_argument)
    parser.parse_args(words[2:])


def check_generate(words):
    args = options.parse_args_and_arch(options.get_generation_parser(), words[1:])
    convert_namespace_to_omegaconf(args)


def check_bash(words):
    assert (REPOSITORY / words[1]).is_file()


def check_python(words):
    program = importlib.util.find_spec(words[2]).origin if words[1] == "-m" else REPOSITORY / words[1]
    shared = EXAMPLES / "driver" / "recipes.py"  # `run_options`
    source = Path(program).read_text() + shared.read_text()
    unknown = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
    assert set(unknown) <= {f"--{split}" for split in ("train", "dev", "test")}  # made in a loop


def check_torchrun(words):
    PAGE_CHECKS[words[words.index("--no-python") + 1]](words[words.index("--no-python") + 1 :])


CHECKS = {
    "fairseq-hydra-train": check_hydra,
    "colld": check_colld,
    "fairseq-generate": check_generate,
    "python": check_python,
    "bash": check_bash,
}
OTHERS = [
    words
    for page in sorted(EXAMPLES.rglob("README.md"))
    for words in commands_of(page)
    if words[0] not in ("fairseq-train", "make")
]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "manifests" / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
PAGE_COMMANDS = [words for page in PAGES for words in commands_of(page)]
INSTALLATION = ("make", "pip")  # run by .ci/run itself


@pytest.mark.parametrize("words", OTHERS, ids=lambda words: " ".join(words[:6]))
def test_other_commands_parse(words):
    CHECKS[words[0]](words)


def test_every_kind_of_command_was_seen():
    assert {words[0] for words in OTHERS} == set(CHECKS)


def check_train(words):
    args = options.parse_args_and_arch(options.get_training_parser(), words[1:])
    convert_namespace_to_omegaconf(args)


def check_preprocess(words):
    args = options.get_preprocessing_parser().parse_args(words[1:])
    convert_namespace_to_omegaconf(args)


def check_ctranslate2(words):
    converter = pytest.importorskip("ctranslate2.converters.transformers")
    source = Path(converter.__file__).read_text() + Path(converter.__file__).with_name("converter.py").read_text()
    assert not [word for word in words if word.startswith("--") and f'"{word}"' not in source]


PAGE_CHECKS = {
    **CHECKS,
    "ct2-transformers-converter": check_ctranslate2,
    "fairseq-train": check_train,
    "fairseq-preprocess": check_preprocess,
    "torchrun": check_torchrun,
    "srun": check_torchrun,
}


@pytest.mark.parametrize(
    "words", [words for words in PAGE_COMMANDS if words[0] not in INSTALLATION], ids=lambda words: " ".join(words[:4])
)
def test_commands_of_the_pages_parse(words):
    PAGE_CHECKS[words[0]](words)


def test_pages_show_every_step():
    steps = {"make", "pip", "colld", "torchrun", "fairseq-preprocess", "fairseq-train", "fairseq-generate", "python"}
    steps |= {"fairseq-hydra-train", "ct2-transformers-converter", "srun", "bash"}
    assert {words[0] for words in PAGE_COMMANDS} == steps


def test_pages_show_every_subcommand():
    started = [words[words.index("--no-python") + 1 :] if "--no-python" in words else words for words in PAGE_COMMANDS]
    shown = {words[1] for words in started if words[0] == "colld"}
    assert shown == set(SUBCOMMANDS)


def test_the_front_page_is_short():
    assert len((REPOSITORY / "README.md").read_text().split()) <= 900
