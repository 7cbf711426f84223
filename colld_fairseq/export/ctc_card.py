"""README.md of a CTC student's folder: what the files are, and the lines that run them."""

from typing import Mapping

from colld_fairseq.export.ctc_slots import Slot
from colld_fairseq.modules.encoder import StudentEncoder

HEAD = """\
# A speech recognizer in ONNX

Exported by colld_fairseq; an encoder of {layers} layers × {width} with a CTC layer, {rate:g} frames per second.

| file | what it is | size |
|---|---|---|
{files}
| `tokens.txt` | symbol and id, a line each; `<blk>` is the blank | |

Symbols that are never emitted are masked in the graph: a client's best path needs no rule of its own.

| tensor | shape | what it holds |
|---|---|---|
{tensors}

{normalization}
"""
ONNX_RUNTIME = """
## ONNX Runtime

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
{call}
```
"""
SHERPA = """
## sherpa-onnx (`pip install "sherpa-onnx>=2.0,<3"`)

```python
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OfflineRecognizer.{factory}(model="model.onnx", tokens="tokens.txt")
stream = recognizer.create_stream()
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text, stream.result.timestamps)
```

These lines are what the export was tried with. The slot is called `{slot}`; sherpa-onnx's C, C++, Kotlin, Java,
Swift and Dart interfaces have it too, and its program takes it as follows (not tried here):

```bash
sherpa-onnx-offline --tokens=tokens.txt {flag}=model.onnx speech.wav
```

`greedy_search`, the default, writes what `colld transcribe` does; there is no beam search in this slot.
"""
FILES = {"model.onnx": "32-bit weights", "model.int8.onnx": "8-bit weights, dynamic: the same lines with its name"}


def ctc_card(slot: Slot, student: StudentEncoder, sizes: Mapping[str, int]) -> str:
    """The card's text; sizes: bytes of the model files that are there."""
    files = [f"| `{name}` | {what} | {sizes[name] / 1e6:.1f} MB |" for name, what in FILES.items() if name in sizes]
    text = HEAD.format(
        layers=student.config.layers,
        width=student.config.embed_dim,
        rate=student.frame_rate_hz,
        files="\n".join(files),
        tensors="\n".join(tensor_rows(slot, student)),
        normalization=normalization_line(slot, student),
    )
    if not slot.client:
        return text + ONNX_RUNTIME.format(call=call_line(student))
    return text + SHERPA.format(factory=slot.factory, slot=slot.name, flag=slot.flag)


def tensor_rows(slot: Slot, student: StudentEncoder) -> list:
    """Inputs and outputs as rows of a table."""
    batch = "N" if slot.batched else "1"
    if student.config.input.kind == "waveform":
        rows = [f"| `waveform` | float32 [{batch}, S] | samples in [-1, 1] at 16 kHz |"]
    else:
        bins = student.config.input.bins
        rows = [f"| `features` | float32 [{batch}, T, {bins}] | filterbanks ({student.config.input.fbank}), 100 Hz |"]
    if slot.batched:
        rows.append("| `lengths` | int64 [N] | valid samples or frames |")
    rows.append(f"| `log_probs` (out) | float32 [{batch}, F, V] | natural logs of probabilities |")
    if slot.batched:
        rows.append("| `log_probs_lengths` (out) | int64 [N] | valid frames |")
    return rows


def normalization_line(slot: Slot, student: StudentEncoder) -> str:
    """Who normalizes the input."""
    if slot.name == "omnilingual":
        return "The client normalizes the waveform (mean 0, variance 1 over the utterance), the graph does not."
    return f"The graph normalizes ({student.config.input}): give it what is not normalized."


def call_line(student: StudentEncoder) -> str:
    """The call of a session, with inputs by name."""
    name = "waveform" if student.config.input.kind == "waveform" else "features"
    return f'log_probs, frames = session.run(None, {{"{name}": {name}, "lengths": lengths}})'
