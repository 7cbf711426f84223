"""README.md of an attention model's folder: what the files are, and the lines that run them."""

from typing import Any, List, Mapping

HEAD = """\
# A speech recognizer in ONNX

Exported by colld_fairseq; an encoder of {layers} layers × {width}, {rate:g} frames per second, and {decoder} of {depth}
layers.

| file | size |
|---|---|
{files}

Files with `int8` have weights in 8 bits, dynamically quantized: the same lines with their names. What is never written,
and what is not written first, is masked in the decoder: the best token of each step is the greedy search of `colld
transcribe`.
"""
PLAIN = """
| graph | tensor | shape | what it holds |
|---|---|---|---|
{source}
| | `lengths` | int64 [N] | valid frames (or samples) |
| | `cross_keys`, `cross_values` (out) | float32 [L, N, F, D] | what each layer of the decoder attends to |
| | `frames` (out) | int64 [N] | valid frames of them |
| `decoder.onnx` | `tokens` | int64 [N, U] | the prompt, then the token written last |
| | `past_keys`, `past_values` | float32 [L, N, P, D] | of the tokens before; P = 0 at first |
| | `cross_keys`, `cross_values`, `frames` | | as the encoder gives them |
| | `logits` (out) | float32 [N, U, V] | -inf for what may not be written |
| | `keys`, `values` (out) | float32 [L, N, P + U, D] | `past_keys`, `past_values` of the next step |

`decoding.json` has the prompts by language, the id of the end, and how long a hypothesis may be; `tokens.txt` has
`symbol id` a line{symbols}.

```python
import json
import numpy as np
import onnxruntime

encoder, decoder = (onnxruntime.InferenceSession(f"{{name}}.onnx") for name in ("encoder", "decoder"))
rules = json.load(open("decoding.json"))
cross_keys, cross_values, frames = encoder.run(None, {{"{name}": {name}, "lengths": lengths}})  # one utterance
keys = values = np.zeros((len(cross_keys), 1, 0, cross_keys.shape[-1]), dtype=np.float32)
given, written = {prompt}, []
longest = int(rules["tokens_per_input"] * lengths[0] + rules["tokens_more"])
while len(written) < min(rules["tokens_at_most"], longest):
    feeds = {{"tokens": np.array([given]), "past_keys": keys, "past_values": values, "cross_keys": cross_keys}}
    feeds.update(cross_values=cross_values, frames=frames)
    logits, keys, values = decoder.run(None, feeds)
    given = [int(logits[0, -1].argmax())]
    if given[0] == rules["end"]:
        break
    written += given
```
"""
SHERPA = """
## sherpa-onnx (`pip install "sherpa-onnx>=2.0,<3"`)

```python
import numpy as np
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
    encoder="encoder.onnx", decoder="decoder.onnx", tokens="tokens.txt", language="{language}", task="transcribe"
)
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono, 16 kHz
samples = np.concatenate((samples[80:0:-1], samples))  # half a log-mel frame, by which the client is late
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text)
```

{languages} The client's program takes the folder as follows (not tried here); its log-mels are then 5 ms late, and
the text of a small student differs now and then:

```bash
sherpa-onnx-offline --whisper-encoder=encoder.onnx --whisper-decoder=decoder.onnx --tokens=tokens.txt \\
  --whisper-language={language} --whisper-task=transcribe speech.wav
```

- Silence behind the utterance is made in the graph as in training ({silence}): `tail_paddings` changes nothing.
- The client writes at most 6 tokens for each second of audio, and takes in at most 29.5 s of it.
- Times are not available: neither of segments (their tokens are masked) nor of tokens.
"""
ONNX_ASR = """
## onnx-asr (`pip install onnx-asr`)

```python
import onnx_asr

model = onnx_asr.load_model("whisper", ".")  # quantization="int8" for the files with int8
print(model.recognize("speech.wav", language="{language}"))  # without a language, it is detected
```

- The client only transcribes, and takes in at most 30 s.
- It fills the window of 30 s with silence, which the graph takes away again down to what the student was trained with
  ({silence}). An utterance that ends in digital silence is cut there as well: its tail is then shorter than here.
- The tensors between encoder and decoder are ours: keys and values of all layers, not the encoder's output.
"""


def attention_card(family: Any, sizes: Mapping[str, int]) -> str:
    """The card's text; sizes: name of an .onnx file that is there -> bytes."""
    student, decoder = family.student, family.decoder
    text = HEAD.format(
        layers=student.config.layers,
        width=student.config.embed_dim,
        rate=student.frame_rate_hz,
        decoder={"whisper": "Whisper's decoder"}.get(getattr(decoder, "family", ""), "a decoder"),
        depth=len(getattr(decoder, "network", decoder).layers),
        files="\n".join(f"| `{name}` | {size / 1e6:.1f} MB |" for name, size in sizes.items()),
    )
    if not family.client:
        return text + plain(family)
    given = student.config.input
    silence = f"{given.tail_seconds:g} s, {given.least_seconds:g} s in all at least"
    languages = list(family.vocabulary.languages)
    language = "en" if "en" in languages or not languages else languages[0]
    lines = {
        "sherpa_onnx": SHERPA.format(
            language=language,
            silence=silence,
            languages='`task="translate"` writes English; without a language (`""`) it is detected.'
            if languages
            else "This model knows English only.",
        ),
        "onnx_asr": ONNX_ASR.format(language=language, silence=silence),
    }
    return text + lines[family.client]


def plain(family: Any) -> str:
    """Inputs, outputs and a greedy loop."""
    given = family.student.config.input
    name = "waveform" if given.kind == "waveform" else "features"
    kinds = {
        "waveform": "float32 [N, S] | samples in [-1, 1] at 16 kHz",
        "fbank": f"float32 [N, T, {given.bins}] | filterbanks ({given.fbank}), not normalized, 100 Hz",
        "log_mel": f"float32 [N, T, {given.bins}] | Whisper's log-mels with silence behind them as in training, 100 Hz",
    }
    prompts: List[str] = [key for key in family.decoding() if key in ("prompt", "transcribe", "write")]
    language = next(iter(family.decoding()[prompts[0]]), "") if prompts[0] != "prompt" else ""
    return PLAIN.format(
        source=f"| `encoder.onnx` | `{name}` | {kinds[given.kind]} |",
        name=name,
        prompt='rules["prompt"]' if prompts[0] == "prompt" else f'rules["{prompts[0]}"]["{language}"]',
        symbols=", bytes in base64" if getattr(family.vocabulary, "family", "") == "whisper" else "",
    )
