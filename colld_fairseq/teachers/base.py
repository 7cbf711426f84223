"""What a frozen teacher is: waveforms in, features of chosen layers out.

A teacher is deliberately not an `nn.Module`: as a plain attribute of a task or criterion it is never saved in
a checkpoint, switched to train mode by `model.train()`, halved by `--fp16`, copied by an EMA or broadcast.
"""

import logging
from dataclasses import dataclass
from typing import Dict, Sequence, Tuple

import torch
from torch import Tensor, nn

from colld_fairseq.checkpoints.encoder import hash_of
from colld_fairseq.errors import TeacherError
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.modules.lengths import lengths_to_padding_mask

logger = logging.getLogger(__name__)

KINDS = ("layer", "ffn")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class TeacherOutput:
    """Features of one batch.

    features: layer number -> [B, T, D] in the teacher's dtype; frames beyond an utterance's length are zero.
    lengths: int64 [B], valid frames of each utterance.
    frame_rate_hz: frames per second.
    """

    features: Dict[int, Tensor]
    lengths: Tensor
    frame_rate_hz: float

    def checked(self, names: Sequence[str], source: str) -> "TeacherOutput":
        """Itself. Raises TeacherError for NaN and infinity, naming `source`, the layer and the utterance of `names`."""
        sums = torch.stack([value.sum(dtype=torch.float32) for value in self.features.values()])
        if sums.isfinite().all():  # one number for each layer: most batches are looked at once
            return self
        for layer, value in self.features.items():
            for name, finite in zip(names, value.isfinite().flatten(1).all(1).tolist()):
                if not finite:
                    raise TeacherError(
                        f"{source}: layer {layer} of utterance {name} is NaN or infinite. Damaged weights, or too"
                        " large for the teacher's precision (--dtype float32 or bfloat16 in place of float16)"
                    )
        return self


def check_request(
    spec: str, layers: Sequence[int], kind: str, num_layers: int, has_output: bool = False
) -> Tuple[int, ...]:
    """The requested layer numbers, checked. 0 = input of the first block, k = output of block k.

    has_output: one more layer is what leaves the encoder, behind its last norm.
    """
    if kind not in KINDS:
        raise TeacherError(f"teacher {spec}: kind is {kind!r}, choose one of {', '.join(KINDS)}")
    has_output = has_output and kind == "layer"
    first, last = 1 if kind == "ffn" else 0, num_layers + has_output
    wrong = [layer for layer in layers if not first <= layer <= last]
    if wrong or not layers:
        asked = f"layer {', '.join(map(str, wrong))} does not exist" if wrong else "no layer was requested"
        meanings = ["0 is the input of the first block"] if first == 0 else []
        meanings += [f"{last} what leaves the encoder, behind its last norm"] if has_output else []
        raise TeacherError(
            f"teacher {spec}: {asked}; kind {kind!r} offers layers {first} to {last}"
            + (f" ({', '.join(meanings)})" if meanings else "")
        )
    return tuple(sorted(set(int(layer) for layer in layers)))


