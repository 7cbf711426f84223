"""Encoder and decoder of an attention model as graphs.

What the encoder gives are the keys and values that each layer of the decoder attends to; the decoder is run token by
token with those of its own earlier tokens. Layers of Whisper, M2M-100, NLLB, mBART-50 and fairseq's have the same parts
under the same names, so there is one graph.
"""

from typing import List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from colld_fairseq.models.pretrained_decoder import PretrainedDecoder


class Frames(NamedTuple):
    """What the decoder attends to: of each layer keys and values [N, F, D]; bias [N, 1, 1, F] of scores, or None."""

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    bias: Optional[Tensor] = None


class Rules(NamedTuple):
    """What may be written where.

    Attributes:
        prefix: tokens that the decoder is given; what it writes first comes out at position prefix - 1.
        never: ids that are never written; first: ids that are not written first.
        at_start: ids that may come out at position 0, where a client asks for the language; empty: no matter.
        end: id that alone may come out at the last position.
    """

    prefix: int
    never: Set[int]
    first: Set[int]
    at_start: Set[int]
    end: int

    def table(self, size: int) -> Tensor:
        """bool [4, V]: ids forbidden at the start, in what is written first, behind it, and last of all."""
        rows = torch.zeros(4, size, dtype=torch.bool)
        if self.at_start:
            rows[0] = True
            rows[0, sorted(self.at_start)] = False
        rows[1, sorted(self.never | self.first)] = True
        rows[2, sorted(self.never)] = True
        rows[3] = torch.arange(size) != self.end
        return rows


def score_bias(lengths: Tensor, frames: Tensor) -> Tensor:
    """What is added to scores of frames [N, F, D] that are padding, [N, 1, 1, F]; lengths int64 [N]."""
    padding = torch.arange(frames.size(1), device=frames.device)[None] >= lengths[:, None]
    return torch.zeros_like(padding, dtype=frames.dtype).masked_fill(padding, -torch.inf)[:, None, None]


class CrossProjections(nn.Module):
    """Keys and values of all layers of a decoder, of an encoder's output."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        attentions = [layer.encoder_attn for layer in layers_of(decoder)]
        self.keys = nn.ModuleList(attention.k_proj for attention in attentions)
        self.values = nn.ModuleList(attention.v_proj for attention in attentions)

    def forward(self, frames: Tensor) -> Tuple[List[Tensor], List[Tensor]]:
        """[N, F, D] -> L tensors [N, F, D] each."""
        return [project(frames) for project in self.keys], [project(frames) for project in self.values]


class DecoderSteps(nn.Module):
    """A decoder that continues from the keys and values of the tokens before.

    The table of embeddings is kept turned over, [D, V]: the product with it that gives the logits and the look-up of a
    token share one tensor then, in 8 bits too.
    """

    def __init__(self, decoder: nn.Module, rules: Rules) -> None:
        super().__init__()
        network = decoder.network if isinstance(decoder, PretrainedDecoder) else decoder
        self.layers, self.norm = layers_of(decoder), network.layer_norm
        self.heads = heads_of(self.layers[0])
        self.embedding_norm = getattr(network, "layernorm_embedding", None)
        table = network.embed_tokens.weight.detach()
        self.scale = float(getattr(network.embed_tokens, "embed_scale", getattr(network, "embed_scale", 1.0)))
        self.register_buffer("table", table.t().contiguous())
        head = head_of(decoder)
        self.register_buffer("head", None if head is None else head.detach().t().contiguous())
        bias = getattr(decoder, "logits_bias", None)
        self.register_buffer("bias", None if bias is None else bias.detach().reshape(-1))
        positions, self.first_position = positions_of(decoder)
        self.register_buffer("positions", positions.detach().clone())
        self.prefix = rules.prefix
        self.register_buffer("forbidden", rules.table(len(table)))

    def forward(
        self, tokens: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], frames: Frames
    ) -> Tuple[Tensor, List[Tensor], List[Tensor]]:
        """tokens [N, U], keys and values of P tokens before, [N, P, D] of each layer -> logits [N, U, V]; keys and
        values [N, P + U, D] of each layer."""
        past, size = keys[0].size(1), tokens.size(1)
        here = past + torch.arange(size, device=tokens.device)
        x = self.embed(tokens, here)
        later = torch.arange(past + size, device=tokens.device)[None] > here[:, None]
        causal = torch.zeros(1, dtype=x.dtype).masked_fill(later, -torch.inf)
        new_keys, new_values = [], []
        for index, layer in enumerate(self.layers):
            attention, given = layer.self_attn, layer.self_attn_layer_norm(x)
            new_keys.append(torch.cat((keys[index], attention.k_proj(given)), dim=1))
            new_values.append(torch.cat((values[index], attention.v_proj(given)), dim=1))
            x = x + self.attend(attention, given, new_keys[-1], new_values[-1], causal)
            given = layer.encoder_attn_layer_norm(x)
            x = x + self.attend(layer.encoder_attn, given, frames.keys[index], frames.values[index], frames.bias)
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
        return self.logits(self.norm(x), here), new_keys, new_values

    @property
    def width(self) -> int:
        return self.table.size(0)

    @property
    def longest(self) -> int:
        """Tokens that there are positions for, the prompt's included."""
        return len(self.positions) - self.first_position

    def embed(self, tokens: Tensor, here: Tensor) -> Tensor:
        """Embeddings [N, U, D] of tokens [N, U] at positions [U]."""
        rows = self.table.index_select(1, tokens.flatten())  # one operator in every exporter: see `eight_bits`
        x = rows.reshape(-1, *tokens.shape).permute(1, 2, 0) * self.scale + self.positions[here + self.first_position]
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def logits(self, x: Tensor, here: Tensor) -> Tensor:
        logits = x @ (self.table if self.head is None else self.head)
        if self.bias is not None:
            logits = logits + self.bias
        row = (here > 0).long() + (here >= self.prefix).long() + (here >= self.longest - 1).long()
        if self.prefix == 1:
            row = row.clamp(min=1)
        return logits.masked_fill(self.forbidden[row], -torch.inf)

    def attend(self, attention: nn.Module, x: Tensor, keys: Tensor, values: Tensor, bias: Optional[Tensor]) -> Tensor:
        """x [N, U, D] attends to [N, S, D]; bias of scores [N, heads, U, S]."""
        query, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (attention.q_proj(x) * attention.scaling, keys, values)
        )
        scores = query @ keys.transpose(2, 3)
        scores = scores if bias is None else scores + bias
        return attention.out_proj((F.softmax(scores, dim=-1) @ values).transpose(1, 2).flatten(2))


