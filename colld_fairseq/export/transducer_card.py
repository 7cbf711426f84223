"""README.md of a transducer's folder: what the files are, and the lines that run them."""

from typing import TYPE_CHECKING, List, Mapping

if TYPE_CHECKING:
    from colld_fairseq.export.transducer import Transducer

HEAD = """\
# A {kind} transducer in ONNX

Exported by colld_fairseq; an encoder of {layers} layers × {width}, {rate:g} frames per second;
{labels} per frame.{notes}

| file | what it is | size |
|---|---|---|
{files}

Symbols that are never emitted are masked in the joiner; the blank is symbol 0. {normalization}

| graph | inputs | outputs |
|---|---|---|
{tensors}
"""
GREEDY = """
## Greedy search in ONNX Runtime

```python
frames, counts = encoder.run(None, {{"x": features, "x_lens": lengths}})
tokens = []
for frame in frames[0, : counts[0]]:
    for _ in range({labels}):
        context = ([-1] * {context} + [0] + tokens)[-{context}:]
        (symbols,) = decoder.run(None, {{"y": numpy.array([context])}})
        (logit,) = joiner.run(None, {{"encoder_out": frame[None], "decoder_out": symbols}})
        if logit[0].argmax() == 0:
            break
        tokens.append(int(logit[0].argmax()))
```
"""
STEPS = """
## Steps in ONNX Runtime

A step takes {frames} filterbank frames and goes on by {shift}; memories begin with zeros, `processed_lens` is {shift}
times the steps before. Greedy search goes on from step to step.
"""
OFFLINE = """
## sherpa-onnx (`pip install "sherpa-onnx>=2.0,<3"`)

```python
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
    encoder="encoder.onnx", decoder="{decoder}.onnx", joiner="joiner.onnx", tokens="tokens.txt"
)
stream = recognizer.create_stream()
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text, stream.result.timestamps)
```

These lines are what the export was tried with. sherpa-onnx's interfaces for C, C++, Kotlin, Java, Swift, Dart, ...
take the same files as a transducer (`modelType` "transducer" or none), with the same features by default; its program,
not tried here:

```bash
sherpa-onnx-offline --tokens=tokens.txt --encoder=encoder.onnx --decoder={decoder}.onnx --joiner=joiner.onnx speech.wav
```
"""
ONLINE = """
## sherpa-onnx (`pip install "sherpa-onnx>=2.0,<3"`)

```python
import numpy
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
    encoder="encoder.onnx", decoder="{decoder}.onnx", joiner="joiner.onnx", tokens="tokens.txt"{options}
)
stream = recognizer.create_stream()
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono; or piece by piece
stream.accept_waveform(rate, samples)
stream.accept_waveform(rate, numpy.zeros(int({tail:g} * rate), dtype=numpy.float32))  # fills the last chunk
stream.input_finished()
while recognizer.is_ready(stream):
    recognizer.decode_stream(stream)
print(recognizer.get_result(stream))
```

These lines are what the export was tried with. {interfaces}
A chunk that is not full is never run, which the silence is for. After an endpoint sherpa-onnx keeps the encoder's
memories; `colld transcribe --streaming` starts with new ones.
"""
INTERFACES = """\
sherpa-onnx's interfaces for C, C++, Kotlin, Java, Swift, Dart, ... take the same files
as an online transducer (`modelType` "conformer" or none), with the same features by default; its programs, not tried
here:

```bash
sherpa-onnx --tokens=tokens.txt --encoder=encoder.onnx --decoder={decoder}.onnx --joiner=joiner.onnx speech.wav
sherpa-onnx-microphone --tokens=tokens.txt --encoder=encoder.onnx --decoder={decoder}.onnx --joiner=joiner.onnx
```
"""
SEARCHES = """
`greedy_search`, the default, writes what `colld {command}` does; `modified_beam_search` ranks hypotheses by their score
per token, ours does not: its text may be another.
"""
ONNX_ASR = """
## onnx-asr (`pip install onnx-asr`)

```python
import onnx_asr

model = onnx_asr.load_model("kaldi-rnnt", ".")  # quantization="int8" for 8 bits
print(model.recognize("speech.wav"))  # 16 kHz, mono
```

These lines are what the export was tried with. Search is greedy, as of `colld transcribe`; onnx-asr leaves out spaces
that no letter follows.
"""
WHAT = {
    "encoder": "normalization, encoder, the joiner's projection of frames",
    "decoder": "prediction network, the joiner's projection of symbols",
    "joiner": "the rest of the joiner",
}


