"""Conformers on filterbanks as transformers runs them: with the code of `custom_code` in the directory.

Weight names are ours. Only complete recognizers are written (`ctc_directory`); their encoders are read back.
"""

from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.checkpoints.encoder import Fields, Layout, Names, StateDict, split_projections
from colld_fairseq.checkpoints.verify import NativeEncoder, tapped
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.feed_forward import get_activation
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.quiet import quiet

FAMILY = "colld_ctc"
FRONT_ENDS, POSITIONS = ("fbank_stack", "fbank", "conv2d"), ("rotary", "relative_key", "none")  # that the code has

FIELDS = Fields(
    front_end=("front_end", "fbank_stack"),
    fbank_bins=("num_mel_bins", 80),
    fbank_stack=("stacked_frames", 2),
    feature_norm=("feature_norm", True),
    subsampling_channels=("subsampling_channels", 64),
    layers=("num_hidden_layers", 12),
    embed_dim=("hidden_size", 256),
    ffn_dim=("intermediate_size", 1024),
    attention_heads=("num_attention_heads", 4),
    activation=("hidden_act", "swish"),
    position=("position_embeddings_type", "rotary"),
    max_left_position=("left_max_position_embeddings", 64),
    max_right_position=("right_max_position_embeddings", 8),
    depthwise_conv_kernel=("conv_depthwise_kernel_size", 31),
    causal_conv=("causal_conv", False),
    context=("context", "full"),
    chunk_sizes=("chunk_sizes", [None]),
    left_contexts=("left_contexts", [None]),
    layer_norm_eps=("layer_norm_eps", 1e-5),
    dropout=("hidden_dropout", 0.0),
    attention_dropout=("attention_dropout", 0.0),
    activation_dropout=("activation_dropout", 0.0),
    dropout_input=("feat_proj_dropout", 0.0),
    layerdrop=("layerdrop", 0.0),
)
INPUT_FIELDS = ("fbank", "normalization", "mean", "std")


class OurNames(Names):
    """Names of an encoder as they are, behind "encoder."."""

    def ours(self, name: Optional[str]) -> Optional[str]:
        return name if name and name.startswith(tuple(self.parts)) else None

    theirs = ours


NAMES = OurNames(table=(), prefixes=("encoder.",), parts=("front_end.", "blocks."))


def settings_of(config: EncoderConfig) -> Sequence[Dict[str, Any]]:
    """Fields of `ColldConfig` and `ColldFeatureExtractor`."""
    settings = dict(FIELDS.to_theirs(config), model_type=FAMILY)
    if config.front_end not in FRONT_ENDS:
        settings["front_end"] = FRONT_ENDS[0]
    if config.position not in POSITIONS:
        settings["position_embeddings_type"] = "none"
    preprocessor = {"feature_size": config.fbank_bins, "normalization": "utterance"}
    if config.input is not None and config.input.kind == "fbank":
        preprocessor.update({name: getattr(config.input, name) for name in INPUT_FIELDS})
    return settings, preprocessor


def config_of(settings: Dict[str, Any], preprocessor: Dict[str, Any]) -> EncoderConfig:
    """What `settings_of` wrote. Raises ConfigError where it lacks the feature extractor's settings."""
    if "normalization" not in preprocessor:
        raise ConfigError("preprocessor_config.json is missing or says no normalization: copy the complete directory")
    fields = FIELDS.to_ours(settings)
    get_activation(fields["activation"])
    given = {name: preprocessor[name] for name in INPUT_FIELDS if name in preprocessor}
    given = InputConfig("fbank", bins=fields["fbank_bins"], **given)
    return EncoderConfig(input=given, block="conformer", **fields)


LAYOUT = Layout("hf:DIR with --head (a Conformer whose code is in the directory)", settings_of, config_of, NAMES)


def read_weights(state: StateDict, config: EncoderConfig, blocks: Optional[int], origin: str) -> StateDict:
    """The encoder's weights out of model.safetensors."""
    return NAMES.to_ours(split_projections(state), config, blocks, origin)


def own_library(directory: Path) -> NativeEncoder:
    """See `verify.open_native`.

    The code is that of this package, which the directory has a copy of: what stands in a directory is never run here.
    """
    from colld_fairseq.checkpoints import custom_code
    from colld_fairseq.checkpoints.custom_code.feature_extraction_colld import ColldFeatureExtractor
    from colld_fairseq.checkpoints.custom_code.modeling_colld import ColldForCTC

    changed = [name for name in custom_code.FILES if not custom_code.is_copy(directory / name)]
    if changed:
        raise CheckpointError(f"{directory}: {', '.join(changed)} is not as colld_fairseq writes it; convert again")
    with quiet():
        model, report = ColldForCTC.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise ConfigError(f"{directory}: transformers does not load it as it is: {wrong}")
    extractor = ColldFeatureExtractor.from_pretrained(directory, local_files_only=True)
    given = InputConfig("fbank", bins=extractor.feature_size, **{n: getattr(extractor, n) for n in INPUT_FIELDS})

    def prepare(waveform: np.ndarray) -> Tensor:
        features = extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return features["input_features"][0]

    def forward(source: Tensor) -> Tensor:
        return model.encoder(source[None], torch.tensor([len(source)]))[0][0]

    return NativeEncoder(given, prepare, tapped(model.eval().encoder.blocks, forward))
