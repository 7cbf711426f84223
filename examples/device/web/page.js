// The page: an audio file that is chosen, or `?wav=FILE` beside the page, as text. `?model=model.int8.onnx` takes
// another graph of model/, whose input.json says which filterbanks they read.

import { SAMPLE_RATE } from "./fbank.js";
import { createRecognizer } from "./recognizer.js";
import * as ort from "./runtime/ort.wasm.min.mjs";
import { parseWav } from "./wav.js";

const element = (id) => document.getElementById(id);
const given = new URLSearchParams(location.search);

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}

/** Samples at 16 kHz of an audio file; what is no 16-bit WAV of that rate is decoded and resampled by the browser. */
async function samplesOf(buffer) {
  const wav = parseWav(buffer);
  if (wav && wav.rate === SAMPLE_RATE) return wav.samples;
  const audio = await new OfflineAudioContext(1, 1, SAMPLE_RATE).decodeAudioData(buffer);
  const samples = new Float32Array(audio.length);
  for (let c = 0; c < audio.numberOfChannels; c++) {
    audio.getChannelData(c).forEach((value, i) => (samples[i] += value / audio.numberOfChannels));
  }
  return samples;
}

async function transcribe(recognize, blob) {
  element("player").src = URL.createObjectURL(blob);
  element("player").hidden = false;
  element("status").textContent = "Recognizing …";
  element("text").textContent = "";
  const samples = await samplesOf(await blob.arrayBuffer());
  const start = performance.now();
  element("text").textContent = await recognize(samples);
  const seconds = (performance.now() - start) / 1000;
  const length = samples.length / SAMPLE_RATE;
  element("status").textContent = `Done: ${length.toFixed(1)} s of audio in ${seconds.toFixed(2)} s.`;
}

/** One file after the other: another one cannot be chosen until this one is done. */
async function chosen(recognize, input) {
  if (input.files.length === 0) return; // the dialog was left without a choice
  input.disabled = true;
  await shown(() => transcribe(recognize, input.files[0]));
  input.disabled = false;
}

/** What went wrong is shown, not hidden in the console. */
async function shown(work) {
  try {
    return await work();
  } catch (error) {
    element("status").textContent = `Failed: ${error.message ?? error}`;
    return null;
  }
}

ort.env.wasm.wasmPaths = new URL("runtime/", location.href).href;
ort.env.wasm.numThreads = 1; // more need a page that is cross-origin isolated

const recognize = await shown(async () => {
  const tokens = await (await get("model/tokens.txt")).text();
  const model = await (await get(`model/${given.get("model") ?? "model.onnx"}`)).arrayBuffer();
  return createRecognizer(ort, model, tokens, await (await get("model/input.json")).json());
});
if (recognize) {
  element("status").textContent = "Ready.";
  if (given.has("wav")) await shown(async () => transcribe(recognize, await (await get(given.get("wav"))).blob()));
  element("file").disabled = false;
  element("file").addEventListener("change", (event) => chosen(recognize, event.target));
}
