"""Transducers, of whole utterances and of streams: encoder, decoder and joiner as graphs of their own."""

import json
import math
from dataclasses import replace
from functools import cached_property
from typing import Dict, List, Mapping, Optional, Union

import numpy as np
import torch
from torch import Tensor

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.data.fbank import VARIANTS
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.decoding.transducer import GreedySearch, Scorer
from colld_fairseq.errors import ConfigError
from colld_fairseq.export import lstm_decoder
from colld_fairseq.export.clients import TAIL_SECONDS, ClientModel
from colld_fairseq.export.comparison import (
    Session,
    client_stage,
    difference_stage,
    files_stages,
    frames_stage,
    int8_client_stage,
    metadata_stages,
    text_stage,
)
from colld_fairseq.export.eight_bits import EightBits
from colld_fairseq.export.family import STREAM, BuiltGraph, Exported, ExportOptions, Family, Graph, Stage, display
from colld_fairseq.export.normalization import normalization_of
from colld_fairseq.export.symbols import client_symbols, never_emitted, tokens_file
from colld_fairseq.export.transducer_card import transducer_card
from colld_fairseq.export.transducer_graphs import (
    EncoderGraph,
    JoinerGraph,
    StatelessDecoderGraph,
    StreamingEncoderGraph,
)
from colld_fairseq.export.transducer_runtime import BLANK, RuntimeTransducer
from colld_fairseq.export.transducer_slots import KALDI, slot_for
from colld_fairseq.modules.transducer import LstmPredictor
from colld_fairseq.recogniser import Recogniser

ENCODER, DECODER, JOINER = "encoder", "decoder", "joiner"
KALDI_CONTEXT = 2  # symbols that onnx-asr gives a decoder
FBANK_RATE_HZ = 100
FURTHER_FRAMES = 3  # that the filterbanks of a step reach beyond it, and the frame that a step waits for


def transducer_family(recogniser: Recogniser, options: ExportOptions) -> "Transducer":
    """Of whole utterances or of streams, as asked for."""
    return (StreamingTransducer if options.streaming else Transducer)(recogniser, options)


