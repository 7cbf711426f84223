"""A small world for tests: "speech" whose characters are harmonic tones, in three languages, and a random teacher.

Every character of a text is 60 ms of a tone of its own pitch, so recognition can be learned; `xx` is written in Latin
letters, `yy` in Cyrillic, `ar` in Arabic (right to left). Translation goes from `yy` and `ar` into `xx`, letter
by letter.
"""

import json
import zipfile
from pathlib import Path
from typing import List, NamedTuple

import numpy as np
import soundfile
import torch
import transformers
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig

from colld_fairseq.data import manifest_writer
from colld_fairseq.data.audio import audio_info, find_zip_members
from colld_fairseq.data.manifest import Row

RATE = 16000
CHARACTER_SECONDS = 0.06
ALPHABETS = {"xx": "abcde ", "yy": "абвгё ", "ar": "ابتثج "}
HEADER = "\t".join(manifest_writer.COLUMNS) + "\n"


class Utterance(NamedTuple):
    """One utterance: its name, the sound [N], what was said, in which language, and the target text."""

    name: str
    waveform: np.ndarray
    text: str
    language: str
    target: str
    target_language: str


def tone(index: int, generator: np.random.Generator) -> np.ndarray:
    """[960] three harmonics of 150, 210, 294, ... Hz; the last character of an alphabet is silence."""
    time = np.arange(int(CHARACTER_SECONDS * RATE)) / RATE
    if index == 5:
        sound = np.zeros_like(time)
    else:
        pitch = 150 * 1.4**index
        sound = 0.2 * sum(np.sin(2 * np.pi * k * pitch * time) / k for k in (1, 2, 3))
    return sound + 0.003 * generator.standard_normal(len(time))


def make_utterance(name: str, language: str, target_language: str, generator: np.random.Generator) -> Utterance:
    length = int(generator.integers(5, 25))  # 0.3 to 1.5 s
    numbers = [int(n) for n in generator.integers(0, 6, length)]
    numbers[0], numbers[-1] = 0, 1  # no text begins or ends with a space
    write = lambda alphabet: " ".join("".join(ALPHABETS[alphabet][n] for n in numbers).split())  # noqa: E731
    waveform = np.concatenate([tone(n, generator) for n in numbers])
    return Utterance(name, waveform, write(language), language, write(target_language), target_language)


def make_utterances(split: str, count: int, seed: int) -> List[Utterance]:
    generator = np.random.default_rng(seed)
    directions = [("xx", "xx"), ("yy", "yy"), ("yy", "xx"), ("ar", "xx")]
    return [make_utterance(f"{split}-{i}", *directions[i % 4], generator) for i in range(count)]


def write_corpus(folder: Path, **splits: int) -> Path:
    """`splits`: name=utterances. Writes NAME.tsv (speech-to-text manifests) and audio as wav, flac and ogg in a zip."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(splits.items()):
        utterances = make_utterances(split, count, seed)
        paths = write_audio(folder, split, utterances)
        write_manifest(folder / f"{split}.tsv", utterances, paths, folder)
    return folder


def write_audio(folder: Path, split: str, utterances: List[Utterance]) -> List[str]:
    """Audio paths relative to `folder`, in the order of the utterances."""
    paths = []
    archive_path = folder / f"{split}.zip"
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_STORED) as archive:
        for i, utterance in enumerate(utterances):
            ending = ("wav", "flac", "ogg")[i % 3]
            path = folder / f"{utterance.name}.{ending}"
            soundfile.write(path, utterance.waveform, RATE)
            if ending == "ogg":
                archive.write(path, path.name)
                path.unlink()
            paths.append(path.name)
    members = find_zip_members(str(archive_path))
    return [Path(members[path]).name if path in members else path for path in paths]


def write_manifest(path: Path, utterances: List[Utterance], audio: List[str], root: Path) -> None:
    lengths = [audio_info(str(root / name)).num_samples for name in audio]
    rows = (
        Row(
            utterance.name,
            name,
            samples,
            utterance.target,
            "s",
            utterance.text,
            utterance.language,
            utterance.target_language,
        )
        for utterance, name, samples in zip(utterances, audio, lengths)
    )
    manifest_writer.write_manifest(path, rows)


# Extractor, positions and depth of HuBERT Base, 32 wide; fairseq's names.
HUBERT_BASE_32 = dict(
    encoder_layers=12,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=4,
    conv_feature_layers="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    conv_pos=128,
    conv_pos_groups=16,
)


def write_hubert_with_codes(path: Path, classes: int = 7, **changes) -> str:
    """A random fairseq HuBERT of 4 layers, width 24, 50 Hz as pre-training leaves it; returns its spec.

    It has `classes` code classes. changes: of the model's configuration.
    """
    torch.manual_seed(6)
    settings = dict(
        encoder_layers=4,
        encoder_embed_dim=24,
        encoder_ffn_embed_dim=40,
        encoder_attention_heads=2,
        conv_feature_layers="[(8,10,5)] + [(8,3,2)] * 4 + [(8,2,2)] * 2",
        conv_pos=6,
        conv_pos_groups=2,
        final_dim=5,
    )
    settings.update(changes)
    task = dict(labels=["km"], label_rate=50, sample_rate=RATE, normalize=False)
    config = HubertConfig(**settings, label_rate=50)
    model = HubertModel(config, HubertPretrainingConfig(data="", **task), [range(classes)])
    with torch.no_grad():  # a fresh model's features hardly depend on the sound
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    cfg = {"model": {"_name": "hubert", **settings}, "task": {"_name": "hubert_pretraining", **task}}
    torch.save({"cfg": cfg, "model": model.state_dict()}, path)
    return f"fairseq:{path}"


def write_teacher(folder: Path, width: int = 24, strides=(5, 2, 2, 2, 2, 2, 2)) -> str:
    """A random HuBERT of 4 layers, 16000 / product of `strides` Hz (50); returns its spec."""
    torch.manual_seed(5)
    config = transformers.HubertConfig(
        hidden_size=width,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=40,
        num_conv_pos_embeddings=6,
        num_conv_pos_embedding_groups=2,
        conv_dim=(8,) * 7,
        conv_kernel=(10, 3, 3, 3, 3, 2, 2),
        conv_stride=strides,
        feat_extract_norm="group",
        do_stable_layer_norm=False,
    )
    model = transformers.HubertModel(config)
    with torch.no_grad():  # a fresh model's features hardly depend on the sound
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    return f"hf:{folder}"
