"""Attention models: an encoder and a decoder with its cache, for ONNX Runtime; what clients' slots have in common."""

import json
from dataclasses import replace
from functools import cached_property
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.data.pretrained_vocabulary import PretrainedVocabulary
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.attention_card import attention_card
from colld_fairseq.export.attention_graphs import AttendedGraph, CrossProjections, Rules, StepsGraph
from colld_fairseq.export.byte_tokens import base64_tokens
from colld_fairseq.export.comparison import Session, difference_stage, files_stages, metadata_stages, text_stage
from colld_fairseq.export.eight_bits import IN_BLOCKS, encoder_in_eight_bits
from colld_fairseq.export.family import TOKENS, Exported, ExportOptions, Family, Graph, Stage
from colld_fairseq.export.normalization import Unchanged, normalization_of
from colld_fairseq.export.symbols import tokens_file
from colld_fairseq.recogniser import Recogniser

ENCODER, DECODER, PROMPTS = "encoder", "decoder", "decoding.json"
TEXT = "text of ONNX Runtime"  # a stage
EXAMPLE_FRAMES = 200  # input frames at 100 Hz, to trace with
SAMPLES = 160  # of one


class Output(NamedTuple):
    """Of one utterance: keys [L, F, D] that the decoder attends to, logits [U, V], tokens, text."""

    keys: np.ndarray
    logits: np.ndarray
    tokens: List[int]
    text: str


Runtime = Callable[[np.ndarray, List[int]], Output]  # of a waveform [N] and tokens to give logits for


