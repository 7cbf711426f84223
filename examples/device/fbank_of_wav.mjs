// Filterbanks of a WAV file as JSON, computed by the page's own code: node fbank_of_wav.mjs FILE.wav [kaldi|icefall]

import { readFileSync } from "node:fs";

import { logMelFbank } from "./web/fbank.js";
import { parseWav } from "./web/wav.js";

const [path, variant = "kaldi"] = process.argv.slice(2);
const file = readFileSync(path);
const wav = parseWav(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength));
if (!wav) throw new Error(`${path} is no WAV file of 16-bit samples`);
const { data, frames, bins } = logMelFbank(wav.samples, variant);
console.log(JSON.stringify({ frames, bins, data: Array.from(data) }));
