"""Encoders read from, and written in, the file formats of transformers, fairseq and this project."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from colld_fairseq.data.audio import SAMPLE_RATE
from colld_fairseq.data.inputs import StudentInput
from colld_fairseq.errors import ConfigError
from colld_fairseq.models.initialisation import read_checkpoint_of
from colld_fairseq.models.loading import read_student
from colld_fairseq.modules.encoder_config import EncoderConfig
from colld_fairseq.modules.export_configs import FAIRSEQ_HUBERT, HF_W2V_BERT, OURS, check_fits, hf_layout
from colld_fairseq.modules.export_maps import export_fairseq_hubert, export_hf_hubert, export_hf_w2v_bert
from colld_fairseq.modules.initialise import State
from colld_fairseq.teachers.weights import read_config, resolve_directory

#: What a written Hugging Face directory holds.
HF_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


class Encoder(NamedTuple):
    """Configuration, weights in our names, and the input that they were trained on."""

    config: EncoderConfig
    state: State
    heard: StudentInput


def read_encoder(spec: str, heard: StudentInput) -> Encoder:
    """The encoder in hf:DIR, fairseq:FILE.pt or colld:FILE.pt; heads and decoders stay behind.

    Raises ConfigError where the checkpoint has parts that the student encoder lacks, TeacherError where it cannot be
    read.
    """
    scheme, _, name = spec.partition(":")
    if scheme == "colld":
        return Encoder(*read_student(str(Path(name).expanduser())), heard)
    if scheme == "hf":
        _refuse_other_models(spec, read_config(resolve_directory(name)))
    return Encoder(*read_checkpoint_of(spec), heard)


def _refuse_other_models(spec: str, config: dict) -> None:
    """What may start a student, but is not the same model without the part that is left behind."""
    reason = None
    if config.get("model_type") == "wavlm":
        reason = "WavLM's gated relative positions have no place in the student encoder"
    elif config.get("add_adapter"):
        reason = "the convolutional adapter behind the encoder (add_adapter) has no place in the student encoder"
    if reason:
        raise ConfigError(f"{spec}: {reason}; it can start a student (--init-from) but not be converted")


def write_encoder(scheme: str, path: Path, encoder: Encoder) -> None:
    """Write the encoder to `path`: a new directory for "hf", a file for "fairseq" and "colld".

    Raises ConfigError that names what the target cannot hold; nothing is written then.
    """
    _check_target(scheme, encoder)
    {"hf": _write_hf, "fairseq": _write_fairseq, "colld": _write_ours}[scheme](path, encoder)


def _check_target(scheme: str, encoder: Encoder) -> None:
    if scheme == "hf":
        layout = hf_layout(encoder.config)
        check_fits(encoder.config, layout)
        if layout is HF_W2V_BERT and encoder.heard.config.normalization != "utterance":
            raise ConfigError(
                f"{layout.name} has no place for cmvn={encoder.heard.config.normalization!r}: transformers' filterbanks"
                f" always have mean 0 and variance 1 over the utterance; this encoder can be written as {OURS}"
            )
    elif scheme == "fairseq":
        check_fits(encoder.config, FAIRSEQ_HUBERT)


def _write_hf(directory: Path, encoder: Encoder) -> None:
    import transformers
    from safetensors.torch import save_file

    config, state, heard = encoder
    layout = hf_layout(config)
    fields = dict(layout.write(config), dtype=str(state["blocks.0.attention.out.weight"].dtype).removeprefix("torch."))
    directory.mkdir()
    if layout is HF_W2V_BERT:
        settings = transformers.Wav2Vec2BertConfig(**fields, architectures=["Wav2Vec2BertModel"])
        extractor = transformers.SeamlessM4TFeatureExtractor(stride=config.fbank_stack)
        weights = export_hf_w2v_bert(state)
    else:
        settings = transformers.HubertConfig(**fields, architectures=["HubertModel"])
        # As published: attention masks belong to models with layer norms in the extractor.
        extractor = transformers.Wav2Vec2FeatureExtractor(
            do_normalize=heard.config.normalization == "utterance",
            return_attention_mask=config.extractor_norm == "layer",
        )
        weights = export_hf_hubert(state)
    settings.save_pretrained(directory)
    extractor.save_pretrained(directory)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def _write_fairseq(path: Path, encoder: Encoder) -> None:
    config, state, heard = encoder
    weights = export_fairseq_hubert(state, config)
    # fairseq's model has this head in any case; the encoder's features do not pass it.
    weights["final_proj.weight"], weights["final_proj.bias"] = torch.zeros(1, config.embed_dim), torch.zeros(1)
    frame_rate_hz = SAMPLE_RATE / math.prod(stride for _, _, stride in config.conv_layers)
    model = dict(FAIRSEQ_HUBERT.write(config), final_dim=1, label_rate=frame_rate_hz)
    task = {
        "_name": "hubert_pretraining",
        "data": ".",
        "labels": [],
        "label_rate": frame_rate_hz,
        "sample_rate": SAMPLE_RATE,
        "normalize": heard.config.normalization == "utterance",
    }
    checkpoint = _as_fairseq_saves(model, task, weights, "hubert")
    checkpoint["task_state"] = {"dictionaries": [None]}  # no labels: fairseq then builds no label embeddings
    torch.save(checkpoint, path)


def _write_ours(path: Path, encoder: Encoder) -> None:
    config, state, heard = encoder
    config = replace(config, input=heard.config)
    model = {"_name": "colld_student", "encoder_config": json.dumps(config.to_dict(), sort_keys=True)}
    task = {"_name": "speech_distillation"}
    weights = {f"encoder.{name}": tensor for name, tensor in state.items()}
    torch.save(_as_fairseq_saves(model, task, weights, "feature_regression"), path)


def _as_fairseq_saves(model: dict, task: dict, weights: State, criterion: str) -> dict:
    """A checkpoint without optimiser that fairseq's loader takes; plain values only."""
    history = {
        "criterion_name": criterion,
        "optimizer_name": "none",
        "lr_scheduler_state": {},
        "num_updates": 0,
    }
    return {
        "args": None,
        "cfg": {"model": model, "task": task},
        "model": weights,
        "optimizer_history": [history],
        "last_optimizer_state": None,
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
