"""Teachers on transformers' own modules: w2v-BERT 2.0, and those that the student encoder cannot express.

WavLM, Data2VecAudio and HuBERT with a batch norm before its positions compute as the library does; changed is only
what would let padding reach a valid frame: the group norm of the first convolution, and the input of position
convolutions behind a norm (Data2Vec has a stack of them).
"""

import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.checkpoints.names_hf import FAMILIES, PREFIXES
from colld_fairseq.checkpoints.stored_weights import block_of
from colld_fairseq.constants import NUM_BINS, SAMPLE_RATE
from colld_fairseq.data.fbank import fbank_length, log_mel_fbank
from colld_fairseq.errors import CheckpointError
from colld_fairseq.modules.hooks import FeatureTap
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.modules.norms import MaskedChannelNorm
from colld_fairseq.teachers.base import Teacher, check_request, normalized

FBANK_RATE_HZ = 100.0
VARIANCE_FLOOR = 1e-7  # added to the variance by SeamlessM4TFeatureExtractor


def load_transformers(
    spec: str, settings: Dict[str, Any], given: InputConfig, state: Mapping[str, Tensor], **request: Any
) -> Teacher:
    """The teacher of a config.json and weights in transformers' names, on its modules. Raises ColldError."""
    model, num_layers = build_model(spec, settings, request["layers"], request["kind"])
    load_into(model, state, (*PREFIXES, ""), spec)
    description = dict(spec=spec, num_layers=num_layers, **request)
    bert = settings["model_type"] == "wav2vec2-bert"
    teacher = W2vBertTeacher(model, **description) if bert else ConvTeacher(model, given, **description)
    teacher.log_size(len(model.encoder.layers))
    return teacher


def build_model(spec: str, config: Dict[str, Any], layers: Sequence[int], kind: str) -> Tuple[nn.Module, int]:
    """The model that `config` describes, at random and without surplus blocks, and how many blocks it has."""
    import transformers

    stem = FAMILIES[config["model_type"]]
    settings = getattr(transformers, f"{stem}Config").from_dict(config)
    num_layers = settings.num_hidden_layers
    settings.num_hidden_layers = max(1, *check_request(spec, layers, kind, num_layers))
    settings.mask_time_prob = settings.mask_feature_prob = 0.0  # no mask embedding
    settings.add_adapter = False
    settings.use_intermediate_ffn_before_adapter = False
    settings.layerdrop = 0.0
    return getattr(transformers, f"{stem}Model")(settings), num_layers


def load_into(module: nn.Module, state: Mapping[str, Tensor], prefixes: Sequence[str], where: str) -> None:
    """Fills every parameter and buffer of `module` from `state`, whose keys carry one of `prefixes`, block by block.

    Surplus keys (heads, a decoder) are ignored, blocks that were not built are not read. Raises CheckpointError naming
    keys that are missing or of another shape, and `where` they were looked for.
    """
    expected = module.state_dict().keys()
    prefix = max(prefixes, key=lambda p: sum(p + name in state for name in expected))
    blocks: Dict[str, List[str]] = {block_of(name): [] for name in expected}
    for key in state:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and block_of(name) in blocks:
            blocks[block_of(name)].append(key)
    unset = set(expected)
    for keys in blocks.values():
        try:
            values = {key.removeprefix(prefix): state[key] for key in keys}
            unset.intersection_update(module.load_state_dict(values, strict=False).missing_keys)
        except RuntimeError as error:  # of another shape; the first line names the class
            raise CheckpointError(f"{where}: {'; '.join(map(str.strip, str(error).splitlines()[1:]))}") from error
    missing = [name for name in expected if name in unset]
    if missing:
        names = ", ".join(prefix + name for name in missing[:5])
        raise CheckpointError(
            f"{where}: {len(missing)} encoder keys missing ({names}{', …' if len(missing) > 5 else ''}). Take the"
            " complete checkpoint with its own configuration"
        )


