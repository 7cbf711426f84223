"""Start a student from a published checkpoint: every k-th block, chosen blocks, or what lies around them."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Tuple

from colld_fairseq.compat import absolute_path
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.checkpoint_configs import config_from_fairseq, config_from_hf
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.initialise import (
    State,
    map_fairseq_wav2vec_family,
    map_hf_w2v_bert,
    map_hf_wav2vec_family,
    take_layers,
)
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.teachers.base import HF_VARIANCE_FLOOR
from colld_fairseq.teachers.fairseq_checkpoint import read_checkpoint
from colld_fairseq.teachers.huggingface import wants_normalization
from colld_fairseq.teachers.weights import read_config, read_state, resolve_directory

logger = logging.getLogger(__name__)

FROM_HELP = (
    "start from the weights of hf:DIRECTORY or fairseq:FILE.pt: a student of Transformer blocks from HuBERT,"
    " wav2vec 2.0 or WavLM, one of w2v-BERT-shaped Conformer blocks from w2v-BERT 2.0; empty = at random"
)
LAYERS_HELP = (
    "teacher blocks (1 = first) that start the student's, one each: 1,2 (DistilHuBERT); empty = every k-th,"
    " ending with the last; none = no block, only what fits of front-end and positions (students of another"
    " width)"
)


def initialise(encoder: StudentEncoder, spec: str, layers: str = "") -> None:
    """Copy weights of the checkpoint `spec` into `encoder` (see FROM_HELP and LAYERS_HELP), in place.

    Of front-end, positions and final norm all that has the same name and shape is copied; the log says what
    stays random. Raises ConfigError when the blocks of the two differ or a block does not exist, TeacherError
    when the checkpoint cannot be read.
    """
    source, state = read_checkpoint_of(spec)
    numbers = parse_layers(layers)
    try:
        taken = take_layers(state, source, encoder.config, numbers)
    except ConfigError as error:
        raise ConfigError(f"--init-from {spec}: {error} (--init-layers none)") from error
    if not taken:
        raise ConfigError(f"--init-from {spec}: nothing in it has the shape of the student's weights")
    encoder.load_state_dict(taken, strict=False)
    if source.front_end == encoder.config.front_end == "waveform" and source.input.normalization == "utterance":
        encoder.config.input = source.input
    random = sorted({part_of(name) for name in encoder.state_dict().keys() - taken.keys()})
    logger.info("started from %s: %d tensors; at random: %s", spec, len(taken), ", ".join(random) or "nothing")


def read_checkpoint_of(spec: str) -> Tuple[EncoderConfig, State]:
    """Configuration, input included, and weights of a published encoder, in the student encoder's names."""
    scheme, _, name = spec.partition(":")
    if scheme == "fairseq" and name:
        model, task, state = read_checkpoint(Path(absolute_path(name)))
        config = replace(config_from_fairseq(model), input=InputConfig.waveforms(bool(task.get("normalize", False))))
        return config, map_fairseq_wav2vec_family(state, config)
    if scheme != "hf" or not name:
        raise ConfigError(f"--init-from {spec!r}: write hf:DIRECTORY or fairseq:FILE.pt")
    local = Path(absolute_path(name))
    directory = local if local.is_dir() else resolve_directory(name)
    config = config_from_hf(read_config(directory))
    conformer = config.block == "conformer"
    normalize = not conformer and wants_normalization(directory / "preprocessor_config.json")
    waveforms = InputConfig.waveforms(normalize, HF_VARIANCE_FLOOR)
    config = replace(config, input=InputConfig() if conformer else waveforms)
    map_names = map_hf_w2v_bert if conformer else map_hf_wav2vec_family
    return config, map_names(read_state(directory), config)


def parse_layers(text: str) -> Optional[List[int]]:
    """ "" -> None (every k-th), "none" -> [] (no block), "1,2" -> [1, 2]."""
    if not text:
        return None
    if text == "none":
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--init-layers {text!r}: write block numbers like 2,4,6, or none") from None


def part_of(name: str) -> str:
    """blocks.3.ffn.linear_in.weight -> blocks.3; front_end.layers.0.conv.weight -> front_end.layers."""
    return ".".join(name.split(".")[:2]).removesuffix(".weight").removesuffix(".bias")
