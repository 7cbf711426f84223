"""Decoders of Whisper, M2M-100, NLLB and mBART-50 behind a student encoder: transformers' modules as a fairseq decoder.

What each utterance's decoder is given first (start, language, task) takes the place of fairseq's one start token: it is
in no hypothesis, in no score and in no length.
"""

import importlib
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from colld_fairseq.checkpoints.files import read_state
from colld_fairseq.compat import cache_keyword, decoder_cache
from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary
from colld_fairseq.errors import CheckpointError, ConfigError

CLASSES = {"whisper": "Whisper", "m2m_100": "M2M100", "mbart": "MBart"}
# Part of --train-decoder-parts -> names of its parameters; the first that fits counts.
PARTS = {
    "layer_norm": r"layer_?norm",
    "self_attention": r"\.self_attn\.",
    "cross_attention": r"\.encoder_attn\.",
    "feed_forward": r"\.fc[12]\.",
    "embeddings": r"embed_|^head\.",
}
READS_ENCODER = r"\.encoder_attn(_layer_norm)?\."  # what is trained from the start while the rest is frozen


class PretrainedDecoder(FairseqIncrementalDecoder):
    """A decoder of the shape that the vocabulary's config.json describes, with random weights (`load_pretrained`).

    Args:
        dropout: in place of the configuration's three (residual, attention, activation).
        train_parts: parts that are trained, of PARTS; the others get no gradient.
        freeze_updates: for so many updates only what reads the encoder is trained.
    """

    def __init__(
        self,
        vocabulary: PretrainedVocabulary,
        dropout: Optional[float] = None,
        train_parts: Sequence[str] = tuple(PARTS),
        freeze_updates: int = 0,
    ) -> None:
        super().__init__(vocabulary.dictionary)
        settings = settings_of(vocabulary, dropout)
        self.family, self.prefix_size = vocabulary.family, vocabulary.prefix_size
        self.network = network_class(self.family)(settings)
        self.head = None if settings.tie_word_embeddings else nn.Linear(self.width, settings.vocab_size, bias=False)
        self.register_buffer("logits_bias", torch.zeros(settings.vocab_size) if self.family == "mbart" else None)
        self.frames_mask: Optional[Tensor] = None  # of the batch in work, for:
        if self.family == "whisper":  # whose decoder would attend to padding
            for layer in self.network.layers:
                layer.register_forward_pre_hook(self._mask_frames, with_kwargs=True)
        self.freeze_updates = freeze_updates
        self.trained = [p for name, p in self.named_parameters() if part_of(name) in train_parts]
        self.read_encoder = {p for name, p in self.named_parameters() if re.search(READS_ENCODER, name)}
        chosen = set(self.trained)
        for parameter in self.parameters():
            parameter.requires_grad_(parameter in chosen)

    @property
    def width(self) -> int:
        """Of the frames that it attends to."""
        return self.network.config.d_model

    def set_num_updates(self, num_updates: int) -> None:
        if self.freeze_updates:
            for parameter in self.trained:
                parameter.requires_grad_(num_updates >= self.freeze_updates or parameter in self.read_encoder)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Dict[str, List[Tensor]],
        incremental_state: Optional[Dict[str, Any]] = None,
        **unused: Any,
    ) -> Tuple[Tensor, None]:
        """Logits [B, U, V]; with an incremental state those of the last token, [B, 1, V].

        prev_output_tokens [B, U]: the first of each is fairseq's start, which stands for the tokens [B, P] in
        `encoder_out["prefix_tokens"]`.
        """
        (prefix,) = encoder_out["prefix_tokens"]
        tokens, kept = torch.cat((prefix, prev_output_tokens[:, 1:]), dim=1), prev_output_tokens.size(1)
        if incremental_state is not None:
            kept = 1
            if "cache" in incremental_state:
                tokens = tokens[:, -1:]
            else:
                incremental_state.update(cache=decoder_cache(), rows=len(tokens))
        hidden = self.hidden(tokens, encoder_out, (incremental_state or {}).get("cache"))
        return self.logits(hidden[:, -kept:]), None

    def hidden(self, tokens: Tensor, encoder_out: Dict[str, List[Tensor]], cache: Any = None) -> Tensor:
        """Output of the last block [B, U, D] for the tokens [B, U], which follow those in `cache` if there is one."""
        frames, padding = encoder_out["encoder_out"][0].transpose(0, 1), encoder_out["encoder_padding_mask"][0]
        mask = {"encoder_attention_mask": (~padding).long()} if self.family != "whisper" and padding.any() else {}
        self.frames_mask = ~padding[:, None, None] if padding.any() else None
        step = {cache_keyword(self.network): cache, "use_cache": cache is not None}
        try:
            return self.network(tokens, encoder_hidden_states=frames, **mask, **step).last_hidden_state
        finally:
            self.frames_mask = None

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self.head(hidden) if self.head is not None else F.linear(hidden, self.network.embed_tokens.weight)
        return logits if self.logits_bias is None else logits + self.logits_bias

    def _mask_frames(self, layer: nn.Module, given: Tuple, named: Dict[str, Any]):
        return given, {**named, "encoder_attention_mask": self.frames_mask}

    def reorder_incremental_state(self, incremental_state: Dict[str, Any], new_order: Tensor) -> None:
        """Rows of the state in a new order, in which fairseq's search exchanges hypotheses of one utterance, or takes
        utterances out: only then what is read of the encoder is another."""
        if "cache" not in incremental_state:
            return
        cache = incremental_state["cache"]
        cache.self_attention_cache.reorder_cache(new_order)
        if len(new_order) != incremental_state["rows"]:
            cache.cross_attention_cache.reorder_cache(new_order)
            incremental_state["rows"] = len(new_order)

    def max_positions(self) -> int:
        """Most tokens of a hypothesis, its end included, and one: what fairseq takes for the number of positions."""
        return self.network.max_target_positions - self.prefix_size + 1


