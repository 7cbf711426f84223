"""Teachers of the wav2vec 2.0 family (Wav2Vec2, HuBERT, WavLM, Data2VecAudio) as transformers has them.

Those that the student encoder cannot express compute on the library's own modules; changed is only what would let
padding reach a valid frame: the group norm of the first convolution, and the input of position convolutions behind a
norm (Data2Vec has a stack of them, HuBERT may have a batch norm).
"""

import logging
import math
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Sequence

import torch
from torch import Tensor, nn

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.errors import TeacherError
from colld_fairseq.modules.lengths import lengths_to_padding_mask
from colld_fairseq.modules.norms import MaskedChannelNorm
from colld_fairseq.teachers.base import HF_VARIANCE_FLOOR, FeatureTap, Teacher, check_request, unit_variance
from colld_fairseq.teachers.encoder_teacher import EncoderTeacher, as_student_encoder
from colld_fairseq.teachers.weights import content_hash, load_into, read_json, read_state, teacher_files

logger = logging.getLogger(__name__)


class Family(NamedTuple):
    """Names in transformers of one model_type, and the prefix of its keys in a model with a head."""

    config: str
    model: str
    prefix: str


FAMILIES = {
    "wav2vec2": Family("Wav2Vec2Config", "Wav2Vec2Model", "wav2vec2."),
    "hubert": Family("HubertConfig", "HubertModel", "hubert."),
    "wavlm": Family("WavLMConfig", "WavLMModel", "wavlm."),
    "data2vec-audio": Family("Data2VecAudioConfig", "Data2VecAudioModel", "data2vec_audio."),
    "wav2vec2-bert": Family("Wav2Vec2BertConfig", "Wav2Vec2BertModel", "wav2vec2_bert."),
}


class Encoder(NamedTuple):
    """A transformers model cut to the blocks that are needed, with what its description needs."""

    module: nn.Module
    config: object
    num_layers: int


def build_encoder(spec: str, config: Dict, layers: Sequence[int], kind: str) -> Encoder:
    """The model that `config` (of config.json) describes, randomly initialised, without surplus blocks."""
    import transformers

    family = FAMILIES.get(config.get("model_type"))
    if family is None:
        known = ", ".join(sorted([*FAMILIES, "whisper"]))
        raise TeacherError(
            f"teacher {spec}: config.json says model_type {config.get('model_type')!r}; supported: {known}"
        )
    settings = getattr(transformers, family.config).from_dict(config)
    num_layers = settings.num_hidden_layers
    settings.num_hidden_layers = max(1, *check_request(spec, layers, kind, num_layers))
    settings.mask_time_prob = settings.mask_feature_prob = 0.0  # no mask embedding
    settings.add_adapter = False
    settings.use_intermediate_ffn_before_adapter = False
    settings.layerdrop = 0.0
    model_class = getattr(transformers, family.model)
    settings._attn_implementation = "sdpa" if model_class._supports_sdpa else "eager"
    return Encoder(model_class(settings), settings, num_layers)


