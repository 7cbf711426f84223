"""The recipes of examples/: composed as fairseq-hydra-train does, narrowed, built or trained here."""

import contextlib
import io
import logging
from pathlib import Path
from typing import Iterator, List

from commands import PACKAGE, REPOSITORY
from fairseq import checkpoint_utils, tasks, utils
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq_cli.hydra_train import _hydra_main
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

EXAMPLES = REPOSITORY / "examples"
# FOLDER/NAME of what can be trained, unlike the tables of systems.
RECIPES = {
    str(path.relative_to(EXAMPLES).with_suffix(""))
    for path in EXAMPLES.rglob("*.yaml")
    if "_name" in OmegaConf.load(path).get("model", {})
}

# Published depth, layer map and loss; widths that a test can afford. bfloat16 stays; float16 needs a GPU.
NARROW = [
    *[
        "++model.encoder_embed_dim=32",
        "++model.encoder_ffn_embed_dim=48",
        "++model.encoder_attention_heads=4",
    ],
    *["++common.fp16=false", "++common.cpu=true", "++dataset.num_workers=0"],
    f"common.user_dir={PACKAGE}",
]
TWO_STEPS = [
    *["++dataset.max_tokens=null", "++dataset.batch_size=2", "++optimization.max_update=2"],
    *["++optimization.update_freq=[1]", "++checkpoint.no_save=true", "++dataset.disable_validation=true"],
    *[
        "++common.log_format=json",
        "++common.log_interval=1",
        "++distributed_training.distributed_world_size=1",
    ],
]


@contextlib.contextmanager
def composed(recipe: Path, overrides: List[str]) -> Iterator[DictConfig]:
    """The configuration of `recipe` with `overrides`, before fairseq's defaults are merged in."""
    name = recipe.stem
    hydra_init(name)
    with initialize_config_dir(str(recipe.parent), version_base="1.1"):
        yield compose(name, overrides=overrides)


def full_config(recipe: Path, overrides: List[str]) -> DictConfig:
    """What fairseq's trainer gets: the recipe, the overrides and the defaults of all dataclasses."""
    with composed(recipe, overrides) as cfg:
        utils.import_user_module(cfg.common)
        add_defaults(cfg)
        return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def build(cfg: DictConfig):
    """(task, model, criterion) in the order of fairseq's train.py."""
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    return task, model, task.build_criterion(cfg.criterion)


def train(recipe: Path, overrides: List[str]) -> str:
    """Train in this process; returns the log."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    vars(checkpoint_utils.save_checkpoint).pop("best", None)  # fairseq keeps the best score in a global
    try:
        with composed(recipe, overrides) as cfg, contextlib.redirect_stdout(output):
            with open_dict(cfg):
                cfg.common.reset_logging = False
            _hydra_main(cfg)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return output.getvalue()
