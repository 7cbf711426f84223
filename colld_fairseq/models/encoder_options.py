"""From fairseq options to a StudentEncoder: a preset, a few overrides, or the encoder of a checkpoint."""

import json
import logging
from dataclasses import dataclass, fields, replace
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Type

from fairseq.models import register_model_architecture
from omegaconf import DictConfig, open_dict

from colld_fairseq.checkpoints.names_fairseq import parse_conv_layers
from colld_fairseq.compat import given_on_command_line
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.context_options import ContextOptions, context_fields, evaluation_chunk
from colld_fairseq.models.encoder_presets import PRESETS
from colld_fairseq.modules.block_runs import BlockRuns
from colld_fairseq.modules.encoder import EncoderConfig, StudentEncoder
from colld_fairseq.numbers import COUNT, NOT_NEGATIVE, PROBABILITY, option

logger = logging.getLogger(__name__)

# option name -> EncoderConfig field
OVERRIDES = {
    "front_end": "front_end",
    "fbank_stack": "fbank_stack",
    "conv_feature_layers": "conv_layers",
    "encoder_block": "block",
    "encoder_layers": "layers",
    "encoder_embed_dim": "embed_dim",
    "encoder_ffn_embed_dim": "ffn_dim",
    "encoder_attention_heads": "attention_heads",
    "encoder_position": "position",
    "conv_pos": "conv_pos",
    "conv_pos_groups": "conv_pos_groups",
    "depthwise_conv_kernel": "depthwise_conv_kernel",
}
REGULARIZERS = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "dropout_input",
    "encoder_layerdrop": "layerdrop",
}


@dataclass
class EncoderOptions(ContextOptions):
    encoder_preset: str = option("tiny", f"shape of the student: {', '.join(PRESETS)}")
    front_end: Optional[str] = option(None, "waveform, fbank, fbank_stack, conv2d or whisper; default: the preset's")
    fbank_stack: Optional[int] = option(None, "filterbank frames per step of fbank_stack: 2 = 50 Hz, 4 = 25 Hz", COUNT)
    conv_feature_layers: Optional[str] = option(
        None,
        "convolutions of the waveform front-end as fairseq writes them, (channels, kernel, stride) each: [(512,10,5)]"
        " + [(512,3,2)] * 4 + [(512,2,2)] * 2; default: the preset's",
    )
    encoder_block: Optional[str] = option(None, "conformer or transformer; default: the preset's")
    encoder_layers: Optional[int] = option(None, "number of blocks; default: the preset's", COUNT)
    encoder_embed_dim: Optional[int] = option(None, "width; default: the preset's", COUNT)
    encoder_ffn_embed_dim: Optional[int] = option(None, "feed-forward width; default: the preset's", COUNT)
    encoder_attention_heads: Optional[int] = option(None, "attention heads; default: the preset's", COUNT)
    encoder_position: Optional[str] = option(None, "conv, rotary, relative_key, sinusoidal or none; default: preset's")
    conv_pos: Optional[int] = option(None, "kernel of the position convolution (frames); default: the preset's", COUNT)
    conv_pos_groups: Optional[int] = option(None, "groups of the position convolution; default: the preset's", COUNT)
    depthwise_conv_kernel: Optional[int] = option(None, "Conformer convolution (frames); default: the preset's", COUNT)
    dropout: float = option(0.0, "on residual branches; 0 in distillation (a deterministic student)", PROBABILITY)
    attention_dropout: float = option(0.0, "on attention weights", PROBABILITY)
    activation_dropout: float = option(0.0, "after the feed-forward activation", PROBABILITY)
    dropout_input: float = option(0.0, "on the front-end's output", PROBABILITY)
    encoder_layerdrop: float = option(0.0, "probability of skipping a whole block in training", PROBABILITY)
    feature_grad_mult: Optional[float] = option(
        None,
        "factor on the gradient into the waveform convolutions, 0 = never trained; default: the preset's, or that of"
        " the checkpoint",
        NOT_NEGATIVE,
    )
    tail_seconds: Optional[float] = option(
        None,
        "silence behind each utterance, of a new student with Whisper's front-end: 0.5 (default), or 30 for windows of"
        " 30 s as the original has them",
        NOT_NEGATIVE,
    )
    least_seconds: Optional[float] = option(
        None, "so long is an utterance with that silence at least; default: 0", NOT_NEGATIVE
    )
    checkpoint_activations: bool = option(
        False, "of the encoder: less memory in training, a third more arithmetic; the same results"
    )
    compile_encoder: bool = option(
        False, "by torch.compile, in training: the same results (but other random numbers of dropout), after a minute"
    )
    encoder_config: str = option(
        "", "the complete encoder as JSON; filled in by the program and kept in the checkpoint"
    )


def encoder_config(cfg: EncoderOptions) -> EncoderConfig:
    """The encoder these options describe: the recorded one where there is one, else preset and overrides.

    Dropout and layer-drop always come from the options, and so do `feature_grad_mult` and the chunks of a streaming
    student where they are given: they belong to a training run, not to a shape.
    """
    if cfg.encoder_config:
        values = json.loads(cfg.encoder_config)
    else:
        if cfg.encoder_preset not in PRESETS:
            raise ConfigError(f"--encoder-preset {cfg.encoder_preset!r}: choose one of {', '.join(PRESETS)}")
        values = dict(PRESETS[cfg.encoder_preset])
        for option, name in OVERRIDES.items():
            value = getattr(cfg, option)
            if value is not None:
                values[name] = parse_conv_layers(value) if option == "conv_feature_layers" else value
    values.update({name: getattr(cfg, option) for option, name in REGULARIZERS.items()})
    if cfg.feature_grad_mult is not None:
        values["feature_grad_mult"] = cfg.feature_grad_mult
    values.update(context_fields(cfg, values, recorded=bool(cfg.encoder_config)))
    return EncoderConfig.from_dict(values)


