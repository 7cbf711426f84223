"""Ways to tell an encoder where a frame is: convolutional, sinusoidal, rotary, and relative-key positions."""

import functools
import math
from typing import Callable, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.cpu import use_cpu_kernels
from colld_fairseq.modules.cpu.cached import CachedFromWeights
from colld_fairseq.modules.cpu.spectral_conv import kernel_spectrum, spectral_conv

Rotary = Tuple[Tensor, Tensor]
ROTARY_BLOCK, LONGEST_EXPORTED = 256, 16384  # frames: of the two tables in exported graphs (positions there end here)


class ConvPositionalEmbedding(nn.Module):
    """Weight-normalized grouped convolution over time, then GELU (wav2vec 2.0 and HuBERT).

    The weight is `weight_g * weight_v / |weight_v|`, the norm taken per kernel position over the other two
    axes as in the published checkpoints. Kernels of even size drop the last output frame. The caller zeroes
    padded frames.
    """

    spectral_kernel = 32  # from this size on, spectra are faster on a CPU
    spectral_frames = 256  # a batch this large is worth transforming the kernels for it alone

    def __init__(self, embed_dim: int, kernel: int = 128, groups: int = 16):
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.weight_v = nn.Parameter(torch.empty(embed_dim, embed_dim // groups, kernel))
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        # The standard deviation fairseq uses: the sum over the receptive field keeps a variance of about 4 /
        # groups.
        nn.init.normal_(self.weight_v, std=(4.0 / (kernel * embed_dim)) ** 0.5)
        with torch.no_grad():
            self.weight_g.copy_(self.weight_v.norm(dim=(0, 1), keepdim=True))
        self._spectra: CachedFromWeights[Tensor] = CachedFromWeights()

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D], to be added to `x`."""
        learning = torch.is_grad_enabled() and (self.weight_v.requires_grad or self.weight_g.requires_grad)
        if (
            use_cpu_kernels("positions", x)
            and x.dtype == self.weight_v.dtype
            and self.kernel >= self.spectral_kernel
            and (not learning or x.size(0) * x.size(1) >= self.spectral_frames)
        ):
            if learning:
                spectrum = self._spectrum()
            else:
                spectrum = self._spectra.get((self.weight_v, self.weight_g), self._spectrum)
            return F.gelu(spectral_conv(x, spectrum, self.kernel, self.groups) + self.bias)
        given = [x.transpose(1, 2), self.weight_v * self._gain(), self.bias]
        if x.device.type == "cpu" and x.dtype == torch.bfloat16:
            # On CPUs with AMX, torch 2.13's are wrong altogether where a group has few channels.
            given = [value.float() for value in given]
        y = F.conv1d(*given, padding=self.kernel // 2, groups=self.groups).to(x.dtype)
        return F.gelu(y[..., : x.size(1)]).transpose(1, 2)

    def _gain(self) -> Tensor:
        return self.weight_g / self.weight_v.norm(dim=(0, 1), keepdim=True)

    def _spectrum(self) -> Tensor:
        return kernel_spectrum(self.weight_v, self._gain().view(-1), self.groups)

    def train(self, mode: bool = True) -> "ConvPositionalEmbedding":
        self._spectra.forget()
        return super().train(mode)


class SinusoidalPositions(nn.Module):
    """Whisper's positions: sines, then cosines, of frequencies from 1 down to 1/10000 per frame; not learned.

    Kept in checkpoints, because those of Whisper hold theirs rounded to half precision.
    """

    def __init__(self, count: int, width: int):
        super().__init__()
        steps = torch.arange(width // 2, dtype=torch.float64) / max(width // 2 - 1, 1)
        angles = torch.arange(count, dtype=torch.float64)[:, None] * 10000.0**-steps
        table = torch.cat((angles.sin(), angles.cos()), dim=1).to(torch.get_default_dtype())
        self.weight = nn.Parameter(table, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D] with positions added; ConfigError beyond the last position."""
        if x.size(1) > len(self.weight):
            raise ConfigError(f"an utterance of {x.size(1)} frames; the encoder has positions for {len(self.weight)}")
        return x + self.weight[: x.size(1)].to(x.dtype)


def rotary_table(length: int, head_dim: int, like: Tensor, base: float = 10000.0) -> Rotary:
    """Cosines and sines [T, 1, head_dim / 2] of rotary embeddings (RoFormer, arXiv 2104.09864)."""
    if torch.onnx.is_in_onnx_export():
        cos, sin = _rotary_by_addition(length, head_dim, like, base)
        return cos[:, None], sin[:, None]
    # Angles in double precision: of thousands of radians single precision keeps four decimals, and the same distance
    # between frames would not give the same score everywhere.
    steps = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float64)
    angles = torch.arange(length, device=like.device, dtype=torch.float64)[:, None] * base ** (-steps / head_dim)
    return angles.cos()[:, None].to(like.dtype), angles.sin()[:, None].to(like.dtype)


