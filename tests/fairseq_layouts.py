"""Data directories as fairseq's speech-to-text scripts leave them, made by fairseq's own functions.

What those need and a test machine lacks is stood in for: pandas (one function of theirs, which writes rows with
Python's csv), and torchaudio (its filterbanks are computed by kaldi-native-fbank; its resampling is not needed).
"""

import contextlib
import csv
import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import List
from unittest import mock

import numpy as np
import soundfile
import synthetic
import torch
from fairseq.data import Dictionary, encoders
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDatasetCreator

from colld_fairseq.data.fbank import log_mel_fbank

LANGUAGES = ("xx", "yy")


@contextlib.contextmanager
def stand_ins():
    """Modules that fairseq imports but does not need here."""
    pandas = ModuleType("pandas")
    pandas.DataFrame = object
    torchaudio, effects = ModuleType("torchaudio"), ModuleType("torchaudio.sox_effects")
    torchaudio.sox_effects = effects
    modules = {"pandas": pandas, "torchaudio": torchaudio, "torchaudio.sox_effects": effects}
    with mock.patch.dict(sys.modules, modules):
        yield


def scripts():
    """The functions that all of fairseq's scripts share."""
    with stand_ins():
        module = importlib.import_module("fairseq.examples.speech_to_text.data_utils")
    module._get_kaldi_fbank = lambda waveform, rate, bins: log_mel_fbank(waveform[0] / np.float32(2**15), bins)
    return module


def write_tsv(path: Path, rows: List[dict]) -> None:
    """As `save_df_to_tsv` does."""
    with open(path, "w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(
            out, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\", quotechar=None,
            lineterminator="\n",
        )  # fmt: skip
        writer.writeheader()
        writer.writerows(rows)


def write_data(folder: Path, audio: bool = False, cmvn: str = "utterance", tags: bool = False, **splits: int) -> Path:
    """`splits`: name=utterances. As fairseq's prep_mustc_data.py leaves a language pair.

    audio: with --use-audio-input. cmvn: its --cmvn-type. tags: a vocabulary with the tags of LANGUAGES.
    """
    functions = scripts()
    folder.mkdir(parents=True, exist_ok=True)
    name = "flac" if audio else "fbank80"
    store = folder / name
    store.mkdir()
    utterances = {split: synthetic.make_utterances(split, count, i) for i, (split, count) in enumerate(splits.items())}
    features = []
    with stand_ins():
        for utterance in (u for group in utterances.values() for u in group):
            if audio:
                soundfile.write(store / f"{utterance.name}.flac", utterance.waveform, synthetic.RATE)
            else:
                waveform = torch.from_numpy(utterance.waveform).float()[None]
                path = store / f"{utterance.name}.npy"
                features.append(functions.extract_fbank_features(waveform, synthetic.RATE, path))
        functions.create_zip(store, folder / f"{name}.zip")
        paths, lengths = functions.get_zip_manifest(folder / f"{name}.zip", is_audio=audio)
    for split, group in utterances.items():
        rows = [
            {"id": u.name, "audio": paths[u.name], "n_frames": lengths[u.name], "tgt_text": u.target, "speaker": "s"}
            | {"src_text": u.text, "src_lang": u.language, "tgt_lang": u.target_language}
            for u in group
        ]
        write_tsv(folder / f"{split}.tsv", rows)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as text:
        text.writelines(f"{u.target}\n" for group in utterances.values() for u in group)
        text.flush()
        special = [f"<lang:{language}>" for language in LANGUAGES] if tags else None
        functions.gen_vocab(Path(text.name), folder / "spm_char", "char", 40, special)
    more = {}
    if cmvn == "global":
        np.savez(folder / "gcmvn.npz", **functions.cal_gcmvn_stats(features))
        more["gcmvn_path"] = folder / "gcmvn.npz"
    functions.gen_config_yaml(
        folder,
        spm_filename="spm_char.model",
        specaugment_policy=None if audio else "lb",
        prepend_tgt_lang_tag=tags,
        cmvn_type=cmvn,
        extra={"use_audio_input": True} if audio else None,
        **more,
    )
    return folder


