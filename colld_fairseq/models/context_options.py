"""Options of students that stream: the context of a frame in training and in evaluation."""

from dataclasses import dataclass
from typing import Any, Dict, Optional

from fairseq.dataclass import FairseqDataclass

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.chunks import Chunk, parse_count, parse_counts
from colld_fairseq.numbers import option

# Of a chunk-wise student; our choice, near icefall's (chunks of 16 and 32 frames at 50 Hz and more, from 4 before).
CHUNK_SIZES, LEFT_CONTEXT = "8,16,32,full", "4,8,full"


@dataclass
class ContextOptions(FairseqDataclass):
    encoder_context: Optional[str] = option(
        None,
        "context of a Conformer's frames: full (the utterance), causal (nothing later) or chunk (their own chunk and"
        " those before). The last two can stream; their convolutions look back only, for which half the"
        " --depthwise-conv-kernel is common (31 -> 15). Default: full, or that of --student",
    )
    chunk_sizes: Optional[str] = option(
        None,
        "frames of a chunk, full = the utterance; one is drawn for every batch in training, twice as often"
        f" if it stands there twice; default: {CHUNK_SIZES} (8 frames at 25 Hz: 320 ms)",
    )
    left_context: Optional[str] = option(
        None,
        "chunks (causal: frames) before its own in a frame's context, drawn likewise; default:"
        f" {LEFT_CONTEXT} (causal: full)",
    )
    eval_chunk: Optional[str] = option(
        None,
        "frames of a chunk in validation and decoding; default: the longest of --chunk-sizes; another for decoding"
        " alone: --model-overrides \"{'eval_chunk': '8', 'eval_left_context': '4'}\"",
    )
    eval_left_context: Optional[str] = option(
        None, "left context in validation and decoding; default: the longest of --left-context"
    )


def context_fields(cfg: ContextOptions, values: Dict[str, Any], recorded: bool) -> Dict[str, Any]:
    """Fields of EncoderConfig about streaming, for a student that is otherwise `values`.

    A recorded student keeps its context unless another is asked for, which only one with causal convolutions can take
    on. The chunks to draw from belong to a training run. Raises ConfigError for options that would have no effect.
    """
    before = values.get("context", "full")
    context = cfg.encoder_context or before
    if context == "full":
        _check_absent(cfg, "chunk or causal", "chunk_sizes", "left_context", "eval_chunk", "eval_left_context")
        return {"context": context}
    fields: Dict[str, Any] = {"context": context}
    if not recorded:
        fields["causal_conv"] = True
    elif not values.get("causal_conv"):
        raise ConfigError(
            f"--encoder-context {context}: the convolutions of this student look ahead; distil one with"
            f" --encoder-context {context}"
        )
    if context == "causal":
        _check_absent(cfg, "chunk", "chunk_sizes")
    elif cfg.chunk_sizes is not None or context != before:
        fields["chunk_sizes"] = parse_counts(cfg.chunk_sizes or CHUNK_SIZES, "--chunk-sizes")
    if cfg.left_context is not None or context != before:
        default = LEFT_CONTEXT if context == "chunk" else "full"
        fields["left_contexts"] = parse_counts(cfg.left_context or default, "--left-context")
    return fields


def evaluation_chunk(cfg: ContextOptions, default: Chunk) -> Chunk:
    """The chunk of --eval-chunk and --eval-left-context."""
    size, left = default
    if cfg.eval_chunk is not None:
        size = parse_count(cfg.eval_chunk, "--eval-chunk")
    if cfg.eval_left_context is not None:
        left = parse_count(cfg.eval_left_context, "--eval-left-context")
    return Chunk(size, left)


def _check_absent(cfg: ContextOptions, context: str, *options: str) -> None:
    """Raises ConfigError for options that say nothing without `context`."""
    given = [f"--{option.replace('_', '-')}" for option in options if getattr(cfg, option) is not None]
    if given:
        raise ConfigError(f"{', '.join(given)}: only for a student with --encoder-context {context}")