def build_encoder(cfg: EncoderOptions) -> StudentEncoder:
    config = encoder_config(cfg)
    if cfg.encoder_config:
        check_silence(cfg, config)
    else:
        choose_silence(cfg, config)
    encoder = StudentEncoder(config)
    encoder.runs = BlockRuns(cfg.checkpoint_activations, cfg.compile_encoder)
    encoder.set_chunk(*evaluation_chunk(cfg, encoder.chunk))
    return encoder


def silence_options(cfg: EncoderOptions) -> Dict[str, float]:
    """--tail-seconds and --least-seconds, as far as they were given."""
    given = {name: getattr(cfg, name) for name in ("tail_seconds", "least_seconds")}
    return {name: value for name, value in given.items() if value is not None}


def choose_silence(cfg: EncoderOptions, config: EncoderConfig) -> None:
    """Enter --tail-seconds and --least-seconds, as far as they were given, in the configuration of a new encoder."""
    if config.input_kind == "log_mel":
        config.input = replace(config.input, **silence_options(cfg))
    check_silence(cfg, config)


def check_silence(cfg: EncoderOptions, config: EncoderConfig) -> None:
    """Raises ConfigError where --tail-seconds or --least-seconds contradicts the input of an encoder."""
    for name, value in silence_options(cfg).items():
        if config.input_kind != "log_mel" or getattr(config.input, name) != value:
            given = "" if config.input is None else f": it takes {config.input}"
            option_name = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option_name} {value:g} does not go with this encoder{given}")


def check_shape(cfg: EncoderOptions, trained: Mapping[str, Any], config: EncoderConfig, file: str) -> None:
    """ConfigError, with both values, where options ask for another shape than that of the encoder `config` in `file`.

    trained: the model's options in that checkpoint. Where these or `cfg` name a --student, its shape won over options.
    """
    if getattr(cfg, "student", "") or trained.get("student"):
        return
    preset = trained.get("encoder_preset") or cfg.encoder_preset
    given = cfg.encoder_preset != EncoderOptions.encoder_preset or given_on_command_line("encoder_preset")
    shapes = {"encoder_preset": (cfg.encoder_preset, preset)} if given else {}
    for name, (asked, recorded) in {**shapes, **asked_shapes(cfg, config)}.items():
        if asked != recorded:
            raise ConfigError(
                f"--{name.replace('_', '-')} {asked}, but {file} was trained with {recorded}: leave the option out"
            )


def warn_of_shape(cfg: EncoderOptions, config: EncoderConfig) -> None:
    """Where options of a new training ask for another shape than that of its --student, `config`."""
    for name, (asked, recorded) in asked_shapes(cfg, config).items():
        if asked != recorded:
            logger.warning(
                "--%s %s has no effect: the shape is that of --student, which has %s",
                name.replace("_", "-"),
                asked,
                recorded,
            )


def asked_shapes(cfg: EncoderOptions, config: EncoderConfig) -> Dict[str, Tuple[Any, Any]]:
    """Option -> (its value, what an encoder `config` has), of the options of a shape that were given."""
    shapes = {}
    for name, field_name in OVERRIDES.items():
        value = getattr(cfg, name)
        if value is not None:
            value = parse_conv_layers(value) if name == "conv_feature_layers" else value
            shapes[name] = value, getattr(config, field_name)
    return shapes


def record_encoder(cfg: Any, config: EncoderConfig) -> None:
    """Note the complete encoder in the model's configuration, which fairseq saves with the checkpoint."""
    record(cfg, "encoder_config", json.dumps(config.to_dict(), sort_keys=True))


def known_options(recorded: Mapping[str, Any], config: Type[EncoderOptions]) -> Dict[str, Any]:
    """Of the options of a model in its checkpoint those that `config` has: of one part of the model, say."""
    known = {field.name for field in fields(config)}
    return {name: value for name, value in recorded.items() if name in known}


def record(cfg: Any, name: str, value: Any) -> None:
    """Set a field of a configuration that may be a Namespace or a read-only DictConfig."""
    if isinstance(cfg, DictConfig):
        with open_dict(cfg):
            cfg[name] = value
    else:
        setattr(cfg, name, value)


def register_presets(model: str, *presets: str) -> None:
    """Register the architectures MODEL_PRESET, for the presets that a new model of this kind may have.

    A typed --encoder-preset wins over them, and the shape of a --student over both.
    """
    for preset in presets:
        register_model_architecture(model, f"{model}_{preset}")(set_defaults({"encoder_preset": preset}))


def set_defaults(values: Dict[str, Any]) -> Callable[[Any], None]:
    """Architecture function: these options, where the user did not type them."""

    def architecture(args: Any) -> None:
        for name, value in values.items():
            setattr(args, name, getattr(args, name, value))

    return architecture
