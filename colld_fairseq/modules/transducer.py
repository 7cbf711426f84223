"""Prediction networks and joiners of neural transducers: what has been said so far, and scores of the next symbol.

Shapes: B utterances, T frames, U symbols, N rows of a search (hypotheses of any utterances), D width, J width of the
joiner, V vocabulary.

Both prediction networks read a start symbol (the blank, `<s>`) before the first label. With several target languages,
the embedding of the language's tag is added to that of *every* symbol, the start included: a tag that was only put in
front would be out of a stateless network's sight after `context` symbols.

Searches run them one symbol at a time. A state is a tuple of tensors whose first dimension is the row, so that rows of
any state can be selected, repeated and joined without knowing the network.
"""

from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.errors import ConfigError

State = Tuple[Tensor, ...]
ACTIVATIONS = {"tanh": torch.tanh, "relu": F.relu}  # of joiners


class _Predictor(nn.Module):
    """Embeddings of symbols and tags. The embedding of `pad` is zero for ever: it stands for "no tag"."""

    def __init__(self, vocabulary_size: int, width: int, dropout: float, blank: int, pad: int):
        super().__init__()
        self.width, self.blank, self.pad = width, blank, pad
        self.embed = nn.Embedding(vocabulary_size, width, padding_idx=pad)
        nn.init.normal_(self.embed.weight, std=width**-0.5)
        nn.init.zeros_(self.embed.weight[pad])
        self.dropout = nn.Dropout(dropout)

    def embedded(self, tokens: Tensor, tags: Optional[Tensor]) -> Tensor:
        """[B, U] and [B] -> [B, U, D]"""
        x = self.embed(tokens)
        return self.dropout(x if tags is None else x + self.embed(tags).unsqueeze(1))

    def tags_of(self, rows: int, tags: Optional[Tensor]) -> Tensor:
        return self.embed.weight.new_full((rows,), self.pad, dtype=torch.int64) if tags is None else tags

    def start_tokens(self, rows: int) -> Tensor:
        """[N] the symbol every search begins with."""
        return self.embed.weight.new_full((rows,), self.blank, dtype=torch.int64)


class LstmPredictor(_Predictor):
    """Embedding and LSTM (Graves 2012, arXiv 1211.3711)."""

    def __init__(self, vocabulary_size: int, width: int, layers: int, dropout: float, blank: int, pad: int):
        super().__init__(vocabulary_size, width, dropout, blank, pad)
        self.layers = layers
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, tokens: Tensor, tags: Optional[Tensor] = None) -> Tensor:
        """Symbols [B, U], the start symbol first, and tags [B] -> [B, U, D]: row u has read symbols 0..u."""
        return self.lstm(self.embedded(tokens, tags))[0]

    def start(self, rows: int, tags: Optional[Tensor] = None) -> State:
        """State before the start symbol: hidden and cell [N, 2, layers, D], tags [N]."""
        return self.embed.weight.new_zeros(rows, 2, self.layers, self.width), self.tags_of(rows, tags)

    def step(self, tokens: Tensor, state: State) -> Tuple[Tensor, State]:
        """One symbol for every row: tokens [N] -> output [N, D] and the state after it."""
        memory, tags = state
        hidden, cell = memory.unbind(1)
        x, after = self.embedded(tokens[:, None], tags)[:, 0], []
        # One cell after the other: for a single step torch's LSTM takes several times as long on a CPU.
        for weights, before in zip(self.lstm.all_weights, zip(hidden.unbind(1), cell.unbind(1))):
            after.append(torch.lstm_cell(x, before, *weights))
            x = after[-1][0]
        hidden, cell = (torch.stack(layers, dim=1) for layers in zip(*after))
        return x, (torch.stack((hidden, cell), dim=1), tags)


