"""The encoder of Omnilingual ASR (Meta, arXiv 2511.09690) in transformers: a pre-norm wav2vec 2.0 with its own names.

It is in the CTC models ("omniasr_ctc"), in those with a language model ("omniasr"), and alone ("omniasr_audio").
"""

from pathlib import Path
from typing import Any, Dict, Mapping

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.checkpoints.encoder import Fields, Names
from colld_fairseq.checkpoints.stored_weights import Tensors
from colld_fairseq.checkpoints.verify import NativeEncoder, tapped
from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.encoder_config import WAV2VEC_CONV_LAYERS, EncoderConfig
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.quiet import quiet

FAMILIES = ("omniasr_ctc", "omniasr", "omniasr_audio")
VARIANCE_FLOOR = 1e-5  # added to the variance by transformers' OmniASRFeatureExtractor

NAMES = Names(
    [
        ("subsampling.conv_layers.{n}.conv.{w}", "front_end.layers.{n}.conv.{w}"),
        ("subsampling.conv_layers.{n}.layer_norm.{w}", "front_end.layers.{n}.norm.{w}"),
        ("subsampling.layer_norm.{w}", "front_end.layer_norm.{w}"),
        ("subsampling.projection.{w}", "front_end.projection.{w}"),
        ("encode_positions.conv.weight_g", "pos_conv.weight_g"),  # of `WithWeightNorm`
        ("encode_positions.conv.weight_v", "pos_conv.weight_v"),
        ("encode_positions.conv.bias", "pos_conv.bias"),
        ("layer_norm.{w}", "layer_norm.{w}"),
        ("layers.{n}.attention.q_proj.{w}", "blocks.{n}.attention.qkv.0.{w}"),
        ("layers.{n}.attention.k_proj.{w}", "blocks.{n}.attention.qkv.1.{w}"),
        ("layers.{n}.attention.v_proj.{w}", "blocks.{n}.attention.qkv.2.{w}"),
        ("layers.{n}.attention.out_proj.{w}", "blocks.{n}.attention.out.{w}"),
        ("layers.{n}.layer_norm.{w}", "blocks.{n}.attention_layer_norm.{w}"),
        ("layers.{n}.feed_forward.intermediate_dense.{w}", "blocks.{n}.ffn.linear_in.{w}"),
        ("layers.{n}.feed_forward.output_dense.{w}", "blocks.{n}.ffn.linear_out.{w}"),
        ("layers.{n}.final_layer_norm.{w}", "blocks.{n}.final_layer_norm.{w}"),
    ],
    prefixes=("model.audio_tower.", "audio_tower."),
    parts=("subsampling.", "encode_positions.", "layers.", "layer_norm."),
)
FOLDED = "encode_positions.conv.weight"  # what weight normalization made of its two weights

FIELDS = Fields(
    layers=("num_hidden_layers", 24),
    embed_dim=("hidden_size", 1024),
    ffn_dim=("intermediate_size", 4096),
    attention_heads=("num_attention_heads", 16),
    activation=("hidden_act", "gelu"),
    conv_bias=("conv_bias", True),
    conv_pos=("num_conv_pos_embeddings", 128),
    conv_pos_groups=("num_conv_pos_embedding_groups", 16),
    layer_norm_eps=("layer_norm_eps", 1e-5),
    dropout=("hidden_dropout", 0.1),
    attention_dropout=("attention_dropout", 0.0),
    activation_dropout=("activation_dropout", 0.1),
    layerdrop=("layerdrop", 0.1),
)
#: (layers, width) of 300M, 1B, 3B and 7B. All have 16 heads, of 64 to 128 channels: no weight shows it.
PUBLISHED, PUBLISHED_HEADS = ((24, 1024), (48, 1280), (60, 2048), (128, 2048)), 16


def audio_settings(settings: Dict[str, Any]) -> Dict[str, Any]:
    """The part of a config.json that describes the encoder; what it leaves out has the values of FIELDS."""
    if settings["model_type"] == "omniasr_audio":
        return settings
    audio = settings.get("audio_config") or {}
    if not isinstance(audio, dict):
        raise ConfigError(f"config.json: audio_config is {audio!r}, not the settings of an encoder")
    return audio