def transducer_card(family: "Transducer", sizes: Mapping[str, int]) -> str:
    """The card's text; sizes: path of an .onnx file in the folder -> bytes."""
    streams, config = family.options.streaming, family.student.config
    labels = family.labels_per_frame
    text = HEAD.format(
        kind="streaming" if streams else "whole-utterance",
        layers=config.layers,
        width=config.embed_dim,
        rate=family.student.frame_rate_hz,
        labels="at most one label" if labels == 1 else f"up to {labels} labels",
        notes="".join(f"\n\n{note}" for note in family.notes()),
        files="\n".join(file_rows(sizes)),
        normalization=f"The encoder's graph normalizes ({config.input}): give it what is not normalized.",
        tensors="\n".join(tensor_rows(family)),
    )
    decoder = family.decoder_name(family.languages[0])
    if family.client == "onnx_asr":
        return text + ONNX_ASR
    if not family.client and streams:
        return text + STEPS.format(frames=family.step_frames, shift=family.shift)
    if not family.client:
        return text + GREEDY.format(labels=labels, context=family.context)
    if not streams:
        return text + OFFLINE.format(decoder=decoder) + SEARCHES.format(command="transcribe")
    given = {name: value for name, value in family.client_options.items() if name != "model_type"}
    options = "".join(f", {name}={value!r}" for name, value in given.items())
    interfaces = "" if given else INTERFACES.format(decoder=decoder)
    text += ONLINE.format(decoder=decoder, options=options, interfaces=interfaces, tail=family.tail_seconds)
    return text + SEARCHES.format(command="transcribe --streaming")


def file_rows(sizes: Mapping[str, int]) -> List[str]:
    """Files as rows of a table."""
    rows = []
    for name, size in sizes.items():
        part, *more = name.rpartition("/")[2].removesuffix(".onnx").split(".")
        bits = "8 bits" if more[-1:] == ["int8"] else "32 bits"
        language = [f"target language {one}" for one in more if one != "int8"]
        rows.append(f"| `{name}` | {', '.join([WHAT[part], *language, bits])} | {size / 1e6:.1f} MB |")
    return [*rows, "| `tokens.txt` | symbol and id, a line each | |"]


def tensor_rows(family: "Transducer") -> List[str]:
    """Inputs and outputs of the graphs as rows of a table."""
    given, joiner = family.student.config.input, family.model.joiner
    width, symbols = joiner.output.in_features, joiner.output.out_features
    x = "`x` [N, S] samples" if given.kind == "waveform" else f"`x` [N, T, {given.bins}] filterbanks ({given.fbank})"
    if family.options.streaming:
        inputs = f"{x}, `cached_attn`, `cached_conv`, `processed_lens` int64 [N]"
        outputs = f"`encoder_out` [N, {family.streaming.chunk}, {width}], `new_cached_attn`, `new_cached_conv`"
    else:
        inputs, outputs = f"{x}, `x_lens` int64 [N]", f"`encoder_out` [N, F, {width}], `encoder_out_lens` int64 [N]"
    return [
        f"| encoder | {inputs} | {outputs} |",
        f"| decoder | `y` int64 [N, {family.context}], negative before the beginning | `decoder_out` [N, {width}] |",
        f"| joiner | `encoder_out`, `decoder_out` [N, {width}] | `logit` [N, {symbols}] |",
    ]