class Transducer(Family):
    """A transducer of whole utterances in a slot of `transducer_slots`."""

    def __init__(self, recogniser: Recogniser, options: ExportOptions) -> None:
        super().__init__(recogniser, options)
        self.kind = slot_for(options, self.student)
        self.slot, self.client = self.kind.name, self.kind.client
        client_symbols(recogniser.vocabulary)  # refuses what no client would put together
        self.lstm = isinstance(self.model.predictor, LstmPredictor)
        if self.kind is KALDI and (self.lstm or self.model.predictor.context > KALDI_CONTEXT):
            raise ConfigError(
                f"onnx-asr gives a prediction network the last {KALDI_CONTEXT} symbols, this one reads more: take --to"
                " sherpa-onnx, or train with --predictor stateless"
            )
        if not self.kind.several_decoders and len(self.languages) > 1:
            raise ConfigError(
                f"{display(self.client)} knows one decoder, this model has one for each target language: name one with"
                f" --lang ({', '.join(self.languages)})"
            )

    @cached_property
    def languages(self) -> List[str]:
        """Target languages whose decoder is exported; one without a name where the vocabulary has no tags."""
        vocabulary, forced = self.recogniser.vocabulary, self.recogniser.task.cfg.tgt_lang
        if not vocabulary.uses_tags:
            return [""]
        return [forced] if forced else list(vocabulary.tags_by_language)

    @property
    def context(self) -> int:
        """Symbols that a decoder is given."""
        if self.lstm:
            return lstm_decoder.CONTEXT
        return KALDI_CONTEXT if self.kind is KALDI else self.model.predictor.context

    @property
    def labels_per_frame(self) -> int:
        """That are emitted at most."""
        several = self.model.topology == "regular" and not self.kind.one_label
        return self.recogniser.task.cfg.max_symbols if several else 1

    def notes(self) -> List[str]:
        notes = []
        if self.kind.one_label and self.model.topology == "regular":
            notes.append(
                f"Trained with several labels per frame (topology regular), of which {display(self.client)} emits one:"
                " text may differ where labels follow each other within a frame."
            )
        if self.lstm:
            notes.append(
                f"The LSTM reads a hypothesis again at each label, up to {self.context - 1} labels: longer utterances"
                " lose its beginning, and the more labels the slower it is. Stateless networks do neither."
            )
        return notes

    # -- files ----------------------------------------------------------------------------------------------------
    def graphs(self) -> List[Union[Graph, BuiltGraph]]:
        graphs = [self.encoder_graph(), *(self.decoder_graph(language) for language in self.languages)]
        return [*graphs, self.joiner_graph()]

    def encoder_graph(self) -> Graph:
        config = self.student.config.input
        module = EncoderGraph(self.student, self.model.joiner.encoder_projection, normalization_of(config)).eval()
        waveforms = config.kind == "waveform"
        x = 0.1 * torch.randn(2, 2 * SAMPLE_RATE) if waveforms else torch.randn(2, 200, config.bins)
        axes = {"x": {0: "batch", 1: "length"}, "x_lens": {0: "batch"}}
        outputs = {"encoder_out": {0: "batch", 1: "frames"}, "encoder_out_lens": {0: "batch"}}
        inputs = {"x": x, "x_lens": torch.tensor([x.size(1), x.size(1) * 3 // 4])}
        # By this type sherpa-onnx's programs know a transducer of icefall.
        metadata = {**self.own_metadata, "model_type": "conformer", "colld_topology": self.model.topology}
        how = EightBits(every_operator=waveforms)
        return Graph(self.kind.folder + ENCODER, module, inputs, list(outputs), {**axes, **outputs}, metadata, how)

    def decoder_name(self, language: str) -> str:
        """Of its graph."""
        return self.kind.folder + (f"{DECODER}.{language}" if len(self.languages) > 1 else DECODER)

    def decoder_graph(self, language: str) -> Union[Graph, BuiltGraph]:
        name, tag = self.decoder_name(language), self.tag(language)
        predictor, joiner = self.model.predictor, self.model.joiner
        own = {"kind": "lstm" if self.lstm else "stateless", "language": language}
        own.update({"layers": predictor.layers} if self.lstm else {"context": predictor.context})
        metadata = {
            "context_size": str(self.context),
            "vocab_size": str(joiner.output.out_features),
            "colld_predictor": json.dumps(own),
        }
        if self.lstm:
            return BuiltGraph(name, lstm_decoder.lstm_decoder(predictor, joiner, tag), metadata)
        module = StatelessDecoderGraph(predictor, joiner, tag).eval()
        axes = {"y": {0: "batch"}, "decoder_out": {0: "batch"}}
        example = torch.zeros(2, self.context, dtype=torch.int64)
        return Graph(name, module, {"y": example}, ["decoder_out"], axes, metadata)

    def joiner_graph(self) -> Graph:
        joiner = self.model.joiner
        width = joiner.output.in_features
        names = ("encoder_out", "decoder_out", "logit")
        return Graph(
            self.kind.folder + JOINER,
            JoinerGraph(joiner, never_emitted(self.recogniser.vocabulary)).eval(),
            {name: torch.randn(2, width) for name in names[:2]},
            names[2:],
            {name: {0: "batch"} for name in names},
            {"joiner_dim": str(width), "colld_activation": joiner.activation.__name__},
        )

    def tag(self, language: str) -> Optional[int]:
        """Token of a target language, None for ""."""
        return self.recogniser.vocabulary.tag_id(language) if language else None

    def files(self) -> Dict[str, str]:
        tokens = tokens_file(client_symbols(self.recogniser.vocabulary))
        if self.kind is not KALDI:
            return {"tokens.txt": tokens}
        config = {
            "model_type": KALDI.name,
            "features_size": self.student.config.input.bins,
            "subsampling_factor": round(FBANK_RATE_HZ / self.student.frame_rate_hz),
            "max_tokens_per_step": self.labels_per_frame,
        }
        return {self.kind.folder + "tokens.txt": tokens, "config.json": json.dumps(config, indent=2) + "\n"}

    def card(self, sizes: Mapping[str, int]) -> str:
        return transducer_card(self, sizes)

    def client_model(self, exported: Exported, language: str = "", int8: bool = False) -> ClientModel:
        """The folder as its client opens it."""
        if self.kind is KALDI:
            arguments = {"model": KALDI.name, "path": str(exported.folder), "quantization": "int8" if int8 else None}
            return ClientModel(self.client, self.kind.factory, arguments)
        names = {ENCODER: ENCODER, DECODER: self.decoder_name(language), JOINER: JOINER}
        files = {name: str(exported.graph(graph, int8)) for name, graph in names.items()}
        arguments = {"tokens": str(exported.tokens), **files, **self.client_options}
        return ClientModel(self.client, self.kind.factory, arguments, self.tail_seconds)

    @property
    def client_options(self) -> Dict[str, object]:
        """Other arguments of the client's factory."""
        return {}

    tail_seconds = 0.0
    """Of silence that a client appends to an utterance."""

    # -- comparison -----------------------------------------------------------------------------------------------
    def stages(self, exported: Exported, waveform: np.ndarray) -> List[Stage]:
        stages = [*files_stages(exported), *metadata_stages(exported)]
        ours, features = self.student_frames(waveform), self.features(waveform)
        try:
            theirs = self.runtime_frames(exported, features)
            stages += self.encoder_stages(theirs, ours)
            if len(theirs) == len(ours):
                for language in self.languages:
                    stages += self.language_stages(exported, waveform, language, theirs, ours)
            if exported.int8:
                theirs = self.runtime_frames(exported, features, int8=True)
                for language in self.languages:
                    stages += self.int8_stages(exported, waveform, language, theirs, ours)
        except ConfigError as error:
            stages.append(Stage("graphs", False, str(error)))
        return stages

    def encoder_stages(self, theirs: np.ndarray, ours: np.ndarray) -> List[Stage]:
        """Outputs of the encoder [F, J]."""
        frames = frames_stage(len(theirs), len(ours))
        return [frames, difference_stage("encoder", theirs, ours)] if frames.same else [frames]

    def language_stages(
        self, exported: Exported, waveform: np.ndarray, language: str, theirs: np.ndarray, ours: np.ndarray
    ) -> List[Stage]:
        """Decoder, joiner and text of one target language; theirs and ours: outputs of the encoder [F, J]."""
        suffix, tokens = f" ({language})" if language else "", self.tokens(ours, language)
        runtime, text = self.runtime(exported, language), self.recogniser.detokenize(tokens)
        beginnings = [tokens[:end] for end in range(min(len(tokens), self.context - 1) + 1)]
        predicted = np.stack([runtime.predict(beginning) for beginning in beginnings])
        symbols = self.predicted(beginnings, language)
        stages = [difference_stage(f"decoder{suffix}", predicted, symbols)]
        pairs = np.arange(len(ours)) % len(symbols)
        logits = self.model.join(torch.from_numpy(ours), torch.from_numpy(symbols[pairs])).detach().numpy()
        emitted = sorted(set(range(logits.shape[1])) - never_emitted(self.recogniser.vocabulary))
        joined = runtime.join(ours, symbols[pairs])
        stages.append(difference_stage(f"joiner{suffix}", joined[:, emitted], logits[:, emitted]))
        greedy = runtime.greedy(theirs)
        of_runtime = self.recogniser.detokenize(greedy)
        stages.append(text_stage(f"text of ONNX Runtime{suffix}", of_runtime, text, greedy == tokens))
        if self.client:
            stage = client_stage(self.client_model(exported, language), waveform, text)
            stages.append(stage._replace(name=stage.name + suffix))
        if self.kind.one_label and self.model.topology == "regular":
            several = self.recogniser.detokenize(self.tokens(ours, language, self.recogniser.task.cfg.max_symbols))
            same = "the same text" if several == text else repr(several)
            stages.append(Stage(f"with several labels per frame{suffix}", None, f"PyTorch writes {same}"))
        return stages

    def int8_stages(
        self, exported: Exported, waveform: np.ndarray, language: str, frames: np.ndarray, ours: np.ndarray
    ) -> List[Stage]:
        """8 bits may write other text now and then; the two runtimes should agree on it, up to single symbols."""
        suffix = f" ({language})" if language else ""
        theirs = self.recogniser.detokenize(self.runtime(exported, language, int8=True).greedy(frames))
        text = self.recogniser.detokenize(self.tokens(ours, language))
        other = "" if theirs == text else f" (32 bits: {text!r})"
        stages = [Stage(f"8 bits, ONNX Runtime{suffix}", None, f"{theirs!r}{other}")]
        if self.client:
            stage = int8_client_stage(self.client_model(exported, language, int8=True), waveform, theirs)
            stages.append(stage._replace(name=f"{stage.name}{suffix}"))
        return stages

    def features(self, waveform: np.ndarray) -> np.ndarray:
        """Filterbanks [T, bins] or samples [N] as the client hands them to the encoder, of all that it is given."""
        return StudentInput(replace(self.recogniser.input.config, normalization="none", mean=[], std=[]))(waveform)

    def student_frames(self, waveform: np.ndarray) -> np.ndarray:
        """What PyTorch makes of a waveform: the encoder's output, as the joiner takes it, [F, J]."""
        source = torch.from_numpy(self.recogniser.input(waveform))[None]
        with torch.no_grad():
            frames, lengths = self.model.encode_for_search(source, torch.tensor([source.size(1)]))
        return frames[0, : int(lengths)].numpy()

    def runtime_frames(self, exported: Exported, features: np.ndarray, int8: bool = False) -> np.ndarray:
        """The same by ONNX Runtime. Raises ConfigError."""
        encode = Session(exported.graph(self.kind.folder + ENCODER, int8))
        return encode(features[None], np.array([len(features)], dtype=np.int64))[0][0]

    def runtime(self, exported: Exported, language: str = "", int8: bool = False) -> RuntimeTransducer:
        """Decoder and joiner in ONNX Runtime. Raises ConfigError."""
        names = (self.decoder_name(language), self.kind.folder + JOINER)
        decoder, joiner = (Session(exported.graph(name, int8)) for name in names)
        return RuntimeTransducer(decoder, joiner, self.context, self.labels_per_frame)

    @torch.no_grad()
    def tokens(self, frames: np.ndarray, language: str = "", labels_per_frame: Optional[int] = None) -> List[int]:
        """Greedy search of PyTorch on frames [F, J], with as many labels per frame as the client emits."""
        search = GreedySearch(labels_per_frame or self.labels_per_frame, self.model.topology)
        ((best,),) = search(
            self.scorer, torch.from_numpy(frames)[None], torch.tensor([len(frames)]), self.tags(language)
        )
        return best.tokens

    @torch.no_grad()
    def predicted(self, beginnings: List[List[int]], language: str = "") -> np.ndarray:
        """What the prediction network makes of beginnings of one hypothesis, each a token longer: [N, J]."""
        symbols, state = self.model.start(1, self.tags(language))
        rows = [symbols]
        for token in beginnings[-1]:
            symbols, state = self.model.extend(torch.tensor([token]), state)
            rows.append(symbols)
        return torch.cat(rows).numpy()

    @property
    def scorer(self) -> Scorer:
        """What a search asks."""
        width = self.model.joiner.output.in_features
        return Scorer([self.model], [width], BLANK, sorted(never_emitted(self.recogniser.vocabulary)))

    def tags(self, language: str) -> Optional[Tensor]:
        """[1], of a target language; None for ""."""
        return torch.tensor([self.tag(language)]) if language else None


class StreamingTransducer(Transducer):
    """A transducer of streams, whose chunk and left context are those of the options."""

    def __init__(self, recogniser: Recogniser, options: ExportOptions) -> None:
        super().__init__(recogniser, options)
        self.streaming = recogniser.streaming(options.chunk_ms, options.left_context, endpoint=None).encoder
        if self.streaming.context.left_frames is None:
            raise ConfigError(
                "a client keeps a left context of fixed length, and this model was trained with all that came before:"
                " say with --left-context how many chunks"
            )
        if not self.streaming.context.left_frames:
            raise ConfigError("a left context of no frame: a client keeps at least one; give --left-context 1 or more")

    @property
    def tail_seconds(self) -> float:
        """Of silence, with which the last sample of an utterance lies in a full chunk; no less than clients append."""
        frames = self.step_frames + FURTHER_FRAMES
        return max(TAIL_SECONDS, math.ceil(10 * frames / FBANK_RATE_HZ) / 10)

    def notes(self) -> List[str]:
        notes = super().notes()
        if self.client and self.tail_seconds > TAIL_SECONDS:
            notes.append(
                f"Chunks of {self.options.chunk_ms} ms need {self.tail_seconds:g} s of silence behind the speech, or"
                f" its end is lost, and sherpa-onnx's programs append {TAIL_SECONDS:g} s: append it yourself, as the"
                " lines below do, or export shorter chunks."
            )
        if self.client and self.client_options.get("snip_edges"):
            notes.append(
                "The features are Kaldi's, of which sherpa-onnx's Python interface can be told (see the lines below);"
                " its programs and its interfaces for C, Kotlin, Java, Swift, ... compute others, and write wrong text."
                " Train with --fbank icefall for those."
            )
        return notes

    def encoder_graph(self) -> Graph:
        normalization = normalization_of(self.student.config.input)
        module = StreamingEncoderGraph(self.streaming, self.model.joiner.encoder_projection, normalization).eval()
        attention, conv = module.start(2)
        config = self.student.config
        inputs = {
            "x": torch.randn(2, self.step_frames, config.input.bins),
            "cached_attn": attention,
            "cached_conv": conv,
            "processed_lens": torch.tensor([0, self.shift]),
        }
        outputs = {"encoder_out": {0: "batch"}, "new_cached_attn": {2: "batch"}, "new_cached_conv": {2: "batch"}}
        axes = {
            "x": {0: "batch"},
            "cached_attn": {2: "batch"},
            "cached_conv": {2: "batch"},
            "processed_lens": {0: "batch"},
        }
        metadata = {
            **self.own_metadata,
            "colld_topology": self.model.topology,
            STREAM: json.dumps({"chunk_ms": self.options.chunk_ms, "left_context": str(self.streaming.context.left)}),
            "model_type": "conformer",
            "num_encoder_layers": str(config.layers),
            "T": str(self.step_frames),
            "decode_chunk_len": str(self.shift),
            "left_context": str(attention.size(1)),
            "encoder_dim": str(config.embed_dim),
            "pad_length": str(self.streaming.fbank_lookahead),
            "cnn_module_kernel": str(config.depthwise_conv_kernel),
        }
        return Graph(ENCODER, module, inputs, list(outputs), {**axes, **outputs}, metadata)

    @property
    def shift(self) -> int:
        """Filterbank frames from one step to the next."""
        return self.streaming.fbank_frames_per_chunk

    @property
    def step_frames(self) -> int:
        """Filterbank frames that a step takes."""
        return self.shift + self.streaming.fbank_lookahead

    @property
    def client_options(self) -> Dict[str, object]:
        variant = VARIANTS[self.student.config.input.fbank]
        options: Dict[str, object] = {"model_type": "conformer"}
        if variant.snip_edges:
            options.update(high_freq=variant.high_freq, normalize_samples=False, snip_edges=True)
        return options

    def features(self, waveform: np.ndarray) -> np.ndarray:
        """With the silence that clients append, so that the end of the speech fills a chunk."""
        tail = np.zeros(round(self.tail_seconds * SAMPLE_RATE), dtype=np.float32)
        return super().features(np.concatenate((waveform, tail)))

    def chunks(self, features: np.ndarray) -> List[np.ndarray]:
        """Filterbanks [1, T, bins] of each step. As clients do, a step waits for the frame after it."""
        starts = range(0, len(features) - self.step_frames, self.shift)
        return [features[None, start : start + self.step_frames] for start in starts]

    @torch.no_grad()
    def student_frames(self, waveform: np.ndarray) -> np.ndarray:
        state, frames = self.streaming.start(1), [torch.zeros(1, 0, self.student.width)]
        for chunk in self.chunks(self.features(waveform)):
            x, state = self.streaming.step(torch.from_numpy(self.recogniser.input.normalize(chunk[0]))[None], state)
            frames.append(x)
        return self.model.joiner.encoder_projection(torch.cat(frames, dim=1))[0].numpy()

    def runtime_frames(self, exported: Exported, features: np.ndarray, int8: bool = False) -> np.ndarray:
        encode = Session(exported.graph(ENCODER, int8))
        module = self.encoder_graph().module
        attention, conv = (memory.numpy() for memory in module.start(1))
        frames = [np.zeros((0, self.model.joiner.output.in_features), dtype=np.float32)]
        for index, chunk in enumerate(self.chunks(features)):
            x, attention, conv = encode(chunk, attention, conv, np.array([index * self.shift]))
            frames.append(x[0])
        return np.concatenate(frames)

    def encoder_stages(self, theirs: np.ndarray, ours: np.ndarray) -> List[Stage]:
        """As of whole utterances, and the first chunk that differs."""
        stages = super().encoder_stages(theirs, ours)
        if len(stages) == 2 and not stages[1].same:
            size = self.streaming.chunk
            chunks = range(0, len(ours), size)
            differing = [
                start for start in chunks if not np.allclose(theirs[start:][:size], ours[start:][:size], atol=1e-3)
            ]
            stages[1] = stages[1]._replace(
                detail=f"{stages[1].detail}, from chunk {differing[0] // size + 1} of {len(chunks)} on"
            )
        return stages
