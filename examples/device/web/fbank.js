// Log-mel filterbanks as Kaldi computes them: 25 ms every 10 ms, DC removal, pre-emphasis 0.97, Povey window, power
// spectrum of 512 points, triangular mel bins from 20 Hz, no dither. Written for this page; beside colld_fairseq's own
// (kaldi-native-fbank) it is tested by tests/examples/test_device.py.

export const SAMPLE_RATE = 16000;
const WINDOW = 400;
const SHIFT = 160;
const FFT_SIZE = 512;
const LOW_HZ = 20;
const FLOOR = 1.1920928955078125e-7; // of energies: float32's epsilon

// What `--fbank` of training names: scale of samples, upper end of the mel bins, frames within the utterance or
// centered in their 10 ms (what they lack at both ends is the utterance mirrored there).
export const VARIANTS = {
  kaldi: { scale: 32768, highHz: 8000, snipEdges: true },
  icefall: { scale: 1, highHz: 7600, snipEdges: false },
};

/** Frames of so many samples. */
export function frameCount(samples, { snipEdges }) {
  if (!snipEdges) return Math.floor((samples + SHIFT / 2) / SHIFT);
  return samples < WINDOW ? 0 : 1 + Math.floor((samples - WINDOW) / SHIFT);
}

/** Filterbanks of samples in [-1, 1] at 16 kHz (Float32Array): {data: Float32Array [frames * bins], frames, bins}. */
export function logMelFbank(samples, variant = "kaldi", bins = 80) {
  const options = VARIANTS[variant];
  if (!options) throw new Error(`filterbanks are ${Object.keys(VARIANTS).join(" or ")}, not ${variant}`);
  const frames = frameCount(samples.length, options);
  const filters = melFilters(bins, options.highHz);
  const data = new Float32Array(frames * bins);
  for (let frame = 0; frame < frames; frame++) {
    const power = powerSpectrum(windowed(samples, frame, options));
    filters.forEach(({ first, weights }, bin) => {
      const energy = weights.reduce((sum, weight, k) => sum + weight * power[first + k], 0);
      data[frame * bins + bin] = Math.log(Math.max(energy, FLOOR));
    });
  }
  return { data, frames, bins };
}

/** One frame, ready for the transform: Float64Array [FFT_SIZE]. */
function windowed(samples, frame, { scale, snipEdges }) {
  const start = snipEdges ? frame * SHIFT : frame * SHIFT + SHIFT / 2 - WINDOW / 2;
  const x = new Float64Array(FFT_SIZE);
  let mean = 0;
  for (let i = 0; i < WINDOW; i++) {
    x[i] = scale * samples[mirrored(start + i, samples.length)];
    mean += x[i] / WINDOW;
  }
  for (let i = 0; i < WINDOW; i++) x[i] -= mean;
  for (let i = WINDOW - 1; i >= 0; i--) x[i] = (x[i] - 0.97 * x[Math.max(i - 1, 0)]) * POVEY[i];
  return x;
}

/** Position of a sample, mirrored at both ends as often as need be. */
function mirrored(index, length) {
  while (index < 0 || index >= length) index = index < 0 ? -index - 1 : 2 * length - 1 - index;
  return index;
}

const POVEY = Float64Array.from({ length: WINDOW }, (_, i) =>
  Math.pow(0.5 - 0.5 * Math.cos((2 * Math.PI * i) / (WINDOW - 1)), 0.85),
);

/** |FFT|^2 at the frequencies below half the sampling rate: Float64Array [FFT_SIZE / 2]. Overwrites x. */
function powerSpectrum(x) {
  const imaginary = new Float64Array(FFT_SIZE);
  transform(x, imaginary);
  return Float64Array.from({ length: FFT_SIZE / 2 }, (_, k) => x[k] * x[k] + imaginary[k] * imaginary[k]);
}

/** Fourier transform in place, radix 2 (Cooley and Tukey). */
function transform(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j]] = [re[j], re[i]];
    if (i < j) [im[i], im[j]] = [im[j], im[i]];
  }
  for (let size = 2; size <= n; size *= 2) {
    const half = size / 2;
    for (let k = 0; k < half; k++) {
      const cos = Math.cos((-2 * Math.PI * k) / size);
      const sin = Math.sin((-2 * Math.PI * k) / size);
      for (let a = k; a < n; a += size) {
        const b = a + half;
        const real = re[b] * cos - im[b] * sin;
        const imaginary = re[b] * sin + im[b] * cos;
        re[b] = re[a] - real;
        im[b] = im[a] - imaginary;
        re[a] += real;
        im[a] += imaginary;
      }
    }
  }
}

const mel = (hz) => 1127 * Math.log(1 + hz / 700);

/** Triangles of equal width on the mel scale: for each bin the first of its frequencies, and their weights. */
function melFilters(bins, highHz) {
  const low = mel(LOW_HZ);
  const step = (mel(highHz) - low) / (bins + 1);
  return Array.from({ length: bins }, (_, bin) => {
    const left = low + bin * step;
    const inside = [];
    for (let k = 0; k < FFT_SIZE / 2; k++) {
      const distance = (mel((k * SAMPLE_RATE) / FFT_SIZE) - left) / step; // 0 and 2 at the corners, 1 at the top
      if (distance > 0 && distance < 2) inside.push({ k, weight: Math.min(distance, 2 - distance) });
    }
    return { first: inside.length ? inside[0].k : 0, weights: inside.map(({ weight }) => weight) };
  });
}
