"""docs/options.md is what scripts/write_options.py gives, and that gives every option there is."""

import write_options
from fairseq import options as fairseq_options

from colld_fairseq.cli import SUBCOMMANDS

CONFIGS = [
    config
    for registry in write_options.REGISTRIES.values()
    for config in registry.values()
    if config.__module__.startswith("colld_fairseq.")
]


def test_the_page_is_up_to_date():
    assert write_options.PAGE.read_text(encoding="utf-8") == write_options.page(), "run python scripts/write_options.py"


def test_every_option_of_ours_is_on_it():
    """As fairseq's own parser has them: all that its parser without this package's parts has not."""
    page = write_options.page()
    ours = {name for config in CONFIGS for name in config.__dataclass_fields__}
    known = {action.dest for action in fairseq_options.get_training_parser()._actions}
    missing = [name for name in ours - known if f"`--{name.replace('_', '-')}`" not in page]
    assert set(missing) <= {"_name", "seed"}


def test_every_command_is_on_it():
    page = write_options.page()
    assert all(f"\n### colld {name}\n" in page for name in SUBCOMMANDS)
