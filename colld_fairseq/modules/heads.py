"""Prediction heads from student features to teacher targets; used in distillation only."""

from typing import List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


class Upsample(nn.Module):
    """Raises the frame rate by an integer factor: `[B, T, D] -> [B, factor * T, D]`.

    A transposed convolution, used by FitHuBERT (2207.00555) after its time reduction. As kernel and stride
    are equal, every input frame makes `factor` output frames of its own: padding stays outside.
    """

    def __init__(self, width: int, factor: int):
        super().__init__()
        self.conv = nn.ConvTranspose1d(width, width, kernel_size=factor, stride=factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class ConcatTanh(nn.Module):
    """n stacked teacher frames, for a slower student, to one of the teacher's width: z = tanh(W [e_1; ...; e_n] + b).

    The form is that of Yang et al.'s public code (concat_tanh), where recognition trains it together with the teacher.
    Without labels a target that is itself learned would shrink to a constant, so here W learns to keep what is in the
    frames: a second Linear has to restore them from z, and z reaches the student without gradient.
    """

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.encode = nn.Linear(frames * width, width)
        self.decode = nn.Linear(width, frames * width)

    def forward(self, stacked: Tensor) -> Tuple[Tensor, Tensor]:
        """[B, T, n * D] -> (z [B, T, D] without gradient, the frames restored from it [B, T, n * D])."""
        z = torch.tanh(self.encode(stacked.to(self.encode.weight.dtype)))
        return z.detach(), self.decode(z)


class DistillationHeads(nn.Module):
    """One head for each of K targets.

    - `"linear"`: K inputs, each through its own Linear (layer-to-layer, FitHuBERT, LightHuBERT, CoLLD).
    - `"mlp"`: K inputs, each through its own Linear, activation, Linear (USAD, 2506.18843: ReLU).
    - `"shared"`: **one** input, the last student layer. A Linear to K blocks of `hidden_width`, activation, then block
      k through its own Linear (DistilHuBERT, 2110.01900: GELU).
    - `"none"`: K inputs that are to equal their targets as they are, of the same widths. What was trained to read the
      teacher reads the student.

    Args:
        input_widths: student width of each input: K numbers, or one number for `"shared"`.
        target_widths: teacher width of each of the K targets.
        hidden_width: width between the two Linears of `"mlp"` and `"shared"`; the input width if not given.
        activation: `"relu"` or `"gelu"`; the one of the paper named with the kind if not given.
        upsample: factor by which the heads first raise the frame rate, each with its own `Upsample`.
        bias: bias of the last Linear of each head (LightHuBERT has none).
        code_width: outputs of `code`, a Linear from the last input to code classes or the space of their embeddings; 0
            = none.
        front_end_width: outputs of `front_end`, a Linear from the front-end's output to the teacher's width; 0 = none.
        adapters: index of a target -> module that makes it of stacked teacher frames; kept here, and called by the
            criterion, because it is learned and left behind with the heads.

    `code` and `front_end` (None where their width is 0) are called by themselves (2210.15631).

    Raises ValueError for an unknown kind or activation, a count of widths that does not fit, or `upsample` below 1.
    """

    def __init__(
        self,
        input_widths: Sequence[int],
        target_widths: Sequence[int],
        kind: str = "linear",
        hidden_width: Optional[int] = None,
        activation: Optional[str] = None,
        upsample: int = 1,
        bias: bool = True,
        code_width: int = 0,
        front_end_width: int = 0,
        adapters: Optional[Mapping[int, nn.Module]] = None,
    ):
        super().__init__()
        if kind not in ("linear", "mlp", "shared", "none"):
            raise ValueError(f"unknown head {kind!r}: choose linear, mlp, shared or none")
        if activation is None:
            activation = "gelu" if kind == "shared" else "relu"
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown head activation {activation!r}: choose one of {sorted(ACTIVATIONS)}")
        if upsample < 1:
            raise ValueError(f"upsample={upsample}: must be at least 1")
        expected_inputs = 1 if kind == "shared" else len(target_widths)
        if len(input_widths) != expected_inputs or not target_widths:
            raise ValueError(
                f"{kind} heads for {len(target_widths)} targets need {expected_inputs} student feature(s), "
                f"not {len(input_widths)}"
            )
        if kind == "none" and list(input_widths) != list(target_widths):
            raise ValueError(f"without heads, features of width {input_widths} cannot equal targets of {target_widths}")
        self.kind = kind
        self.upsample_factor = upsample
        self.upsamplers = nn.ModuleList(Upsample(width, upsample) for width in input_widths if upsample > 1)

        if kind == "shared":
            hidden = hidden_width or input_widths[0]
            self.trunk = nn.Sequential(
                nn.Linear(input_widths[0], hidden * len(target_widths)), ACTIVATIONS[activation]()
            )
            heads = [nn.Linear(hidden, target, bias=bias) for target in target_widths]
        elif kind == "mlp":
            heads = [
                nn.Sequential(
                    nn.Linear(width, hidden_width or width),
                    ACTIVATIONS[activation](),
                    nn.Linear(hidden_width or width, target, bias=bias),
                )
                for width, target in zip(input_widths, target_widths)
            ]
        elif kind == "none":
            heads = [nn.Identity() for _ in target_widths]
        else:
            widths = zip(input_widths, target_widths)
            heads = [nn.Linear(width, target, bias=bias) for width, target in widths]
        self.heads = nn.ModuleList(heads)
        self.code = nn.Linear(input_widths[-1], code_width) if code_width else None
        self.front_end = nn.Linear(input_widths[0], front_end_width) if front_end_width else None
        self.adapters = nn.ModuleDict({str(index): adapter for index, adapter in (adapters or {}).items()})

    def forward(self, features: Sequence[Tensor]) -> List[Tensor]:
        """K student features `[B, T, D_s]` (`"shared"`: one) -> the K targets `[B, upsample * T, D_t]`."""
        features = list(features)
        expected_inputs = 1 if self.kind == "shared" else len(self.heads)
        if len(features) != expected_inputs:
            raise ValueError(f"{self.kind} heads take {expected_inputs} features, got {len(features)}")
        if self.upsamplers:
            features = [upsampler(x) for upsampler, x in zip(self.upsamplers, features)]
        if self.kind == "shared":
            features = list(torch.chunk(self.trunk(features[0]), len(self.heads), dim=-1))
        return [head(x) for head, x in zip(self.heads, features)]
