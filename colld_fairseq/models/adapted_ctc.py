"""Model `adapted_ctc`: a trained `student_ctc` that learns one more language and loses nothing of the others.

All of the trained recogniser stays as it is. The new language has adapters behind the encoder's blocks and a CTC layer
of its own, whose vocabulary may have grown (`colld vocab --extend`); with --own-blocks it also has its own copies of
the last blocks. They are used for utterances in that language, and for no others. A model with added languages can be
given another one.
"""

import copy
import json
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from colld_fairseq.checkpoints.names_colld import SavedModel, read_model
from colld_fairseq.compat import given_on_command_line
from colld_fairseq.data import vocabulary_copy
from colld_fairseq.data.text import SPECIALS
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.encoder_options import build_encoder, record_encoder
from colld_fairseq.models.finetune_encoder import CtcModel, FinetuneEncoder, FinetuneOptions
from colld_fairseq.modules.adapters import Adapter, adapted
from colld_fairseq.modules.encoder import StudentEncoder
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, option

BASE = "student_ctc"
NUM_SPECIALS = len(SPECIALS)
OF_TRAINED_ENCODERS = (
    *("freeze_encoder_updates", "mask_prob", "mask_channel_prob", "output_dropout"),
    *("checkpoint_activations", "compile_encoder"),
)


@dataclass
class AdaptedCtcConfig(FinetuneOptions):
    student: str = option("", "checkpoint of the trained recogniser, a `student_ctc` or one with added languages")
    added_language: str = option("", "language to add, as src_lang of manifests and --src-lang name it")
    adapter_dim: int = option(64, "width inside the adapters of the new language (our choice)", COUNT)
    own_blocks: int = option(0, "last blocks of which the new language trains copies of its own", COUNT_OR_NONE)
    added_parts: str = option("", "sizes of all parts as JSON; filled in by the program and kept in the checkpoint")


class LanguageParts(nn.Module):
    """What one added language has for itself; `blocks` are in place of the student's last ones."""

    def __init__(self, student: StudentEncoder, adapter_dim: int, vocabulary_size: int, own_blocks: int = 0) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(Adapter(student.width, adapter_dim) for _ in student.blocks)
        replaced = student.blocks[len(student.blocks) - own_blocks :]
        self.blocks = nn.ModuleList(copy.deepcopy(block) for block in replaced)
        self.ctc = nn.Linear(student.width, vocabulary_size)


