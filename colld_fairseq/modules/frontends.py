"""Front-ends: from samples or filterbanks to the frames a student encoder works on.

Every front-end is called as `front_end(x, lengths)` and returns features [B, T, D] and their lengths [B];
`lengths=None` means that no utterance is padded. What stands in the padding of the input never reaches a valid
frame of the output.

Those that can stream look at no frame before their own and have a `lookahead`: frame k sees filterbank frames sk to
s(k + 1) + lookahead - 1, s = 100 Hz / `frame_rate_hz`.
"""

from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.constants import SAMPLE_RATE
from colld_fairseq.errors import ConfigError
from colld_fairseq.modules.cpu import use_cpu_kernels
from colld_fairseq.modules.cpu.cached import CachedFromWeights
from colld_fairseq.modules.cpu.extractor import extract_layers
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.lengths import conv_length, lengths_to_padding_mask
from colld_fairseq.modules.norms import MaskedChannelNorm

FBANK_RATE_HZ = 100.0


def _full_lengths(x: Tensor) -> Tensor:
    return torch.full((x.size(0),), x.size(1), dtype=torch.int64, device=x.device)


class ExtractorLayer(nn.Module):
    """Convolution over time, optional norm, GELU, on [B, C, T]."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, bias: bool, norm: Optional[str]):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride=stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = {None: None, "group": MaskedChannelNorm, "layer": nn.LayerNorm}[norm]
        if self.norm is not None:
            self.norm = self.norm(channels)

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """`padding_mask` [B, T'] belongs to the output frames; only the group norm reads it."""
        x = self.conv(x)
        if isinstance(self.norm, MaskedChannelNorm):
            x = self.norm(x, padding_mask)
        elif self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


class WaveformFrontEnd(nn.Module):
    """The convolutions of wav2vec 2.0 and HuBERT, LayerNorm, and the projection to `embed_dim`.

    Takes samples [B, N] at 16 kHz. With the published layers an utterance of n samples gives `(n - 400) // 320 +
    1` frames.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.grad_mult = config.feature_grad_mult
        self.layers = nn.ModuleList()
        in_channels, rate = 1, float(SAMPLE_RATE)
        for index, (channels, kernel, stride) in enumerate(config.conv_layers):
            norm = config.extractor_norm if config.extractor_norm == "layer" or index == 0 else None
            self.layers.append(ExtractorLayer(in_channels, channels, kernel, stride, config.conv_bias, norm))
            in_channels, rate = channels, rate / stride
        self.frame_rate_hz = rate
        self.layer_norm = nn.LayerNorm(in_channels, eps=config.layer_norm_eps) if config.feature_norm else nn.Identity()
        self.projection = nn.Linear(in_channels, config.embed_dim)
        self._weights: CachedFromWeights[List[Tensor]] = CachedFromWeights()

    def train(self, mode: bool = True) -> "WaveformFrontEnd":
        self._weights.forget()
        return super().train(mode)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Samples [B] -> frames [B]."""
        for layer in self.layers:
            lengths = conv_length(lengths, layer.kernel, layer.stride)
        return lengths

    def extract(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tensor:
        """Output of the convolutions: [B, N] -> [B, T, C]."""
        if use_cpu_kernels("extractor", x) and not x.requires_grad and x.dtype == self.layers[0].conv.weight.dtype:
            return extract_layers(self.layers, x, lengths, self._weights)
        x = x.unsqueeze(1)
        for index, layer in enumerate(self.layers):
            padding_mask = None
            if index == 0 and lengths is not None:
                frames = (x.size(-1) - layer.kernel) // layer.stride + 1
                valid = conv_length(lengths, layer.kernel, layer.stride)
                padding_mask = lengths_to_padding_mask(valid, frames)
            x = layer(x, padding_mask)
        return x.transpose(1, 2)

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        shortest = 1
        for layer in reversed(self.layers):
            shortest = (shortest - 1) * layer.stride + layer.kernel
        if x.size(1) < shortest:
            raise ConfigError(f"the longest utterance of the batch has {x.size(1)} samples; one frame needs {shortest}")
        if self.grad_mult == 0.0:
            with torch.no_grad():
                features = self.extract(x, lengths)
        else:
            features = self.extract(x, lengths)
            if self.grad_mult != 1.0:
                features = features * self.grad_mult + features.detach() * (1.0 - self.grad_mult)
        out_lengths = self.output_lengths(_full_lengths(x) if lengths is None else lengths)
        return self.projection(self.layer_norm(features)), out_lengths


class FbankFrontEnd(nn.Module):
    """Filterbank front-end of Wang et al. 2023 (arXiv 2210.15631): Conv1d(kernel 5, stride 2) + GLU, then a
    linear layer.

    Takes [B, T, bins] at 100 Hz, gives 50 Hz: as many frames as the waveform extractor makes of the same
    samples when the filterbanks are computed with `snip_edges` (25 ms window, 10 ms shift).
    """

    frame_rate_hz = FBANK_RATE_HZ / 2

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.conv = nn.Conv1d(config.fbank_bins, 2 * config.embed_dim, kernel_size=5, stride=2, padding=2)
        self.projection = nn.Linear(config.embed_dim, config.embed_dim)
        nn.init.xavier_normal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Filterbank frames [B] -> frames [B]."""
        return torch.div(lengths + 1, 2, rounding_mode="floor")

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        if lengths is None:
            lengths = _full_lengths(x)
        else:
            x = x.masked_fill(lengths_to_padding_mask(lengths, x.size(1)).unsqueeze(-1), 0.0)
        x = F.glu(self.conv(x.transpose(1, 2)), dim=1).transpose(1, 2)
        return self.projection(x), self.output_lengths(lengths)


class FbankStackFrontEnd(nn.Module):
    """`fbank_stack` neighboring filterbank frames side by side, LayerNorm, Linear (w2v-BERT 2.0 stacks 2:
    50 Hz).

    Takes [B, T, bins] at 100 Hz; frames that do not fill a last stack are dropped.
    """

    lookahead = 0

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.stack = config.fbank_stack
        self.frame_rate_hz = FBANK_RATE_HZ / self.stack
        width = config.fbank_bins * self.stack
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.feature_norm else nn.Identity()
        self.projection = nn.Linear(width, config.embed_dim)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Filterbank frames [B] -> frames [B]."""
        return torch.div(lengths, self.stack, rounding_mode="floor")

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        frames = x.size(1) // self.stack
        if frames == 0:
            raise ConfigError(
                f"the longest utterance of the batch has {x.size(1)} fbank frames; one frame needs {self.stack}"
            )
        stacked = x[:, : frames * self.stack].reshape(x.size(0), frames, -1)
        out_lengths = self.output_lengths(_full_lengths(x) if lengths is None else lengths)
        return self.projection(self.layer_norm(stacked)), out_lengths


class Conv2dFrontEnd(nn.Module):
    """Two convolutions over time and frequency (kernel 3, stride 2, no padding, ReLU) and a Linear: 25 Hz.

    The subsampling of Conformer transducers (Gulati et al. 2020; ESPnet's Conv2dSubsampling). Takes [B, T, bins] at 100
    Hz; frame k sees filterbank frames 4k to 4k + 6, so padding reaches no valid frame.
    """

    frame_rate_hz = FBANK_RATE_HZ / 4
    SHORTEST = 7  # filterbank frames that make one frame
    lookahead = 3  # of them after the next frame's first

    def __init__(self, config: EncoderConfig):
        super().__init__()
        channels = config.subsampling_channels
        self.convs = nn.ModuleList(nn.Conv2d(inner, channels, 3, stride=2) for inner in (1, channels))
        self.projection = nn.Linear(channels * ((config.fbank_bins - 3) // 4), config.embed_dim)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Filterbank frames [B] -> frames [B]."""
        return torch.div(lengths - 3, 4, rounding_mode="floor").clamp(min=0)

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        if x.size(1) < self.SHORTEST:
            raise ConfigError(
                f"the longest utterance of the batch has {x.size(1)} fbank frames; one frame needs {self.SHORTEST}"
            )
        out_lengths = self.output_lengths(_full_lengths(x) if lengths is None else lengths)
        x = x.unsqueeze(1)
        for conv in self.convs:
            x = F.relu(conv(x))  # [B, C, T', bins']
        return self.projection(x.transpose(1, 2).flatten(2)), out_lengths


class WhisperFrontEnd(nn.Module):
    """Whisper's stem (Radford et al. 2022): two convolutions of kernel 3 with GELU, the second of stride 2: 50 Hz.

    Takes log-mels [B, T, bins] at 100 Hz. An utterance comes with the log-mel frame after its last pair (see
    `data.log_mel`), so that what its frames see is its own.
    """

    frame_rate_hz = FBANK_RATE_HZ / 2

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.conv1 = nn.Conv1d(config.fbank_bins, config.embed_dim, 3, padding=1)
        self.conv2 = nn.Conv1d(config.embed_dim, config.embed_dim, 3, stride=2, padding=1)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Log-mel frames [B] -> frames [B]."""
        return torch.div(lengths, 2, rounding_mode="floor")

    def forward(self, x: Tensor, lengths: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        if x.size(1) < 2:
            raise ConfigError(f"the longest utterance of the batch has {x.size(1)} log-mel frames; one frame needs 2")
        out_lengths = self.output_lengths(_full_lengths(x) if lengths is None else lengths)
        frames = x.size(1) // 2
        x = F.gelu(self.conv2(F.gelu(self.conv1(x.transpose(1, 2)))))
        return x[..., :frames].transpose(1, 2), out_lengths


FRONT_ENDS = {
    "waveform": WaveformFrontEnd,
    "fbank": FbankFrontEnd,
    "fbank_stack": FbankStackFrontEnd,
    "conv2d": Conv2dFrontEnd,
    "whisper": WhisperFrontEnd,
}
