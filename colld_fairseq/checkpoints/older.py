"""Checkpoints written before a model's settings said everything that it needs."""

import json
import logging
import os
from typing import Any, Mapping, MutableMapping, Optional

from colld_fairseq.checkpoints.statistics import NAMED, fbank_input
from colld_fairseq.compat import absolute_path
from colld_fairseq.deprecated import upgrade
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.parsing import parse_json

logger = logging.getLogger(__name__)


def bring_up_to_date(cfg: MutableMapping[str, Any], file: str, cmvn: Optional[str] = None) -> None:
    """Writes into a checkpoint's settings, in place, what older versions left to the task or called otherwise.

    Args:
        cfg: {"model": ..., "task": ..., "criterion": ...}, the settings in a checkpoint of this project.
        file: the checkpoint, for messages.
        cmvn: where its file of statistics is now, for where that has moved.

    Raises ConfigError, or AudioError, where the statistics that it was trained with are not there.
    """
    upgrade(cfg)
    model, task = cfg["model"], cfg.get("task") or {}
    encoder = parse_json(model["encoder_config"])
    if encoder.get("input") is None:
        given = input_of_training(task, encoder["front_end"] == "waveform", file, cmvn)
        model["encoder_config"] = json.dumps({**encoder, "input": given.to_dict()}, sort_keys=True)
        logger.warning("%s does not say what its encoder takes in: by the options of its training, %s", file, given)


def input_of_training(task: Mapping[str, Any], waveforms: bool, file: str, cmvn: Optional[str]) -> InputConfig:
    """What an encoder was trained on, by the options of the task that trained it."""
    if waveforms:
        return InputConfig.waveforms(bool(task.get("normalize_waveform")))
    recorded = task.get("cmvn") or "utterance"
    if recorded not in NAMED and not os.path.isfile(absolute_path(recorded)):
        if not cmvn or cmvn in (recorded, *NAMED):
            raise ConfigError(
                f"{file} was trained with the statistics in {recorded}, which are not there any more: put them back, or"
                " say where they are now (--cmvn FILE)"
            )
        recorded = cmvn
    return fbank_input(recorded, fbank="kaldi")