@register_model("adapted_ctc", dataclass=AdaptedCtcConfig)
class AdaptedCtc(CtcModel, BaseFairseqModel):
    """Token 0 (`<s>`) of the dictionary is the blank.

    Attributes:
        languages: those that were added; the last one is in training.
        parts: what each of them has for itself, in the same order.
        language: that of the utterances to be decoded: an added one, or "" for those of the recogniser before.
        recorded: options as they are to be in the checkpoint.
    """

    def __init__(
        self, encoder: FinetuneEncoder, sizes: Dict[str, Tuple[int, ...]], old_size: int, vocabulary_size: int
    ) -> None:
        """sizes: adapter width, vocabulary and (0 where it lacks) own blocks of each added language; old_size: that of
        the first recogniser's vocabulary."""
        super().__init__()
        student = encoder.student
        self.encoder, self.ctc = encoder, nn.Linear(student.width, old_size)
        self.languages = list(sizes)
        self.parts = nn.ModuleList(LanguageParts(student, *size) for size in sizes.values())
        self.vocabulary_size = vocabulary_size
        self.recorded = {"added_parts": json.dumps({"old": old_size, "languages": sizes})}
        self.language = self.languages[-1]
        self.requires_grad_(False)
        self.parts[-1].requires_grad_(True)

    @classmethod
    def build_model(cls, cfg: AdaptedCtcConfig, task) -> "AdaptedCtc":
        size = len(task.target_dictionary)
        if cfg.added_parts:  # of a checkpoint
            parts = json.loads(cfg.added_parts)
            if getattr(task, "restored", ""):
                check_going_on(cfg, parts["languages"], task.restored)
            return cls(FinetuneEncoder(cfg, build_encoder(cfg)), parts["languages"], parts["old"], size)
        saved = read_recogniser(cfg, task)
        record_encoder(cfg, saved.config)
        if cfg.own_blocks > saved.config.layers:
            raise ConfigError(f"--own-blocks {cfg.own_blocks}: the encoder has {saved.config.layers} blocks")
        languages = {**languages_of(saved), cfg.added_language: (cfg.adapter_dim, size, cfg.own_blocks)}
        old_size = len(saved.weights["ctc.weight"])
        model = cls(FinetuneEncoder(cfg, build_encoder(cfg)), languages, old_size, size)
        model.start_from(saved.weights)
        return model

    def start_from(self, weights: Dict[str, Tensor]) -> None:
        """All of a trained recogniser; the new language's CTC layer begins with what that has for its symbols, and its
        own blocks as the recogniser's last ones."""
        own = {name for name in self.state_dict() if name.startswith(f"parts.{len(self.parts) - 1}.")}
        missing, unexpected = self.load_state_dict(weights, strict=False)
        if set(missing) != own or unexpected:
            raise ConfigError(f"--student: weights of another model: {[*(set(missing) - own), *unexpected][:3]}")
        layer = self.parts[-1].ctc
        with torch.no_grad():
            layer.weight[: len(self.ctc.weight)] = self.ctc.weight
            layer.bias[: len(self.ctc.bias)] = self.ctc.bias
        for own_block, block in zip(reversed(self.parts[-1].blocks), reversed(self.encoder.student.blocks)):
            own_block.load_state_dict(block.state_dict())

    def train(self, mode: bool = True) -> "AdaptedCtc":
        """The trunk stays in eval mode: no dropout, the widest context."""
        super().train(mode)
        self.encoder.eval()
        return self

    def choose_language(self, language: str) -> None:
        """For the utterances to be decoded next; one that was not added is recognized as before."""
        self.language = language if language in self.languages else ""

    def parts_for(self, language: str) -> Optional[LanguageParts]:
        """Those of an added language."""
        return self.parts[self.languages.index(language)] if language in self.languages else None

    def student_for(self, language: str) -> StudentEncoder:
        student, parts = self.encoder.student, self.parts_for(language)
        return student if parts is None else adapted(student, parts.adapters, parts.blocks)

    def ctc_for(self, language: str) -> nn.Linear:
        parts = self.parts_for(language)
        return self.ctc if parts is None else parts.ctc

    def log_probs(self, x: Tensor, language: str) -> Tensor:
        """float32 [B, T, V] of encoder output [B, T, D]; symbols that the language does not know have no
        probability."""
        log_probs = torch.log_softmax(self.ctc_for(language)(x).float(), dim=-1)
        return F.pad(log_probs, (0, self.vocabulary_size - log_probs.size(-1)), value=-torch.inf)

    def get_ctc_log_probs(self, src_tokens: Tensor, src_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        encoded = self.encoder.encode(src_tokens, src_lengths, self.student_for(self.language))
        return self.log_probs(encoded.x, self.language), encoded.lengths

    def forward(self, src_tokens: Tensor, src_lengths: Tensor, **unused: Any) -> Dict[str, Tensor]:
        """{"ctc_logits": [B, T, V], "ctc_lengths": [B]} of the language in training, whatever was decoded before."""
        trained = self.languages[-1]
        output = self.student_for(trained)(src_tokens, src_lengths)
        return {"ctc_logits": self.ctc_for(trained)(output.x), "ctc_lengths": output.lengths}


def languages_of(saved: SavedModel) -> Dict[str, Tuple[int, ...]]:
    """Sizes of the languages that were added to a recogniser before, as `AdaptedCtc` takes them."""
    return json.loads(saved.model.get("added_parts") or "{}").get("languages", {})


def check_frozen(cfg: AdaptedCtcConfig) -> None:
    """ConfigError for options of encoders that are trained."""
    useless = [name for name in OF_TRAINED_ENCODERS if getattr(cfg, name)]
    if useless:
        option_name = f"--{useless[0].replace('_', '-')}"
        raise ConfigError(f"{option_name}: the encoder of adapted_ctc is frozen, and as in recognition; leave it out")


def check_going_on(cfg: AdaptedCtcConfig, languages: Dict[str, Tuple[int, ...]], file: str) -> None:
    """ConfigError where options contradict a training that goes on from `file`, which has added these languages."""
    check_frozen(cfg)
    language, (width, _, *own_blocks) = list(languages.items())[-1]
    if cfg.added_language not in ("", language):
        raise ConfigError(
            f"--added-language {cfg.added_language}, but {file} learns {language}: take another --save-dir, and {file}"
            " as --student"
        )
    for name, recorded in (("adapter_dim", width), ("own_blocks", sum(own_blocks))):
        if given_on_command_line(name) and getattr(cfg, name) != recorded:
            raise ConfigError(
                f"--{name.replace('_', '-')} {getattr(cfg, name)}, but {file} has {recorded}: leave the option out"
            )


def read_recogniser(cfg: AdaptedCtcConfig, task) -> SavedModel:
    """The checkpoint of --student. Raises ConfigError where no language can be added to it, or not this one."""
    if not cfg.student or not cfg.added_language:
        raise ConfigError("adapted_ctc needs --student, a trained student_ctc, and --added-language")
    check_frozen(cfg)
    saved = read_model(cfg.student, task.input_options)
    if not saved.model.get("_name", "").startswith((BASE, "adapted_ctc")):
        raise ConfigError(f"--student {cfg.student}: a {saved.model.get('_name')}; a language can be added to a {BASE}")
    if cfg.added_language in languages_of(saved):
        raise ConfigError(
            f"--added-language {cfg.added_language!r}: {cfg.student} has it already; to train it anew, add it to the"
            " recogniser that this was made from"
        )
    check_grown(saved.state.get(vocabulary_copy.NAME), task.vocabulary.dictionary.symbols, cfg.student)
    return saved


def check_grown(old: Optional[vocabulary_copy.Copy], symbols: List[str], student: str) -> None:
    """Raises ConfigError unless the vocabulary's `symbols` begin with those of the trained recogniser."""
    if old is None or vocabulary_copy.SYMBOLS not in old:
        raise ConfigError(f"--student {student}: without a copy of its vocabulary; fine-tune it with this version")
    known = vocabulary_copy.tokens_in(old)
    if symbols[NUM_SPECIALS : NUM_SPECIALS + len(known)] != known:
        raise ConfigError(
            f"the vocabulary does not begin with that of {student}, in its order: make it with"
            " `colld vocab --extend FOLDER`"
        )
