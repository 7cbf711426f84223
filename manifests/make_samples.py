"""Make manifests/samples/ again: four synthetic audio files (no recordings) and a manifest of each kind.

    python manifests/make_samples.py

The transcripts are examples of scripts and characters, not what is said.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import soundfile

from colld_fairseq.data.audio import audio_info, find_zip_members
from colld_fairseq.data.manifest import Row
from colld_fairseq.data.manifest_writer import write_manifest

SAMPLES = Path(__file__).resolve().parent / "samples"


def sweep(seconds: float, rate: int, start_hz: float, end_hz: float) -> np.ndarray:
    """A gliding tone with two overtones and soft ends, float64 [N]."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * (start_hz * time + (end_hz - start_hz) * time**2 / (2 * seconds))
    return 0.2 * np.sin(np.pi * time / seconds) * sum(np.sin(k * phase) / k for k in (1, 2, 3))


def main() -> None:
    folder = SAMPLES / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    stereo = np.stack([sweep(0.2, 44100, 150, 300), sweep(0.2, 44100, 300, 150)], axis=1)
    soundfile.write(folder / "stereo_44k.wav", stereo, 44100, subtype="PCM_16")
    soundfile.write(folder / "mono_8k.flac", sweep(0.6, 8000, 120, 240), 8000)
    with zipfile.ZipFile(SAMPLES / "audio.zip", "w", zipfile.ZIP_STORED) as archive:
        for name, pitch in (("first.ogg", 110), ("second.ogg", 220)):
            encoded = io.BytesIO()
            soundfile.write(encoded, sweep(0.5, 16000, pitch, 1.5 * pitch), 16000, format="OGG", subtype="OPUS")
            archive.writestr(zipfile.ZipInfo(name), encoded.getvalue())  # ZipInfo: a fixed date

    zipped = find_zip_members(str(SAMPLES / "audio.zip"))
    audio = ["audio/stereo_44k.wav", "audio/mono_8k.flac"]
    audio += [Path(zipped[name]).name for name in ("first.ogg", "second.ogg")]
    lengths = [audio_info(str(SAMPLES / path)).num_samples for path in audio]

    only_audio = (Row(id=path, audio=path, n_samples=length) for path, length in zip(audio, lengths))
    write_manifest(SAMPLES / "audio_only.tsv", only_audio, root=".")

    rows = [
        ("de-1", "a", "Die „Größe“ der Straße", "de", 'The "size" of the street', "en"),
        ("ru-1", "a", "Ёлка и съезд", "ru", "Ёлка и съезд", "ru"),
        ("ar-1", "b", "مرحبا بالعالم", "ar", "Hello, world", "en"),
        ("en-1", "b", "Good morning", "en", "בוקר טוב", "he"),
    ]
    utterances = (
        Row(name, path, length, target, speaker, source, source_language, language)
        for (name, speaker, source, source_language, target, language), path, length in zip(rows, audio, lengths)
    )
    write_manifest(SAMPLES / "speech_to_text.tsv", utterances)


if __name__ == "__main__":
    main()
