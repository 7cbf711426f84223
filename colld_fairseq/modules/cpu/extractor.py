"""The waveform extractor on a CPU: matrix products on blocks of time that stay in the cache.

Most values of an utterance live in the first layers (512 channels at 3.2 kHz). Convolved, normalized and activated
layer by layer they cross the memory bus many times, which costs as much as the arithmetic. Here

- a block of output frames goes through all layers before the next one (a few frames of each layer are computed twice at
  a seam), and frames of padding through none;
- activations are [T, C], on which convolutions are matrix products (see strided_matmul);
- the group norm after the first convolution is folded into that convolution's weights.
"""

from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.modules.cpu.cached import CachedFromWeights
from colld_fairseq.modules.cpu.strided_matmul import convolve, positions_first
from colld_fairseq.modules.lengths import conv_length
from colld_fairseq.modules.norms import MaskedChannelNorm

BLOCK_FRAMES = 100


def extract_layers(
    layers: Sequence[nn.Module], x: Tensor, lengths: Optional[Tensor], cache: CachedFromWeights[List[Tensor]]
) -> Tensor:
    """Run a waveform front-end's ExtractorLayers on samples [B, N], of which `lengths` [B] count (None: all).

    Returns [B, T, C], 0 where an utterance has no frame; the samples get no gradient. `cache` holds the rearranged
    weights between passes that do not learn them.
    """
    first, *later = layers
    samples = torch.full((len(x),), x.size(1)) if lengths is None else lengths
    total, frames, reach, hop = x.size(1), samples, 1, 1
    for layer in layers:
        total, frames = (total - layer.kernel) // layer.stride + 1, conv_length(frames, layer.kernel, layer.stride)
    for layer in reversed(later):  # rows of the first layer: under a frame of the last one, and between two
        reach, hop = (reach - 1) * layer.stride + layer.kernel, hop * layer.stride
    if isinstance(first.norm, MaskedChannelNorm):
        valid = conv_length(samples, first.kernel, first.stride)
        kernels = zip(*fold_channel_norm(x, first.conv, first.norm, valid))
    else:
        kernels = [(first.conv.weight.squeeze(1), first.conv.bias)] * len(x)
    weights = [layer.conv.weight for layer in later]
    if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
        rearranged = [positions_first(weight) for weight in weights]
    else:
        rearranged = cache.get(weights, lambda: [positions_first(weight) for weight in weights])
    utterances = []
    for windows, kernel, count in zip(x.unfold(1, first.kernel, first.stride), kernels, frames.tolist()):
        blocks = []
        for start in range(0, count, BLOCK_FRAMES):
            last = min(start + BLOCK_FRAMES, count) - 1
            blocks.append(_block(windows[start * hop : last * hop + reach], kernel, layers, rearranged))
        utterances.append(torch.cat([*blocks, x.new_zeros(total - count, layers[-1].conv.out_channels)]))
    return torch.stack(utterances)


def _block(
    windows: Tensor, kernel: Tuple[Tensor, Optional[Tensor]], layers: Sequence[nn.Module], weights: Sequence[Tensor]
) -> Tensor:
    """Samples under the first kernel [T', K] through all layers: [T, C]."""
    x = F.linear(windows, *kernel)
    for index, layer in enumerate(layers):
        if index:
            x = convolve(x, weights[index - 1], layer.stride)
            x = x if layer.conv.bias is None else x + layer.conv.bias
        x = F.gelu(layer.norm(x) if isinstance(layer.norm, nn.LayerNorm) else x)
    return x


def fold_channel_norm(x: Tensor, conv: nn.Conv1d, norm: nn.Module, frames: Tensor) -> Tuple[Tensor, Tensor]:
    """Weights [B, C, K] and biases [B, C] of a first convolution that normalizes its own output over time.

    The output y = w z + b of the K samples z under the kernel has mean w m + b and variance w R w^T, where m and R are
    mean and covariance of z over the frames: a K x K matrix instead of a pass over all channels.

    Args:
        x: samples [B, N].
        conv: 1 -> C channels, kernel K, without padding; norm: what follows it: weight [C], bias [C], eps.
        frames: [B] output frames of each utterance that count.
    """
    windows = x.unfold(1, conv.kernel_size[0], conv.stride[0]).double()
    padding = (torch.arange(windows.size(1)) >= frames[:, None]).unsqueeze(-1)
    count = frames.clamp(min=1)[:, None, None]
    mean = windows.masked_fill(padding, 0.0).sum(1, keepdim=True) / count
    centered = (windows - mean).masked_fill_(padding, 0.0)
    covariance = centered.transpose(1, 2) @ centered / count
    kernels = conv.weight.squeeze(1).double()
    offset = kernels.new_zeros(len(kernels)) if conv.bias is None else conv.bias.double()
    y_mean = (mean @ kernels.t()).squeeze(1) + offset
    scale = norm.weight * torch.rsqrt(((kernels @ covariance) * kernels).sum(-1) + norm.eps)
    shift = norm.bias + scale * (offset - y_mean)
    return (scale.unsqueeze(-1) * kernels).to(x.dtype), shift.to(x.dtype)
