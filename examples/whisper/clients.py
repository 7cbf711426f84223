"""What the clients of a Whisper directory write for utterances of a manifest, side by side.

    python -m examples.whisper.clients --model whisper-4-layers --manifest data/test_asr.tsv --utterances 5

runs transformers' pipeline; with --converted DIR, written by ct2-transformers-converter, also CTranslate2 and
faster-whisper (both installed by `pip install faster-whisper`). Rows whose target language is not the spoken one are
translated. All search greedily. faster-whisper has log-mels of its own, and fills the window with zeros instead of the
log-mels of silence: its text may differ.
"""

import argparse
from typing import Callable, Dict

import numpy as np

from colld_fairseq.data.audio import SAMPLE_RATE, read_audio
from colld_fairseq.data.manifest import read_manifest

#: Waveform [N], language that is spoken, task ("transcribe" or "translate") -> text.
Client = Callable[[np.ndarray, str, str], str]


def transformers_client(model: str) -> Client:
    """The pipeline of transformers, greedy; its own default is a beam of 5."""
    from transformers import pipeline

    recognize = pipeline("automatic-speech-recognition", model)

    def client(waveform: np.ndarray, language: str, task: str) -> str:
        audio = {"raw": waveform, "sampling_rate": SAMPLE_RATE}
        return recognize(audio, generate_kwargs={"language": language, "task": task, "num_beams": 1})["text"]

    return client


def ctranslate2_client(model: str, converted: str) -> Client:
    """CTranslate2 on the log-mels of transformers."""
    import ctranslate2
    from transformers import AutoProcessor

    processor, network = AutoProcessor.from_pretrained(model), ctranslate2.models.Whisper(converted)

    def client(waveform: np.ndarray, language: str, task: str) -> str:
        features = processor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features
        names = ("startoftranscript", language, task, "notimestamps")
        prompt = processor.tokenizer.convert_tokens_to_ids([f"<|{name}|>" for name in names])
        given = ctranslate2.StorageView.from_array(features.astype(np.float32))
        return processor.decode(network.generate(given, [prompt], beam_size=1)[0].sequences_ids[0])

    return client


def faster_whisper_client(converted: str) -> Client:
    """faster-whisper, greedy and in one pass: without the temperatures that it falls back on."""
    from faster_whisper import WhisperModel

    model = WhisperModel(converted, device="cpu", compute_type="float32")

    def client(waveform: np.ndarray, language: str, task: str) -> str:
        segments, _ = model.transcribe(
            waveform, language=language, task=task, beam_size=1, temperature=0, without_timestamps=True
        )
        return "".join(segment.text for segment in segments)

    return client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory in transformers' layout")
    parser.add_argument("--converted", help="the same in CTranslate2's")
    parser.add_argument("--manifest", required=True, help="of colld_fairseq, with languages")
    parser.add_argument("--utterances", type=int, default=5, help="how many, evenly spaced (default: %(default)s)")
    args = parser.parse_args()
    clients: Dict[str, Client] = {"transformers": transformers_client(args.model)}
    if args.converted:
        clients["CTranslate2"] = ctranslate2_client(args.model, args.converted)
        clients["faster-whisper"] = faster_whisper_client(args.converted)
    manifest = read_manifest(args.manifest)
    for index in np.linspace(0, len(manifest) - 1, args.utterances).round().astype(int):
        row, waveform = manifest.row(index), read_audio(manifest.audio_path(index))
        task = "transcribe" if row.src_lang == row.tgt_lang else "translate"
        print(f"{row.id} ({row.src_lang}, {task}): {row.tgt_text}")
        for name, client in clients.items():
            print(f"  {name}: {client(waveform, row.src_lang, task).strip()}")


if __name__ == "__main__":
    main()
