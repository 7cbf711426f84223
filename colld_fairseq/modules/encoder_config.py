"""The shape of a student encoder as plain fields that a checkpoint or an export can carry."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, List, Optional

from colld_fairseq.errors import ConfigError
from colld_fairseq.field_types import check_types
from colld_fairseq.modules.chunks import Chunk, Count
from colld_fairseq.modules.input_config import InputConfig

#: (channels, kernel, stride) of the wav2vec 2.0 / HuBERT feature extractor: 320 samples per frame.
WAV2VEC_CONV_LAYERS = [[512, 10, 5]] + [[512, 3, 2]] * 4 + [[512, 2, 2]] * 2

CHOICES = {
    "front_end": ("waveform", "fbank", "fbank_stack", "conv2d", "whisper"),
    "block": ("transformer", "conformer"),
    "position": ("conv", "relative_key", "rotary", "sinusoidal", "none"),
    "extractor_norm": ("group", "layer"),
    "context": ("full", "causal", "chunk"),
}


WHISPER_RATE_HZ = 50.0
COUNTS = (
    *("layers", "embed_dim", "ffn_dim", "attention_heads", "conv_pos", "conv_pos_groups", "fbank_bins", "fbank_stack"),
    *("subsampling_channels", "time_reduction", "depthwise_conv_kernel", "max_positions"),
)
SHARES = ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "layerdrop")


@dataclass
class EncoderConfig:
    """Configuration of a StudentEncoder; values that contradict each other raise ConfigError."""

    input: Optional[InputConfig] = None
    """What the front-end takes and how it is normalized; None = not known yet. The encoder of a checkpoint
    always has one, that of a new student as soon as a task has built it."""
    front_end: str = "fbank_stack"
    """"waveform" (samples at 16 kHz), or of filterbanks at 100 Hz "fbank" (strided convolution), "fbank_stack" or
    "conv2d" (25 Hz), or "whisper" (its log-mels at 100 Hz, two convolutions, 50 Hz)."""
    conv_layers: List[List[int]] = field(default_factory=lambda: [list(layer) for layer in WAV2VEC_CONV_LAYERS])
    """(channels, kernel, stride) of each convolution of the waveform extractor."""
    extractor_norm: str = "group"
    """"group" (first convolution only: HuBERT Base) or "layer" (each convolution: HuBERT Large)."""
    conv_bias: bool = False
    """Bias in the waveform extractor's convolutions."""
    feature_norm: bool = True
    """LayerNorm before the projection to `embed_dim` ("waveform" and "fbank_stack"; DistilHuBERT has none)."""
    feature_grad_mult: float = 1.0
    """Factor on the gradient that reaches the waveform extractor; 0 freezes it."""
    fbank_bins: int = 80
    """Mel bins of filterbanks and log-mels."""
    fbank_stack: int = 2
    """Frames that "fbank_stack" puts side by side (2 = 50 Hz, 4 = 25 Hz)."""
    subsampling_channels: int = 64
    """Channels of the "conv2d" front-end."""
    time_reduction: int = 1
    """Stride of a convolution after the projection (FitHuBERT: 2 = 25 Hz); 1 = none."""
    block: str = "conformer"
    """"transformer" or "conformer"."""
    layers: int = 12
    """Blocks."""
    embed_dim: int = 768
    """Width of every layer."""
    ffn_dim: int = 3072
    """Width inside the feed-forward networks."""
    attention_heads: int = 12
    """Heads, of which `embed_dim` is a multiple."""
    activation: str = "gelu"
    """"gelu", "relu" or "swish"."""
    norm_first: bool = False
    """Transformer only: False = post-norm with a LayerNorm before the first block (HuBERT Base); True = pre-norm with
    a LayerNorm after the last block (HuBERT Large)."""
    position: str = "rotary"
    """"conv" (wav2vec 2.0), "relative_key" (w2v-BERT 2.0), "rotary", "sinusoidal" (Whisper) or "none"."""
    max_positions: int = 1500
    """Frames that have "sinusoidal" positions; an utterance cannot be longer."""
    conv_pos: int = 128
    """Kernel of "conv" positions, in frames."""
    conv_pos_groups: int = 16
    """Groups of "conv" positions, of which `embed_dim` is a multiple."""
    max_left_position: int = 64
    """Frames before its own that "relative_key" positions tell apart."""
    max_right_position: int = 8
    """Frames after its own that "relative_key" positions tell apart."""
    depthwise_conv_kernel: int = 31
    """Kernel of the Conformer's convolution, in frames."""
    causal_conv: bool = False
    """Whether the Conformer's convolution takes in past frames only."""
    context: str = "full"
    """What a frame may attend to: "full", "causal" (nothing later), or "chunk" (its own chunk and those before it).
    The latter two need Conformer blocks with causal convolutions, "fbank_stack" or "conv2d", no "conv" positions."""
    chunk_sizes: List[Count] = field(default_factory=lambda: [8, 16, 32, None])
    """Frames per chunk of "chunk", drawn for every batch in training; None = the whole utterance."""
    left_contexts: List[Count] = field(default_factory=lambda: [None])
    """Chunks ("causal": frames) before its own that a frame attends to, drawn likewise; None = all."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    dropout: float = 0.0
    """Dropout on residual branches, in training only, like those that follow."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    activation_dropout: float = 0.0
    """Dropout inside the feed-forward networks."""
    dropout_input: float = 0.0
    """Dropout on the projected features."""
    layerdrop: float = 0.0
    """Probability of skipping a block."""

    def __post_init__(self) -> None:
        if isinstance(self.input, dict):
            self.input = InputConfig.from_dict(self.input)
        check_types(self)
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if min(self.max_left_position, self.max_right_position) < 0:
            raise ConfigError("max_left_position and max_right_position must be at least 0")
        if not self.conv_layers or any(len(layer) != 3 or min(layer) < 1 for layer in self.conv_layers):
            raise ConfigError(f"conv_layers={self.conv_layers} must be (channels, kernel, stride) each, all at least 1")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 to 1")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not known; choose one of {list(choices)}")
        if self.embed_dim % self.attention_heads:
            raise ConfigError(f"embed_dim={self.embed_dim} is not a multiple of attention_heads={self.attention_heads}")
        if self.position == "rotary" and self.embed_dim // self.attention_heads % 2:
            raise ConfigError("rotary positions need an even width per head; change embed_dim or attention_heads")
        if self.position == "conv" and self.embed_dim % self.conv_pos_groups:
            raise ConfigError(f"embed_dim={self.embed_dim} is not a multiple of conv_pos_groups={self.conv_pos_groups}")
        if self.input is None and self.input_kind == "log_mel":
            seconds = self.max_positions / WHISPER_RATE_HZ
            tail = min(InputConfig.tail_seconds, seconds)
            self.input = InputConfig(
                "log_mel", bins=self.fbank_bins, normalization="none", tail_seconds=tail, window_seconds=seconds
            )
        if self.input is not None and self.input.kind != self.input_kind:
            raise ConfigError(f"front_end={self.front_end!r} does not take an input of kind={self.input.kind!r}")
        if self.input is not None and self.input_kind != "waveform" and self.input.bins != self.fbank_bins:
            raise ConfigError(f"fbank_bins={self.fbank_bins} does not go with an input of {self.input.bins} bins")
        self.conv_layers = [list(map(int, layer)) for layer in self.conv_layers]
        if self.context != "full":
            self._check_streams()

    @property
    def input_kind(self) -> str:
        """The kind of input that the front-end takes, one of `input_config.KINDS`."""
        return {"waveform": "waveform", "whisper": "log_mel"}.get(self.front_end, "fbank")

    def _check_streams(self) -> None:
        """Raises ConfigError where a frame would depend on later ones in spite of the context."""
        needs = {
            "block": ("conformer",),
            "front_end": ("fbank_stack", "conv2d"),
            "position": ("relative_key", "rotary", "none"),
            "time_reduction": (1,),
            "causal_conv": (True,),
        }
        for name, able in needs.items():
            if getattr(self, name) not in able:
                raise ConfigError(
                    f"context={self.context!r} does not go with {name}={getattr(self, name)!r}: "
                    f"it needs {' or '.join(map(repr, able))}"
                )
        for size in self.chunk_sizes:
            for left in self.left_contexts:
                Chunk(size, left).checked()
        if not self.chunk_sizes or not self.left_contexts:
            raise ConfigError("chunk_sizes and left_contexts must each name at least one")

    def to_dict(self) -> Dict[str, Any]:
        """Plain values only, which `from_dict` takes and which JSON and YAML keep."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> "EncoderConfig":
        """The configuration with these fields; ConfigError names the fields this version does not know."""
        values = dict(values)
        conv_norm = values.pop("conv_norm", "layer")  # a field of earlier versions
        if conv_norm != "layer":
            raise ConfigError(
                f"conv_norm={conv_norm!r}: the Conformer's convolution has no norm but LayerNorm any more"
            )
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigError(f"unknown encoder fields {unknown}; was the checkpoint written by a newer version?")
        return cls(**values)
