// From log-probabilities to text: the best path of CTC, and tokens.txt.

/** Symbols by id, of the text of tokens.txt (`symbol id`, a line each). */
export function parseTokens(text) {
  const symbols = [];
  for (const line of text.split("\n")) {
    const at = line.lastIndexOf(" ");
    if (at > 0) symbols[Number(line.slice(at + 1))] = line.slice(0, at);
  }
  return symbols;
}

/** Ids of the best path: the best symbol of each frame, repetitions once, blanks (0) left out. */
export function bestPath(logProbs, frames, vocabulary) {
  const ids = [];
  let before = 0;
  for (let frame = 0; frame < frames; frame++) {
    const row = logProbs.subarray(frame * vocabulary, (frame + 1) * vocabulary);
    let best = 0;
    for (let id = 1; id < vocabulary; id++) if (row[id] > row[best]) best = id;
    if (best !== 0 && best !== before) ids.push(best);
    before = best;
  }
  return ids;
}

/** Text of ids: symbols put together, `▁` is a space. */
export function detokenize(ids, symbols) {
  const text = ids.map((id) => symbols[id]).join("");
  return text.replaceAll("▁", " ").trim();
}
