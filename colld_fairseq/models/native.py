"""Encoders as their own libraries compute them, to compare a converted checkpoint with what it was made from.

Nothing here goes through the renaming of weights that a conversion uses, except fairseq's, whose class is built
without the heads of the checkpoint.
"""

import contextlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.loading import load_student, read_input
from colld_fairseq.modules.checkpoint_configs import FAIRSEQ_DEFAULTS, FBANK_BINS, pretrained_part
from colld_fairseq.modules.initialise import FAIRSEQ_WAV2VEC, select_encoder
from colld_fairseq.modules.input_config import InputConfig
from colld_fairseq.teachers.base import HF_VARIANCE_FLOOR, FeatureTap
from colld_fairseq.teachers.fairseq_checkpoint import read_checkpoint
from colld_fairseq.teachers.huggingface import FAMILIES
from colld_fairseq.teachers.weights import read_config, resolve_directory

TRAINING_ONLY = ("masked_spec_embed", "mask_emb")
LABEL_RATE_HZ = 50.0  # fairseq wants one; it only concerns the targets of pre-training


@dataclass
class NativeEncoder:
    """A model of some library.

    heard: how its input is normalised, as its files record it.
    prepare: waveform [N] -> what the library itself makes of it: samples [N] or filterbanks [T, 80].
    layers: such an input -> {"0": [T, D], …, "12": [T, D], "output": [T, D]}, layers numbered as everywhere (raw
        block outputs), "output" after the final norm where there is one.
    """

    heard: StudentInput
    prepare: Callable[[np.ndarray], Tensor]
    layers: Callable[[Tensor], Dict[str, Tensor]]


class Difference(NamedTuple):
    """One row of a comparison: largest absolute difference, and the largest absolute value of the source."""

    layer: str
    difference: float
    largest: float

    @property
    def relative(self) -> float:
        return self.difference / max(self.largest, 1e-30)

    def within(self, tolerance: float) -> bool:
        """Absolute for values up to 1, relative to the layer's largest value above. NaN is never within."""
        return self.difference <= tolerance * max(1.0, self.largest)


def open_native(spec: str, complete: bool = False) -> NativeEncoder:
    """The encoder `spec` (hf:DIR, fairseq:FILE.pt or colld:FILE.pt) in its own library, float32, on the CPU.

    complete: nothing may be missing in the file or be left over in it. Raises ColldError.
    """
    scheme, _, name = spec.partition(":")
    if scheme == "hf" and name:
        return _open_transformers(resolve_directory(name), complete)
    if scheme == "fairseq" and name:
        return _open_fairseq(Path(name).expanduser())
    if scheme == "colld" and name:
        return _open_ours(str(Path(name).expanduser()))
    raise ConfigError(f"{spec!r}: write hf:DIR, fairseq:FILE.pt or colld:FILE.pt")


@torch.no_grad()
def compare(source: NativeEncoder, target: NativeEncoder, waveform: np.ndarray) -> List[Difference]:
    """Both encoders on one clip [N].

    The first row, "input", compares what the two libraries make of the waveform; they add different constants to
    a variance and compute filterbanks in different precisions. All others are on the source's input.
    """
    heard, other = source.prepare(waveform), target.prepare(waveform)
    frames = min(len(heard), len(other))  # transformers drops filterbank frames that do not fill a last stack
    rows = [_difference("input", heard[:frames], other[:frames])]
    theirs, ours = source.layers(heard), target.layers(heard)
    if theirs.keys() != ours.keys():
        raise ConfigError(f"the converted encoder has layers {list(ours)}, the source {list(theirs)}")
    return rows + [_difference(layer, theirs[layer], ours[layer]) for layer in theirs]


def _difference(layer: str, source: Tensor, target: Tensor) -> Difference:
    if source.shape != target.shape:
        there, here = list(target.shape), list(source.shape)
        raise ConfigError(f"{layer} is {there} in the converted encoder, {here} in the source")
    return Difference(layer, (source - target).abs().max().item(), source.abs().max().item())


def _open_ours(path: str) -> NativeEncoder:
    student, heard = load_student(path).float(), read_input(path)

    def layers(source: Tensor) -> Dict[str, Tensor]:
        output = student(source[None], layers=range(student.num_layers + 1))
        return {**{str(k): value[0] for k, value in output.features.items()}, "output": output.x[0]}

    return NativeEncoder(heard, lambda waveform: torch.from_numpy(heard(waveform)), layers)


