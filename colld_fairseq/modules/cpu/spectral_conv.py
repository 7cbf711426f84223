"""Long grouped convolutions over time as products of spectra, for the CPU.

A kernel of K positions costs K multiplications per sample and channel pair; on blocks of 2 K samples the same sum is
one complex product for each of K + 1 frequencies (overlap-save). For the 128 positions of HuBERT's position
convolution that is a sixth of the time or less.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def kernel_spectrum(weight: Tensor, gain: Tensor, groups: int) -> Tensor:
    """Spectra of the kernels `weight` [O, I, K] * `gain` [K], complex [groups * (K + 1), I, O / groups].

    A matrix product makes them where they are needed, frequency by frequency; a Fourier transform would leave them to
    be transposed.
    """
    outputs, inputs, kernel = weight.shape
    frequency = torch.arange(kernel + 1, dtype=torch.float64, device=weight.device)
    position = torch.arange(kernel, dtype=torch.float64, device=weight.device)
    angle = torch.outer(frequency, position).remainder(2 * kernel) * (math.pi / kernel)
    kernels = weight.reshape(groups, -1, kernel).transpose(1, 2)
    # The conjugate of the transform: convolutions of neural networks do not reverse the kernel.
    real = torch.matmul(angle.cos().to(weight.dtype) * gain, kernels)
    imaginary = torch.matmul(angle.sin().to(weight.dtype) * gain, kernels)
    return torch.complex(real, imaginary).view(-1, outputs // groups, inputs).transpose(1, 2)


def spectral_conv(x: Tensor, spectrum: Tensor, kernel: int, groups: int) -> Tensor:
    """What `conv1d` with `padding=kernel // 2` makes of x [B, T, D], without bias and cut to its frames: [B, T, O].

    spectrum: from `kernel_spectrum`.
    """
    batch, frames, _ = x.shape
    size, hop = 2 * kernel, kernel + 1
    blocks = -(-frames // hop)
    before = kernel // 2
    x = F.pad(x, (0, 0, before, (blocks - 1) * hop + size - before - frames))
    products, inputs, outputs = spectrum.shape
    x = torch.fft.rfft(x.unfold(1, size, hop)).view(batch * blocks, groups, inputs, -1)
    x = x.permute(1, 3, 0, 2).reshape(products, batch * blocks, inputs)
    y = torch.bmm(x, spectrum).view(groups, -1, batch * blocks, outputs)
    y = torch.fft.irfft(y.permute(2, 0, 3, 1), size)[..., :hop]
    return y.permute(0, 3, 1, 2).reshape(batch, blocks * hop, groups * outputs)[:, :frames]