def load_pretrained(decoder: PretrainedDecoder, vocabulary: PretrainedVocabulary, directory: Path) -> None:
    """Fill a decoder with the weights in a directory of transformers, cut to the tokens that the vocabulary kept.

    Raises CheckpointError that names what is missing or of another shape.
    """
    state, taken = read_state(directory), {}
    for name, expected in decoder.state_dict().items():
        stored = next((theirs for theirs in their_names(name) if theirs in state), None)
        if stored is None:
            if name == "logits_bias":  # not in every file, and zero then
                continue
            raise CheckpointError(f"{directory}: no {their_names(name)[0]} in its weights; copy the complete directory")
        tensor = state[stored]
        if vocabulary.kept is not None and name in ("network.embed_tokens.weight", "head.weight", "logits_bias"):
            tensor = tensor.reshape(-1, *expected.shape[1:])[vocabulary.kept]
        if tensor.numel() != expected.numel() or tensor.dim() > 1 and tensor.squeeze(0).shape != expected.shape:
            raise CheckpointError(
                f"{directory}: {stored} is {list(tensor.shape)}, expected {list(expected.shape)}; take weights and"
                " config.json of one model"
            )
        taken[name] = tensor.reshape(expected.shape)
    decoder.load_state_dict(taken, strict=False)


def their_names(name: str) -> List[str]:
    """What transformers may call a weight of ours, in models with and without a head; embeddings are stored once."""
    if name == "logits_bias":
        return ["final_logits_bias"]
    if name == "head.weight":
        return ["lm_head.weight", "proj_out.weight"]
    part = name.removeprefix("network.")
    names = [f"model.decoder.{part}", f"decoder.{part}"]
    if part == "embed_tokens.weight":
        names += ["model.shared.weight", "shared.weight", "lm_head.weight", "proj_out.weight"]
    return names


def network_class(family: str) -> type:
    """transformers' decoder."""
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    return getattr(module, f"{CLASSES[family]}Decoder")


def settings_of(vocabulary: PretrainedVocabulary, dropout: Optional[float]) -> Any:
    """transformers' configuration of the decoder; dropout: in place of its own three."""
    import transformers

    settings = getattr(transformers, f"{CLASSES[vocabulary.family]}Config").from_dict(vocabulary.config)
    settings.vocab_size, settings.pad_token_id = len(vocabulary.dictionary), vocabulary.padding_index
    settings.decoder_layerdrop = 0.0
    if dropout is not None:
        settings.dropout = settings.attention_dropout = settings.activation_dropout = dropout
    settings._attn_implementation = "sdpa"
    return settings


def part_of(name: str) -> str:
    """The part, of PARTS, that a parameter belongs to."""
    return next(part for part, pattern in PARTS.items() if re.search(pattern, name))


def parse_parts(text: str) -> List[str]:
    """Parts `layer_norm,cross_attention`; ConfigError for one that does not exist."""
    parts = [part for part in text.split(",") if part]
    unknown = sorted(set(parts) - set(PARTS) - {"all"})
    if unknown or not parts:
        raise ConfigError(
            f"--train-decoder-parts {text!r}: write all, or some of {', '.join(PARTS)} with commas between"
        )
    return list(PARTS) if "all" in parts else parts