class ConvTeacher(Teacher):
    """Waveform models: convolutions, position convolution, Transformer blocks.

    N samples give (N - 400) // 320 + 1 frames with the published convolutions.
    """

    def __init__(self, model: nn.Module, given: InputConfig, **description: Any):
        config = model.config
        super().__init__(
            model, width=config.hidden_size, frame_rate_hz=SAMPLE_RATE / math.prod(config.conv_stride), **description
        )
        self.input = given
        self.convolutions = list(zip(config.conv_kernel, config.conv_stride))
        self.feature_tap = FeatureTap(model.encoder.layers, self.layers, self.kind, lambda block: block.feed_forward)
        self.group_norm = _replace_group_norm(model.feature_extractor.conv_layers[0])
        self.padding: Optional[Tensor] = None  # [B, T], of the batch in work
        for layer in model.encoder.pos_conv_embed.modules():
            if isinstance(layer, nn.Conv1d):
                layer.register_forward_pre_hook(self._zero_padding)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        for kernel, stride in self.convolutions:
            lengths = (torch.div(lengths - kernel, stride, rounding_mode="floor") + 1).clamp(min=0)
        return lengths

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        waveforms = normalized(waveforms, lengths, self.input)
        frames = self.output_lengths(lengths)
        ragged = int(frames.min()) < int(frames.max())
        self.padding = lengths_to_padding_mask(frames) if ragged else None
        if self.group_norm is not None:
            self.group_norm.set_padding(lengths, waveforms.size(1), *self.convolutions[0])
        hidden = self.module.feature_extractor(waveforms.to(self.dtype)).transpose(1, 2)
        hidden = self.module.feature_projection(hidden)
        if isinstance(hidden, tuple):  # all but HuBERT also return what they would quantize
            hidden = hidden[0]
        self.module.encoder(hidden, attention_mask=None if self.padding is None else ~self.padding)
        self.padding = None
        return self.feature_tap.take()

    def _zero_padding(self, module: nn.Module, arguments):
        """Padded frames [B, D, T] enter the next position convolution as zeros, like those beyond an utterance."""
        if self.padding is None:
            return None
        return (arguments[0].masked_fill(self.padding.unsqueeze(1), 0.0),)


class _UtteranceGroupNorm(MaskedChannelNorm):
    """Replaces the group norm of the first convolution: statistics of each utterance's own frames, in float32."""

    padding: Optional[Tensor] = None

    def set_padding(self, lengths: Tensor, samples: int, kernel: int, stride: int) -> None:
        """Prepares for a batch of utterances of `lengths` samples padded to `samples`."""
        frames = (lengths - kernel) // stride + 1
        ragged = int(lengths.min()) < samples
        self.padding = lengths_to_padding_mask(frames, (samples - kernel) // stride + 1) if ragged else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float(), self.padding).to(x.dtype)


def _replace_group_norm(convolution: nn.Module) -> Optional[_UtteranceGroupNorm]:
    """Puts a _UtteranceGroupNorm with the same weights, kept in float32, in place of a GroupNorm."""
    norm = getattr(convolution, "layer_norm", None)
    if not isinstance(norm, nn.GroupNorm):
        return None
    replacement = _UtteranceGroupNorm(norm.num_channels, norm.eps).to(norm.weight.device).requires_grad_(False)
    replacement.load_state_dict(norm.state_dict())
    convolution.layer_norm = replacement.eval()
    return replacement


def normalized_fbank(waveform: np.ndarray) -> np.ndarray:
    """Kaldi filterbank [T, 80] of a waveform [N], each bin at mean 0 and unbiased variance 1."""
    features = log_mel_fbank(waveform, NUM_BINS)
    variance = features.var(axis=0, ddof=1, keepdims=True)
    return (features - features.mean(axis=0, keepdims=True)) / np.sqrt(variance + VARIANCE_FLOOR)


class W2vBertTeacher(Teacher):
    """w2v-BERT 2.0 (Barrault et al. 2023): stacked filterbanks, Conformer, 50 Hz; "ffn" is the second feed-forward
    module, before its factor 1/2.

    Filterbanks are computed on the CPU, one utterance at a time (kaldi-native-fbank).
    """

    def __init__(self, model: nn.Module, **description: Any):
        self.stack = model.config.feature_projection_input_dim // NUM_BINS
        super().__init__(model, width=model.config.hidden_size, frame_rate_hz=FBANK_RATE_HZ / self.stack, **description)
        self.feature_tap = FeatureTap(self.module.encoder.layers, self.layers, self.kind, lambda block: block.ffn2)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        return fbank_length(lengths) // self.stack

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        frames = self.output_lengths(lengths)
        inputs = self._inputs(waveforms, lengths, int(frames.max()))
        mask = None
        if int(frames.min()) < inputs.size(1):
            mask = ~lengths_to_padding_mask(frames)
        hidden = self.module.feature_projection(inputs)[0]
        self.module.encoder(hidden, attention_mask=mask)
        return self.feature_tap.take()

    def _inputs(self, waveforms: Tensor, lengths: Tensor, longest: int) -> Tensor:
        """Stacked filterbanks [B, T, 80 * stack]; a trailing incomplete stack is dropped."""
        inputs = waveforms.new_zeros(len(waveforms), longest, NUM_BINS * self.stack, device="cpu")
        for row, waveform, length in zip(inputs, waveforms.cpu(), lengths.tolist()):
            features = torch.from_numpy(normalized_fbank(waveform[:length].numpy()))
            size = len(features) // self.stack
            row[:size] = features[: size * self.stack].reshape(size, -1)
        return inputs.to(device=waveforms.device, dtype=self.dtype)