def _rotary_by_addition(length: int, head_dim: int, like: Tensor, base: float) -> Rotary:
    """Cosines and sines [T, head_dim / 2] in a graph of ONNX, whose runtimes lack the cosine in double precision.

    Frame 256 i + j is turned by the angles of 256 i and of j, both out of small tables of constants; an utterance
    cannot have more than LONGEST_EXPORTED frames.
    """
    velocities = [base ** (-step / head_dim) for step in range(0, head_dim, 2)]

    def table(frames: range, function: Callable[[float], float]) -> Tensor:
        rows = [[function(frame * velocity) for velocity in velocities] for frame in frames]
        return torch.tensor(rows, dtype=like.dtype, device=like.device)

    frames = torch.arange(length, device=like.device)
    within, before = frames % ROTARY_BLOCK, torch.div(frames, ROTARY_BLOCK, rounding_mode="floor")
    fine, coarse = range(ROTARY_BLOCK), range(0, LONGEST_EXPORTED, ROTARY_BLOCK)
    cos, sin = (table(fine, function)[within] for function in (math.cos, math.sin))
    cos_before, sin_before = (table(coarse, function)[before] for function in (math.cos, math.sin))
    return cos_before * cos - sin_before * sin, sin_before * cos + cos_before * sin


def apply_rotary(x: Tensor, table: Rotary) -> Tensor:
    """Rotate [B, T, ..., H, head_dim] by each frame's angles, so that scores depend on distances only."""
    between = (1,) * (x.dim() - 4)
    cos, sin = (part.view(part.size(0), *between, *part.shape[1:]) for part in table)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RelativeKeyBias(nn.Module):
    """Attention bias `query . embedding[clamp(key - query)]` (Shaw et al. 2018), as w2v-BERT 2.0 uses it.

    Distances are clamped to `[-max_left, max_right]` frames. The product with all `max_left + max_right +
    1` embeddings is made once and then indexed, which avoids a [T, T, head_dim] table.
    """

    def __init__(self, head_dim: int, max_left: int = 64, max_right: int = 8):
        super().__init__()
        self.max_left, self.max_right = max_left, max_right
        self.weight = nn.Parameter(torch.randn(max_left + max_right + 1, head_dim))

    def forward(self, query: Tensor, past: int = 0) -> Tensor:
        """[B, H, T, head_dim] -> [B, H, T, past + T], scaled like the attention scores.

        past: frames before these, which are keys but no queries.
        """
        batch, heads, length, head_dim = query.shape
        scores = torch.matmul(query, self.weight.to(query.dtype).t()) * head_dim**-0.5
        positions = torch.arange(-past, length, device=query.device)
        distance = (positions[None] - positions[past:, None]).clamp(-self.max_left, self.max_right) + self.max_left
        return scores.gather(-1, distance.expand(batch, heads, length, past + length))


def attention_key_bias(
    padding_mask: Optional[Tensor], dtype: torch.dtype, hidden: Optional[Tensor] = None
) -> Optional[Tensor]:
    """[B, K] (True on padding) -> additive bias [B, 1, 1, K] for attention scores; None stays None.

    hidden: bool [T, K], keys that single frames may not attend to (see `colld_fairseq.modules.chunks`); with it
    the bias is [B, 1, T, K], B = 1 where nothing is padded.

    Finite rather than -inf: an utterance that is all padding then gives a finite output instead of NaN gradients,
    and for every other utterance the padded keys' weight is exactly 0.
    """
    masks = [] if padding_mask is None else [padding_mask[:, None, None]]
    masks += [] if hidden is None else [hidden[None, None]]
    if not masks:
        return None
    mask = functools.reduce(torch.logical_or, masks)
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill(mask, torch.finfo(dtype).min / 2)