class Attention(Family):
    """An attention model as `encoder.onnx` and `decoder.onnx` for ONNX Runtime.

    Attributes:
        decoder, vocabulary: of the recogniser.
        prompt: token ids that the decoder is given for an utterance in the options' languages; empty without any.
    """

    slot = "attention"
    # What torch.export makes of a decoder's steps loses the caches between them, or cannot be made at all.
    exporters = ("torchscript",)

    def __init__(self, recogniser: Recogniser, options: ExportOptions) -> None:
        super().__init__(recogniser, options)
        self.decoder, self.vocabulary = self.model.decoder, recogniser.vocabulary
        self.source = options.src_lang or recogniser.task.cfg.src_lang
        self.target = options.tgt_lang or recogniser.task.cfg.tgt_lang or self.source
        self.prompt = self.prompt_for(self.source, self.target) if self.target or not self.vocabulary.uses_tags else []

    def without_client(self) -> "Attention":
        """Compared in the first of its languages where none was named."""
        if not self.prompt:
            self.source = self.target = self.written_languages[0]
            self.prompt = self.prompt_for(self.source, self.target)
        super().without_client()
        return self

    @property
    def task_settings(self) -> Mapping[str, Any]:
        """Without the languages that this one comparison was told: the graphs know all of them."""
        told = ("src_lang", "tgt_lang") if self.vocabulary.uses_tags else ()
        return {name: value for name, value in super().task_settings.items() if name not in told}

    @cached_property
    def rules(self) -> Rules:
        vocabulary, dictionary = self.vocabulary, self.vocabulary.dictionary
        unknown, end = self.recogniser.task.unwanted_unknown, self.vocabulary.dictionary.eos()
        if isinstance(vocabulary, PretrainedVocabulary):
            first = vocabulary.never_first | {end}
            never = (vocabulary.never_written | unknown | {dictionary.pad()}) - {end}
            languages = vocabulary.language_ids if vocabulary.family == "whisper" else set()
            return Rules(vocabulary.prefix_size, never, first, languages if vocabulary.uses_tags else set(), end)
        tagged = vocabulary.uses_tags
        return Rules(1 + tagged, unknown | {dictionary.pad()}, set() if tagged else {end}, set(), end)

    def prompt_for(self, source: str, target: str) -> List[int]:
        """Token ids that the decoder is given. ConfigError for languages that it cannot write."""
        if isinstance(self.vocabulary, PretrainedVocabulary):
            return self.vocabulary.prefix(source, target or "en")
        tag = [self.vocabulary.tag_id(target)] if self.vocabulary.uses_tags else []
        return [self.vocabulary.dictionary.eos(), *tag]

    def longest(self, length: int) -> int:
        """Tokens that a hypothesis may have, without prompt and end; length: of the encoder's input."""
        limits = self.limits
        return min(limits["tokens_at_most"], max(int(limits["tokens_per_input"] * length + limits["tokens_more"]), 1))

    @property
    def limits(self) -> Dict[str, Any]:
        """What `longest` is computed of. A tag that fairseq's own decoder writes first is one of the tokens there."""
        generator, tag = self.recogniser.search.generator, self.recogniser.task.prefix_size
        given = {"tokens_per_input": generator.max_len_a, "tokens_more": generator.max_len_b - tag}
        return {**given, "tokens_at_most": self.decoder.max_positions() - 1 - tag}

    # -- what is written -----------------------------------------------------------------------------------------------
    def graphs(self) -> List[Graph]:
        config = self.student.config
        waveforms = config.input.kind == "waveform"
        frames = EXAMPLE_FRAMES * SAMPLES if waveforms else EXAMPLE_FRAMES
        source = torch.randn((2, frames) if waveforms else (2, frames, config.input.bins))
        name = "waveform" if waveforms else "features"
        # What Whisper's log-mels are made of is not normalized again.
        normalization = Unchanged() if config.input.kind == "log_mel" else normalization_of(config.input)
        encoder = AttendedGraph(self.model, normalization).eval()
        inputs = {name: source, "lengths": torch.tensor([frames, frames * 3 // 4])}
        outputs = {"cross_keys": {1: "batch", 2: "frames"}, "cross_values": {1: "batch", 2: "frames"}}
        axes = {name: {0: "batch", 1: "length"}, "lengths": {0: "batch"}, **outputs, "frames": {0: "batch"}}
        first = Graph(
            ENCODER,
            encoder,
            inputs,
            [*outputs, "frames"],
            axes,
            self.own_metadata,
            encoder_in_eight_bits(config),
        )
        return [first, self.steps_graph(*self.traced(encoder, inputs))]

    def steps_graph(self, keys: Tensor, values: Tensor, frames: Tensor) -> Graph:
        module = StepsGraph(self.decoder, self.rules).eval()
        past = torch.randn(len(module.steps.layers), keys.size(1), 3, module.steps.width)
        inputs = {
            "tokens": torch.full((keys.size(1), 2), self.vocabulary.dictionary.eos()),
            "past_keys": past,
            "past_values": past,
            "cross_keys": keys,
            "cross_values": values,
            "frames": frames,
        }
        cross, cache = {1: "batch", 2: "frames"}, {1: "batch", 2: "past"}
        axes = {
            "tokens": {0: "batch", 1: "new"},
            "past_keys": cache,
            "past_values": cache,
            "cross_keys": cross,
            "cross_values": cross,
            "frames": {0: "batch"},
            "logits": {0: "batch", 1: "new"},
            "keys": {1: "batch", 2: "all"},
            "values": {1: "batch", 2: "all"},
        }
        return Graph(DECODER, module, inputs, ["logits", "keys", "values"], axes, eight_bits=IN_BLOCKS)

    @staticmethod
    def traced(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tuple[Tensor, ...]:
        """What a graph gives for its example."""
        with torch.no_grad():
            return module(*inputs.values())

    def files(self) -> Dict[str, str]:
        content = json.dumps(self.decoding(), indent=1, ensure_ascii=False) + "\n"
        return {TOKENS: self.tokens_text(), PROMPTS: content}

    def tokens_text(self) -> str:
        if getattr(self.vocabulary, "family", "") == "whisper":
            return base64_tokens(self.vocabulary)
        return tokens_file(self.vocabulary.dictionary.symbols)

    def decoding(self) -> Dict[str, Any]:
        """What a loop over the decoder has to know."""
        end = {"end": self.vocabulary.dictionary.eos(), **self.limits}
        if not self.vocabulary.uses_tags:
            return {**end, "prompt": self.prompt_for("", "")}
        if getattr(self.vocabulary, "family", "") == "whisper":
            languages = self.vocabulary.languages
            translations = {"translate": {name: self.prompt_for(name, "en") for name in languages if name != "en"}}
            return {
                **end,
                "transcribe": {name: self.prompt_for(name, name) for name in languages},
                **(translations if "en" in languages else {}),
            }
        return {**end, "write": {name: self.prompt_for("", name) for name in self.written_languages}}

    @property
    def written_languages(self) -> List[str]:
        if isinstance(self.vocabulary, PretrainedVocabulary):
            return list(self.vocabulary.languages)
        symbols = self.vocabulary.dictionary.symbols
        return [symbols[index].split(":", 1)[1].rstrip(">") for index in sorted(self.vocabulary.tag_ids)]

    def card(self, sizes: Mapping[str, int]) -> str:
        return attention_card(self, sizes)

    # -- comparison ----------------------------------------------------------------------------------------------------
    def stages(self, exported: Exported, waveform: np.ndarray) -> List[Stage]:
        if not self.prompt:
            raise ConfigError("this model is told a language: give --lang, and --src-lang if another one is spoken")
        ours = self.student_output(waveform)
        stages = [*files_stages(exported), *metadata_stages(exported)]
        try:
            stages += self.runtime_stages(exported, waveform, ours)
        except ConfigError as error:
            return [*stages, Stage("graphs", False, str(error))]
        if self.client:
            stages += self.client_stages(exported, waveform, ours)
        if exported.int8:
            try:
                text = self.runtime_output(exported, waveform, ours.tokens, int8=True).text
            except ConfigError as error:
                return [*stages, Stage("8 bits, ONNX Runtime", False, str(error))]
            other = "" if text == ours.text else f" (32 bits: {ours.text!r})"
            stages.append(Stage("8 bits, ONNX Runtime", None, f"{text!r}{other}"))
        return stages

    def runtime_stages(self, exported: Exported, waveform: np.ndarray, ours: Output) -> List[Stage]:
        """Encoder output, logits of PyTorch's tokens, and text of ONNX Runtime. Raises ConfigError."""
        theirs = self.runtime_output(exported, waveform, ours.tokens)
        if theirs.keys.shape != ours.keys.shape:
            return [Stage("encoder output", False, f"{theirs.keys.shape}, PyTorch {ours.keys.shape}")]
        allowed = np.isfinite(theirs.logits)
        return [
            difference_stage("encoder output", theirs.keys, ours.keys),
            difference_stage("decoder logits", theirs.logits[allowed], ours.logits[allowed]),
            text_stage(TEXT, theirs.text, ours.text, theirs.tokens == ours.tokens),
        ]

    def client_stages(self, exported: Exported, waveform: np.ndarray, ours: Output) -> List[Stage]:
        """What the real client makes of it."""
        return []

    def student_output(self, waveform: np.ndarray) -> Output:
        """What PyTorch makes of a waveform [N] at 16 kHz, with greedy search."""
        languages = [self.target] if self.recogniser.needs_language else None
        spoken = [self.source] if self.source else None
        ((best, *_),) = self.recogniser.transcribe([waveform], languages, source_languages=spoken)
        source = self.reference_input(waveform)
        with torch.no_grad():
            encoded = self.model.encoder(source, torch.tensor([source.size(1)]), self.given_prefix())
            keys = torch.stack(CrossProjections(self.decoder)(encoded["encoder_out"][0].transpose(0, 1))[0])
            logits = self.decoder(torch.tensor([self.fairseq_tokens(best.tokens)]), encoder_out=encoded)[0]
        start = 0 if self.given_prefix() is not None else len(self.prompt) - 1
        return Output(keys[:, 0].numpy(), logits[0, start:].numpy(), best.tokens, best.text)

    def reference_input(self, waveform: np.ndarray) -> Tensor:
        """What PyTorch's encoder is given to compare keys and logits, [1, T, bins] or [1, N]."""
        return torch.from_numpy(self.recogniser.input(waveform))[None]

    def given_prefix(self):
        """The prompt, int64 [1, P], of a pretrained decoder."""
        return torch.tensor([self.prompt]) if getattr(self.decoder, "prefix_size", 0) else None

    def fairseq_tokens(self, tokens: List[int]) -> List[int]:
        """What fairseq's decoder is given for a hypothesis: a pretrained one has its prompt already."""
        start = [self.vocabulary.dictionary.eos()] if getattr(self.decoder, "prefix_size", 0) else self.prompt
        return [*start, *tokens]

    def runtime_output(self, exported: Exported, waveform: np.ndarray, tokens: List[int], int8: bool = False) -> Output:
        """What ONNX Runtime makes of a waveform: a greedy search, and logits for `tokens`. Raises ConfigError."""
        return self.runtime(exported, int8)(waveform, tokens)

    def runtime(self, exported: Exported, int8: bool = False) -> Runtime:
        """The graphs of a folder, opened for any number of utterances. Raises ConfigError, and so does what it gives.

        What lies between two steps stays in ONNX Runtime.
        """
        encoder, decoder = (Session(exported.graph(name, int8)) for name in (ENCODER, DECODER))

        def output(waveform: np.ndarray, tokens: List[int]) -> Output:
            source = self.plain_input(waveform)[None]
            keys, values, frames = encoder.values(source, np.array([source.shape[1]]))
            layers, *_, width = keys.shape()
            past = np.zeros((layers, 1, 0, width), dtype=np.float32)

            def step(given: List[int], cache: Tuple) -> Tuple[np.ndarray, Tuple]:
                logits, *cache = decoder.values(np.array([given]), *cache, keys, values, frames)
                return logits.numpy()[0], tuple(cache)

            return self.search(step, (past, past), keys.numpy()[:, 0], tokens, self.longest(source.shape[1]))

        return output

    def search(self, step: Any, empty: Any, keys: np.ndarray, tokens: List[int], longest: int) -> Output:
        """Greedy search with `step(tokens, cache) -> logits [U, V], cache`; and logits for `tokens`."""
        forced = step([*self.prompt, *tokens], empty)[0][len(self.prompt) - 1 :]
        logits, cache = step(self.prompt, empty)
        written: List[int] = []
        while len(written) < longest:
            best = int(logits[-1].argmax())
            if best == self.vocabulary.dictionary.eos():
                break
            written.append(best)
            logits, cache = step([best], cache)
        return Output(keys, forced, written, self.recogniser.detokenize(written))

    def plain_input(self, waveform: np.ndarray) -> np.ndarray:
        """What the encoder's graph is given: not normalized."""
        config = self.recogniser.input.config
        if config.kind == "log_mel":
            return self.recogniser.input(waveform)
        return StudentInput(replace(config, normalization="none", mean=[], std=[]))(waveform)