class ConvTeacher(Teacher):
    """Waveform models: convolutions, position convolution, Transformer blocks.

    N samples give (N - 400) // 320 + 1 frames with the published convolutions.

    Args:
        normalise: bring each clip to mean 0 and variance 1 first, as this model was trained.
        variance_floor: added to that variance.
    """

    def __init__(self, encoder: Encoder, *, normalise: bool, variance_floor: float = HF_VARIANCE_FLOOR, **description):
        model, config = encoder.module, encoder.config
        super().__init__(
            model,
            num_layers=encoder.num_layers,
            width=config.hidden_size,
            frame_rate_hz=SAMPLE_RATE / math.prod(config.conv_stride),
            **description,
        )
        self.normalise, self.variance_floor = normalise, variance_floor
        self.convolutions = list(zip(config.conv_kernel, config.conv_stride))
        self.tap = FeatureTap(model.encoder.layers, self.layers, self.kind, lambda block: block.feed_forward)
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
        if self.normalise:
            waveforms = unit_variance(waveforms, lengths, self.variance_floor)
        frames = self.output_lengths(lengths)
        ragged = int(frames.min()) < int(frames.max())
        self.padding = lengths_to_padding_mask(frames) if ragged else None
        if self.group_norm is not None:
            self.group_norm.set_padding(lengths, waveforms.size(1), *self.convolutions[0])
        hidden = self.module.feature_extractor(waveforms.to(self.dtype)).transpose(1, 2)
        hidden = self.module.feature_projection(hidden)
        if isinstance(hidden, tuple):  # all but HuBERT also return what they would quantise
            hidden = hidden[0]
        self.module.encoder(hidden, attention_mask=None if self.padding is None else ~self.padding)
        self.padding = None
        return self.tap.take()

    def _zero_padding(self, module: nn.Module, arguments):
        """Padded frames [B, D, T] enter the next position convolution as zeros, like those beyond a clip."""
        if self.padding is None:
            return None
        return (arguments[0].masked_fill(self.padding.unsqueeze(1), 0.0),)


class _ClipGroupNorm(MaskedChannelNorm):
    """Replaces the group norm of the first convolution: statistics of each clip's own frames, in float32."""

    padding: Optional[Tensor] = None

    def set_padding(self, lengths: Tensor, samples: int, kernel: int, stride: int) -> None:
        """Prepares for a batch of clips of `lengths` samples padded to `samples`."""
        frames = (lengths - kernel) // stride + 1
        ragged = int(lengths.min()) < samples
        self.padding = lengths_to_padding_mask(frames, (samples - kernel) // stride + 1) if ragged else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float(), self.padding).to(x.dtype)


def _replace_group_norm(convolution: nn.Module) -> Optional[_ClipGroupNorm]:
    """Puts a _ClipGroupNorm with the same weights, kept in float32, in place of a GroupNorm."""
    norm = getattr(convolution, "layer_norm", None)
    if not isinstance(norm, nn.GroupNorm):
        return None
    replacement = _ClipGroupNorm(norm.num_channels, norm.eps).to(norm.weight.device).requires_grad_(False)
    replacement.load_state_dict(norm.state_dict())
    convolution.layer_norm = replacement.eval()
    return replacement


def make_teacher(encoder: Encoder, **description) -> Teacher:
    """Runs a waveform model on the student encoder's modules where those compute the same, else on its own."""
    exact = as_student_encoder(encoder.module)
    if exact is None:
        return ConvTeacher(encoder, **description)
    return EncoderTeacher(exact, num_layers=encoder.num_layers, **description)


def load_huggingface(spec: str, directory: Path, config: Dict, *, layers, kind, dtype, device) -> Teacher:
    """The teacher in `directory`, whose config.json holds `config`. Raises TeacherError."""
    encoder = build_encoder(spec, config, layers, kind)
    family = FAMILIES[config["model_type"]]
    load_into(encoder.module, read_state(directory), (family.prefix, ""), directory)
    identity = content_hash(teacher_files(directory))
    description = dict(spec=spec, content_hash=identity, layers=layers, kind=kind, dtype=dtype, device=device)
    if config["model_type"] == "wav2vec2-bert":
        from colld_fairseq.teachers.w2v_bert import W2vBertTeacher

        return W2vBertTeacher(encoder, **description)
    normalise = wants_normalization(directory / "preprocessor_config.json")
    return make_teacher(encoder, normalise=normalise, **description)


def wants_normalization(preprocessor: Path) -> bool:
    """do_normalize of preprocessor_config.json; the library's default, True, where it says nothing."""
    if not preprocessor.is_file():
        logger.warning(
            "%s is missing: waveforms are normalised to unit variance, the default of transformers; copy the "
            "file that belongs to the teacher if it was trained otherwise",
            preprocessor,
        )
        return True
    return bool(read_json(preprocessor).get("do_normalize", True))