def _open_transformers(directory: Path, complete: bool) -> NativeEncoder:
    import transformers

    family = FAMILIES[read_config(directory)["model_type"]]
    transformers.utils.logging.disable_progress_bar()
    with _quiet():
        model, report = getattr(transformers, family.model).from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if not complete:  # heads, and a mask embedding that models which never masked do not store
        wrong = {"missing_keys": sorted(set(wrong.get("missing_keys", [])) - set(TRAINING_ONLY))}
    if any(wrong.values()):
        raise ConfigError(f"{directory}: transformers does not load it as it is: {wrong}")
    filterbanks = family.model == "Wav2Vec2BertModel"
    extractor_class = "SeamlessM4TFeatureExtractor" if filterbanks else "Wav2Vec2FeatureExtractor"
    extractor = getattr(transformers, extractor_class)()
    if (directory / "preprocessor_config.json").is_file():
        extractor = type(extractor).from_pretrained(directory, local_files_only=True)

    def prepare(waveform: np.ndarray) -> Tensor:
        inputs = extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        if not filterbanks:
            return inputs["input_values"][0]
        frames = int(inputs["attention_mask"].sum())
        return inputs["input_features"][0, :frames].reshape(-1, FBANK_BINS)

    def to_model(source: Tensor) -> Tensor:
        if not filterbanks:
            return source[None]
        width = model.config.feature_projection_input_dim
        frames = source.numel() // width
        return source.flatten()[: frames * width].view(1, frames, width)

    if filterbanks:
        heard = StudentInput()
    else:
        heard = StudentInput(InputConfig.waveforms(bool(extractor.do_normalize), HF_VARIANCE_FLOOR))
    run = _tapped(model.eval(), lambda source: model(to_model(source)).last_hidden_state[0])
    return NativeEncoder(heard, prepare, run)


def _open_fairseq(path: Path) -> NativeEncoder:
    config, task, state = read_checkpoint(path)
    config = pretrained_part(config)
    with _quiet():
        model = _fairseq_class(path, config)
    given = select_encoder(state, FAIRSEQ_WAV2VEC)
    missing = select_encoder(model.state_dict(), FAIRSEQ_WAV2VEC).keys() - given.keys() - set(TRAINING_ONLY)
    if missing:
        raise ConfigError(f"{path}: {len(missing)} encoder weights are missing ({', '.join(sorted(missing)[:4])})")
    model.load_state_dict(given, strict=False)
    heard = StudentInput(InputConfig.waveforms(bool(task.get("normalize", False))))

    def prepare(waveform: np.ndarray) -> Tensor:
        samples = torch.from_numpy(waveform)
        return F.layer_norm(samples, samples.shape) if heard.config.normalization == "utterance" else samples

    run = _tapped(
        model.eval(), lambda source: model(source[None], mask=False, features_only=True)["x"][0], time_first=True
    )
    return NativeEncoder(heard, prepare, run)


def _fairseq_class(path: Path, config: Dict[str, Any]) -> nn.Module:
    """fairseq's model without the heads that its checkpoint may have."""
    from fairseq.models.hubert.hubert import HubertConfig, HubertModel
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model
    from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

    name = config.get("_name") or config.get("arch")
    fields = {key: config[key] for key in FAIRSEQ_DEFAULTS if key in config}
    if name == "wav2vec2":
        return Wav2Vec2Model(Wav2Vec2Config(**fields))
    if name == "hubert":
        fields.pop("pos_conv_depth", None)
        return HubertModel(HubertConfig(**fields, label_rate=LABEL_RATE_HZ), HubertPretrainingConfig(), [None])
    raise ConfigError(f"{path}: a model {name!r} cannot be converted; hubert and wav2vec2 can")


def _tapped(model: nn.Module, forward: Callable[[Tensor], Tensor], time_first: bool = False):
    """`layers` of a NativeEncoder for a model with blocks in model.encoder.layers; forward gives [T, D].

    time_first: blocks pass [T, B, D] (fairseq, which also may add a padded frame) instead of [B, T, D].
    """
    blocks = model.encoder.layers
    tap = FeatureTap(blocks, range(len(blocks) + 1), "layer", None)

    def layers(source: Tensor) -> Dict[str, Tensor]:
        output = forward(source)
        found = tap.take()
        clip = {str(k): (x[:, 0] if time_first else x[0])[: len(output)] for k, x in found.items()}
        return {**clip, "output": output}

    return layers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries say of a model that is built: configuration, left-over heads, deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