class Teacher:
    """A frozen encoder: `teacher(waveforms, lengths) -> TeacherOutput`.

    Subclasses implement `extract` and `output_lengths`.

    Attributes:
        spec: the text the teacher was loaded from; content_hash: sha256 of its configuration and weights.
        layers, kind: what is extracted: block outputs ("layer") or feed-forward outputs before the residual ("ffn").
        num_layers: blocks of the complete encoder (with `has_output` the next layer is what leaves it); width: D;
        frame_rate_hz: frames per second.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        spec: str,
        layers: Sequence[int],
        kind: str,
        num_layers: int,
        width: int,
        frame_rate_hz: float,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        has_output: bool = False,
    ):
        self.spec, self.content_hash = spec, hash_of(spec)
        self.layers = check_request(spec, layers, kind, num_layers, has_output)
        self.kind = kind
        self.num_layers, self.width, self.frame_rate_hz = num_layers, width, frame_rate_hz
        self.dtype = dtype
        self.module = module.eval().requires_grad_(False).to(device=device, dtype=dtype)
        self.device = torch.device(device)

    def log_size(self, blocks: int) -> None:
        """Say what memory the weights take, of so many of its blocks, and which blocks stay unread."""
        held = sum(weight.numel() * weight.element_size() for weight in self.module.parameters())
        unread = f"; blocks {blocks + 1} to {self.num_layers} stay unread" if blocks < self.num_layers else ""
        counted = f"{blocks} of {self.num_layers} blocks are read"
        logger.info("teacher %s: %s, %.2f GB in %s%s", self.spec, counted, held / 1e9, self.dtype, unread)

    def set_silence(self, given: InputConfig) -> None:
        """Take in the silence that `given` has behind each utterance, and give its features as well.

        Raises TeacherError: only Whisper does.
        """
        raise TeacherError(f"teacher {self.spec} takes in no silence behind an utterance: no --tail-seconds for it")

    def to(self, device) -> "Teacher":
        """Moves the weights; `__call__` does it by itself when the waveforms live elsewhere."""
        device = torch.device(device)
        if device != self.device:
            self.module.to(device)
            self.device = device
        return self

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames, int64 [B], that utterances of `lengths` samples give; 0 where an utterance is too short."""
        raise NotImplementedError

    def extract(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        """Layer -> [B, max frames, D] of float32 waveforms [B, max(lengths)], zero beyond `lengths` [B]."""
        raise NotImplementedError

    def extract_with_padding(self, waveforms: Tensor, lengths: Tensor) -> Dict[int, Tensor]:
        """`extract`, with what the network makes of padded frames, for teachers that leave them out there."""
        return self.extract(waveforms, lengths)

    @torch.no_grad()  # not inference_mode: its tensors may not take part in the student's backward pass
    def __call__(self, waveforms: Tensor, lengths: Tensor, keep_padding: bool = False) -> TeacherOutput:
        """Features of 16 kHz waveforms [B, N] in [-1, 1] of `lengths` samples [B].

        The features of an utterance do not depend on its padding, nor on what else is in the batch.
        keep_padding: leave what the network computed on padded frames in place of zeros.
        Raises TeacherError when an utterance is too short to give one frame.
        """
        if waveforms.dim() != 2 or lengths.shape != waveforms.shape[:1]:
            raise TeacherError(
                f"teacher {self.spec}: expected waveforms [B, N] and lengths [B], got "
                f"{tuple(waveforms.shape)} and {tuple(lengths.shape)}"
            )
        self.to(waveforms.device)
        lengths = lengths.to(device=waveforms.device, dtype=torch.int64)
        frames = self.output_lengths(lengths)
        sizes = frames.tolist()
        if min(sizes) < 1:
            row = sizes.index(min(sizes))
            raise TeacherError(
                f"teacher {self.spec}: utterance {row} of the batch has {int(lengths[row])} samples, too few "
                f"for one frame; drop utterances this short from the manifest"
            )
        waveforms = waveforms[:, : int(lengths.max())].float()
        padded = lengths_to_padding_mask(lengths, waveforms.size(1))
        self.module.eval()
        extract = self.extract_with_padding if keep_padding else self.extract
        with torch.autocast(waveforms.device.type, enabled=False):
            features = extract(waveforms.masked_fill(padded, 0.0), lengths)
        if min(sizes) < max(sizes) and not keep_padding:
            padding = lengths_to_padding_mask(frames, max(sizes)).unsqueeze(-1)
            features = {layer: value.masked_fill(padding, 0.0) for layer, value in features.items()}
        return TeacherOutput(features, frames, self.frame_rate_hz)


def normalized(waveforms: Tensor, lengths: Tensor, given: InputConfig) -> Tensor:
    """Waveforms [B, N] as a model takes them: each at mean 0 and variance 1 over its own samples, where it asks for
    that; padding stays 0."""
    if given.normalization == "none":
        return waveforms
    padding = lengths_to_padding_mask(lengths, waveforms.size(1))
    count = lengths.unsqueeze(1)
    centered = (waveforms - waveforms.sum(1, keepdim=True) / count).masked_fill(padding, 0.0)
    return centered * torch.rsqrt(centered.square().sum(1, keepdim=True) / count + given.variance_floor)
