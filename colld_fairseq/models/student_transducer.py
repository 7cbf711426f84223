"""Model `transducer_student`: student encoder, prediction network and joiner."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Tuple

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from colld_fairseq.errors import ConfigError
from colld_fairseq.losses.joiner_tiles import JoinerParts
from colld_fairseq.losses.transducer_distillation import Nodes
from colld_fairseq.losses.transducer_pruned import gather_ranges
from colld_fairseq.losses.transducer_tiled_path import HiddenNodes
from colld_fairseq.models.encoder_options import register_presets
from colld_fairseq.models.finetune_encoder import CtcModel, FinetuneEncoder, FinetuneOptions, build_student
from colld_fairseq.modules.transducer import ACTIVATIONS, Joiner, LstmPredictor, SimpleJoiner, State, StatelessPredictor
from colld_fairseq.numbers import COUNT, COUNT_OR_NONE, PROBABILITY, option

RangeChooser = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class TransducerStudentConfig(FinetuneOptions):
    predictor: ChoiceEnum(["lstm", "stateless"]) = option(
        "lstm", "prediction network: lstm, or stateless (the last few symbols)"
    )
    predictor_embed_dim: int = option(320, "predictor width (Conformer S: 320)", COUNT)
    predictor_layers: int = option(1, "LSTM layers (Conformer: 1)", COUNT)
    predictor_context: int = option(2, "symbols a stateless predictor sees (icefall: 2)", COUNT)
    predictor_dropout: float = option(0.1, "dropout on the predictor's embeddings", PROBABILITY)
    joiner_dim: int = option(320, "width of the joiner", COUNT)
    joiner_activation: ChoiceEnum(list(ACTIVATIONS)) = option("tanh", "tanh or relu")
    auxiliary_ctc: bool = option(False, "a CTC layer on the encoder, trained with the criterion's --ctc-weight")
    prune_range: int = option(
        0,
        "symbols per frame that the joiner sees in training, which a simple joiner of two projections to the"
        " vocabulary chooses (k2: 5); 0 = all, without a simple joiner",
        COUNT_OR_NONE,
    )
    topology: Optional[ChoiceEnum(["regular", "modified"])] = option(
        None, "regular, or modified: at most one label per frame; default: regular, or that of the checkpoint"
    )


@register_model("transducer_student", dataclass=TransducerStudentConfig)
class TransducerStudent(CtcModel, BaseFairseqModel):
    """Token 0 (`<s>`) of the dictionary is the blank, and the predictor's first input.

    With language tags in the vocabulary the predictor is told the target language (see `modules.transducer`).
    """

    def __init__(
        self,
        encoder: FinetuneEncoder,
        predictor: nn.Module,
        joiner: Joiner,
        ctc: Optional[nn.Linear],
        simple_joiner: Optional[SimpleJoiner],
        uses_tags: bool,
        topology: str = "regular",
        prune_range: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.predictor, self.joiner, self.ctc = encoder, predictor, joiner, ctc
        self.simple_joiner, self.uses_tags = simple_joiner, uses_tags
        self.topology, self.prune_range = topology, prune_range
        self.num_updates = 0

    @classmethod
    def build_model(cls, cfg: TransducerStudentConfig, task) -> "TransducerStudent":
        if cfg.prune_range == 1:
            raise ConfigError("--prune-range 1: the joiner needs at least 2 symbols per frame; 0 = all")
        dictionary = task.target_dictionary
        vocabulary, special = len(dictionary), (dictionary.bos(), dictionary.pad())
        encoder = FinetuneEncoder(cfg, build_student(cfg, task))
        width, dropout = cfg.predictor_embed_dim, cfg.predictor_dropout
        if cfg.predictor == "lstm":
            predictor = LstmPredictor(vocabulary, width, cfg.predictor_layers, dropout, *special)
        else:
            predictor = StatelessPredictor(vocabulary, width, cfg.predictor_context, dropout, *special)
        inner = encoder.student.width
        joiner = Joiner(inner, width, cfg.joiner_dim, vocabulary, str(cfg.joiner_activation))
        ctc = nn.Linear(inner, vocabulary) if cfg.auxiliary_ctc else None
        simple = SimpleJoiner(inner, width, vocabulary) if cfg.prune_range else None
        tags, topology = bool(task.prefix_size), str(cfg.topology or "regular")
        return cls(encoder, predictor, joiner, ctc, simple, tags, topology, cfg.prune_range)

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        label_lengths: Tensor,
        utterances: Optional[Tensor] = None,
        choose_range: Optional[RangeChooser] = None,
        nodes: Optional[Nodes] = None,
        keep_parts: bool = False,
        **unused,
    ) -> Dict[str, Any]:
        """The joiner on pairs of a frame and a symbol of each of M targets, on all of them or on a pruned range.

        prev_output_tokens [M, 1 (+ 1) + U]: what fairseq's decoders are fed, </s>, the language tag where there are
        tags, labels; label_lengths [M] counts the labels alone. utterances int64 [M]: the utterance of each target,
        for M other than B. choose_range: from the outputs of the simple joiner, am [M, T, V] and lm [M, U+1, V], and
        frame lengths [M], to the symbols at every frame, int64 [M, T', S]. nodes: pairs to join besides, of any frames.
        keep_parts: leave the joiner's last layers to a loss that goes through the lattice in tiles.

        Returns {"logits": [sum_m T_m * (U_m + 1), V] packed, "lengths": [M] frames}; a target without a single frame
        has no row. When pruned, logits are [M, T', S, V], "ranges" what it chose, and "simple" what it chose from: only
        what is returned is used, to DistributedDataParallel in search of unused parameters. With nodes also
        "node_logits" [..., V], of the nearest frame where there is none of that number; with an auxiliary CTC layer
        {"ctc_logits": [B, T, V], "ctc_lengths": [B]}. With keep_parts there are "parts", JoinerParts of M targets, in
        place of logits, and "node_parts", HiddenNodes, in place of node_logits.
        """
        encoded = self.encoder.encode(src_tokens, src_lengths)
        predicted = self.predict_all(prev_output_tokens)
        frames, lengths = self.joiner.encoder_projection(encoded.x), encoded.lengths
        symbols = self.joiner.predictor_projection(predicted)
        x = encoded.x
        if utterances is not None:
            x, frames, lengths = x[utterances], frames[utterances], lengths[utterances]
        output = {"lengths": lengths}
        if keep_parts:
            output["parts"] = JoinerParts(frames, symbols, *self.output_layer(), self.joiner.activation)
        elif choose_range is None:
            output["logits"] = self.joiner.lattice(frames, symbols, lengths.tolist(), label_lengths.tolist())
        else:
            output["simple"] = simple = self.simple_joiner(x, predicted)
            output["ranges"] = ranges = choose_range(*simple, lengths)
            output["logits"] = self.joiner.pruned(frames, gather_ranges(symbols, ranges))
        if nodes is not None:
            frame = nodes.frame.clamp(0, max(frames.size(1) - 1, 0))
            pairs = frames[nodes.text, frame], symbols[nodes.text, nodes.label]
            if keep_parts:
                output["node_parts"] = HiddenNodes(self.joiner.hidden(*pairs), *self.output_layer())
            else:
                output["node_logits"] = self.joiner(*pairs)
        if self.ctc is not None:
            output.update(ctc_logits=self.ctc(encoded.x), ctc_lengths=encoded.lengths)
        return output

    def output_layer(self) -> Tuple[Tensor, Tensor]:
        """Weight [V, J] and bias [V] of the joiner, as results of operations: of what the forward returns only those
        count as used to DistributedDataParallel in search of unused parameters."""
        layer = self.joiner.output
        return layer.weight.view_as(layer.weight), layer.bias.view_as(layer.bias)

    def predict_all(self, prev_output_tokens: Tensor) -> Tensor:
        """Predictor outputs [B, U + 1, D] before each label and after the last."""
        tags = prev_output_tokens[:, 1] if self.uses_tags else None
        labels = prev_output_tokens[:, 1 + self.uses_tags :]
        start = self.predictor.start_tokens(len(labels))[:, None]
        return self.predictor(torch.cat((start, labels), dim=1), tags)

    # -- what a search calls (decoding.transducer.Network) --------------------------------------------------------
    def encode_for_search(self, src_tokens: Tensor, src_lengths: Tensor) -> Tuple[Tensor, Tensor]:
        """Projected frames [B, T, J] and lengths [B]."""
        encoded = self.encoder.encode(src_tokens, src_lengths)
        return self.joiner.encoder_projection(encoded.x), encoded.lengths

    def start(self, rows: int, tags: Optional[Tensor] = None) -> Tuple[Tensor, State]:
        """Projected predictor output [N, J] after the start symbol and the state, tags [N]."""
        return self.extend(self.predictor.start_tokens(rows), self.predictor.start(rows, tags))

    def extend(self, tokens: Tensor, state: State) -> Tuple[Tensor, State]:
        """Projected predictor output [N, J] after one more symbol [N] and the state."""
        output, state = self.predictor.step(tokens, state)
        return self.joiner.predictor_projection(output), state

    def join(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """Logits [..., V] of projected frames and predictor outputs [..., J], float32."""
        return self.joiner(frames, symbols).float()


register_presets("transducer_student", "conformer_10m", "conformer_30m")
