"""The fairseq-train commands of the READMEs are the recipes, option by option."""

import re
import shlex

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from recipes import EXAMPLES, full_config

README = EXAMPLES / "baselines" / "README.md"
COMMANDS = {
    name: shlex.split(command.replace("\\\n", " "))
    for name, command in re.findall(r"```bash\n# (\w+)\n(fairseq-train .*?)```", README.read_text(), re.DOTALL)
}
GROUPS = ("task", "model", "criterion", "optimizer", "lr_scheduler", "optimization", "dataset", "checkpoint", "common")
# The architecture stands for the preset; `tpu` is a copy of common.tpu that fairseq fills in only on one of the ways.
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
    assert set(COMMANDS) == {path.stem for path in (EXAMPLES / "baselines").glob("*.yaml")}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_equals_recipe(name):
    program, *arguments = COMMANDS[name]
    assert program == "fairseq-train"
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)
    typed = OmegaConf.to_container(convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True)
    overrides = [f"task.data={typed['task']['data']}", f"task.teacher={typed['task']['teacher']}"]
    recipe = OmegaConf.to_container(full_config(EXAMPLES / "baselines" / f"{name}.yaml", overrides), enum_to_str=True)
    for group in GROUPS:
        keys = recipe[group].keys() - NAMES
        differ = {k: (recipe[group][k], typed[group][k]) for k in keys if plain(recipe[group][k]) != plain(typed[group][k])}
        assert not differ, group
