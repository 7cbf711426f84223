// WAV files of 16-bit samples. Other files are decoded by the browser (see page.js).

/** {rate, samples: Float32Array in [-1, 1], channels averaged} of an ArrayBuffer; null where it is no such file. */
export function parseWav(buffer) {
  const view = new DataView(buffer);
  const name = (at) => String.fromCharCode(...new Uint8Array(buffer, at, 4));
  if (buffer.byteLength < 44 || name(0) !== "RIFF" || name(8) !== "WAVE") return null;
  let format = null;
  for (let at = 12; at + 8 <= buffer.byteLength; ) {
    const size = view.getUint32(at + 4, true);
    if (name(at) === "fmt ") format = readFormat(view, at + 8);
    if (name(at) === "data") return format && readSamples(view, at + 8, size, format);
    at += 8 + size + (size % 2);
  }
  return null;
}

/** null for what is not 16-bit PCM. */
function readFormat(view, at) {
  const pcm = view.getUint16(at, true) === 1 && view.getUint16(at + 14, true) === 16;
  return pcm ? { channels: view.getUint16(at + 2, true), rate: view.getUint32(at + 4, true) } : null;
}

function readSamples(view, start, size, { channels, rate }) {
  const bytes = Math.min(size, view.byteLength - start); // a stream that was cut claims more than there is
  const samples = new Float32Array(Math.floor(bytes / (2 * channels)));
  for (let i = 0; i < samples.length; i++) {
    for (let c = 0; c < channels; c++) samples[i] += view.getInt16(start + 2 * (i * channels + c), true);
    samples[i] /= 32768 * channels;
  }
  return { rate, samples };
}