def conv_strides(settings: Dict[str, Any]) -> Any:
    """Strides of the waveform extractor."""
    return audio_settings(settings).get("conv_stride", [stride for _, _, stride in WAV2VEC_CONV_LAYERS])


def config_of(settings: Dict[str, Any], preprocessor: Dict[str, Any]) -> EncoderConfig:
    """`config.json` of an omniASR model; ConfigError names what the student encoder does not have."""
    audio = audio_settings(settings)
    fields = FIELDS.to_ours(audio)
    if fields["activation"] != "gelu":
        raise ConfigError(
            f"hidden_act={fields['activation']!r} is not supported by the student encoder; only 'gelu' is"
        )
    check_heads(fields["layers"], fields["embed_dim"], fields["attention_heads"])
    published = zip(*WAV2VEC_CONV_LAYERS)
    shape = [audio.get(f"conv_{name}", values) for name, values in zip(("dim", "kernel", "stride"), published)]
    return EncoderConfig(
        input=InputConfig.waveforms(preprocessor.get("do_normalize", True), VARIANCE_FLOOR),
        front_end="waveform",
        conv_layers=list(zip(*shape)),
        extractor_norm="layer",
        block="transformer",
        position="conv",
        norm_first=True,
        **fields,
    )


def check_heads(layers: int, width: int, heads: Any) -> None:
    """Raises ConfigError for heads that do not divide the width, and for others than a published model has."""
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise ConfigError(f"config.json: num_attention_heads is {heads!r}; hidden_size {width} is no multiple of it")
    if (layers, width) in PUBLISHED and heads != PUBLISHED_HEADS:
        raise ConfigError(
            f"config.json: num_attention_heads is {heads}, but omniASR of {layers} layers × {width} has"
            f" {PUBLISHED_HEADS}; its features would be wrong. Correct config.json"
        )


class WithWeightNorm:
    """Files in which the weight of the position convolution is as weight normalization has it: weight_g, weight_v."""

    def __init__(self, files: Tensors) -> None:
        self.files, self.shapes = files, dict(files.shapes)
        self.folded: Dict[str, str] = {}  # our two weights -> the one that both are made of
        for name in [name for name in self.shapes if NAMES.without_prefix(name) == FOLDED]:
            weight = self.shapes.pop(name)
            if weight.dim() != 3:
                continue  # missing, then
            self.shapes[f"{name}_g"] = weight.new_empty(1, 1, weight.size(-1), dtype=torch.float32)
            self.shapes[f"{name}_v"] = weight
            self.folded.update({f"{name}_g": name, f"{name}_v": name})

    def fill(self, targets: Mapping[str, Tensor]) -> None:
        """See `TensorFiles.fill`."""
        self.files.fill({name: target for name, target in targets.items() if name not in self.folded})
        for name in {self.folded[name] for name in targets.keys() & self.folded.keys()}:
            weight = torch.empty_like(self.files.shapes[name], device="cpu")
            self.files.fill({name: weight})
            gain = weight.float().norm(dim=(0, 1), keepdim=True)  # half precision would round every position
            halves = {f"{name}_g": gain, f"{name}_v": torch.where(gain > 0, weight, 1.0)}  # a direction, where is none
            for half in halves.keys() & targets.keys():
                targets[half].copy_(halves[half])


def own_library(directory: Path, settings: Dict[str, Any], preprocessor: Dict[str, Any]) -> NativeEncoder:
    """See `verify.open_native`."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with quiet():
        model, report = transformers.AutoModel.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    missing = sorted(map(str, report["missing_keys"])) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        raise ConfigError(f"{directory}: transformers does not load it as it is: {missing[:5]}")
    tower = getattr(model, "audio_tower", model).eval()
    given = config_of(settings, preprocessor).input
    extractor = transformers.OmniASRFeatureExtractor(do_normalize=given.normalization == "utterance")

    def prepare(waveform: np.ndarray) -> Tensor:
        return extractor(waveform, sampling_rate=SAMPLE_RATE)["input_values"][0, 0]

    def forward(source: Tensor) -> Tensor:
        return tower(source[None, None]).last_hidden_state[0]

    return NativeEncoder(given, prepare, tapped(tower.layers, forward))
