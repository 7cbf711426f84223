"""A Whisper student in the clients that know Whisper: sherpa-onnx and onnx-asr."""

import json
from abc import abstractmethod
from typing import Dict, List, Tuple

import kaldi_native_fbank
import numpy as np
import torch
from torch import Tensor

from colld_fairseq.data.log_mel import HOP, LogMel
from colld_fairseq.errors import ConfigError
from colld_fairseq.export.attention import DECODER, ENCODER, TEXT, Attention, Output, Runtime
from colld_fairseq.export.byte_tokens import base64_tokens
from colld_fairseq.export.clients import ClientError, ClientModel, run_client
from colld_fairseq.export.comparison import Session, difference_stage, text_stage
from colld_fairseq.export.eight_bits import IN_BLOCKS, encoder_in_eight_bits
from colld_fairseq.export.family import TOKENS, WHISPER, Exported, ExportOptions, Graph, Stage, display
from colld_fairseq.export.silence import WINDOW, ZEROS, Filling, TrainedSilence
from colld_fairseq.export.whisper_graphs import OnnxAsrDecoder, OnnxAsrEncoder, SherpaDecoder, SherpaEncoder
from colld_fairseq.recogniser import Recogniser

SECONDS = 30.0  # window of every client of Whisper
LEAD = HOP // 2  # samples that sherpa-onnx is late: it centers its frames between ours
EXAMPLE = 700  # log-mel frames to trace with


class WhisperClient(Attention):
    """What clients of Whisper ask for: its log-mels, its window, its own decoder.

    Attributes:
        filling: how the client fills up what is shorter.
    """

    filling: Filling

    def __init__(self, recogniser: Recogniser, options: ExportOptions) -> None:
        super().__init__(recogniser, options)
        given, client = self.student.config.input, display(self.client)
        if getattr(recogniser.vocabulary, "family", "") != "whisper":
            other = (
                ", or --decoder ctc for its CTC layer" if getattr(recogniser.models[0], "ctc", None) is not None else ""
            )
            raise ConfigError(f"{client} knows attention models with a decoder of Whisper alone: take --to onnx{other}")
        if given.kind != "log_mel":
            raise ConfigError(
                f"{client} computes Whisper's log-mels for Whisper's decoder, this student takes {given}: its text"
                " would be another. Take --to onnx"
            )
        if given.window_seconds != SECONDS:
            raise ConfigError(
                f"{client} has windows of {SECONDS:g} s, this student of {given.window_seconds:g} s: take --to onnx"
            )
        if self.model.encoder.adaptor is not None:
            raise ConfigError(f"{client} has no length adaptor before Whisper's decoder: take --to onnx")

    @abstractmethod
    def client_mel(self, waveform: np.ndarray) -> np.ndarray:
        """Log-mels [T, bins] of a waveform [N] as the client gives them to the encoder."""

    def reference_input(self, waveform: np.ndarray) -> Tensor:
        mel = torch.from_numpy(self.client_mel(waveform))[None]
        return TrainedSilence(self.student.config.input, self.filling)(mel)[0]

    def runtime_stages(self, exported: Exported, waveform: np.ndarray, ours: Output) -> List[Stage]:
        stages = super().runtime_stages(exported, waveform, ours)
        if not self.client:  # then it is of no matter what a client makes of the audio
            return [stage for stage in stages if stage.name != TEXT]
        return [self.log_mel_stage(waveform), *stages]

    def log_mel_stage(self, waveform: np.ndarray) -> Stage:
        """The client's log-mels beside ours. Those at the ends of the utterance may differ: clients mirror it there,
        and may take one frame more for its last."""
        theirs, own = self.reference_input(waveform)[0].numpy(), self.recogniser.input(waveform)
        last = len(waveform) // HOP
        rows = [row for row in range(min(len(theirs), len(own))) if not (row < 2 or last - 2 <= row <= last + 2)]
        stage = difference_stage("log-mels of the client", theirs[rows], own[rows])
        if abs(len(theirs) - len(own)) <= 2:
            return stage
        return stage._replace(same=False, detail=f"{len(theirs)} frames with silence, PyTorch {len(own)}")

    @property
    def task(self) -> str:
        """Of the prompt."""
        same = not self.source or self.source.split("-")[0] == self.target.split("-")[0]
        return "transcribe" if same else "translate"

    @property
    def language(self) -> str:
        """Spoken, as Whisper names it."""
        names = {index: name for name, index in self.vocabulary.languages.items()}
        return names[self.prompt[1]] if names else "en"


