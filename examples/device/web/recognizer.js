// An exported folder (model.onnx, tokens.txt of `colld export`) in ONNX Runtime: samples in, text out. The same in the
// browser (onnxruntime-web) and in node (onnxruntime-node): `ort` is handed in.

import { bestPath, detokenize, parseTokens } from "./ctc.js";
import { logMelFbank } from "./fbank.js";

/** model: path, URL or bytes of the graph; tokens: the text of tokens.txt; input: what the graph reads, as
 *  make_page wrote it, {fbank: "kaldi" or "icefall", bins}. */
export async function createRecognizer(ort, model, tokens, input) {
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const symbols = parseTokens(tokens);

  /** Text of samples in [-1, 1] at 16 kHz. */
  return async function recognize(samples) {
    const { data, frames, bins } = logMelFbank(samples, input.fbank, input.bins);
    if (frames === 0) return "";
    const output = await session.run({
      features: new ort.Tensor("float32", data, [1, frames, bins]),
      lengths: new ort.Tensor("int64", BigInt64Array.of(BigInt(frames)), [1]),
    });
    const valid = Number(output.log_probs_lengths.data[0]);
    return detokenize(bestPath(output.log_probs.data, valid, output.log_probs.dims[2]), symbols);
  };
}