class StatelessPredictor(_Predictor):
    """Embeddings of the last `context` symbols, a grouped convolution over them, ReLU.

    After Ghodsi et al. 2020 in the form of icefall: groups of 4 channels, no bias. A search's state is a handful of
    token ids.
    """

    def __init__(self, vocabulary_size: int, width: int, context: int, dropout: float, blank: int, pad: int):
        super().__init__(vocabulary_size, width, dropout, blank, pad)
        if context < 1 or width % 4:
            raise ConfigError(
                f"a stateless predictor needs context >= 1 and a width divisible by 4, not {context} and {width}"
            )
        self.context = context
        self.conv = nn.Conv1d(width, width, context, groups=width // 4, bias=False) if context > 1 else None

    def forward(self, tokens: Tensor, tags: Optional[Tensor] = None) -> Tensor:
        """Symbols [B, U], the start symbol first, and tags [B] -> [B, U, D]: row u has read symbols 0..u."""
        x = self.embedded(F.pad(tokens, (self.context - 1, 0), value=self.blank), tags)
        if self.conv is not None:
            x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return F.relu(x)

    def start(self, rows: int, tags: Optional[Tensor] = None) -> State:
        """State before the start symbol: the symbols before it [N, context - 1] (blanks), tags [N]."""
        tokens = self.start_tokens(rows)
        return tokens[:, None].expand(rows, self.context - 1), self.tags_of(rows, tags)

    def step(self, tokens: Tensor, state: State) -> Tuple[Tensor, State]:
        """One symbol for every row: tokens [N] -> output [N, D] and the state after it."""
        history, tags = state
        history = torch.cat((history, tokens[:, None]), dim=1)
        x = self.embedded(history, tags)  # [N, context, D]
        if self.conv is not None:
            # The convolution's one output, for which torch's convolutions take ten times as long on a CPU.
            weight = self.conv.weight.unflatten(0, (self.conv.groups, -1))
            x = torch.einsum("ncgi,goic->ngo", x.unflatten(2, (self.conv.groups, -1)), weight).flatten(1)
        else:
            x = x[:, 0]
        return F.relu(x), (history[:, 1:], tags)


class Joiner(nn.Module):
    """Additive joiner: z = W_o act(W_e h + b_e + W_p g) + b_o.

    The two projections are computed by themselves, once per frame and once per symbol, not once for every pair of them.
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, width: int, vocabulary_size: int, activation: str):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError(f"joiner activation {activation!r} is not known; choose one of {list(ACTIVATIONS)}")
        self.encoder_projection = nn.Linear(encoder_dim, width)
        self.predictor_projection = nn.Linear(predictor_dim, width, bias=False)
        self.activation = ACTIVATIONS[activation]
        self.output = nn.Linear(width, vocabulary_size)

    def forward(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """Projected frames and symbols [..., J], broadcast against each other -> logits [..., V]."""
        return self.output(self.hidden(frames, symbols))

    def hidden(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """What the output layer takes of a pair, [..., J]."""
        return self.activation(frames + symbols)

    def lattice(self, frames: Tensor, symbols: Tensor, frame_lengths: List[int], label_lengths: List[int]) -> Tensor:
        """Logits of all pairs of a frame and a symbol, packed: [sum_b T_b * (U_b + 1), V], nothing of padding.

        frames [B, T, J] and symbols [B, U+1, J] are projected. One utterance after the other, frame by frame.
        """
        pairs = zip(frames, symbols, frame_lengths, label_lengths)
        hidden = [(h[:t, None] + g[None, : u + 1]).flatten(0, 1) for h, g, t, u in pairs]
        return self.output(self.activation(torch.cat(hidden)))

    def pruned(self, frames: Tensor, symbols: Tensor) -> Tensor:
        """Logits [B, T, S, V] of projected frames [B, T, J] and the S projected symbols of each, [B, T, S, J]."""
        return self(frames[:, : symbols.size(1), None], symbols)


class SimpleJoiner(nn.Module):
    """Two projections to the vocabulary whose sum, am_t + lm_u, is a joiner that costs no lattice of logits.

    Used only in training, to find the range in which a pruned loss evaluates the real one (`losses.transducer_pruned`).
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, vocabulary_size: int):
        super().__init__()
        self.am = nn.Linear(encoder_dim, vocabulary_size)
        self.lm = nn.Linear(predictor_dim, vocabulary_size)

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tuple[Tensor, Tensor]:
        """Encoder [B, T, D] and predictor [B, U+1, D'] outputs -> am [B, T, V] and lm [B, U+1, V]."""
        return self.am(encoded), self.lm(predicted)