def layers_of(decoder: nn.Module) -> nn.ModuleList:
    return decoder.network.layers if isinstance(decoder, PretrainedDecoder) else decoder.layers


def heads_of(layer: nn.Module) -> int:
    return int(layer.self_attn.num_heads)


def head_of(decoder: nn.Module) -> Optional[Tensor]:
    """Weights [V, D] of the output layer; None where they are the embeddings."""
    if isinstance(decoder, PretrainedDecoder):
        return None if decoder.head is None else decoder.head.weight
    shared = decoder.output_projection.weight is decoder.embed_tokens.weight
    return None if shared else decoder.output_projection.weight


def positions_of(decoder: nn.Module) -> Tuple[Tensor, int]:
    """What is added to embeddings of tokens, as a table [R, D], and the row of the first token in it.

    Learned tables are kept complete, so that `colld import` finds them in the graph.
    """
    network = decoder.network if isinstance(decoder, PretrainedDecoder) else decoder
    embedding = network.embed_positions
    if isinstance(embedding, nn.Embedding):  # of Whisper and mBART
        return embedding.weight, getattr(embedding, "offset", 0)
    first = embedding.padding_idx + 1
    size = first + network.max_target_positions
    return embedding.get_embedding(size, embedding.embedding_dim, embedding.padding_idx), first


class AttendedGraph(nn.Module):
    """Input of the encoder and lengths [N] -> keys and values [L, N, F, D] of the decoder's layers, frames [N]."""

    def __init__(self, model: nn.Module, normalization: nn.Module) -> None:
        super().__init__()
        self.normalization, self.student = normalization, model.encoder.student
        self.adaptor, self.cross = model.encoder.adaptor, CrossProjections(model.decoder)

    def forward(self, source: Tensor, lengths: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        output = self.student(self.normalization(source, lengths), lengths)
        x, frames = output.x, output.lengths
        if self.adaptor is not None:
            x, frames = self.adaptor(x, frames)
        keys, values = self.cross(x)
        return torch.stack(keys), torch.stack(values), frames


class StepsGraph(nn.Module):
    """tokens [N, U], keys and values [L, N, P, D] of those before, what the encoder gives -> logits [N, U, V], keys and
    values [L, N, P + U, D]."""

    def __init__(self, decoder: nn.Module, rules: Rules) -> None:
        super().__init__()
        self.steps = DecoderSteps(decoder, rules)

    def forward(
        self, tokens: Tensor, past_keys: Tensor, past_values: Tensor, keys: Tensor, values: Tensor, frames: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor]:
        attended = Frames(keys.unbind(0), values.unbind(0), score_bias(frames, keys[0]))
        logits, new_keys, new_values = self.steps(tokens, past_keys.unbind(0), past_values.unbind(0), attended)
        return logits, torch.stack(new_keys), torch.stack(new_values)