def write_letters(folder: Path, count: int, split: str = "train") -> Path:
    """Audio, `split`.tsv, .ltr, .wrd and dict.ltr.txt as fairseq's scripts for wav2vec 2.0 make them of LibriSpeech."""
    audio = folder / "audio" / "1" / "2"
    audio.mkdir(parents=True)
    utterances = synthetic.make_utterances(split, count, 3)
    for index, utterance in enumerate(utterances):
        soundfile.write(audio / f"1-2-{index}.flac", utterance.waveform, synthetic.RATE)
    lines = [f"1-2-{index} {utterance.text}\n" for index, utterance in enumerate(utterances)]
    (audio / "1-2.trans.txt").write_text("".join(lines), encoding="utf-8")
    manifest = importlib.import_module("fairseq.examples.wav2vec.wav2vec_manifest")
    options = [str(folder / "audio"), "--dest", str(folder), "--valid-percent", "0"]
    manifest.main(manifest.get_parser().parse_args(options))
    (folder / "train.tsv").rename(folder / f"{split}.tsv")
    labels = importlib.import_module("fairseq.examples.wav2vec.libri_labels")
    options = [str(folder / f"{split}.tsv"), "--output-dir", str(folder), "--output-name", split]
    with mock.patch.object(sys, "argv", ["libri_labels.py", *options]):
        labels.main()
    dictionary = Dictionary()
    for line in (folder / f"{split}.ltr").read_text(encoding="utf-8").splitlines():
        dictionary.encode_line(line, append_eos=False)
    dictionary.save(str(folder / "dict.ltr.txt"))
    return folder


def must_c(folder: Path):
    """fairseq's own reader of a MuST-C folder with one talk of four segments."""
    talk = folder / "en-de" / "data" / "dev"
    (talk / "wav").mkdir(parents=True), (talk / "txt").mkdir()
    utterances = synthetic.make_utterances("talk", 4, 5)
    start, segments = 0, []
    for utterance in utterances:
        seconds = {"offset": start / synthetic.RATE, "duration": len(utterance.waveform) / synthetic.RATE}
        segments.append(
            f"- {{wav: talk.wav, speaker_id: s, offset: {seconds['offset']}, duration: {seconds['duration']}}}"
        )
        start += len(utterance.waveform)
    soundfile.write(talk / "wav" / "talk.wav", np.concatenate([u.waveform for u in utterances]), synthetic.RATE)
    (talk / "txt" / "dev.yaml").write_text("\n".join(segments) + "\n")
    for language, transcripts in (("en", [u.text for u in utterances]), ("de", [u.target for u in utterances])):
        (talk / "txt" / f"dev.{language}").write_text("\n".join(transcripts) + "\n", encoding="utf-8")
    package, functions = ModuleType("examples"), scripts()
    package.speech_to_text = ModuleType("examples.speech_to_text")
    modules = {"examples": package, "examples.speech_to_text": package.speech_to_text}
    with stand_ins(), mock.patch.dict(sys.modules, {**modules, "examples.speech_to_text.data_utils": functions}):
        script = importlib.import_module("fairseq.examples.speech_to_text.prep_mustc_data")
        return script.MUSTC(str(folder), "de", "dev")


def fairseq_dataset(folder: Path, split: str, config: str = "config.yaml"):
    """fairseq's own dataset of a split."""
    cfg = S2TDataConfig(folder / config)
    return SpeechToTextDatasetCreator.from_tsv(
        root=str(folder),
        cfg=cfg,
        splits=split,
        tgt_dict=Dictionary.load(str(folder / cfg.vocab_filename)),
        pre_tokenizer=encoders.build_tokenizer(SimpleNamespace(**cfg.pre_tokenizer)),
        bpe_tokenizer=encoders.build_bpe(SimpleNamespace(**cfg.bpe_tokenizer)),
        is_train_split=split.startswith("train"),
        epoch=1,
        seed=1,
    )
