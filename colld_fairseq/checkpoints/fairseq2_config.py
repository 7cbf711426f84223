"""What no weight of a fairseq2 encoder shows, and the configuration that it makes with what they show."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

from colld_fairseq.errors import CheckpointError, ConfigError
from colld_fairseq.modules.encoder_config import WAV2VEC_CONV_LAYERS, EncoderConfig
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.parsing import parse_yaml

#: (layers, width, inner width, norms first) of published shapes -> name of the architecture in fairseq2, heads.
#: omniASR's are large_lv60k, 1b, 3b and 7b. A width does not tell the heads: see 3b and 3.25b.
PUBLISHED = {
    (12, 768, 3072, False): ("base", 12),
    (24, 1024, 4096, False): ("large", 16),
    (24, 1024, 4096, True): ("large_lv60k", 16),
    (48, 1280, 5120, True): ("1b", 16),
    (48, 1920, 7680, True): ("2b", 16),
    (60, 2048, 8192, True): ("3b", 16),
    (64, 2048, 8192, True): ("3.25b", 32),
    (64, 2304, 9216, True): ("4b", 32),
    (96, 2048, 8192, True): ("5b", 16),
    (128, 2048, 8192, True): ("7b", 16),
}
#: Name -> width of what pre-training compares, where that is not 1024; "" = no published shape: fairseq2's default.
PRETRAINING_WIDTHS = {"": 256, "base": 256, "large": 768, "large_lv60k": 768, "3.25b": 1280, "4b": 1280}
KERNELS, STRIDES = ([layer[index] for layer in WAV2VEC_CONV_LAYERS] for index in (1, 2))
VARIANCE_FLOOR = 1e-5  # fairseq2 normalizes waveforms with torch's layer_norm
TRAINING = ("dropout", "attention_dropout", "activation_dropout", "dropout_input", "layerdrop")


@dataclass(frozen=True)
class Description:
    """What no weight shows. Fields of `FILE.yaml` beside FILE.pt, of `FOLDER.yaml` beside a folder of shards."""

    attention_heads: Optional[int] = None
    """Known of published shapes; to be given for others."""
    normalize: Optional[bool] = None
    """Whether waveforms have mean 0 and variance 1 over the utterance. Always so for extractors with layer norms (all
    of omniASR); for those with a group norm known of published shapes (they are not), to be given for others."""
    dropout: float = 0.0
    """In training, like those that follow: see `modules.encoder_config.EncoderConfig`."""
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    dropout_input: float = 0.0
    layerdrop: float = 0.0

    def __post_init__(self) -> None:
        heads, whole = self.attention_heads, isinstance(self.attention_heads, int)
        if heads is not None and (not whole or isinstance(heads, bool) or heads < 1):
            raise ConfigError(f"attention_heads is {heads!r}, and must be a positive number")
        if not isinstance(self.normalize, (bool, type(None))):
            raise ConfigError(f"normalize is {self.normalize!r}; it can be true or false")
        for name in TRAINING:
            if not isinstance(getattr(self, name), (int, float)) or not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, and must be 0 or more and below 1")

    @classmethod
    def of(cls, values: Any, origin: str) -> "Description":
        """From plain values; ConfigError that names `origin` and what is wrong."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(map(str, set(values) - set(known))) if isinstance(values, Mapping) else [type(values).__name__]
        if unknown:
            raise ConfigError(f"{origin}: {', '.join(unknown)} is no field; there are {', '.join(known)}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from error


def describe(inside: Mapping[str, Any], file: Path, beside: Path) -> Description:
    """What `file` says itself, and what the YAML `beside` it says. ConfigError where they disagree, CheckpointError for
    what is no YAML."""
    if not beside.is_file():
        return Description.of(inside, str(file))
    try:
        content = parse_yaml(beside.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{beside}: is not YAML ({error})") from error
    given = Description.of(content, str(beside))
    wrong = [name for name in content if name in inside and inside[name] != content[name]]
    if wrong:
        name = wrong[0]
        raise ConfigError(f"{beside}: {name} is {content[name]!r}, but {file} says {inside[name]!r}")
    return Description.of({**inside, **content}, str(file)) if inside else given


def settle(seen: Mapping[str, Any], given: Description, origin: str, described: Path) -> EncoderConfig:
    """The configuration by what weights show and what is said or known beside. ConfigError where that contradicts what
    is published, or is not enough."""
    arch, heads = published(seen)
    shape = f"{seen['layers']} layers × {seen['embed_dim']} (inner width {seen['ffn_dim']})"
    check_heads(seen, given.attention_heads, origin)
    if heads is None and given.attention_heads is None:
        raise ConfigError(
            f"{origin}: {shape} is no published shape, and no weight shows the heads: write `attention_heads: NUMBER`,"
            f" as in its training, into {described}"
        )
    if seen["extractor_norm"] == "layer" and given.normalize is False:
        raise ConfigError(
            f"{origin}: models with layer norms in the extractor were trained on normalized waveforms, and give other"
            f" features of those that are not: take `normalize: false` out of {described}"
        )
    if seen["extractor_norm"] == "group" and not arch and given.normalize is None:
        raise ConfigError(f"{origin}: write `normalize: true` or `false`, as in its training, into {described}")
    return config_of(seen, {**asdict(given), "attention_heads": given.attention_heads or heads})


def published(seen: Mapping[str, Any]) -> Tuple[str, Optional[int]]:
    """Name and heads of a published shape; "" and None for others."""
    return PUBLISHED.get(tuple(seen[name] for name in ("layers", "embed_dim", "ffn_dim", "norm_first")), ("", None))


def pretraining_width(seen: Mapping[str, Any]) -> int:
    """`quantized_dim` and `final_dim` of the architecture that fairseq2 will be told."""
    return PRETRAINING_WIDTHS.get(published(seen)[0], 1024)


def check_heads(seen: Mapping[str, Any], given: Optional[int], origin: str) -> None:
    """Raises ConfigError for heads that do not divide the width, and for others than a published shape has."""
    arch, heads = published(seen)
    if given and seen["embed_dim"] % given:
        raise ConfigError(f"{origin}: attention_heads is {given}; the width {seen['embed_dim']} is no multiple of it")
    if given and heads and given != heads:
        raise ConfigError(
            f"{origin}: attention_heads is {given}, but fairseq2's {arch} ({seen['layers']} layers ×"
            f" {seen['embed_dim']}) has {heads}; its features would be wrong"
        )


def config_of(seen: Mapping[str, Any], described: Mapping[str, Any]) -> EncoderConfig:
    """What `settings_of` made of a configuration; `described` are fields of `Description`."""
    shown = {name: value for name, value in seen.items() if name != "channels"}
    normalize = seen["extractor_norm"] == "layer" or bool(described["normalize"])
    return EncoderConfig(
        input=InputConfig.waveforms(normalize, VARIANCE_FLOOR),
        front_end="waveform",
        conv_layers=[list(layer) for layer in zip(seen["channels"], KERNELS, STRIDES)],
        block="transformer",
        position="conv",
        attention_heads=described["attention_heads"],
        **shown,
        **{name: described[name] for name in TRAINING},
    )


def settings_of(config: EncoderConfig) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """What weights show of an encoder, as `seen_in` has it, and fields of `Description`: what they do not show."""
    names = ("layers", "embed_dim", "ffn_dim", "norm_first", "extractor_norm", "conv_bias", "conv_pos")
    seen = {name: getattr(config, name) for name in names}
    seen["channels"] = [channels for channels, *_ in config.conv_layers]
    seen["conv_pos_groups"] = config.conv_pos_groups if config.position == "conv" else 1
    described = {name: getattr(config, name) for name in ("attention_heads", *TRAINING)}
    described["normalize"] = config.input is not None and config.input.normalization == "utterance"
    return seen, described
