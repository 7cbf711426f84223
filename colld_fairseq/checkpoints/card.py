"""What model cards (README.md) of every kind have in common: what is known is said, the rest marked."""

from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

TO_BE_FILLED = "to be filled in"
LICENSE_FIELDS = ("license", "license_name", "license_link")
# Section and field of a checkpoint's configuration -> how the card calls it.
SETTINGS: Tuple[Tuple[str, str, str], ...] = (
    ("criterion", "_name", "objective"),
    ("task", "data", "data"),
    ("dataset", "train_subset", "trained on its part"),
    ("task", "teacher", "teacher"),
    ("task", "teacher_kind", "features of the teacher"),
    ("model", "init_from", "started from"),
    ("model", "student", "started from the encoder of"),
    ("model", "init_layers", "its layers"),
    ("model", "layer_map", "student layers: teacher layers"),
    ("model", "mask_prob", "masked frames"),
    ("task", "join_seconds", "utterances joined to windows of (s)"),
    ("task", "join_padded", "share of windows filled up with silence"),
    ("task", "perturb_speed", "speed perturbed by up to"),
    ("task", "perturb_volume_db", "volume perturbed by up to (dB)"),
    ("task", "perturb_noise_db", "noise down to a ratio of (dB)"),
    ("optimization", "max_update", "updates"),
    ("optimization", "lr", "learning rate"),
    ("optimizer", "_name", "optimizer"),
    ("dataset", "max_tokens", "samples per batch"),
    ("common", "seed", "seed"),
)


def metadata_of(directory: Path) -> Dict[str, Any]:
    """What the card of a directory says of license and languages; {} where it has none, or none that can be read."""
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(directory / "README.md", ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError):
        return {}


def training_table(training: Mapping[str, Any]) -> str:
    """The settings of SETTINGS that the checkpoint has."""
    rows = [(title, (training.get(section) or {}).get(name)) for section, name, title in SETTINGS]
    lines = [f"| {title} | `{value}` |" for title, value in rows if value not in (None, "", [], 0.0)]
    return "\n".join(["| setting | value |", "|---|---|", *lines]) if lines else f"*{TO_BE_FILLED}*"
