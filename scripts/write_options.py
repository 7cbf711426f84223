"""Writes docs/options.md, the reference of all options, from the configurations themselves:

    python scripts/write_options.py

Run it after an option is added or its help is changed; a test compares the page with what this gives.
"""

import argparse
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from enum import Enum
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import colld_fairseq  # registers what is listed here
from colld_fairseq.cli import SUBCOMMANDS, Parser
from colld_fairseq.cli import options as colld_options

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
PACKAGE = colld_fairseq.__name__
REGISTRIES = {
    "task": TASK_DATACLASS_REGISTRY,
    "model": MODEL_DATACLASS_REGISTRY,
    "criterion": CRITERION_DATACLASS_REGISTRY,
}
HEAD = """# Options

Written by `python scripts/write_options.py` from the configurations; do not edit it.

Options of tasks, models and criterions are `--name-with-dashes` for fairseq-train and fairseq-generate, and
`name_with_underscores` in the YAML of fairseq-hydra-train, in the part `task`, `model` or `criterion`. Options of
fairseq itself (optimizers, learning rates, batches) are in
[its documentation](https://fairseq.readthedocs.io/en/latest/command_line_tools.html). Former names are read with a
warning.
"""


def page() -> str:
    """The whole page, Markdown."""
    parts = [HEAD]
    for part, registry in REGISTRIES.items():
        ours = {name: config for name, config in registry.items() if config.__module__.startswith(PACKAGE)}
        parts.append(f"## {part.capitalize()}s\n")
        if part == "model":
            parts.append(_architectures(ours))
        parts += [_table(part, names, own) for names, own in _by_users(ours).items()]
    parts.append("## Commands\n")
    parts += [_command(name) for name in SUBCOMMANDS]
    return "\n".join(parts)


def _by_users(configs: Dict[str, type]) -> Dict[Tuple[str, ...], List[Field]]:
    """Names of the tasks (models, criterions) that have an option -> those options, what all of them have first.

    An option belongs to the class that says it; one that a class says anew is listed under both.
    """
    users: Dict[type, List[str]] = {}
    for name, config in configs.items():
        for base in reversed(config.__mro__):
            if base.__module__.startswith(PACKAGE) and vars(base).get("__annotations__"):
                users.setdefault(base, []).append(name)
    grouped: Dict[Tuple[str, ...], List[Field]] = {}
    for config, names in sorted(users.items(), key=lambda item: -len(item[1])):
        own = vars(config)["__annotations__"]
        grouped.setdefault(tuple(names), []).extend(one for one in fields(config) if one.name in own)
    return grouped


def _table(part: str, names: Tuple[str, ...], options: List[Field]) -> str:
    title = part.capitalize() if len(names) == 1 else f"{part.capitalize()}s"
    rows = [
        f"| `--{one.name.replace('_', '-')}` | {_default(one)} | {_cell(_help(one))} |"
        for one in options
        if one.metadata.get("help")
    ]
    listed = ", ".join(f"`{name}`" for name in names)
    return "\n".join([f"### {title} {listed}\n", "| option | default | what |", "|---|---|---|", *rows, ""])


def _default(option: Field) -> str:
    value: Any = option.default if option.default is not NO_DEFAULT else ""
    if isinstance(value, Enum):
        value = value.value
    if value == "???":
        return "needed"
    return "" if value is None or value is False or value == "" else f"`{value}`"


def _help(option: Field) -> str:
    """With the values that there are, or the kind of numbers."""
    kind = option.metadata.get("number")
    if isinstance(option.type, type) and issubclass(option.type, Enum):
        return f"{option.metadata['help']} ({', '.join(str(one.value) for one in option.type)})"
    return option.metadata["help"] + (f" ({_short(kind)})" if kind else "")


def _short(kind: Any) -> str:
    return str(kind).removeprefix("a ").replace("finite number", "number").replace("number at", "number, at")


def _architectures(models: Dict[str, type]) -> str:
    lines = ["`--arch` names a model, or one of its presets (in YAML `model._name` and `model.encoder_preset`):\n"]
    for model in models:
        presets = [name for name, of in ARCH_MODEL_NAME_REGISTRY.items() if of == model and name != model]
        lines.append(f"- `{model}`" + (f": {', '.join(f'`{name}`' for name in presets)}" if presets else ""))
    return "\n".join([*lines, ""])


def _command(name: str) -> str:
    parser = Parser()
    colld_options.of(name)(parser.add_argument)
    rows = list(_arguments(parser))
    title = f"### colld {name}\n\n{SUBCOMMANDS[name].help[0].upper()}{SUBCOMMANDS[name].help[1:]}.\n"
    return "\n".join([title, "| option | what |", "|---|---|", *rows, ""])


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.dest == "help":
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or ())
        takes_a_value = action.nargs != 0
        values = metavar or "|".join(map(str, action.choices or ())) or (action.dest.upper() if takes_a_value else "")
        values = values.replace("|", "\\|")
        names = ", ".join(action.option_strings)
        written = f"{names} {values}".strip()
        needed = " (needed)" if action.required and action.option_strings else ""
        what = action.help.replace("%(default)s", str(action.default)).replace("%%", "%")
        yield f"| `{written}`{needed} | {_cell(what)} |"


def _cell(text: str) -> str:
    """As it stands in a table of Markdown."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