class SherpaWhisper(WhisperClient):
    """Slot `whisper` of sherpa-onnx."""

    slot, client, filling = WHISPER, "sherpa_onnx", ZEROS

    def graphs(self) -> List[Graph]:
        encoder = SherpaEncoder(self.student, self.decoder).eval()
        mel = torch.randn(1, self.student.config.input.bins, EXAMPLE)
        mel[:, :, EXAMPLE // 2 :] = 0
        cross = {"n_layer_cross_k": {2: "frames"}, "n_layer_cross_v": {2: "frames"}}
        metadata = {**self.own_metadata, **self.metadata()}
        axes, how = {"mel": {2: "length"}, **cross}, encoder_in_eight_bits(self.student.config)
        first = Graph(ENCODER, encoder, {"mel": mel}, list(cross), axes, metadata, eight_bits=how)
        module = SherpaDecoder(self.decoder, self.rules).eval()
        cache = torch.zeros(len(module.steps.layers), 1, module.steps.longest, module.steps.width)
        keys, values = self.traced(encoder, {"mel": mel})
        inputs = {
            "tokens": torch.full((1, 3), self.vocabulary.dictionary.bos()),
            "in_n_layer_self_k_cache": cache,
            "in_n_layer_self_v_cache": cache,
            "n_layer_cross_k": keys,
            "n_layer_cross_v": values,
            "offset": torch.tensor([2]),
        }
        axes = {
            "tokens": {1: "new"},
            "in_n_layer_self_k_cache": {2: "past"},
            "in_n_layer_self_v_cache": {2: "past"},
            **cross,
            "logits": {1: "new"},
            "out_n_layer_self_k_cache": {2: "all"},
            "out_n_layer_self_v_cache": {2: "all"},
        }
        outputs = ["logits", "out_n_layer_self_k_cache", "out_n_layer_self_v_cache"]
        return [first, Graph(DECODER, module, inputs, outputs, axes, eight_bits=IN_BLOCKS)]

    def metadata(self) -> Dict[str, str]:
        """What the client reads in the encoder's file."""
        settings, ids = self.decoder.network.config, self.vocabulary.dictionary.indices
        languages = self.vocabulary.languages
        start, *_, tail = self.prompt_for("", next(iter(languages), "en"))
        own = next(iter(languages.values()), 0)
        transcribe, translate = ids.get("<|transcribe|>", 0), ids.get("<|translate|>", 0)
        values = {
            "model_type": "whisper-colld",
            "n_mels": self.student.config.input.bins,
            "n_audio_ctx": settings.max_source_positions,
            "n_text_layer": settings.decoder_layers,
            "n_text_ctx": settings.max_target_positions,
            "n_text_state": settings.d_model,
            "n_vocab": len(self.vocabulary.dictionary),
            "sot": start,
            "eot": self.vocabulary.dictionary.eos(),
            "blank_id": ids.get("Ġ", 0),
            "transcribe": transcribe,
            "translate": translate,
            "no_timestamps": tail,
            "no_speech": ids.get("<|nospeech|>", ids.get("<|nocaptions|>", 0)),
            "is_multilingual": int(bool(languages)),
            "sot_sequence": f"{start},{languages.get('en', own)},{transcribe}" if languages else start,
            "all_language_tokens": ",".join(map(str, languages.values())),
            "all_language_codes": ",".join(languages),
        }
        return {name: str(value) for name, value in values.items()}

    def files(self) -> Dict[str, str]:
        return {TOKENS: base64_tokens(self.vocabulary)}

    def client_model(self, exported: Exported, int8: bool = False) -> ClientModel:
        """The folder as its client opens it, told the options' language and task."""
        arguments = {name: str(exported.graph(name, int8)) for name in (ENCODER, DECODER)}
        arguments.update(tokens=str(exported.tokens), language=self.language, task=self.task)
        return ClientModel(self.client, "OfflineRecognizer.from_whisper", arguments)

    def client_mel(self, waveform: np.ndarray) -> np.ndarray:
        return client_log_mels(lead_in(waveform), self.student.config.input.bins)

    def runtime(self, exported: Exported, int8: bool = False) -> Runtime:
        encoder, decoder = (Session(exported.graph(name, int8)) for name in (ENCODER, DECODER))
        size = len(self.decoder.network.embed_positions.weight)

        def output(waveform: np.ndarray, tokens: List[int]) -> Output:
            keys, values = encoder.values(self.client_mel(waveform).T[None])
            layers, *_, width = keys.shape()
            cache = np.zeros((layers, 1, size, width), dtype=np.float32)

            def step(given: List[int], state: Tuple) -> Tuple[np.ndarray, Tuple]:
                *past, offset = state
                logits, *caches = decoder.values(np.array([given]), *past, keys, values, np.array([offset]))
                return logits.numpy()[0], (*caches, offset + len(given))

            longest = self.longest(len(self.recogniser.input(waveform)))
            return self.search(step, (cache, cache, 0), keys.numpy()[:, 0], tokens, longest)

        return output

    def client_stages(self, exported: Exported, waveform: np.ndarray, ours: Output) -> List[Stage]:
        name, given = f"text of {display(self.client)}", lead_in(waveform)
        try:
            (result,) = run_client(self.client_model(exported), [given])
        except ClientError as error:
            return [Stage(name, False, str(error))]
        stage = text_stage(name, " ".join(result.text.split()), ours.text)
        most = client_limit(len(given), len(self.decoder.network.embed_positions.weight))
        if not stage.same and len(ours.tokens) > most:
            note = f"; the client writes {most} tokens of {len(ours.tokens)}: 6 for each second of audio"
            stage = stage._replace(detail=stage.detail + note)
        return [stage]


class OnnxAsrWhisper(WhisperClient):
    """Type `whisper` of onnx-asr."""

    slot, client, filling = WHISPER, "onnx_asr", WINDOW

    def __init__(self, recogniser: Recogniser, options: ExportOptions) -> None:
        super().__init__(recogniser, options)
        if not recogniser.vocabulary.languages:
            raise ConfigError(
                "onnx-asr gives every Whisper a language, which English-only ones do not take: take --to sherpa-onnx"
            )
        if self.task != "transcribe":
            raise ConfigError("onnx-asr only transcribes: leave --src-lang out, or take --to sherpa-onnx")

    def graphs(self) -> List[Graph]:
        encoder = OnnxAsrEncoder(self.student, self.decoder).eval()
        mel = torch.randn(2, self.student.config.input.bins, round(SECONDS * 100))
        mel[0, :, EXAMPLE:], mel[1, :, EXAMPLE + 200 :] = -9.0, -9.0
        axes = {"input_features": {0: "batch"}, "last_hidden_state": {0: "batch", 1: "frames"}}
        how = encoder_in_eight_bits(self.student.config)
        outputs, inputs = ["last_hidden_state"], {"input_features": mel}
        first = Graph("encoder_model", encoder, inputs, outputs, axes, self.own_metadata, eight_bits=how)
        return [first, self.decoder_graph(self.traced(encoder, {"input_features": mel}))]

    def decoder_graph(self, encoded: Tensor) -> Graph:
        module = OnnxAsrDecoder(self.decoder, self.rules).eval()
        cache = torch.randn(len(encoded), module.size, 3, module.width)
        inputs = {
            "input_ids": torch.full((len(encoded), 2), self.vocabulary.dictionary.bos()),
            "encoder_hidden_states": encoded,
            "use_cache_branch": torch.tensor([True]),
            "past_key_values.keys": cache,
            "past_key_values.values": cache,
        }
        past = {0: "past_batch", 2: "past"}
        axes = {
            "input_ids": {0: "batch", 1: "new"},
            "encoder_hidden_states": {0: "batch", 1: "frames"},
            "past_key_values.keys": past,
            "past_key_values.values": past,
            "logits": {0: "batch", 1: "new"},
            "present.keys": {0: "batch", 2: "all"},
            "present.values": {0: "batch", 2: "all"},
        }
        return Graph(
            "decoder_model_merged",
            module,
            inputs,
            ["logits", "present.keys", "present.values"],
            axes,
            eight_bits=IN_BLOCKS,
        )

    def client_mel(self, waveform: np.ndarray) -> np.ndarray:
        mel = LogMel(self.student.config.input.bins, round(SECONDS * 16000))
        return mel(torch.from_numpy(waveform)[None].float(), round(SECONDS * 100))[0].numpy()

    def files(self) -> Dict[str, str]:
        added = self.vocabulary.tag_ids | {self.vocabulary.dictionary.eos()}
        parts: Dict[bool, Dict[str, int]] = {True: {}, False: {}}
        for index, symbol in enumerate(self.vocabulary.dictionary.symbols):
            parts[index in added][symbol if index not in added or symbol.startswith("<|") else f"<|{symbol}"] = index
        config = {"model_type": "whisper", "num_mel_bins": self.student.config.input.bins}
        contents = {"config.json": config, "vocab.json": parts[False], "added_tokens.json": parts[True]}
        return {name: json.dumps(content, ensure_ascii=False) + "\n" for name, content in contents.items()}

    def client_model(self, exported: Exported, int8: bool = False) -> ClientModel:
        """The folder as its client opens it; `language` is of the call."""
        arguments = {"model": "whisper", "path": str(exported.folder), "language": self.language}
        return ClientModel(self.client, "load_model", {**arguments, **({"quantization": "int8"} if int8 else {})})

    def runtime(self, exported: Exported, int8: bool = False) -> Runtime:
        encoder, decoder = (Session(exported.graph(name, int8)) for name in ("encoder_model", "decoder_model_merged"))
        layers, width = len(self.decoder.network.layers), self.decoder.width
        empty = np.zeros((0, layers, 0, width), dtype=np.float32)

        def output(waveform: np.ndarray, tokens: List[int]) -> Output:
            (encoded,) = encoder.values(self.client_mel(waveform).T[None])

            def step(given: List[int], cache: Tuple) -> Tuple[np.ndarray, Tuple]:
                logits, *caches = decoder.values(np.array([given]), encoded, np.array([cache is not start]), *cache)
                return logits.numpy()[0], caches

            start = (empty, empty)
            keys = encoded.numpy()[0, :, : layers * width].reshape(-1, layers, width).transpose(1, 0, 2)
            return self.search(step, start, keys, tokens, self.longest(len(self.recogniser.input(waveform))))

        return output

    def client_stages(self, exported: Exported, waveform: np.ndarray, ours: Output) -> List[Stage]:
        name = f"text of {display(self.client)}"
        try:
            (result,) = run_client(self.client_model(exported), [waveform])
        except ClientError as error:
            return [Stage(name, False, str(error))]
        return [text_stage(name, " ".join(result.text.split()), ours.text)]


def lead_in(waveform: np.ndarray) -> np.ndarray:
    """A waveform [N] with half a frame before it, as sherpa-onnx is to be given: mirrored as Whisper's first frame."""
    return np.concatenate((waveform[LEAD:0:-1], waveform))


def client_log_mels(waveform: np.ndarray, bins: int) -> np.ndarray:
    """Log-mels [T, bins] as sherpa-onnx computes them of [N] samples, by the library that it computes them with."""
    options = kaldi_native_fbank.WhisperFeatureOptions()
    options.dim = bins
    computer = kaldi_native_fbank.OnlineWhisperFbank(options)
    computer.accept_waveform(16000, waveform.astype(np.float32).tolist())
    computer.input_finished()
    power = np.array([computer.get_frame(frame) for frame in range(computer.num_frames_ready)])
    log_mel = np.log10(np.maximum(power, 1e-10))
    return (np.maximum(log_mel, log_mel.max() - 8.0) + 4.0) / 4.0


def client_limit(samples: int, positions: int) -> int:
    """Most tokens that sherpa-onnx writes for so many samples, of a decoder that has so many positions."""
    return min(int((samples + HOP // 2) // HOP / 100.0 * 6), positions // 2)


WHISPER_CLIENTS = {"sherpa-onnx": SherpaWhisper, "onnx-asr": OnnxAsrWhisper}


def attention_family(recogniser: Recogniser, options: ExportOptions) -> Attention:
    """An attention model for a target. Raises ConfigError where a client would give other text."""
    return WHISPER_CLIENTS.get(options.target, Attention)(recogniser, options)
